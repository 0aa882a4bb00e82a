"""
Judge how far confidences can be trusted, and what is answered with them.

INPUTS   results/{study}/evaluation/predictions.parquet, model/{fold}/card.yaml
OUTPUTS  results/{study}/evaluation/calibration.json, calibration.csv, calibration.tex and figures
"""


localrules:
    draw_calibration,


CALIBRATION_FIGURES = {
    "reliability": "How far confidences can be trusted",
    "coverage": "Accuracy when unsure answers are held back",
}


rule judge_calibration:
    input:
        predictions=rules.evaluate_folds.output.predictions,
        cards=expand(rules.train_fold.output.card, fold=OUTER_FOLDS),
        library=library("judge_calibration"),
    output:
        found=f"{RESULTS}/evaluation/calibration.json",
        table=report(
            f"{RESULTS}/evaluation/calibration.csv",
            caption="../report/calibration.rst",
            category="2. How good it is",
            labels={"figure": "Confidences and answers held back, as a table"},
        ),
        latex=f"{RESULTS}/evaluation/calibration.tex",
        usage=f"{RESULTS}/usage/judge_calibration.json",
    log:
        f"{RESULTS}/logs/judge_calibration.log",
    benchmark:
        f"{RESULTS}/benchmarks/judge_calibration.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(3000),
        runtime=attempts(30),
    params:
        bootstrap=BOOTSTRAP,
        target_accuracy=settings.train.target_accuracy,
        classes=settings.data.classes,
    message:
        "Judging confidences on unseen horses"
    script:
        "../scripts/judge_calibration.py"


rule draw_calibration:
    input:
        found=rules.judge_calibration.output.found,
        library=library("draw_calibration"),
    output:
        shown=[
            report(
                f"{RESULTS}/evaluation/{name}.png",
                caption=f"../report/{name}.rst",
                category="2. How good it is",
                labels={"figure": words},
            )
            for name, words in CALIBRATION_FIGURES.items()
        ],
        printed=expand(
            f"{RESULTS}/evaluation/{{figure}}.{{form}}",
            figure=CALIBRATION_FIGURES,
            form=settings.figures.formats,
        ),
    log:
        f"{RESULTS}/logs/draw_calibration.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_calibration.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(20),
    params:
        formats=settings.figures.formats,
    message:
        "Drawing the figures of confidence"
    script:
        "../scripts/draw_calibration.py"
