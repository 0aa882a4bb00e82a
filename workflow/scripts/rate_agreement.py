"""Measure how far the raters agree, and say it in tables, a figure and a page."""

from pathlib import Path

from equimood import figures, files, logs, rater_pages, raters, tables

logs.start(snakemake.log[0])
params, output = snakemake.params, snakemake.output
rated = raters.panel(tables.read(snakemake.input.ratings), params.classes)
found = raters.agreement(rated, params.classes, params.ordered, **params.bootstrap)
files.write_json(output.metrics, found)
files.write_text(output.table, raters.table_of_agreement(found).to_csv(index=False))
figures.save(figures.agreement(found), Path(output.figure).with_suffix(""), params.formats)
files.write_text(output.html, rater_pages.agreement(found, Path(output.figure).read_bytes()))
