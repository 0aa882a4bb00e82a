"""
Train the chosen configuration on all training horses of an outer fold and calibrate it.

With transfer.enabled, the fine-tuned model takes its place where the inner folds say so.

INPUTS   results/{study}/search/{fold}/best.yaml, splits, features, transfer/{fold}/
OUTPUTS  results/{study}/model/{fold}/weights.safetensors, card.yaml
         results/{study}/model/{fold}/predictions.parquet: the fold's test horses
"""


rule train_fold:
    input:
        best=rules.search_fold.output.best,
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        backbones=ALL_BACKBONES,
        ratings=SOFT_LABELS,
        transfer=(
            [
                rules.transfer_fold.output.best,
                rules.transfer_fold.output.card,
                rules.transfer_fold.output.weights,
            ]
            if settings.transfer.enabled
            else []
        ),
        library=library("train_fold"),
    output:
        weights=f"{RESULTS}/model/{{fold}}/weights.safetensors",
        card=f"{RESULTS}/model/{{fold}}/card.yaml",
        predictions=f"{RESULTS}/model/{{fold}}/predictions.parquet",
        usage=f"{RESULTS}/usage/train_fold/{{fold}}.json",
    log:
        f"{RESULTS}/logs/train_fold/{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_fold/{{fold}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        train=plain(settings.train),
        optimiser={
            name: getattr(settings.search, name) for name in ("epochs", "batch_size")
        },
        views=settings.searched_views,
        images_dir=IMAGES,
        record=f"{STATE_RECORD}/train_fold/{{fold}}",
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Training the model of outer fold {wildcards.fold}"
    script:
        "../scripts/train_fold.py"
