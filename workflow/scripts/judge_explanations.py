"""Judge the tests of explanations, and say where the evidence lies outside the horse."""

from pathlib import Path

from equimood import figures, files, logs, region_statistics, tables, trust, trust_pages
from equimood.settings import ExplanationTests

logs.start(snakemake.log[0])
params, output = snakemake.params, snakemake.output
probed = tables.read(snakemake.input.tests)
found = trust.judge(probed, ExplanationTests(**params.tests), **params.bootstrap)
summary = region_statistics.read_summary(snakemake.input.summary)
found["most_enriched"] = trust.most_enriched(summary)
files.write_json(output.found, found)
figures.save(trust_pages.curves(found), Path(output.figure).with_suffix(""), params.formats)
files.write_text(output.html, trust_pages.page(found, Path(output.figure).read_bytes()))
for test in found["tests"]:
    logs.log.info("%s: %s", test["title"], test["verdict"])
