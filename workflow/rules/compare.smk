"""
Compare the searched combinations of backbone and views on unseen horses, at equal budget.

INPUTS   results/{study}/search/{fold}/trials.parquet, best.yaml, splits, features, ratings,
         evaluation/predictions.parquet, metrics.json, the backbones' cards
OUTPUTS  results/{study}/comparison/{fold}.parquet, {fold}.yaml: the best of each, asked
         results/{study}/comparison/candidates.csv, candidates.tex, effects.csv, costs.csv,
         configurations.csv, chosen.csv, comparison.json, comparison.html and a figure
"""


localrules:
    draw_comparison,


rule compare_fold:
    input:
        trials=rules.search_fold.output.trials,
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        ratings=SOFT_LABELS,
        library=library("compare_fold"),
    output:
        predictions=f"{RESULTS}/comparison/{{fold}}.parquet",
        chosen=f"{RESULTS}/comparison/{{fold}}.yaml",
        usage=f"{RESULTS}/usage/compare_fold/{{fold}}.json",
    log:
        f"{RESULTS}/logs/compare_fold/{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare_fold/{{fold}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        search=plain(settings.search),
        backbones={
            name: plain(settings.backbones[name])
            for name in settings.searched_backbones
        },
        n_seeds=settings.train.seeds,
        views=settings.searched_views,
        record=f"{STATE_RECORD}/compare_fold/{{fold}}",
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Training the best of each backbone and views, outer fold {wildcards.fold}"
    script:
        "../scripts/compare_fold.py"


rule compare_candidates:
    input:
        answers=expand(rules.compare_fold.output.predictions, fold=OUTER_FOLDS),
        chosen=expand(rules.compare_fold.output.chosen, fold=OUTER_FOLDS),
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        transfer=(
            expand(rules.transfer_fold.output.best, fold=OUTER_FOLDS)
            if settings.transfer.enabled
            else []
        ),
        predictions=rules.evaluate_folds.output.predictions,
        metrics=rules.evaluate_folds.output.metrics,
        backbones=ALL_BACKBONES,
        embedded=expand(
            rules.embed_shard.output.usage,
            view=settings.searched_views,
            backbone=settings.searched_backbones,
            shard=SHARDS,
        ),
        template="workflow/report/comparison.html.jinja",
        library=library("compare_candidates"),
    output:
        page=report(
            f"{RESULTS}/comparison/comparison.html",
            caption="../report/comparison.rst",
            category="3. Which architecture",
            labels={"figure": "Recommendation, table, and what each fold chose"},
        ),
        found=f"{RESULTS}/comparison/comparison.json",
        candidates=f"{RESULTS}/comparison/candidates.csv",
        latex=f"{RESULTS}/comparison/candidates.tex",
        effects=f"{RESULTS}/comparison/effects.csv",
        costs=f"{RESULTS}/comparison/costs.csv",
        configurations=f"{RESULTS}/comparison/configurations.csv",
        by_fold=f"{RESULTS}/comparison/chosen.csv",
        usage=f"{RESULTS}/usage/compare_candidates.json",
    log:
        f"{RESULTS}/logs/compare_candidates.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare_candidates.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        metric=settings.search.metric,
        bootstrap=BOOTSTRAP,
        classes=settings.data.classes,
    message:
        "Comparing backbones and views"
    script:
        "../scripts/compare_candidates.py"


rule draw_comparison:
    input:
        candidates=rules.compare_candidates.output.candidates,
        found=rules.compare_candidates.output.found,
        library=library("draw_comparison"),
    output:
        shown=report(
            f"{RESULTS}/comparison/candidates.png",
            caption="../report/candidates.rst",
            category="3. Which architecture",
            labels={
                "figure": "Every combination of backbone and views, and what it costs"
            },
        ),
        printed=expand(
            f"{RESULTS}/comparison/candidates.{{form}}", form=settings.figures.formats
        ),
    log:
        f"{RESULTS}/logs/draw_comparison.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_comparison.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        formats=settings.figures.formats,
    message:
        "Drawing the comparison of backbones and views"
    script:
        "../scripts/draw_comparison.py"
