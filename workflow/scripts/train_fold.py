"""Train the chosen configuration on all training horses of an outer fold and calibrate it."""

from pathlib import Path

from equimood import (
    cluster,
    devices,
    features,
    files,
    logs,
    models,
    raters,
    search,
    tables,
    training,
    usage,
)
from equimood.settings import Train

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params = snakemake.params
best = search.read_best(Path(snakemake.input.best))
splits = tables.read(snakemake.input.splits)
splits = splits[splits["fold"] == snakemake.wildcards.fold]
photos = features.photos(tables.read(snakemake.input.images), params.views)
shards = snakemake.input.features
options = Train(**params.train)
ratings = tables.read(snakemake.input.ratings) if snakemake.input.ratings else None
trained = training.train(
    photos, splits, shards, best, options, params.classes,
    **params.optimiser, seed=params.seed,
    record=files.new_record(params.record), progress=logs.progress("steps"),
    shares=None if ratings is None else raters.shares(ratings, params.classes),
)  # fmt: skip
cards = map(files.read_yaml, snakemake.input.backbones)
models.save(
    Path(snakemake.output.card).parent,
    trained.head,
    best.structure,
    best.head,
    params.classes,
    trained.temperature,
    trained.abstention.threshold,
    trained.novelty,
    next(card["fingerprint"] for card in cards if card["name"] == best.structure.backbone),
    trained={
        **trained.facts,
        "labels": options.labels,
        "fold": snakemake.wildcards.fold,
        "inner_score": best.score,
    },
)
tested = training.predict(photos, splits, shards, best, trained, params.classes)
tables.write(
    tested, snakemake.output.predictions, tables.PREDICTIONS, *(f"p_{c}" for c in params.classes)
)
