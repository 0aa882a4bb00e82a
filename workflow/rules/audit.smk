"""
Look for what could make the figures come out too high, before any search, and refuse it.

What is found and what is made of it are apart: a written reason repeats no measurement. The search
waits for the audit, and does not run again when its text has changed.

INPUTS   results/{study}/catalogue/, splits/splits.parquet, features of the background
OUTPUTS  results/{study}/splits/audit.json
         results/{study}/audit/measured.json, audit.json, audit.html
"""


localrules:
    audit_splits,
    write_audit,


rule audit_splits:
    input:
        images=rules.ingest.output.images,
        near_duplicates=rules.ingest.output.near_duplicates,
        covariates=rules.ingest.output.covariates,
        quarantine=rules.ingest.output.quarantine,
        splits=rules.split_horses.output.splits,
        library=library("audit_splits"),
    output:
        audit=f"{RESULTS}/splits/audit.json",
    log:
        f"{RESULTS}/logs/audit_splits.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_splits.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(20),
    params:
        audit=plain(settings.audit),
        outer=settings.split.outer,
        refused=f"{RESULTS}/audit/refused.html",
    message:
        "Auditing the folds"
    script:
        "../scripts/audit_splits.py"


rule audit_data:
    input:
        images=rules.ingest.output.images,
        controls=rules.ingest.output.controls,
        colours=rules.ingest.output.colours,
        covariates=rules.ingest.output.covariates,
        regions=rules.ingest.output.regions,
        splits=rules.split_horses.output.splits,
        features=control_features("background"),
        library=library("audit_data"),
    output:
        measured=f"{RESULTS}/audit/measured.json",
        usage=f"{RESULTS}/usage/audit_data.json",
    log:
        f"{RESULTS}/logs/audit_data.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_data.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(6000),
        runtime=attempts(120),
    params:
        networks={
            name: network
            for name, network in CONTROL_NETWORKS.items()
            if name == "background"
        },
        bootstrap=BOOTSTRAP,
        views=settings.searched_views,
        classes=settings.data.classes,
    message:
        "Asking what the labels can be told from without the horse"
    script:
        "../scripts/audit_data.py"


rule write_audit:
    input:
        splits=rules.audit_splits.output.audit,
        measured=rules.audit_data.output.measured,
        library=library("write_audit"),
    output:
        audit=f"{RESULTS}/audit/audit.json",
        html=report(
            f"{RESULTS}/audit/audit.html",
            caption="../report/audit.rst",
            category="1. The data",
            labels={"figure": "Audit: what could make the figures too high"},
        ),
    log:
        f"{RESULTS}/logs/write_audit.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_audit.tsv"
    conda:
        "../../envs/equimood.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(10),
    params:
        audit=plain(settings.audit),
        refused=f"{RESULTS}/audit/refused.html",
    message:
        "Judging what the audit found"
    script:
        "../scripts/write_audit.py"
