"""Test the explanations of a sample of photographs, each with the model that never saw its horse."""

from pathlib import Path

from equimood import (
    attribution,
    cluster,
    devices,
    features,
    files,
    labels,
    logs,
    models,
    probing,
    search,
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
tests = ExplanationTests(**params.tests)
explain = Explain(**params.explain, batch_size=snakemake.resources.batch_size)
record = files.new_record(params.record)
images, splits, regions = (tables.read(given[name]) for name in ("images", "splits", "regions"))
rows = probing.sample(
    images, tables.concatenated(given.predictions), explain, tests.n_images, params.seed
)
photos, shares = features.photos(images, params.views), labels.read_shares(given.ratings, params.classes)
folders = {folder.name: folder for folder in (Path(card).parent for card in given.cards)}
best = {Path(path).parent.name: search.read_best(Path(path)) for path in given.best}


def retrain(fold, model):
    if "transfer" in files.read_yaml(folders[fold] / "card.yaml"):
        return None  # a training that takes hours
    return probing.retrained(
        model, best[fold], photos=photos, splits=splits[splits["fold"] == fold],
        feature_files=given.features, n_seeds=params.n_seeds, classes=params.classes,
        **params.optimiser, seed=params.seed, record=record, shares=shares,
    )  # fmt: skip


found = probing.probe(
    rows,
    lambda fold: models.load_with(folders[fold], given.backbones, device),
    retrain,
    None if regions.empty else regions,
    explain,
    tests,
    params.images_dir,
    device=device,
    seed=params.seed,
    mean=attribution.mean_colour(images, params.images_dir, params.seed),
    progress=logs.progress("explanations tested"),
)
tables.write(found, snakemake.output.tests, tables.EXPLANATION_TESTS)
