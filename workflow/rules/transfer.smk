"""
Compare fine-tuning with frozen features on the inner folds of one outer fold (transfer.enabled).

INPUTS   results/{study}/search/{fold}/best.yaml, trials.parquet, splits, features, the images
OUTPUTS  results/{study}/transfer/{fold}/trials.parquet, best.yaml: what was tried and chosen
         results/{study}/transfer/{fold}/weights.safetensors, card.yaml: the best fine-tuned model
         results/{study}/transfer/exploration.csv and figures
"""


localrules:
    draw_transfer,


rule transfer_fold:
    input:
        enabled=transfer_enabled,
        best=rules.search_fold.output.best,
        trials=rules.search_fold.output.trials,
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        backbones=ALL_BACKBONES,
        ratings=SOFT_LABELS,
        library=library("transfer_fold"),
    output:
        weights=f"{RESULTS}/transfer/{{fold}}/weights.safetensors",
        card=f"{RESULTS}/transfer/{{fold}}/card.yaml",
        trials=f"{RESULTS}/transfer/{{fold}}/trials.parquet",
        best=f"{RESULTS}/transfer/{{fold}}/best.yaml",
        usage=f"{RESULTS}/usage/transfer_fold/{{fold}}.json",
    log:
        f"{RESULTS}/logs/transfer_fold/{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/transfer_fold/{{fold}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 4
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(16000),
        runtime=attempts(1440),
    params:
        transfer=plain(settings.transfer),
        probe={
            name: getattr(settings.search, name) for name in ("epochs", "batch_size")
        },
        train={
            name: getattr(settings.train, name)
            for name in ("calibrate", "target_accuracy", "labels")
        },
        images_dir=IMAGES,
        record=f"{STATE_RECORD}/transfer_fold/{{fold}}",
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Comparing fine-tuning with frozen features, outer fold {wildcards.fold}"
    script:
        "../scripts/transfer_fold.py"


rule draw_transfer:
    input:
        best=expand(rules.transfer_fold.output.best, fold=OUTER_FOLDS),
        library=library("draw_transfer"),
    output:
        shown=report(
            f"{RESULTS}/transfer/exploration.png",
            caption="../report/transfer.rst",
            category="2. How good it is",
            labels={"figure": "Frozen features beside fine-tuning"},
        ),
        table=report(
            f"{RESULTS}/transfer/exploration.csv",
            caption="../report/transfer.rst",
            category="2. How good it is",
            labels={"figure": "Frozen features beside fine-tuning, as a table"},
        ),
        printed=expand(
            f"{RESULTS}/transfer/exploration.{{form}}", form=settings.figures.formats
        ),
    log:
        f"{RESULTS}/logs/draw_transfer.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_transfer.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        formats=settings.figures.formats,
    message:
        "Drawing what fine-tuning gained"
    script:
        "../scripts/draw_transfer.py"
