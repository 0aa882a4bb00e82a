"""Measure how well labels can be told without the horse."""

from dataclasses import asdict

from equimood import audit_evidence, controls, features, files, logs, tables, usage

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
given, params = snakemake.input, snakemake.params
images, aside = tables.read(given.images), tables.read(given.controls)
photos, folds = features.photos(images, params.views), tables.read(given.splits)
covariates, colours = tables.read(given.covariates), tables.read(given.colours)
background = controls.gather(photos, images, aside, covariates, given.features, params.networks)
evidence = {
    "metadata": background.get("metadata"),
    "picture_facts": controls.picture_facts(photos, images, colours),
    "background": background.get("background"),
    "hidden_boxes": controls.hidden_boxes(photos, aside) if len(aside) else None,
}
found = audit_evidence.of_evidence(
    evidence, photos, folds, params.classes, snakemake.threads, **params.bootstrap
)
found.append(audit_evidence.of_context(photos, tables.read(given.regions), **params.bootstrap))
files.write_json(snakemake.output.measured, [asdict(each) for each in found])
