"""Test explanations of a sample of photographs, each with the model that never saw its horse."""

from pathlib import Path

from equimood import (
    cluster,
    devices,
    features,
    files,
    labels,
    logs,
    models,
    probing,
    references,
    regions,
    tables,
    usage,
)
from equimood.settings import Explain, ExplanationTests

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params, given, device = snakemake.params, snakemake.input, devices.choose()
tests, seed, classes = ExplanationTests(**params.tests), params.seed, params.classes
explain = Explain(**params.explain, batch_size=snakemake.resources.batch_size)
images, region_table = tables.read(given.images), tables.read(given.regions)
predictions, splits = tables.concatenated(given.predictions), tables.read(given.splits)
cards, bests = ([Path(path) for path in paths] for paths in (given.cards, given.best))
folders = {card.parent.name: card.parent for card in cards}
rows = probing.sample(images, predictions, explain, tests.n_images, seed)
if region_table.empty:
    region_table = regions.stand_in(rows, params.horse_view)
found = probing.probe(
    rows,
    lambda fold: models.load_with(folders[fold], given.backbones, device),
    probing.retrainer(
        cards, bests, splits, photos=features.photos(images, params.views),
        feature_files=given.features, n_seeds=params.n_seeds, classes=classes, **params.optimiser,
        seed=seed, record=files.new_record(params.record),
        shares=labels.read_shares(given.ratings, classes),
    ),
    region_table, explain, tests, params.images_dir, device=device, seed=seed,
    references=references.gather(images, splits, explain, params.images_dir, seed),
    another=references.another(images, splits, explain, params.images_dir, seed),
    progress=logs.progress("explanations tested"),
)  # fmt: skip
tables.write(found, snakemake.output.tests, tables.EXPLANATION_TESTS)
