"""Show what fine-tuning gained over frozen features, fold by fold."""

from pathlib import Path

from equimood import figures, files, logs

logs.start(snakemake.log[0])
bests = {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.best}
table = figures.exploration(bests)
files.write_text(snakemake.output.table, table.to_csv(index=False))
figure = figures.transfer(table, next(iter(bests.values()))["metric"])
stem = Path(snakemake.output.shown).with_suffix("")
figures.save(figure, stem, ["png", *snakemake.params.formats])
