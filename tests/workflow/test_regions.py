"""A study without a table of regions: explained all the same."""

import pandas as pd
import pytest
from clone import Clone
from equimood import demo, tables
from equimood.files import read_json

STUDY = "tests/configs/tiny.yaml"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("regions"))
    demo.draw_study(clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=4, seed=5)

    def without_regions(config):
        del config["data"]["regions"]
        config["views"] = {"whole": {"box": "picture"}, "horse": {"box": "annotations"}}
        config["search"]["views"] = [["whole", "horse"]]
        config["controls"] = {"background": False}

    clone.edit(STUDY, without_regions)
    return clone


def test_thirds_of_the_frame_and_the_horse_against_the_background_stand_in(study):
    ran = study.snakemake("draw_explanation", study=STUDY)
    assert ran.code == 0, ran.text
    results = study.folder / "results/tiny/explanation"
    summary = pd.read_csv(results / "summary.csv")
    assert set(summary["region"]) == {*tables.CELLS, "horse", "background"}
    scores = tables.read(results / "regions.parquet")
    whole = scores[(scores["view"] == "whole") & (scores["model"] == "trained")]
    cells = whole[whole["region"].isin(tables.CELLS)]
    assert cells.groupby("image_id")["share"].sum().between(0.999, 1.001).all()
    assert sorted(cells["rank"].unique()) == list(range(1, 10))
    horse, ground = (whole[whole["region"] == name] for name in ("horse", "background"))
    assert (horse["area"].to_numpy() + ground["area"].to_numpy()).round(6).tolist() == [1] * 16
    # In the view framed by the horse's box nothing is left of the background, and that is counted.
    seen = {
        (row["view"], row["region"]): row for row in read_json(results / "checks.json")["regions"]
    }
    assert seen["horse", "background"]["not_in_the_frame"] == 16
    assert seen["whole", "background"]["n_visible"] == 16
    assert (results / "regions/whole.png").stat().st_size > 0
    assert "\\toprule" in (results / "summary.tex").read_text()
    assert len(pd.read_csv(results / "ethogram.csv")) == 0


def test_an_ethogram_without_a_table_of_regions_is_refused_before_any_job(study):
    study.edit(STUDY, lambda config: config.update(ethogram={"alarmed": ["ears"]}))
    ran = study.snakemake("--dry-run", study=STUDY)
    assert ran.code != 0
    assert "ethogram: regions are expected, but data.regions is null; give the table" in ran.text
