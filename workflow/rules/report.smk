"""
Gather figures, tables and the methods paragraph in one archive to open in a browser.

INPUTS   results/{study}/catalogue/, splits/, audit/, search/, transfer/, model/final/card.yaml,
         evaluation/, comparison/, raters/, explanation/, usage/
OUTPUTS  results/{study}/report/methods.html, model_card.html, data_sheet.html, and all as .md
         results/{study}/report/front.rst: the first page
         results/{study}/report/settings.yaml, efficiency.html, efficiency.csv
         results/{study}/report.zip
"""

# The report's first page; before there are figures to state, what holds of every study.
FRONT_PAGE = f"{RESULTS}/report/front.rst"
STATED = Path(FRONT_PAGE).exists()


report: str(Path(FRONT_PAGE).absolute()) if STATED else "../report/study.rst"


localrules:
    write_documents,
    write_efficiency,
    write_report,


rule write_documents:
    input:
        images=rules.ingest.output.images,
        near_duplicates=rules.ingest.output.near_duplicates,
        splits=rules.split_horses.output.splits,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        transfer=(
            expand(rules.transfer_fold.output.best, fold=OUTER_FOLDS)
            if settings.transfer.enabled
            else []
        ),
        metrics=rules.evaluate_folds.output.metrics,
        comparison=rules.compare_candidates.output.found,
        calibration=rules.judge_calibration.output.found,
        audit=rules.write_audit.output.audit,
        quarantine=rules.ingest.output.quarantine,
        checks=rules.summarise.output.checks,
        tests=rules.judge_explanations.output.found if TESTED else [],
        card=rules.train_fold.output.card.format(fold="final"),
        templates=[
            "workflow/report/methods.md.jinja",
            "workflow/report/model_card.md.jinja",
            "workflow/report/data_sheet.md.jinja",
            "workflow/report/front.rst.jinja",
            "workflow/report/study.rst",
        ],
        agreement=rules.rate_agreement.output.metrics,
        ceiling=rules.rate_ceiling.output.metrics,
        library=library("write_documents"),
    output:
        methods=report(
            f"{RESULTS}/report/methods.html",
            caption="../report/methods.rst",
            category="5. For the paper",
            labels={"figure": "Methods paragraph"},
        ),
        methods_text=f"{RESULTS}/report/methods.md",
        model_card=report(
            f"{RESULTS}/report/model_card.html",
            caption="../report/model_card.rst",
            category="5. For the paper",
            labels={"figure": "Model card"},
        ),
        model_card_text=f"{RESULTS}/report/model_card.md",
        data_sheet=report(
            f"{RESULTS}/report/data_sheet.html",
            caption="../report/data_sheet.rst",
            category="5. For the paper",
            labels={"figure": "Data sheet"},
        ),
        data_sheet_text=f"{RESULTS}/report/data_sheet.md",
        front=FRONT_PAGE,
        settings=f"{RESULTS}/report/settings.yaml",
    log:
        f"{RESULTS}/logs/write_documents.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_documents.tsv"
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
        "Writing the methods, the model card and the data sheet"
    script:
        "../scripts/write_documents.py"


# The jobs behind the reported results, in the order of their stages.
USAGE = {
    "ingest": [rules.ingest.output.usage],
    "embed_shard": [
        *expand(
            rules.embed_shard.output.usage,
            view=settings.searched_views,
            backbone=settings.searched_backbones,
            shard=SHARDS,
        ),
        *(
            file
            for network in CONTROL_NETWORKS.values()
            for file in expand(
                rules.embed_shard.output.usage,
                view=network["views"],
                backbone=network["backbone"],
                shard=SHARDS,
            )
        ),
    ],
    "audit_data": [rules.audit_data.output.usage],
    "search_fold": expand(rules.search_fold.output.usage, fold=OUTER_FOLDS),
    **(
        {"transfer_fold": expand(rules.transfer_fold.output.usage, fold=OUTER_FOLDS)}
        if settings.transfer.enabled
        else {}
    ),
    "train_fold": expand(rules.train_fold.output.usage, fold=OUTER_FOLDS),
    **(
        {"permute_fold": expand(rules.permute_fold.output.usage, fold=OUTER_FOLDS)}
        if PERMUTED
        else {}
    ),
    "evaluate_folds": [rules.evaluate_folds.output.usage],
    "compare_fold": expand(rules.compare_fold.output.usage, fold=OUTER_FOLDS),
    "compare_candidates": [rules.compare_candidates.output.usage],
    "judge_calibration": [rules.judge_calibration.output.usage],
    "explain_shard": expand(rules.explain_shard.output.usage, shard=SHARDS),
    **(
        {"probe_explanations": [rules.probe_explanations.output.usage]}
        if TESTED
        else {}
    ),
}


rule write_efficiency:
    input:
        **USAGE,
        library=library("write_efficiency"),
    output:
        html=report(
            f"{RESULTS}/report/efficiency.html",
            caption="../report/efficiency.rst",
            category="6. What it took",
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
    rules.write_audit.output.html,
    *rules.draw_evaluation.output.shown,
    rules.evaluate_folds.output.table,
    rules.compare_candidates.output.page,
    rules.draw_comparison.output.shown,
    rules.rate_agreement.output.html,
    rules.rate_ceiling.output.html,
    *rules.draw_calibration.output.shown,
    rules.judge_calibration.output.table,
    *(
        [rules.draw_transfer.output.shown, rules.draw_transfer.output.table]
        if settings.transfer.enabled
        else []
    ),
    rules.summarise.output.summary,
    rules.summarise.output.stability,
    *([rules.summarise.output.ethogram] if settings.ethogram else []),
    rules.draw_explanation.output.regions,
    rules.draw_explanation.output.mean_maps,
    rules.draw_explanation.output.sheets,
    rules.draw_explanation.output.panels,
    *(
        [rules.judge_explanations.output.html, rules.judge_explanations.output.figure]
        if TESTED
        else []
    ),
    rules.write_gallery.output.gallery,
    rules.write_documents.output.methods,
    rules.write_documents.output.model_card,
    rules.write_documents.output.data_sheet,
    rules.write_efficiency.output.html,
]


rule write_report:
    input:
        REPORTED,
        front=rules.write_documents.output.front,
        settings=rules.write_documents.output.settings,
        captions=sorted(
            str(path) for path in Path(workflow.basedir).glob("workflow/report/*.rst")
        ),
        stylesheet=f"{workflow.basedir}/workflow/report/report.css",
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
