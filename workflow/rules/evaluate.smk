"""
Judge the procedure on horses that no judged model saw.

INPUTS   results/{study}/model/{fold}/predictions.parquet, search/{fold}, catalogue/, splits/,
         features/, the table of codes (the user's)
OUTPUTS  results/{study}/permutation/{fold}.json: the test horses' answers with permuted labels
         results/{study}/evaluation/predictions.parquet, metrics.json, metrics.csv, metrics.tex,
         classes.csv, classes.tex, confusion.csv, horses.csv, permutation.csv and figures
"""


localrules:
    draw_evaluation,


EVALUATION_FIGURES = {
    "catalogue": ("1. The data", "Photographs of each horse"),
    "confusion": ("2. How good it is", "Which emotion is taken for which"),
    "classes": ("2. How good it is", "Recall and precision of each emotion"),
    "baselines": ("2. How good it is", "The model beside simpler predictors"),
    "levels": ("2. How good it is", "By image, by session and by horse"),
    "horses": ("2. How good it is", "Accuracy horse by horse"),
    "search": ("2. How good it is", "What the search tried and chose"),
}
PERMUTED = []
if settings.evaluate.n_permutations:
    EVALUATION_FIGURES["permutation"] = (
        "2. How good it is",
        "The model beside labels exchanged by chance",
    )
    PERMUTED = expand(f"{RESULTS}/permutation/{{fold}}.json", fold=OUTER_FOLDS)


rule permute_fold:
    input:
        best=rules.search_fold.output.best,
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        library=library("permute_fold"),
    output:
        counts=f"{RESULTS}/permutation/{{fold}}.json",
        usage=f"{RESULTS}/usage/permute_fold/{{fold}}.json",
    log:
        f"{RESULTS}/logs/permute_fold/{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/permute_fold/{{fold}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        n_permutations=settings.evaluate.n_permutations,
        optimiser={
            name: getattr(settings.search, name) for name in ("epochs", "batch_size")
        },
        views=settings.searched_views,
        record=f"{STATE_RECORD}/permute_fold/{{fold}}",
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Training on permuted labels in outer fold {wildcards.fold}"
    script:
        "../scripts/permute_fold.py"


rule evaluate_folds:
    input:
        predictions=expand(rules.train_fold.output.predictions, fold=OUTER_FOLDS),
        permuted=PERMUTED,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        controls=rules.ingest.output.controls,
        covariates=rules.ingest.output.covariates,
        control_features=CONTROL_FEATURES,
        codes=(
            settings.data.codes
            if settings.controls.codes and settings.data.codes
            else []
        ),
        library=library("evaluate_folds"),
    output:
        predictions=f"{RESULTS}/evaluation/predictions.parquet",
        metrics=f"{RESULTS}/evaluation/metrics.json",
        confusion=f"{RESULTS}/evaluation/confusion.csv",
        table=report(
            f"{RESULTS}/evaluation/metrics.csv",
            caption="../report/metrics.rst",
            category="2. How good it is",
            labels={"figure": "All figures of merit, as a table"},
        ),
        latex=f"{RESULTS}/evaluation/metrics.tex",
        classes=f"{RESULTS}/evaluation/classes.csv",
        classes_latex=f"{RESULTS}/evaluation/classes.tex",
        horses=f"{RESULTS}/evaluation/horses.csv",
        permutation=[f"{RESULTS}/evaluation/permutation.csv"] if PERMUTED else [],
        usage=f"{RESULTS}/usage/evaluate_folds.json",
    log:
        f"{RESULTS}/logs/evaluate_folds.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_folds.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 2
    resources:
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        bootstrap=BOOTSTRAP,
        networks=CONTROL_NETWORKS,
        metadata=settings.controls.metadata,
        views=settings.searched_views,
        classes=settings.data.classes,
    message:
        "Evaluating on unseen horses"
    script:
        "../scripts/evaluate_folds.py"


rule draw_evaluation:
    input:
        predictions=rules.evaluate_folds.output.predictions,
        metrics=rules.evaluate_folds.output.metrics,
        permutation=rules.evaluate_folds.output.permutation,
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        trials=expand(rules.search_fold.output.trials, fold=OUTER_FOLDS),
        images=rules.ingest.output.images,
        library=library("draw_evaluation"),
    output:
        shown=[
            report(
                f"{RESULTS}/evaluation/{name}.png",
                caption=f"../report/{name}.rst",
                category=category,
                labels={"figure": words},
            )
            for name, (category, words) in EVALUATION_FIGURES.items()
        ],
        printed=expand(
            f"{RESULTS}/evaluation/{{figure}}.{{form}}",
            figure=EVALUATION_FIGURES,
            form=settings.figures.formats,
        ),
    log:
        f"{RESULTS}/logs/draw_evaluation.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_evaluation.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        formats=settings.figures.formats,
        classes=settings.data.classes,
    message:
        "Drawing the figures of the evaluation"
    script:
        "../scripts/draw_evaluation.py"
