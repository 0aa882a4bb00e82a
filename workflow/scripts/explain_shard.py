"""Explain one shard's photographs, each by the model that never saw its horse."""

from pathlib import Path

from equimood import (
    attribution,
    cluster,
    devices,
    files,
    logs,
    models,
    references,
    regions,
    tables,
    usage,
)
from equimood.settings import Explain

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params, device = snakemake.params, devices.choose()
options = Explain(**params.explain, batch_size=snakemake.resources.batch_size)
catalogue = tables.read(snakemake.input.images)
given = tables.read(snakemake.input.regions)
rows = attribution.plan(
    catalogue,
    tables.concatenated(snakemake.input.predictions),
    options,
    params.seed,
    shard=int(snakemake.wildcards.shard),
    n_shards=params.n_shards,
)
if given.empty and len(rows):
    given = regions.stand_in(rows, params.horse_view)
    logs.log.info("no table of regions: regions are %s", ", ".join(regions.names(given)))
folders = {folder.name: folder for folder in (Path(c).parent for c in snakemake.input.cards)}
splits = tables.read(snakemake.input.splits)
needed = references.gather(catalogue, splits, options, params.images_dir, params.seed)
new = attribution.explain_shard(
    rows,
    lambda fold: models.load_with(folders[fold], snakemake.input.backbones, device),
    given,
    options,
    params.images_dir,
    snakemake.output.maps,
    snakemake.output.scores,
    record=files.new_record(params.record),
    device=device,
    seed=params.seed,
    references=needed,
    workers=snakemake.threads,
    progress=logs.progress("images explained"),
)
logs.log.info("%d images explained now", new)
