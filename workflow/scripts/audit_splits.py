"""Count what stands on both sides of the folds, and refuse what must not."""

from pathlib import Path

import pandas as pd
from equimood import audit, files, logs, splits, tables
from equimood.settings import Audit

logs.start(snakemake.log[0])
given, params = snakemake.input, snakemake.params
images, folds = tables.read(given.images), tables.read(given.splits)
pairs = tables.read(given.near_duplicates)
counts = splits.audit(images, folds, pairs)
found = audit.of_splits(
    images, folds, pairs, tables.read(given.covariates), pd.read_csv(given.quarantine), params.outer
)
judged = audit.judge(found, Audit(**params.audit))
audit.refuse(judged, Path(params.refused))
files.write_json(snakemake.output.audit, counts | {"checks": audit.as_json(judged)})
