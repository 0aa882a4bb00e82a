"""
Compare configurations on the inner folds of one outer fold's training horses.

INPUTS   results/{study}/catalogue/images.parquet, splits/splits.parquet, features/,
         audit/audit.json (only waited for)
OUTPUTS  results/{study}/search/{fold}/trials.parquet, best.yaml
"""

# What heads learn from beside the catalogue: nothing, or who said what.
SOFT_LABELS = rules.ingest.output.ratings if settings.train.labels == "soft" else []


rule search_fold:
    input:
        images=rules.ingest.output.images,
        splits=rules.split_horses.output.splits,
        features=FEATURES,
        ratings=SOFT_LABELS,
        # Waited for, and nothing more; of a copy, since ancient marks what it is given.
        audit=ancient(str(rules.write_audit.output.audit)),
        library=library("search_fold"),
    output:
        trials=f"{RESULTS}/search/{{fold}}/trials.parquet",
        best=f"{RESULTS}/search/{{fold}}/best.yaml",
        usage=f"{RESULTS}/usage/search_fold/{{fold}}.json",
    log:
        f"{RESULTS}/logs/search_fold/{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/search_fold/{{fold}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 2
    resources:
        nodes=1,
        gpu=1,
        mem_mb=attempts(8000),
        runtime=attempts(240),
    params:
        search=plain(settings.search),
        backbones={
            name: plain(settings.backbones[name])
            for name in settings.searched_backbones
        },
        classes=settings.data.classes,
        record=f"{STATE_RECORD}/search_fold/{{fold}}",
        seed=settings.seed,
    message:
        "Searching configurations, outer fold {wildcards.fold}"
    script:
        "../scripts/search_fold.py"
