"""
Check every photograph and merge the raters: the catalogue of what can be used.

A checkpoint, so that Snakemake compares the label-free shards by content: images are embedded
again only in the shards they fall in, and never for a corrected label.

INPUTS   annotations, images, regions (the user's)
OUTPUTS  results/{study}/catalogue/images.parquet, ratings.parquet, quarantine.csv,
         near_duplicates.parquet, regions.parquet, controls.parquet, colours.parquet,
         covariates.parquet, shards/{shard}.parquet
"""


checkpoint ingest:
    input:
        annotations=ANNOTATIONS,
        regions=REGIONS,
        images=IMAGES if settings.demo else [],
        library=library("ingest"),
    output:
        images=f"{RESULTS}/catalogue/images.parquet",
        ratings=f"{RESULTS}/catalogue/ratings.parquet",
        quarantine=f"{RESULTS}/catalogue/quarantine.csv",
        near_duplicates=f"{RESULTS}/catalogue/near_duplicates.parquet",
        regions=f"{RESULTS}/catalogue/regions.parquet",
        controls=f"{RESULTS}/catalogue/controls.parquet",
        colours=f"{RESULTS}/catalogue/colours.parquet",
        covariates=f"{RESULTS}/catalogue/covariates.parquet",
        shards=expand(f"{RESULTS}/catalogue/shards/{{shard}}.parquet", shard=SHARDS),
        usage=f"{RESULTS}/usage/ingest.json",
    log:
        f"{RESULTS}/logs/ingest.log",
    benchmark:
        f"{RESULTS}/benchmarks/ingest.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 4
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        ingest=plain(settings.ingest),
        views={name: plain(settings.views[name]) for name in settings.searched_views},
        controls={name: plain(view) for name, view in CONTROL_VIEWS.items()},
        classes=settings.data.classes,
        columns=settings.data.columns,
        images_dir=lambda wildcards: IMAGES,
        record=f"{STATE_RECORD}/ingest",
        photographs=None if settings.demo else files_state(IMAGES),
    message:
        "Checking the photographs"
    script:
        "../scripts/ingest.py"
