"""
Judge new images with the final model.

INPUTS   the images and regions named in the section predict, results/{study}/model/final/
OUTPUTS  results/{study}/predictions/predictions.csv, quarantine.csv, panels/
"""

# These baselines are made from the study's own photographs.
FROM_PHOTOGRAPHS = settings.predict.explain and settings.explain.baseline in (
    "mean",
    "neutral",
)


rule predict_images:
    input:
        weights=f"{RESULTS}/model/final/weights.safetensors",
        card=f"{RESULTS}/model/final/card.yaml",
        backbones=ALL_BACKBONES,
        images=new_images,
        regions=settings.predict.regions or [],
        catalogue=rules.ingest.output.images if FROM_PHOTOGRAPHS else [],
        library=library("predict_images"),
    output:
        predictions=f"{RESULTS}/predictions/predictions.csv",
        quarantine=f"{RESULTS}/predictions/quarantine.csv",
        panels=directory(f"{RESULTS}/predictions/panels"),
    log:
        f"{RESULTS}/logs/predict_images.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_images.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 2
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        predict=plain(settings.predict),
        views={name: plain(settings.views[name]) for name in settings.searched_views},
        ingest=plain(settings.ingest),
        explain=plain(settings.explain),
        colormap=settings.figures.colormap,
        images_dir=IMAGES,
        seed=settings.seed,
        photographs=files_state(settings.predict.images),
    message:
        "Predicting new images"
    script:
        "../scripts/predict_images.py"
