"""
Gather figures, tables and the methods paragraph in one archive to open in a browser.

INPUTS   results/{study}/evaluation/, explanation/, usage/
OUTPUTS  results/{study}/report/methods.html, methods.md, settings.yaml
         results/{study}/report/model_card.html, data_sheet.html, and both as .md
         results/{study}/report/efficiency.html, efficiency.csv
         results/{study}/report.zip
"""

# The report's first page; before there are figures to state, what holds of every study.
FRONT_PAGE = f"{RESULTS}/report/front.rst"
STATED = Path(FRONT_PAGE).exists()


report: str(Path(FRONT_PAGE).absolute()) if STATED else "../report/study.rst"


localrules:
    write_methods,
    write_cards,
    write_efficiency,
    write_report,


rule write_methods:
    input:
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        transfer=(
            expand(rules.transfer_fold.output.best, fold=OUTER_FOLDS)
            if settings.transfer.enabled
            else []
        ),
        metrics=rules.evaluate_folds.output.metrics,
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


rule write_cards:
    input:
        images=rules.ingest.output.images,
        near_duplicates=rules.ingest.output.near_duplicates,
        splits=rules.split_horses.output.splits,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        metrics=rules.evaluate_folds.output.metrics,
        quarantine=rules.ingest.output.quarantine,
        checks=rules.summarise.output.checks,
        card=rules.train_fold.output.card.format(fold="final"),
        templates=[
            "workflow/report/model_card.md.jinja",
            "workflow/report/data_sheet.md.jinja",
            "workflow/report/front.rst.jinja",
            "workflow/report/study.rst",
        ],
        library=library("write_cards"),
    output:
        model_card=report(
            f"{RESULTS}/report/model_card.html",
            caption="../report/model_card.rst",
            category="4. For the paper",
            labels={"figure": "Model card"},
        ),
        model_text=f"{RESULTS}/report/model_card.md",
        data_sheet=report(
            f"{RESULTS}/report/data_sheet.html",
            caption="../report/data_sheet.rst",
            category="4. For the paper",
            labels={"figure": "Data sheet"},
        ),
        data_text=f"{RESULTS}/report/data_sheet.md",
        front=FRONT_PAGE,
    log:
        f"{RESULTS}/logs/write_cards.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_cards.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(10),
    params:
        settings=rules.write_methods.params.settings,
    message:
        "Writing the model card, the data sheet and the first page"
    script:
        "../scripts/write_cards.py"


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
    **(
        {"transfer_fold": expand(rules.transfer_fold.output.usage, fold=OUTER_FOLDS)}
        if settings.transfer.enabled
        else {}
    ),
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
    *(
        [rules.draw_transfer.output.shown, rules.draw_transfer.output.table]
        if settings.transfer.enabled
        else []
    ),
    rules.summarise.output.summary,
    rules.draw_explanation.output.regions,
    rules.draw_explanation.output.sheets,
    rules.draw_explanation.output.panels,
    rules.write_methods.output.html,
    rules.write_cards.output.model_card,
    rules.write_cards.output.data_sheet,
    rules.write_efficiency.output.html,
]


rule write_report:
    input:
        REPORTED,
        front=rules.write_cards.output.front,
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
