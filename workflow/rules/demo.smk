"""
Draw the demo study's photographs: horses whose emotion has a known cause.

INPUTS   none
OUTPUTS  results/{study}/demo/annotations.csv, regions.csv, causes.csv, images/
"""

if settings.demo:

    rule draw_demo:
        input:
            library=library("draw_demo"),
        output:
            annotations=ANNOTATIONS,
            regions=REGIONS,
            causes=f"{RESULTS}/demo/causes.csv",
            images=directory(IMAGES),
        log:
            f"{RESULTS}/logs/draw_demo.log",
        benchmark:
            f"{RESULTS}/benchmarks/draw_demo.tsv"
        conda:
            "../../envs/equimood.yaml"
        threads: 2
        resources:
            mem_mb=attempts(2000),
            runtime=attempts(20),
        params:
            demo=plain(settings.demo),
            classes=settings.data.classes,
            seed=settings.seed,
        message:
            "Drawing the demo's photographs"
        script:
            "../scripts/draw_demo.py"
