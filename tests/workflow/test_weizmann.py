"""The how-to's study on a part of the real photographs, where they are at hand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clone import ROOT

DATA = Path(os.environ.get("EQUIMOOD_DATA", ROOT.parent / "shared/data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "weizmann_horse").is_dir(),
        reason="no Weizmann photographs here: set EQUIMOOD_DATA to the folder that has them",
    ),
]


@pytest.fixture(scope="module")
def study(clone):
    """Thirty photographs of each class, one small backbone, two outer folds."""
    resources = clone.folder / "resources"
    table = pd.read_csv(DATA / "weizmann_horse/labels.csv").groupby("neck_height").head(30)
    horses = resources / "weizmann_horse"
    for picture in [*table["image"], *table["mask"]]:
        (horses / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / "weizmann_horse" / picture, horses / picture)
    table.to_csv(horses / "labels.csv", index=False)
    subprocess.run(
        [sys.executable, "docs/studies/weizmann_regions.py", horses], cwd=clone.folder, check=True
    )
    shutil.copytree(DATA / "weights", resources / "weights")

    def smaller(config):
        del config["backbones"]["mobilenetv2_100"]
        config["backbones"]["mobilenetv2_035"]["poolings"] = ["avg", "grid2"]
        config["split"].update(n_splits=2, inner_splits=2)
        config["search"].update(heads=["linear"])
        config["explain"].update(max_images=9, n_steps=16, control_images=3)
        config["figures"].update(panels=9)

    clone.edit("docs/studies/weizmann.yaml", smaller)
    ran = clone.snakemake(study="docs/studies/weizmann.yaml")
    assert ran.code == 0, ran.text
    return clone.folder / "results/weizmann"


def test_every_photograph_is_judged_once_by_a_model_that_never_saw_its_group(study):
    predictions = pd.read_parquet(study / "evaluation/predictions.parquet")
    refused = pd.read_csv(study / "catalogue/quarantine.csv")
    # One photograph is there twice, under another label each time.
    assert set(refused["reason"].str.split(":").str[0]) == {"contradictory"}
    assert len(predictions) == predictions["photo_id"].nunique() == 90 - len(refused) == 88
    assert predictions.groupby("horse")["fold"].nunique().eq(1).all()


def test_posture_is_told_better_than_by_chance(study):
    metrics = yaml.safe_load((study / "evaluation/metrics.json").read_text())
    assert metrics["balanced_accuracy"]["low"] > 1 / 3


def test_panels_show_what_it_looks_at(study):
    assert len(list((study / "explanation/panels").glob("*.png"))) == 9


def test_attribution_is_scored_on_the_horses_mask_and_outside_it(study):
    scores = pd.read_parquet(study / "explanation/regions.parquet")
    area = scores[scores["model"] == "trained"].pivot_table("area", "image_id", "region")
    whole = area["horse"] + area["background"]
    assert len(area) == 9
    assert area["horse"].between(0.05, 0.6).all()
    assert (whole <= 1.001).all() and (whole > 0.8).all()  # the neck's box is a region, too
    assert area["neck"].notna().all()
