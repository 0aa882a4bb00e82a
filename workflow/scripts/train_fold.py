"""Train the chosen configuration on all training horses of an outer fold and calibrate it."""

from pathlib import Path

from equimood import (
    cluster,
    devices,
    features,
    files,
    labels,
    logs,
    models,
    tables,
    training,
    tuned,
    usage,
)
from equimood.best import read_best
from equimood.settings import Train

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params, given, fold = snakemake.params, snakemake.input, snakemake.wildcards.fold
folder, record = Path(snakemake.output.card).parent, files.new_record(params.record)
best = read_best(Path(given.best))
splits, images = tables.read(given.splits), tables.read(given.images)
splits = splits[splits["fold"] == fold]
if adopted := tuned.chosen(given.transfer):
    tuned.adopt(adopted, folder)
    tested = tuned.predict(
        models.load_with(folder, given.backbones, devices.choose()), images, splits,
        Path(params.images_dir), snakemake.threads, logs.progress("images judged"),
    )  # fmt: skip
else:
    photos, options = features.photos(images, params.views), Train(**params.train)
    of_fold = training.Fold(
        photos, splits, given.features, best, options.seeds, params.classes,
        **params.optimiser, seed=params.seed, record=record, progress=logs.progress("steps"),
        shares=labels.read_shares(given.ratings, params.classes),
    )  # fmt: skip
    trained = training.train(of_fold, options)
    cards = map(files.read_yaml, given.backbones)
    models.save(
        folder, trained.head, best.structure, best.head, params.classes, trained.temperature,
        trained.abstention.threshold, trained.novelty,
        next(card["fingerprint"] for card in cards if card["name"] == best.structure.backbone),
        trained={
            **trained.facts, "labels": options.labels, "fold": fold, "inner_score": best.score,
        },
    )  # fmt: skip
    tested = training.predict(photos, splits, given.features, best, trained, params.classes)
tables.write(
    tested, snakemake.output.predictions, tables.PREDICTIONS, *(f"p_{c}" for c in params.classes)
)
