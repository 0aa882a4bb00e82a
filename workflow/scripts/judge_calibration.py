"""Judge confidences and answers held back, out of fold."""

from pathlib import Path

from equimood import calibration, files, logs, tables, usage

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cards = {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.cards}
found = calibration.judge(
    tables.read(snakemake.input.predictions),
    {fold: card["temperature"] for fold, card in cards.items()},
    snakemake.params.classes,
    snakemake.params.target_accuracy,
    **snakemake.params.bootstrap,
)
calibration.write_tables(found, Path(snakemake.output.found).parent)
for fold, card in cards.items():
    logs.log.info("Fold %s: %s", fold, card["abstention"]["in_words"])
