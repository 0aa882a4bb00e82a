"""Set the model's agreement with the raters beside the raters' agreement with each other."""

from pathlib import Path

from equimood import figures, files, logs, rater_pages, raters, tables

logs.start(snakemake.log[0])
params, output = snakemake.params, snakemake.output
rated = raters.panel(tables.read(snakemake.input.ratings), params.classes)
predictions = tables.read(snakemake.input.predictions)
found = raters.ceiling(rated, predictions, params.classes, **params.bootstrap)
files.write_json(output.metrics, found)
files.write_text(output.table, raters.table_of_ceiling(found).to_csv(index=False))
figures.save(figures.ceiling(found), Path(output.figure).with_suffix(""), params.formats)
files.write_text(output.html, rater_pages.ceiling(found, Path(output.figure).read_bytes()))
