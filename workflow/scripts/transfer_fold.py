"""Compare fine-tuning with frozen features, and fine-tune the best on all horses of the fold."""

from pathlib import Path

from equimood import cluster, devices, files, labels, logs, tables, transfer, usage
from equimood.best import read_best
from equimood.settings import Train, Transfer

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params, given, resources = snakemake.params, snakemake.input, snakemake.resources
best = read_best(Path(given.best))
splits = tables.read(given.splits)
explored = transfer.run(
    tables.read(given.images),
    splits[splits["fold"] == snakemake.wildcards.fold],
    given.features,
    transfer.backbone_folder(given.backbones, best),
    best,
    tables.read(given.trials),
    Transfer(**params.transfer),
    params.classes,
    Path(params.images_dir),
    files.new_record(params.record),
    probe_epochs=params.probe["epochs"],
    probe_batch_size=params.probe["batch_size"],
    train=Train(**params.train),
    shares=labels.read_shares(given.ratings, params.classes),
    seed=params.seed,
    nodes=cluster.Nodes(resources.nodes, snakemake.threads, resources.mem_mb // 2),
    progress=logs.progress,
)
folder = Path(snakemake.output.best).parent
transfer.write(explored, folder, best, {"fold": snakemake.wildcards.fold})
for way, found in explored.summary["ways"].items():
    logs.log.info("%s: %s %.3f on the inner folds", way, best.metric, found["score"])
logs.log.info("chosen: %s", explored.summary["chosen"])
