"""
Write the gallery of explained photographs, to open from the disk.

INPUTS   results/{study}/attributions/, model/{fold}/card.yaml and predictions,
         explanation/tests.json, the images
OUTPUTS  results/{study}/gallery/
"""


# Not local: pictures of 12 megapixels take a tenth of a second each.
rule write_gallery:
    input:
        **EXPLAINED,
        tests=rules.judge_explanations.output.found if TESTED else [],
        page=[
            f"workflow/report/gallery/{name}"
            for name in ("index.html", "gallery.css", "gallery.js", "words.js")
        ],
        library=library("write_gallery"),
    output:
        gallery=report(
            directory(f"{RESULTS}/gallery"),
            htmlindex="index.html",
            caption="../report/gallery.rst",
            category="4. What it looks at",
            subcategory="Gallery",
            labels={"figure": "Gallery: the explained photographs with their maps"},
        ),
    log:
        f"{RESULTS}/logs/write_gallery.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_gallery.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 2
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        study=settings.study,
        n=settings.figures.gallery,
        colormap=settings.figures.colormap,
        tolerance=settings.explain.tolerance,
        compared=settings.explain.compared,
        drawn=bool(settings.demo),
        images_dir=IMAGES,
        classes=settings.data.classes,
        seed=settings.seed,
    message:
        "Writing the gallery"
    script:
        "../scripts/write_gallery.py"
