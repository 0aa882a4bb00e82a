"""
Judge new images with the final model.

INPUTS   the images named in the section predict, results/{study}/model/final/
OUTPUTS  results/{study}/predictions/predictions.csv, quarantine.csv, panels/
"""


rule predict_images:
    input:
        weights=f"{RESULTS}/model/final/weights.safetensors",
        card=f"{RESULTS}/model/final/card.yaml",
        backbones=ALL_BACKBONES,
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
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        predict=plain(settings.predict),
        views={name: plain(settings.views[name]) for name in settings.searched_views},
        ingest=plain(settings.ingest),
        explain=plain(settings.explain),
        colormap=settings.figures.colormap,
        photographs=files_state(settings.predict.images),
    message:
        "Predicting new images"
    script:
        "../scripts/predict_images.py"
