"""
Turn every view of every image into features of a frozen, pretrained backbone.

INPUTS   results/{study}/catalogue/shards/{shard}.parquet, the images, the backbone's weights
OUTPUTS  resources/backbones/{backbone}-{digest}/weights.safetensors, card.yaml
         results/{study}/features/{view}/{backbone}/{shard}.safetensors
"""


localrules:
    fetch_backbone,


# On the login node: compute nodes often have no network.
rule fetch_backbone:
    input:
        weights=local_weights,
        library=library("fetch_backbone"),
    output:
        weights="resources/backbones/{backbone}-{digest}/weights.safetensors",
        card="resources/backbones/{backbone}-{digest}/card.yaml",
    log:
        f"{RESULTS}/logs/fetch_backbone/{{backbone}}-{{digest}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch_backbone/{{backbone}}-{{digest}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        backbone=lambda wildcards: plain(NETWORKS[wildcards.backbone]),
        seed=settings.seed,
    message:
        "Fetching backbone {wildcards.backbone}"
    script:
        "../scripts/fetch_backbone.py"


rule embed_shard:
    input:
        shard=catalogue_shard,
        backbone=backbone_card,
        library=library("embed_shard"),
    output:
        features=f"{RESULTS}/features/{{view}}/{{backbone}}/{{shard}}.safetensors",
        usage=f"{RESULTS}/usage/embed_shard/{{view}}-{{backbone}}-{{shard}}.json",
    log:
        f"{RESULTS}/logs/embed_shard/{{view}}-{{backbone}}-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/embed_shard/{{view}}-{{backbone}}-{{shard}}.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 2
    resources:
        batch_size=settings.features.batch_size,
        nodes=1,
        gpu=1,
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        images_dir=IMAGES,
        record=f"{STATE_RECORD}/embed_shard/{{view}}-{{backbone}}-{{shard}}",
        poolings=lambda wildcards: NETWORKS[wildcards.backbone].poolings,
        dtype=settings.features.dtype,
        n_shards=settings.ingest.shards,
    message:
        "Embedding view {wildcards.view} with {wildcards.backbone}, shard {wildcards.shard}"
    script:
        "../scripts/embed_shard.py"
