"""
Assign whole horses to outer and inner folds.

INPUTS   results/{study}/catalogue/images.parquet
OUTPUTS  results/{study}/splits/splits.parquet
"""


localrules:
    split_horses,


rule split_horses:
    input:
        images=rules.ingest.output.images,
        library=library("split_horses"),
    output:
        splits=f"{RESULTS}/splits/splits.parquet",
    log:
        f"{RESULTS}/logs/split_horses.log",
    benchmark:
        f"{RESULTS}/benchmarks/split_horses.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        split=plain(settings.split),
        n_folds=len(FOLDS) - 1,  # beside `final`
        seed=settings.seed,
    message:
        "Splitting the horses into folds"
    script:
        "../scripts/split_horses.py"
