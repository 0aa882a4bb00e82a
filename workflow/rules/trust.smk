"""
Test the explanations of a sample of photographs, and say whether they can be trusted.

The sample is as small whatever the size of the study, so that one job tests all outer folds.

INPUTS   results/{study}/model/{fold}/, search/{fold}/best.yaml, features, the images;
         explanation/summary.csv
OUTPUTS  results/{study}/explanation/tests.parquet, tests.json, tests.html and a figure
"""


localrules:
    judge_explanations,


TESTED = settings.explanation_tests.n_images > 0


rule probe_explanations:
    input:
        weights=expand(rules.train_fold.output.weights, fold=OUTER_FOLDS),
        cards=expand(rules.train_fold.output.card, fold=OUTER_FOLDS),
        predictions=expand(rules.train_fold.output.predictions, fold=OUTER_FOLDS),
        best=expand(rules.search_fold.output.best, fold=OUTER_FOLDS),
        images=rules.ingest.output.images,
        regions=rules.ingest.output.regions,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        backbones=ALL_BACKBONES,
        ratings=SOFT_LABELS,
        library=library("probe_explanations"),
    output:
        tests=f"{RESULTS}/explanation/tests.parquet",
        usage=f"{RESULTS}/usage/probe_explanations.json",
    log:
        f"{RESULTS}/logs/probe_explanations.log",
    benchmark:
        f"{RESULTS}/benchmarks/probe_explanations.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        batch_size=settings.explain.batch_size,
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(240),
    params:
        tests=plain(settings.explanation_tests),
        explain=rules.explain_shard.params.explain,
        n_seeds=settings.train.seeds,
        optimiser=rules.train_fold.params.optimiser,
        views=settings.searched_views,
        images_dir=IMAGES,
        horse_view=rules.explain_shard.params.horse_view,
        record=f"{STATE_RECORD}/probe_explanations",
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Testing the explanations"
    script:
        "../scripts/probe_explanations.py"


rule judge_explanations:
    input:
        tests=rules.probe_explanations.output.tests,
        summary=rules.summarise.output.summary,
        library=library("judge_explanations"),
    output:
        found=f"{RESULTS}/explanation/tests.json",
        html=report(
            f"{RESULTS}/explanation/tests.html",
            caption="../report/tests.rst",
            category="4. What it looks at",
            subcategory="Can it be trusted?",
            labels={"figure": "Tests of the explanations, with tables"},
        ),
        figure=report(
            f"{RESULTS}/explanation/tests.png",
            caption="../report/tests.rst",
            category="4. What it looks at",
            subcategory="Can it be trusted?",
            labels={"figure": "Covering, showing and forgetting"},
        ),
        printed=expand(
            f"{RESULTS}/explanation/tests.{{form}}", form=settings.figures.formats
        ),
    log:
        f"{RESULTS}/logs/judge_explanations.log",
    benchmark:
        f"{RESULTS}/benchmarks/judge_explanations.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        tests=plain(settings.explanation_tests),
        bootstrap=BOOTSTRAP,
        formats=["png", *settings.figures.formats],
    message:
        "Judging the tests of the explanations"
    script:
        "../scripts/judge_explanations.py"
