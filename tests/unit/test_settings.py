import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import matplotlib
import numpy as np
import pytest
from equimood import demo, search, settings
from equimood.errors import UserError
from equimood.reference import DEMO

OWN = {
    "study": "mine",
    "data": {"annotations": "table.csv", "images": "photos", "classes": ["calm", "tense"]},
    "backbones": {"small": {"architecture": "resnet10t"}},
}


def refusal(study, **changes):
    """The message that refuses a study with other sections."""
    with pytest.raises(UserError) as refused:
        settings.load(study | changes, "study.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "found", "remedy"),
    [
        (
            {"data": {"classes": ["calm", "angry"]}},
            "data.classes: found 'calm', which the demo does not draw",
            "write some of neutral, alarmed, annoyed, relaxed; for your own photographs delete",
        ),
        (
            {"data": {"classes": ["neutral", "alarmed"]},
             "demo": {"shortcut": "bucket", "shortcut_class": "annoyed"}},
            "demo.shortcut_class: found 'annoyed', which is not among data.classes",
            "write one of neutral, alarmed",
        ),
        (
            {"demo": {"sessions": 1, "images_per_session": 3}},
            "demo.images_per_session: found 3, with demo.sessions 1",
            "write at least 4",
        ),
        (
            {"data": DEMO["data"] | {"columns": {"horse": "Subject"}}},
            "and columns empty, in a study that draws them",
            "delete the section demo",
        ),
        (
            {"data": DEMO["data"] | {"images": "photos"}},
            "annotations, images, regions and codes stay null",
            "delete the section demo",
        ),
    ],
)  # fmt: skip
def test_a_demo_that_cannot_be_drawn_is_refused_before_any_job(changes, found, remedy):
    message = refusal(DEMO, **changes)
    assert message.startswith("study.yaml: d") and "\n" not in message  # names a key
    assert found in message and remedy in message


def test_the_smallest_demo_that_is_let_through_is_drawn(tmp_path):
    asked = {"horses": 4, "sessions": 2, "images_per_session": 2}
    drawn = settings.load(DEMO | {"demo": asked}).demo
    demo.draw_study(
        tmp_path, n_horses=1, n_sessions=drawn.sessions, image_size=(64, 48),
        images_per_session=drawn.images_per_session,
    )  # fmt: skip
    assert len(list((tmp_path / "images").iterdir())) == 4


def test_the_emotions_let_through_are_those_that_have_a_cue_or_none():
    assert set(settings.DRAWN_SHARES) == set(demo.CAUSES)
    assert sum(settings.DRAWN_SHARES.values()) == pytest.approx(1)


def test_every_mistake_is_told_with_its_key_and_what_to_write():
    message = refusal(
        OWN, split={"n_split": 3, "outer": "kfolds"}, demos={}, data={"classes": ["calm"]}
    )
    lines = message.splitlines()
    assert all(line.startswith("study.yaml: ") for line in lines)
    assert "study.yaml: split.n_split: unknown key; write `n_splits`" in lines
    assert "study.yaml: demos: unknown key; write `demo`" in lines
    assert any("split.outer: found 'kfolds'; " in line and "'kfold'" in line for line in lines)
    assert any("data.classes: found ['calm']; " in line for line in lines)
    assert refusal({k: v for k, v in OWN.items() if k != "study"}) == (
        "study.yaml: study: missing; add it"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"views": [["head"]]}}, "study.yaml: search.views: 'head' is not under views"),
        ({"search": {"backbones": ["big"]}}, "study.yaml: search.backbones: 'big' is not under"),
        (
            {"views": {"whole": {"box": "regions", "regions": ["head"]}}},
            "study.yaml: views.whole: box `regions` needs the table data.regions; give it, or take "
            "whole out of views and search.views",
        ),
        ({"views": {"whole": {"regions": ["head"]}}}, "study.yaml: views.whole: `regions` names"),
        (
            {
                "backbones": {
                    "big": OWN["backbones"]["small"] | {"model_args": {"checkpoint_path": "a.pth"}}
                }
            },
            "study.yaml: backbones.big: model_args: checkpoint_path is not yours to give",
        ),
        (
            {"backbones": {"big": OWN["backbones"]["small"] | {"std": [0.2, 0, 0.2]}}},
            "study.yaml: backbones.big.std.1: found 0; ",
        ),
        ({"data": {"classes": ["a", "b"]}}, "study.yaml: data: write the table (annotations)"),
        (
            {"data": OWN["data"] | {"classes": ["a", "a"]}},
            "study.yaml: data: a class is named twice",
        ),
        (
            {
                "audit": {"background": {"action": "refuse"}},
                "controls": {"background": False},
            },
            "study.yaml: audit.background.action: refuse, but controls.background: false",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    settings.load(OWN)
    assert refusal(OWN, **changes).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data", {"classes": [False, "yes"]}, "data.classes.0: found false; write text; put it in "
         "quotes, or YAML reads no, yes, off and on as false and true"),
        ("data", {"classes": "neutral, annoyed"},
         "data.classes: found 'neutral, annoyed'; write a list: [a, b]"),
        ("data", {"classes": ["calm", ""]}, "data.classes.1: found ''; write a word"),
        ("data", {"classes": ["calm"]}, "data.classes: found ['calm']; write at least 2"),
        ("study", "my study", "study: found 'my study'; write a name of letters, digits, _ and -"),
        ("study", None, "study: found null; write text"),
        ("views", {"my view": {}}, "views.my view: found 'my view'; write a name of letters"),
        ("split", {"n_splits": "two"}, "split.n_splits: found 'two'; write a whole number"),
        ("split", {"n_splits": 2.5}, "split.n_splits: found 2.5; write a whole number"),
        ("split", {"n_splits": 1}, "split.n_splits: found 1; write at least 2"),
        ("split", {"n_splits": 99}, "split.n_splits: found 99; write at most 50"),
        ("split", {"test_share": 0}, "split.test_share: found 0; write more than 0"),
        ("split", {"test_share": "half"}, "split.test_share: found 'half'; write a number, with a"),
        ("split", {"outer": "k"}, "split.outer: found 'k'; write 'holdout', 'kfold', 'leave_one"),
        ("split", None, "split: found null; write its keys below it"),
        ("evaluate", {"confidence": 1}, "evaluate.confidence: found 1; write less than 1"),
        ("train", {"calibrate": "maybe"}, "train.calibrate: found 'maybe'; write true or false"),
        ("search", {"views": ["whole"]}, "search.views.0: found 'whole'; write a list: [a, b]"),
        ("search", {"views": [[]]}, "search.views.0: found []; write at least 1"),
        ("search", {"seeds": 1001}, "search.seeds: found 1001; write at most 1000"),
        ("figures", {"colormap": "NoSuch"}, "figures.colormap: found 'NoSuch'; write 'PuOr', 'RdB"),
        ("seed", 10**6, "seed: found 1000000; write at most 999999"),
        ("data", {"columns": {"sesion": "visite"}},
         "data: columns: found 'sesion' before the colon; write session there, and your own name"),
        ("data", {"columns": {"humidity": "eau"}},
         "data: columns: found 'humidity' before the colon; write image or label or horse or"),
        ("backbones", {"small": {"architecture": "a", "mean": [123.7, 0, 0]}},
         "backbones.small.mean.0: found 123.7; write at most 1"),
        ("backbones", {"small": {"architecture": "a", "std": [0.2, 0.2, 58.4]}},
         "backbones.small.std.2: found 58.4; write at most 1"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_answered_with_what_to_write(key, value, told):
    if isinstance(value, dict):
        value = OWN.get(key, {}) | value
    lines = refusal(OWN | {key: value}).splitlines()
    assert any(line.startswith(f"study.yaml: {told}") for line in lines), lines


@pytest.mark.parametrize(
    ("explain", "told"),
    [
        ({"neutral": "neutral"}, "`neutral` is for `baseline: neutral`; write that"),
        ({"baseline": "neutral"}, "`baseline: neutral` needs the class"),
        ({"baseline": "neutral", "neutral": "calm"}, "explain.neutral: found 'calm'"),
        ({"constant": [0, 0, 0]}, "`constant` is for `baseline: constant`"),
        ({"baseline": "constant"}, "needs a colour: write `constant: [0.5, 0.5, 0.5]`"),
        ({"contrast": "annoyed"}, "`contrast` is for `target: contrast`"),
        ({"target": "contrast", "contrast": "calm"}, "explain.contrast: found 'calm'"),
        ({"max_steps": 8}, "max_steps 8 is below n_steps; write at least 16"),
        (
            {"baseline": "neutral", "neutral": "neutral", "n_references": 9},
            "are shared between n_references 9, and each needs 3; write n_steps (and max_steps) of "
            "at least 27, or n_references of at most 5",
        ),
    ],
)
def test_ways_to_explain_that_do_not_fit_together_are_refused(explain, told):
    assert told in refusal(DEMO, explain=explain)


def test_every_colour_map_let_through_is_one_of_matplotlib():
    assert set(get_args(settings.Diverging)) <= set(matplotlib.colormaps)


def test_the_largest_seed_gives_heads_whose_seeds_their_table_can_hold():
    study = settings.load(OWN | {"seed": 999_999, "search": {"seeds": 1000}})
    largest = max(head.seed for head in search.population(study.search, study.seed))
    assert largest <= np.iinfo(np.int32).max


def test_all_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {name: {"architecture": "resnet10t", "weights": f"{name}.pth"} for name in "ab"}
    study = OWN | {"backbones": OWN["backbones"] | files, "search": {"backbones": ["a", "small"]}}
    with pytest.raises(UserError) as refused:
        settings.check_paths(settings.load(study))
    table, folder, weights = str(refused.value).splitlines()  # b does not take part
    assert table == "data.annotations: no such file table.csv; write the path of your table"
    assert folder == "data.images: no such folder photos; write the folder of pictures"
    assert weights.startswith("backbones.a.weights: no such file a.pth; write the path of a")
    Path("photos").mkdir()
    Path("a.pth").touch()
    Path("table.csv").touch()
    settings.check_paths(settings.load(study))


def test_braces_in_paths_which_snakemake_would_fill_in_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("{2026}").mkdir()
    Path("table.csv").touch()
    Path("r}.csv").touch()
    study = OWN | {"data": OWN["data"] | {"images": "{2026}", "regions": "r}.csv"}}
    with pytest.raises(UserError) as refused:
        settings.check_paths(settings.load(study))
    remedy = "; Snakemake takes braces for a wildcard: rename it without"
    assert str(refused.value).splitlines() == [
        "data.images: found '{2026}'" + remedy, "data.regions: found 'r}.csv'" + remedy,
    ]  # fmt: skip


def test_boxes_that_every_choice_needs_of_new_images_are_asked_for_before_any_job(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("table.csv").touch()
    Path("r.csv").touch()
    boxes = {
        "head": {"box": "regions", "regions": ["head"]},
        "ears": {"box": "regions", "regions": ["ear_left"]},
        "body": {"box": "annotations"},
        "whole": {},
    }
    study = OWN | {"data": OWN["data"] | {"regions": "r.csv"}, "views": boxes}

    def load(views, **predict):
        return settings.load(study | {"search": {"views": views}, "predict": predict})

    around = [["head"], ["ears", "whole"]]
    assert load(around, images="photos", regions="new.csv") and load(around)
    assert load([*around, ["whole"]], images="photos")
    with pytest.raises(UserError, match=r"predict\.regions: null, but whatever .* like data\."):
        load(around, images="photos")
    settings.check_paths(load([["body"], ["whole"]], images="photos"))
    with pytest.raises(UserError, match=r"predict\.images: the folder photos gives no boxes"):
        settings.check_paths(load([["body"], ["body", "whole"]], images="photos"))


def test_the_snakefile_reads_the_settings_without_heavy_libraries():
    code = "import sys; from equimood import settings; print({'numpy', 'PIL'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(settings.__file__).parents[1])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "set()"


def test_an_ethogram_names_the_studys_classes_and_some_regions():
    told = refusal(DEMO, ethogram={"furious": ["ears"]})
    assert "ethogram: 'furious' is not among data.classes; write one of neutral" in told
    assert "ethogram.alarmed" in refusal(DEMO, ethogram={"alarmed": []})
    assert settings.load(DEMO | {"ethogram": {}}).ethogram == {}
