"""Compare configurations on the inner folds of one outer fold's training horses."""

from pathlib import Path

from equimood import cluster, features, files, labels, logs, search, tables, usage
from equimood.settings import Backbone, Search

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
params, resources = snakemake.params, snakemake.resources
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
    nodes=cluster.Nodes(resources.nodes, snakemake.threads, resources.mem_mb // 2),
    progress=logs.progress("trials"),
    shares=labels.read_shares(snakemake.input.ratings, params.classes),
)
search.write(result, Path(snakemake.output.best).parent)
chosen = result.best.structure
logs.log.info(
    "chosen: %s by %s (%s, %s head, weighted by %s); %s %.3f on the inner folds",
    " + ".join(chosen.views), chosen.backbone, chosen.pooling, chosen.head,
    " and ".join(chosen.weight_by) or "nothing", result.best.metric, result.best.score,
)  # fmt: skip
