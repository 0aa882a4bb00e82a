"""
Say for every image, pixel by pixel and region by region, what its prediction rests on.

An image is explained by the model that never saw its horse.

INPUTS   results/{study}/model/{fold}/, catalogue/images.parquet, regions.parquet,
         splits/splits.parquet, the images
OUTPUTS  results/{study}/attributions/{shard}.safetensors, {shard}.parquet
         results/{study}/explanation/regions.parquet, summary.csv, summary.tex, stability.csv,
         ethogram.csv, checks.json, figures, panels/
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
        # Where no table gives regions, the box of the horse is one.
        horse_view=next(
            (
                name
                for name in settings.searched_views
                if settings.views[name].box == "annotations"
            ),
            None,
        ),
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Explaining shard {wildcards.shard}"
    script:
        "../scripts/explain_shard.py"


# The agreement with the experts, to be shown where they expect something.
AGREEMENT = f"{RESULTS}/explanation/ethogram.csv"
if settings.ethogram:
    AGREEMENT = report(
        AGREEMENT,
        caption="../report/ethogram.rst",
        category="4. What it looks at",
        subcategory="Over all images",
        labels={"figure": "Agreement with the regions that experts expect, as a table"},
    )


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
        latex=f"{RESULTS}/explanation/summary.tex",
        stability=report(
            f"{RESULTS}/explanation/stability.csv",
            caption="../report/stability.rst",
            category="4. What it looks at",
            subcategory="Over all images",
            labels={
                "figure": "Whether all folds rest on the same regions, as a table"
            },
        ),
        ethogram=AGREEMENT,
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
        ethogram=settings.ethogram,
        tolerance=settings.explain.tolerance,
    message:
        "Summarising explanations over horses"
    script:
        "../scripts/summarise.py"


# What is known of the explained photographs.
EXPLAINED = {
    "maps": expand(rules.explain_shard.output.maps, shard=SHARDS),
    "scores": expand(rules.explain_shard.output.scores, shard=SHARDS),
    "cards": expand(rules.train_fold.output.card, fold=OUTER_FOLDS),
    "predictions": expand(rules.train_fold.output.predictions, fold=OUTER_FOLDS),
    "backbones": ALL_BACKBONES,
    "images": rules.ingest.output.images,
}


rule draw_explanation:
    input:
        **EXPLAINED,
        summary=rules.summarise.output.summary,
        causes=rules.draw_demo.output.causes if settings.demo else [],
        regions=rules.ingest.output.regions,
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
        mean_maps=report(
            directory(f"{RESULTS}/explanation/mean_maps"),
            patterns=["{view}.png"],
            caption="../report/mean_maps.rst",
            category="4. What it looks at",
            subcategory="Over all images",
            labels={"figure": "Mean maps on the face, view {view}"},
        ),
        sheets=report(
            directory(f"{RESULTS}/explanation/sheets"),
            patterns=["{emotion}.jpg"],
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
        figures={k: v for k, v in plain(settings.figures).items() if k != "gallery"},
        ethogram=settings.ethogram,
        tolerance=settings.explain.tolerance,
        compared=settings.explain.compared,
        images_dir=IMAGES,
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Drawing what the predictions rest on"
    script:
        "../scripts/draw_explanation.py"
