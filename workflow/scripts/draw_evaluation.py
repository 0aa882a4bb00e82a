"""Draw the figures of data, search and test."""

from pathlib import Path

from equimood import figures, files, logs, tables

logs.start(snakemake.log[0])
folder = Path(snakemake.output.shown[0]).parent
drawn = figures.evaluated(
    tables.read(snakemake.input.predictions),
    files.read_json(snakemake.input.metrics),
    {Path(path).parent.name: tables.read(path) for path in snakemake.input.trials},
    {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.best},
    tables.read(snakemake.input.images),
    snakemake.params.classes,
)
for name, figure in drawn.items():
    figures.save(figure, folder / name, ["png", *snakemake.params.figures["formats"]])
