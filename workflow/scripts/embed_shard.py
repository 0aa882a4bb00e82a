"""Embed the images of one shard, view and backbone that the store does not hold yet."""

from pathlib import Path

from equimood import backbones, cluster, devices, embedding, files, logs, tables, usage

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
device = devices.choose()
shard = tables.read(snakemake.input.shard)
embedded = embedding.embed(
    shard[shard["view"] == snakemake.wildcards.view],
    Path(snakemake.params.images_dir),
    backbones.load(Path(snakemake.input.backbone).parent, device),
    snakemake.params.poolings,
    snakemake.params.dtype,
    record=files.new_record(snakemake.params.record),
    batch_size=snakemake.resources.batch_size,
    workers=snakemake.threads,
    progress=logs.progress("images embedded"),
)
embedding.write_shard(Path(snakemake.output.features), embedded)
usage.note(
    backbone=snakemake.wildcards.backbone,
    device=devices.name(device),
    images=embedded.embedded_now,
    embedding_s=embedded.seconds,
)
logs.log.info("%d of %d images embedded now", embedded.embedded_now, len(embedded.image_ids))
