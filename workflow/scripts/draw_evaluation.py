"""Draw the figures of data, search and test."""

from pathlib import Path

import pandas as pd
from equimood import figures, files, logs, tables

logs.start(snakemake.log[0])
null = snakemake.input.permutation
folder = Path(snakemake.output.shown[0]).parent
drawn = figures.evaluated(
    tables.read(snakemake.input.predictions),
    files.read_json(snakemake.input.metrics),
    {Path(path).parent.name: tables.read(path) for path in snakemake.input.trials},
    {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.best},
    tables.read(snakemake.input.images),
    snakemake.params.classes,
    pd.read_csv(null[0]) if null else None,
)
for name, figure in drawn.items():
    figures.save(figure, folder / name, ["png", *snakemake.params.formats])
