"""Compare backbones and views on unseen horses, recommend, and say what each fold chose."""

from pathlib import Path

import pandas as pd
from equimood import comparison, files, logs, tables, usage

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
params = snakemake.params
columns = ["backbone", "views", "photo_id", "horse", "truth", "predicted"]
chosen = {Path(path).stem: files.read_yaml(path) for path in snakemake.input.chosen}
costs = comparison.cost_table(snakemake.input.backbones, snakemake.input.embedded)
found = comparison.compare(
    pd.concat([tables.read(path, columns) for path in snakemake.input.answers]),
    chosen,
    costs,
    files.read_json(snakemake.input.metrics),
    params.classes,
    params.metric,
    **params.bootstrap,
)
by_fold = comparison.by_fold(
    {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.best},
    tables.read(snakemake.input.predictions),
    params.classes,
    {Path(path).parent.name: files.read_yaml(path) for path in snakemake.input.transfer},
)
folder = Path(snakemake.output.found).parent
comparison.write(found, costs, comparison.configurations(chosen), by_fold, folder)
logs.log.info("%s", found.facts["told"][0])
