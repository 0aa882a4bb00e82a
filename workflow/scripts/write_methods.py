"""Fill in the methods section from the settings and the results of this study."""

import pandas as pd
from equimood import files, logs, methods, pages, settings, tables

logs.start(snakemake.log[0])
study = settings.load(snakemake.params.settings)
text = methods.methods_paragraph(
    methods.facts(
        study,
        tables.read(snakemake.input.images),
        tables.read(snakemake.input.splits),
        [files.read_yaml(path) for path in snakemake.input.best],
        files.read_json(snakemake.input.metrics),
        pd.read_csv(snakemake.input.quarantine),
        files.read_json(snakemake.input.checks)["gaps"],
        [files.read_yaml(path) for path in snakemake.input.transfer],
    )
)
files.write_text(snakemake.output.text, text)
files.write_text(snakemake.output.html, pages.from_markdown(text, "Methods"))
files.write_yaml(snakemake.output.settings, snakemake.params.settings)
