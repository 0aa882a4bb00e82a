"""
Say for every image, pixel by pixel and region by region, what its prediction rests on.

An image is explained by the model that never saw its horse.

INPUTS   results/{study}/model/{fold}/, catalogue/images.parquet, regions.parquet,
         splits/splits.parquet, the images
OUTPUTS  results/{study}/attributions/{shard}.safetensors, {shard}.parquet
         results/{study}/explanation/regions.parquet, summary.csv, figures, panels/
"""


localrules:
    summarise,
    draw_explanation,


rule explain_shard:
    input:
        weights=expand(rules.train_fold.output.weights, fold=OUTER_FOLDS),
        cards=expand(rules.train_fold.output.card, fold=OUTER_FOLDS),
        predictions=expand(rules.train_fold.output.predictions, fold=OUTER_FOLDS),
        backbones=ALL_BACKBONES,
        images=rules.ingest.output.images,
        regions=rules.ingest.output.regions,
        splits=rules.split_horses.output.splits,
        library=library("explain_shard"),
    output:
        maps=f"{RESULTS}/attributions/{{shard}}.safetensors",
        scores=f"{RESULTS}/attributions/{{shard}}.parquet",
        usage=f"{RESULTS}/usage/explain_shard/{{shard}}.json",
    log:
        f"{RESULTS}/logs/explain_shard/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/explain_shard/{{shard}}.tsv"
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
        explain=lambda wildcards: {
            name: value
            for name, value in plain(settings.explain).items()
            if name != "batch_size"
        },
        images_dir=IMAGES,
        record=f"{STATE_RECORD}/explain_shard/{{shard}}",
        n_shards=settings.ingest.shards,
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Explaining shard {wildcards.shard}"
    script:
        "../scripts/explain_shard.py"


rule summarise:
    input:
        scores=expand(rules.explain_shard.output.scores, shard=SHARDS),
        maps=expand(rules.explain_shard.output.maps, shard=SHARDS),
        causes=rules.draw_demo.output.causes if settings.demo else [],
        library=library("summarise"),
    output:
        regions=f"{RESULTS}/explanation/regions.parquet",
        summary=report(
            f"{RESULTS}/explanation/summary.csv",
            caption="../report/summary.rst",
            category="4. What it looks at",
            subcategory="Over all images",
            labels={"figure": "Enrichment of every region, as a table"},
        ),
        checks=f"{RESULTS}/explanation/checks.json",
    log:
        f"{RESULTS}/logs/summarise.log",
    benchmark:
        f"{RESULTS}/benchmarks/summarise.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(6000),
        runtime=attempts(60),
    params:
        bootstrap=BOOTSTRAP,
        tolerance=settings.explain.tolerance,
    message:
        "Summarising explanations over horses"
    script:
        "../scripts/summarise.py"


rule draw_explanation:
    input:
        regions=rules.summarise.output.regions,
        summary=rules.summarise.output.summary,
        causes=rules.draw_demo.output.causes if settings.demo else [],
        maps=expand(rules.explain_shard.output.maps, shard=SHARDS),
        cards=expand(rules.train_fold.output.card, fold=OUTER_FOLDS),
        predictions=expand(rules.train_fold.output.predictions, fold=OUTER_FOLDS),
        backbones=ALL_BACKBONES,
        images=rules.ingest.output.images,
        library=library("draw_explanation"),
    output:
        regions=report(
            directory(f"{RESULTS}/explanation/regions"),
            patterns=["{view}.png"],
            caption="../report/regions.rst",
            category="4. What it looks at",
            subcategory="Over all images",
            labels={"figure": "Regions behind each emotion, view {view}"},
        ),
        sheets=report(
            directory(f"{RESULTS}/explanation/sheets"),
            patterns=["{emotion}.png"],
            caption="../report/sheets.rst",
            category="4. What it looks at",
            subcategory="Over all images",
            labels={"figure": "Contact sheet: {emotion}"},
        ),
        panels=report(
            directory(f"{RESULTS}/explanation/panels"),
            patterns=["{image}.png"],
            caption="../report/panels.rst",
            category="4. What it looks at",
            subcategory="Image by image",
            labels={"figure": "{image}"},
        ),
    log:
        f"{RESULTS}/logs/draw_explanation.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_explanation.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        figures=plain(settings.figures),
        tolerance=settings.explain.tolerance,
        images_dir=IMAGES,
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Drawing what the predictions rest on"
    script:
        "../scripts/draw_explanation.py"
