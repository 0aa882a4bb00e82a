"""A user's mistake is told before any job, in one sentence and without a traceback."""

import pandas as pd
import pytest
import yaml
from clone import Clone
from equimood import demo

TINY = "tests/configs/tiny.yaml"
SMALL = {"architecture": "test_resnet", "input_px": 64}


@pytest.fixture(scope="module")
def folder(clone: Clone) -> Clone:
    """A study without mistakes, and files to make them with."""
    data = clone.folder / "mydata"
    demo.draw_study(data, n_horses=8, n_sessions=1, images_per_session=4, seed=5)
    regions = pd.read_csv(data / "regions.csv")
    regions.head(0).to_csv(data / "no_rows.csv", index=False)
    regions.replace("head", "haed").to_csv(data / "misspelt.csv", index=False)
    regions[regions["region"] != "head"].to_csv(data / "no_head.csv", index=False)
    (data / "empty").mkdir()
    (data / "images/loop.png").symlink_to("loop.png")
    (data / "images/round").symlink_to(".")
    return clone


def dry_run(clone: Clone, changes: dict, *targets: str):
    study = yaml.safe_load((clone.folder / TINY).read_text())
    for section, values in changes.items():
        study[section] = study.get(section, {}) | values if isinstance(values, dict) else values
    (clone.folder / "study.yaml").write_text(yaml.safe_dump(study))
    return clone.snakemake(*targets, "--dry-run", study="study.yaml")


def test_a_study_without_mistakes_gets_past_every_check(folder):
    new = {"images": "mydata/images", "regions": "mydata/regions.csv"}
    ran = dry_run(folder, {"split": {"inner_splits": 4}, "predict": new}, "predict")
    assert ran.code == 0, ran.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"images": "photos"}}, "data.images: no such folder photos; write the folder"),
        ({"data": {"regions": "mydata/misspelt.csv"}}, "region is 'haed'; write one of ear_left"),
        ({"data": {"regions": "mydata/no_rows.csv"}}, "mydata/no_rows.csv: the table has no rows"),
        (
            {"data": {"regions": "mydata/no_head.csv"}},
            "views.head.regions: 'head' is nowhere visible, as a box or points, in mydata/no_head",
        ),
        (
            {"split": {"inner_splits": 7}},
            "split.inner_splits: 7 inner folds, but 4 horses train in an outer fold; write a smal",
        ),
        (
            {"backbones": {"small": SMALL | {"weights": "gone.safetensors"}}},
            "backbones.small.weights: no such file gone.safetensors; write the path",
        ),
        ({"predict": {"images": "gone"}}, "predict.images: no such folder or table gone; write"),
        (
            {"predict": {"images": "mydata/empty"}},
            "predict.images: no images in the folder mydata/empty; write the folder",
        ),
        (
            {"predict": {"images": "mydata/images"}, "search": {"views": [["head"]]}},
            "predict.regions: null, but whatever the search chooses looks at a box around regions",
        ),
        (
            {"predict": {"images": "mydata/images", "regions": "gone.csv"}},
            "predict.regions: no such file gone.csv; write the path of your table",
        ),
        (
            {"data": {"classes": [False, True]}},
            "data.classes.0: found false; write text; put it in quotes, or YAML reads no, yes",
        ),
        ({"study": "my study"}, "study: found 'my study'; write a name of letters, digits, _ and"),
    ],
)
def test_a_mistake_is_told_before_any_job(folder, changes, told):
    ran = dry_run(folder, changes)
    assert ran.code != 0
    assert told in ran.text
    assert "Traceback" not in ran.text and "Building DAG" not in ran.text


def test_new_images_are_asked_for_where_they_are_a_target(folder):
    ran = dry_run(folder, {}, "predict")
    assert ran.code != 0
    assert "predict.images: null; write the folder, or the table, of new images" in ran.text
