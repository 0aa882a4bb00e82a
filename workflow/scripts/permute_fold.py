"""Train the chosen configuration of an outer fold on permuted labels: what chance would do."""

from pathlib import Path

from equimood import cluster, devices, features, files, logs, permutation, tables, usage
from equimood.best import read_best

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params = snakemake.params
splits = tables.read(snakemake.input.splits)
counts = permutation.fold_confusions(
    features.photos(tables.read(snakemake.input.images), params.views),
    splits[splits["fold"] == snakemake.wildcards.fold],
    snakemake.input.features,
    read_best(Path(snakemake.input.best)),
    params.classes,
    n_permutations=params.n_permutations,
    **params.optimiser,
    seed=params.seed,
    record=files.new_record(params.record),
    progress=logs.progress("trainings"),
)
files.write_json(snakemake.output.counts, counts.tolist())
