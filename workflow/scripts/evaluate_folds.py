"""Judge the procedure, and simpler ones beside it, on horses that no judged model saw."""

from pathlib import Path

from equimood import (
    baselines,
    controls,
    evaluation,
    features,
    files,
    logs,
    permutation,
    tables,
    usage,
)
from equimood.best import read_best

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
params = snakemake.params
classes = params.classes
predictions = tables.concatenated(snakemake.input.predictions)
given, images = snakemake.input, tables.read(snakemake.input.images)
photos = features.photos(images, params.views)
evidence = controls.gather(
    photos,
    images,
    tables.read(given.controls),
    tables.read(given.covariates) if params.metadata else None,
    given.control_features,
    params.networks,
    tables.read_codes(given.codes) if given.codes else None,
)
others = baselines.predict(
    predictions,
    photos,
    tables.read(given.splits),
    {Path(path).parent.name: read_best(Path(path)) for path in given.best},
    given.features,
    n_threads=snakemake.threads,
    evidence=evidence,
)
found = evaluation.evaluate(predictions, classes, others, **params.bootstrap)
tables.write(
    predictions, snakemake.output.predictions, tables.PREDICTIONS, *(f"p_{c}" for c in classes)
)
if snakemake.input.permuted:
    null = permutation.null([files.read_json(path) for path in snakemake.input.permuted])
    found.metrics["permutation"] = permutation.tested(null, photos)
    files.write_text(snakemake.output.permutation[0], null.to_csv(index=False))
files.write_json(snakemake.output.metrics, found.metrics)
evaluation.write_tables(found, Path(snakemake.output.metrics).parent)
