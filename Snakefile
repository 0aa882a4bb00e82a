"""Equimood: from annotated photographs of horses to an emotion model that shows its reasons."""

import time

from snakemake.utils import min_version

min_version("9.27")


# `--configfile` is merged key by key over a configfile statement, so that a study would keep
# the demo's backbones: the demo's settings are read only where no others are given.
if not workflow.configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/raters.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/trust.smk"
include: "workflow/rules/gallery.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/predict.smk"


localrules:
    all,
    split,
    embed,
    audit,
    search,
    transfer,
    train,
    evaluate,
    compare,
    explain,
    report,
    predict,


rule all:
    default_target: True
    input:
        rules.write_report.output,
        rules.train_fold.output.card.format(fold="final"),


# The stages, by name: `snakemake --profile profiles/local explain`.


rule split:
    input:
        rules.split_horses.output,
        rules.audit_splits.output,


rule embed:
    input:
        FEATURES,
        CONTROL_FEATURES,


rule audit:
    input:
        rules.write_audit.output,


rule search:
    input:
        expand(rules.search_fold.output, fold=FOLDS),


rule transfer:
    input:
        expand(rules.transfer_fold.output, fold=FOLDS),
        rules.draw_transfer.output,


rule train:
    input:
        expand(rules.train_fold.output, fold=FOLDS),


rule evaluate:
    input:
        rules.evaluate_folds.output,
        rules.judge_calibration.output,


rule compare:
    input:
        rules.compare_candidates.output,


rule explain:
    input:
        rules.summarise.output,
        rules.judge_explanations.output if TESTED else [],
        rules.write_gallery.output,


rule report:
    input:
        rules.write_report.output,


rule predict:
    input:
        rules.predict_images.output,


if workflow.is_main_process:
    with mistakes_told():
        asked = workflow.resource_settings
        runs.check_profile(
            sys.argv,
            [*asked.overwrite_resources, *asked.overwrite_threads],
            [rule.name for rule in workflow.rules],
        )


TO_LOOK_AT = {
    "report.zip": "unzip report.zip there, open report/report.html in a browser",
    "predictions/predictions.csv": "predictions/predictions.csv, quarantine.csv, panels/",
}
STARTED = time.time()


onstart:
    slurm_run = runs.slurm_run(log)
    with mistakes_told():
        runs.check_shared(
            [ANNOTATIONS, IMAGES, REGIONS, settings.data.codes, RESULTS], slurm_run
        )
    runs.take_over(Path(f"{RESULTS}/.slurm-run"), slurm_run)
    print(f"Study {settings.study}: results in {RESULTS}/, logs in {RESULTS}/logs/")
    print(efficiency.planned(settings, FOLDS, len(CONTROL_NETWORKS)))


onsuccess:
    print(f"Done. Results of study {settings.study} stand in {RESULTS}/")
    for name, what in TO_LOOK_AT.items():
        made = Path(f"{RESULTS}/{name}")
        if made.exists() and made.stat().st_mtime >= STARTED:
            print(f"To look at   {what}")
    print(
        "Next         change a line of the settings and give the same command again"
    )
    if settings.demo:
        print("             your own photographs: docs/own-data.md")


onerror:
    print(
        f"Not finished. If something failed, the last lines are above, whole logs in {RESULTS}/logs/."
    )
    print("Mend it, and give the same command again: finished work is kept.")
