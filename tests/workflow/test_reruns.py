"""The table of the README: what is edited, and how many jobs of which rules run again."""

from collections import Counter

import pandas as pd
import pytest
from equimood import demo
from PIL import Image, ImageOps

FIRST = {
    "ingest": 1, "split_horses": 1, "fetch_backbone": 1, "embed_shard": 6, "audit_splits": 1,
    "audit_data": 1, "write_audit": 1, "search_fold": 3, "train_fold": 3, "permute_fold": 2,
    "evaluate_folds": 1, "draw_evaluation": 1, "compare_fold": 2, "compare_candidates": 1,
    "draw_comparison": 1, "rate_agreement": 1, "rate_ceiling": 1, "explain_shard": 2,
    "probe_explanations": 1, "judge_explanations": 1,
    "judge_calibration": 1, "draw_calibration": 1, "summarise": 1, "draw_explanation": 1,
    "write_gallery": 1, "write_efficiency": 1, "write_documents": 1, "write_report": 1,
}  # fmt: skip
AFTER_SPLIT = {
    rule: n for rule, n in FIRST.items() if rule not in ("ingest", "fetch_backbone", "embed_shard")
}


AFTER_AUDIT = {
    rule: n
    for rule, n in AFTER_SPLIT.items()
    if rule not in ("split_horses", "rate_agreement") and "audit" not in rule
}


@pytest.fixture(scope="module")
def study(first_run):
    clone, ran = first_run
    assert ran.jobs == FIRST
    assert ran.embedded == 240  # whole, head and background
    return clone


def change_table(study, change):
    path = study.folder / "mydata/annotations.csv"
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


def test_a_second_run_has_nothing_to_do(study):
    ran = study.snakemake()
    assert ran.code == 0
    assert not ran.jobs
    assert "Nothing to be done" in ran.text


def test_a_figure_setting_redraws_and_computes_nothing(study):
    study.edit("tests/configs/tiny.yaml", lambda c: c["figures"].update(colormap="RdBu_r"))
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == Counter(
        draw_explanation=1, write_gallery=1, write_documents=1, write_report=1
    )


def test_the_size_of_the_gallery_writes_the_gallery_alone(study):
    study.edit("tests/configs/tiny.yaml", lambda c: c["figures"].update(gallery=12))
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == Counter(write_gallery=1, write_documents=1, write_report=1)
    assert len(list((study.folder / "results/tiny/gallery/pictures").iterdir())) == 12


def test_a_corrected_label_embeds_nothing(study):
    def correct(table):
        table.loc[0, "label"] = "relaxed" if table.loc[0, "label"] != "relaxed" else "neutral"
        return table

    change_table(study, correct)
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {"ingest": 1, **AFTER_SPLIT}
    assert ran.embedded == 0


def test_a_new_horse_is_all_that_is_embedded(study):
    data, new = study.folder / "mydata", study.folder / "new"
    demo.draw_study(new, n_horses=1, n_sessions=1, images_per_session=10, seed=6)
    for name in ("annotations.csv", "regions.csv"):
        own, added = pd.read_csv(data / name), pd.read_csv(new / name)
        added["image"] = "new_" + added["image"]
        added["horse"] = "new"
        if "session" in added:  # else the audit finds a session of two horses
            added["session"] = "new_" + added["session"]
        pd.concat([own, added]).to_csv(data / name, index=False)
    for picture in (new / "images").iterdir():
        picture.rename(data / "images" / f"new_{picture.name}")
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {"ingest": 1, "embed_shard": 6, **AFTER_SPLIT}
    assert ran.embedded == 3 * 10


def test_a_replaced_photograph_is_the_only_one_embedded(study):
    path = study.folder / "mydata/images/horse01_s1_01.jpg"
    ImageOps.autocontrast(Image.open(path)).save(path, quality=95)
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    shards = ran.jobs.pop("embed_shard")
    assert ran.jobs == {"ingest": 1, **AFTER_SPLIT}
    assert shards in (3, 6)  # its old and its new content may fall in two shards
    assert ran.embedded == 3


def test_a_wider_search_keeps_what_was_searched(study):
    study.edit("tests/configs/tiny.yaml", lambda c: c["search"].update(heads=["linear", "mlp"]))
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == AFTER_AUDIT
    assert ran.embedded == 0
    log = (study.folder / "results/tiny/logs/search_fold/0.log").read_text()
    assert "search: 8 structures, 4 of them new" in log


def test_another_backbone_embeds_only_its_own_features(study):
    def add(config):
        config["backbones"]["other"] = {
            "architecture": "test_resnet", "weights": "random", "input_px": 32,
        }  # fmt: skip

    study.edit("tests/configs/tiny.yaml", add)
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {"fetch_backbone": 1, "embed_shard": 4, **AFTER_AUDIT}
    assert ran.embedded == 180


def test_a_written_reason_changes_the_report_and_nothing_else(study):
    def accept(config):
        reason = "Looked at."
        config["audit"] = {"near_duplicates": {"action": "accept", "reason": reason}}

    study.edit("tests/configs/tiny.yaml", accept)
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {
        "audit_splits": 1,
        "write_audit": 1,
        "write_documents": 1,
        "write_report": 1,
    }


def test_a_library_module_reruns_the_stage_that_imports_it(study):
    with (study.folder / "workflow/scripts/equimood/baselines.py").open("a") as module:
        module.write("\n# a change\n")
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {
        "evaluate_folds": 1, "draw_evaluation": 1, "compare_candidates": 1, "draw_comparison": 1,
        "judge_calibration": 1, "draw_calibration": 1, "rate_ceiling": 1,
        "write_efficiency": 1, "write_documents": 1, "write_report": 1,
    }  # fmt: skip
