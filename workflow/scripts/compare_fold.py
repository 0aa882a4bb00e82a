"""Train the best of every backbone and views at equal budget; judge the test horses."""

from equimood import candidates, cluster, devices, features, files, labels, logs, tables, usage
from equimood.settings import Backbone, Search

logs.start(snakemake.log[0])
usage.record(snakemake.output.usage, snakemake.threads, snakemake.resources)
cluster.end_in_time()
devices.use_threads(snakemake.threads)
devices.deterministic(snakemake.params.seed)
params = snakemake.params
splits = tables.read(snakemake.input.splits)
search = Search(**params.search)
chosen = candidates.choose(
    tables.read(snakemake.input.trials),
    search,
    {name: Backbone(**backbone) for name, backbone in params.backbones.items()},
)
answers = candidates.predict(
    features.photos(tables.read(snakemake.input.images), params.views),
    splits[splits["fold"] == snakemake.wildcards.fold],
    snakemake.input.features,
    chosen,
    params.n_seeds,
    params.classes,
    epochs=search.epochs,
    batch_size=search.batch_size,
    seed=params.seed,
    record=files.new_record(params.record),
    progress=logs.progress("candidates"),
    shares=labels.read_shares(snakemake.input.ratings, params.classes),
)
columns = [f"p_{name}" for name in params.classes]
tables.write(answers, snakemake.output.predictions, tables.COMPARED, *columns)
files.write_yaml(snakemake.output.chosen, candidates.told(chosen))
