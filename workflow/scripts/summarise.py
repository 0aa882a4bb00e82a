"""Summarise explanations per emotion and region, with intervals over horses."""

from equimood import attribution, files, logs, region_statistics, tables

logs.start(snakemake.log[0])
params = snakemake.params
scores = [tables.read(path) for path in snakemake.input.scores]
tables.write(
    tables.concatenated(snakemake.input.scores), snakemake.output.regions, tables.REGION_SCORES
)
found = region_statistics.summarise(scores, **params.bootstrap)
files.write_text(snakemake.output.summary, found.to_csv(index=False))
checks = {"gaps": attribution.gaps(snakemake.input.maps, params.tolerance)}
if snakemake.input.causes:
    causes = region_statistics.read_causes(snakemake.input.causes)
    table = region_statistics.causal(scores, causes, **params.bootstrap)
    checks["causes"] = table.to_dict(orient="records")
files.write_json(snakemake.output.checks, checks)
