"""Assign whole horses to outer and inner folds."""

from equimood import logs, splits, tables
from equimood.settings import Split

logs.start(snakemake.log[0])
params = snakemake.params
images = tables.read(snakemake.input.images)
folds = splits.split(images, Split(**params.split), params.seed, params.n_folds)
tables.write(folds, snakemake.output.splits, tables.SPLITS)
