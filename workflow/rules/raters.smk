"""
Say how far the raters agree, and set the model's agreement with them beside it.

INPUTS   results/{study}/catalogue/ratings.parquet, evaluation/predictions.parquet
OUTPUTS  results/{study}/raters/agreement.json, agreement.csv, agreement.html and a figure
         results/{study}/raters/ceiling.json, ceiling.csv, ceiling.html and a figure
"""


localrules:
    rate_agreement,
    rate_ceiling,


# The number of raters is known from the table alone: with one rater the files say so.


rule rate_agreement:
    input:
        ratings=rules.ingest.output.ratings,
        library=library("rate_agreement"),
    output:
        html=report(
            f"{RESULTS}/raters/agreement.html",
            caption="../report/agreement.rst",
            category="1. The data",
            labels={"figure": "How far the raters agree, with tables"},
        ),
        metrics=f"{RESULTS}/raters/agreement.json",
        table=f"{RESULTS}/raters/agreement.csv",
        figure=f"{RESULTS}/raters/agreement.png",
        printed=expand(
            f"{RESULTS}/raters/agreement.{{form}}", form=settings.figures.formats
        ),
    log:
        f"{RESULTS}/logs/rate_agreement.log",
    benchmark:
        f"{RESULTS}/benchmarks/rate_agreement.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        bootstrap=BOOTSTRAP,
        ordered=settings.data.ordered,
        classes=settings.data.classes,
        formats=["png", *settings.figures.formats],
    message:
        "Measuring how far the raters agree"
    script:
        "../scripts/rate_agreement.py"


rule rate_ceiling:
    input:
        ratings=rules.ingest.output.ratings,
        predictions=rules.evaluate_folds.output.predictions,
        library=library("rate_ceiling"),
    output:
        html=report(
            f"{RESULTS}/raters/ceiling.html",
            caption="../report/ceiling.rst",
            category="2. How good it is",
            labels={"figure": "The model among the raters, with tables"},
        ),
        metrics=f"{RESULTS}/raters/ceiling.json",
        table=f"{RESULTS}/raters/ceiling.csv",
        figure=f"{RESULTS}/raters/ceiling.png",
        printed=expand(
            f"{RESULTS}/raters/ceiling.{{form}}", form=settings.figures.formats
        ),
    log:
        f"{RESULTS}/logs/rate_ceiling.log",
    benchmark:
        f"{RESULTS}/benchmarks/rate_ceiling.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        bootstrap=BOOTSTRAP,
        classes=settings.data.classes,
        formats=["png", *settings.figures.formats],
    message:
        "Setting the model beside the raters"
    script:
        "../scripts/rate_ceiling.py"
