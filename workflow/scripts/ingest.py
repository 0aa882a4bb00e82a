"""Check every photograph and merge the raters: the catalogue of what can be used."""

from pathlib import Path

import pandas as pd
from equimood import catalogue, cluster, files, logs, tables, usage
from equimood.settings import Ingest, View

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
params = snakemake.params
annotations = tables.read_annotations(snakemake.input.annotations, params.classes, params.columns)
regions = tables.read_regions(snakemake.input.regions, {}) if snakemake.input.regions else None
found = catalogue.build(
    annotations,
    Path(params.images_dir),
    regions,
    {name: View(**view) for name, view in params.views.items()},
    Ingest(**params.ingest),
    classes=params.classes,
    state_dir=files.state_folder(
        "ingest", files.digest(params.images_dir), files.new_record(params.record)
    ),
    workers=snakemake.threads,
    progress=logs.progress("photographs checked"),
    controls={name: View(**view) for name, view in params.controls.items()},
)
catalogue.write(found, Path(snakemake.output.images).parent, params.ingest["shards"])
given = pd.DataFrame(columns=tables.GIVEN_REGIONS.names) if regions is None else regions
tables.write(given, snakemake.output.regions, tables.GIVEN_REGIONS)
