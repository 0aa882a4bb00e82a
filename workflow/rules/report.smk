"""
Gather figures, tables and the methods paragraph in one archive to open in a browser.

INPUTS   results/{study}/evaluation/, explanation/, usage/
OUTPUTS  results/{study}/report/methods.html, methods.md, settings.yaml
         results/{study}/report/efficiency.html, efficiency.csv
         results/{study}/report.zip
"""


localrules:
    write_methods,
    write_efficiency,
    write_report,


rule write_methods:
    input:
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        metrics=rules.evaluate_folds.output.metrics,
        calibration=rules.judge_calibration.output.found,
        quarantine=rules.ingest.output.quarantine,
        checks=rules.summarise.output.checks,
        template="workflow/report/methods.md.jinja",
        library=library("write_methods"),
    output:
        html=report(
            f"{RESULTS}/report/methods.html",
            caption="../report/methods.rst",
            category="4. For the paper",
            labels={"figure": "Methods paragraph"},
        ),
        text=f"{RESULTS}/report/methods.md",
        settings=f"{RESULTS}/report/settings.yaml",
    log:
        f"{RESULTS}/logs/write_methods.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_methods.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(10),
    params:
        # New images change nothing in the study's report.
        settings={k: v for k, v in plain(settings).items() if k != "predict"},
    message:
        "Writing the methods paragraph"
    script:
        "../scripts/write_methods.py"


# The jobs behind the reported results, in the order of their stages.
USAGE = {
    "ingest": [rules.ingest.output.usage],
    "embed_shard": expand(
        rules.embed_shard.output.usage,
        view=settings.searched_views,
        backbone=settings.searched_backbones,
        shard=SHARDS,
    ),
    "search_fold": expand(rules.search_fold.output.usage, fold=OUTER_FOLDS),
    "train_fold": expand(rules.train_fold.output.usage, fold=OUTER_FOLDS),
    "evaluate_folds": [rules.evaluate_folds.output.usage],
    "explain_shard": expand(rules.explain_shard.output.usage, shard=SHARDS),
}


rule write_efficiency:
    input:
        **USAGE,
        library=library("write_efficiency"),
    output:
        html=report(
            f"{RESULTS}/report/efficiency.html",
            caption="../report/efficiency.rst",
            category="5. What it took",
            labels={"figure": "CPU, memory and GPU time of the jobs"},
        ),
        table=f"{RESULTS}/report/efficiency.csv",
    log:
        f"{RESULTS}/logs/write_efficiency.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_efficiency.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(10),
    params:
        rules=list(USAGE),
    message:
        "Summing what the jobs used"
    script:
        "../scripts/write_efficiency.py"


REPORTED = [
    *rules.draw_evaluation.output.shown,
    rules.evaluate_folds.output.table,
    *rules.draw_calibration.output.shown,
    rules.judge_calibration.output.table,
    rules.summarise.output.summary,
    rules.draw_explanation.output.regions,
    rules.draw_explanation.output.sheets,
    rules.draw_explanation.output.panels,
    rules.write_methods.output.html,
    rules.write_efficiency.output.html,
]


rule write_report:
    input:
        REPORTED,
        settings=rules.write_methods.output.settings,
        captions=sorted(
            str(path) for path in Path(workflow.basedir).glob("workflow/report/*.rst")
        ),
        library=library("write_report"),
    output:
        f"{RESULTS}/report.zip",
    log:
        f"{RESULTS}/logs/write_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_report.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        snakefile=workflow.main_snakefile,
        reported=REPORTED,
    message:
        "Writing the report"
    script:
        "../scripts/write_report.py"
