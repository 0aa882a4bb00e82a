"""Fill in the methods section from the settings and the results of this study."""

import pandas as pd
from equimood import files, logs, methods, settings, tables

logs.start(snakemake.log[0])
study = settings.load(snakemake.params.settings)
text = methods.methods_paragraph(
    methods.facts(
        study,
        tables.read(snakemake.input.images),
        tables.read(snakemake.input.splits),
        [files.read_yaml(path) for path in snakemake.input.best],
        files.read_json(snakemake.input.metrics),
        files.read_json(snakemake.input.calibration),
        pd.read_csv(snakemake.input.quarantine),
        files.read_json(snakemake.input.checks)["gaps"],
    )
)
files.write_text(snakemake.output.text, text)
files.write_text(snakemake.output.html, methods.as_html(text))
files.write_yaml(snakemake.output.settings, snakemake.params.settings)
