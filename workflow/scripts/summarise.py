"""Summarise explanations per emotion and region: intervals, tests, stability, ethogram."""

from equimood import ethogram, evaluation, files, logs, map_shards, tables
from equimood import region_stability as stability
from equimood import region_statistics as statistics

logs.start(snakemake.log[0])
params, made = snakemake.params, snakemake.output


def scores():
    """One shard after another: all of them may not fit into memory."""
    return map(tables.read, snakemake.input.scores)


tables.concatenate(snakemake.input.scores, made.regions, tables.REGION_SCORES)
sums = statistics.per_horse(scores())
summary = statistics.summarise(sums, **params.bootstrap)
files.write_text(made.summary, summary.to_csv(index=False))
files.write_text(made.latex, evaluation.latex(statistics.printed(summary, tables.ROWS)))
folds = stability.compare_folds(sums)
files.write_text(made.stability, folds.to_csv(index=False))
agreement = ethogram.agree(scores(), params.ethogram, **params.bootstrap)
files.write_text(made.ethogram, agreement.to_csv(index=False))
seen = statistics.seen(scores())
statistics.tell_missing(seen)
checks = {
    "n_photos": len({photo for part in scores() for photo in part["photo_id"]}),
    "gaps": map_shards.gaps(snakemake.input.maps, params.tolerance),
    "views": statistics.per_view(scores(), **params.bootstrap),
    "regions": statistics.records(seen),
    "stability": stability.in_words(folds),
    "ethogram": ethogram.in_words(agreement),
}
if snakemake.input.causes:
    causes = statistics.read_causes(snakemake.input.causes)
    table = statistics.causal(scores(), causes, **params.bootstrap)
    checks["causes"] = statistics.records(table)
files.write_json(made.checks, checks)
