"""Compare configurations on the inner folds of one outer fold's training horses."""

from pathlib import Path

from equimood import features, files, logs, search, tables
from equimood.settings import Backbone, Search

logs.start(snakemake.log[0])
params = snakemake.params
options = Search(**params.search)
views = list(dict.fromkeys(name for names in options.views for name in names))
splits = tables.read(snakemake.input.splits)
result = search.run(
    features.photos(tables.read(snakemake.input.images), views),
    splits[splits["fold"] == snakemake.wildcards.fold],
    snakemake.input.features,
    {name: Backbone(**backbone) for name, backbone in params.backbones.items()},
    options,
    params.classes,
    params.seed,
    record=files.new_record(params.record),
    slots=snakemake.threads,
    memory_mb=snakemake.resources.mem_mb // 2,
    progress=logs.progress("trials"),
)
search.write(result, Path(snakemake.output.best).parent)
logs.log.info("chosen: %s, score %.3f", result.best.structure, result.best.score)
