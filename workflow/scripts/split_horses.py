"""Assign whole horses to outer and inner folds."""

from equimood import files, logs, splits, tables
from equimood.settings import Split

logs.start(snakemake.log[0])
images = tables.read(snakemake.input.images)
near_duplicates = tables.read(snakemake.input.near_duplicates)
params = snakemake.params
folds = splits.split(images, Split(**params.split), params.seed, params.n_folds)
audit = splits.audit(images, folds, near_duplicates)
tables.write(folds, snakemake.output.splits, tables.SPLITS)
files.write_json(snakemake.output.audit, audit)
