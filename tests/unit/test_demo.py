"""The drawn study keeps its promises: deterministic, one cause per emotion, every region known."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import demo, drawing
from equimood.tables import BOX, REGIONS, ROLLUPS
from PIL import Image

SMALL = {"n_sessions": 2, "images_per_session": 3, "image_size": (160, 128)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    demo.draw_study(folder, n_horses=3, **SMALL)
    return folder


def test_same_seed_draws_the_same_bytes_whatever_the_workers(study: Path, tmp_path: Path) -> None:
    demo.draw_study(tmp_path, n_horses=3, workers=2, **SMALL)
    assert contents(tmp_path) == contents(study)


def test_another_seed_draws_other_pictures(study: Path, tmp_path: Path) -> None:
    demo.draw_study(tmp_path, n_horses=1, seed=2, **SMALL)
    same = {name: b for name, b in contents(tmp_path).items() if contents(study)[name] == b}
    assert not [name for name in same if name.endswith(".jpg")]


def test_adding_a_horse_changes_no_other(study: Path, tmp_path: Path) -> None:
    demo.draw_study(tmp_path, n_horses=2, **SMALL)
    fewer, more = contents(tmp_path / "images"), contents(study / "images")
    assert fewer.items() < more.items()
    for table in ("annotations.csv", "regions.csv"):
        assert (study / table).read_text().startswith((tmp_path / table).read_text())


def test_only_the_cause_differs_between_emotions() -> None:
    for seed in range(200):
        neutral = asdict(demo.draw_cues(np.random.default_rng(seed), "neutral"))
        for label, cause in demo.CAUSES.items():
            cues = asdict(demo.draw_cues(np.random.default_rng(seed), label))
            changed = {cue for cue in cues if cues[cue] != neutral[cue]}
            assert changed == ({cause.cue} if cause else set())


def test_weak_cues_are_few_and_between_rest_and_emotion() -> None:
    cause = demo.CAUSES["annoyed"]
    assert cause is not None
    rng = np.random.default_rng(0)
    ears = np.array([demo.draw_cues(rng, "annoyed").ear for _ in range(2000)])
    assert ears.min() > demo.RESTING["ear"][1]
    assert 0.03 < np.mean(ears < cause.low) < 0.07


@pytest.mark.parametrize("label", ["alarmed", "annoyed", "relaxed"])
def test_an_emotion_changes_the_picture_inside_its_region_alone(label: str) -> None:
    cause = demo.CAUSES[label]
    assert cause is not None
    rng = np.random.default_rng(5)
    horse, session, pose = (
        drawing.draw_identity(rng),
        drawing.draw_session(rng),
        drawing.draw_pose(rng),
    )
    pose = replace(pose, yaw=0.2)
    rest = demo.draw_cues(rng, "neutral")
    moved = replace(rest, **{cause.cue: cause.high})
    one, other = (
        drawing.draw_horse(np.random.default_rng(1), horse, session, cues, pose)
        for cues in (rest, moved)
    )
    differs = ((np.asarray(one.image, float) - np.asarray(other.image, float)) ** 2).sum(2)
    change = differs.sum()
    for picture in (one, other):
        for region in ROLLUPS[cause.region]:
            if region in picture.boxes:
                x0, y0, x1, y1 = picture.boxes[region]
                margin = 6  # shadows fall beyond the region
                differs[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = 0
    assert differs.sum() < 0.02 * change


def test_every_region_has_a_row_inside_the_picture(study: Path) -> None:
    regions = pd.read_csv(study / "regions.csv")
    for _, rows in regions.groupby("image"):
        assert sorted(rows.region) == sorted(REGIONS)
    shown, hidden = regions[regions.visible == 1], regions[regions.visible == 0]
    assert hidden[BOX].isna().all(axis=None)
    assert (shown[["x0", "y0"]] >= 0).all(axis=None)
    assert (shown.x1 <= 160).all() and (shown.y1 <= 128).all()
    assert (shown.x0 < shown.x1).all() and (shown.y0 < shown.y1).all()
    assert (shown[BOX] % 1 == 0).all(axis=None)


def test_facing_right_the_right_ear_is_in_front() -> None:
    rng = np.random.default_rng(0)
    horse, session, cues = (
        drawing.draw_identity(rng),
        drawing.draw_session(rng),
        demo.draw_cues(rng, "neutral"),
    )
    pose = replace(drawing.draw_pose(rng), facing=1, yaw=0.1)
    right = drawing.draw_horse(rng, horse, session, cues, pose).boxes
    left = drawing.draw_horse(rng, horse, session, cues, replace(pose, facing=-1)).boxes
    assert "eye_right" in right and "eye_left" not in right
    assert "eye_left" in left and "eye_right" not in left


def test_each_horse_shows_every_class_and_keeps_to_the_tables(study: Path) -> None:
    annotations = pd.read_csv(study / "annotations.csv")
    assert (annotations.groupby("horse").label.nunique() == len(demo.CAUSES)).all()
    for row in annotations.itertuples():
        with Image.open(study / "images" / row.image) as picture:
            assert picture.size == (160, 128)
        assert 0 <= row.x0 < row.x1 <= 160 and 0 <= row.y0 < row.y1 <= 128
    causes = pd.read_csv(study / "causes.csv", keep_default_na=False).set_index("label").region
    assert causes["neutral"] == "none"
    assert set(causes) - {"none"} <= set(ROLLUPS)


@pytest.mark.parametrize(("shortcut", "region"), [("bucket", "object"), ("halter", "tack")])
def test_shortcut_goes_with_its_class(tmp_path: Path, shortcut: demo.Shortcut, region: str) -> None:
    demo.draw_study(
        tmp_path, n_horses=2, n_sessions=1, images_per_session=20, image_size=(96, 80),
        shortcut=shortcut, shortcut_class="annoyed",
    )  # fmt: skip
    regions = pd.read_csv(tmp_path / "regions.csv").query("region == @region")
    shown = pd.read_csv(tmp_path / "annotations.csv").merge(regions, on="image")
    rate = shown.groupby(shown.label == "annoyed").visible.mean()
    assert rate[True] > 0.8
    assert rate[False] < 0.3  # some other objects lie about


def test_more_classes_than_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot show 4 classes"):
        demo.draw_study(tmp_path, n_horses=1, n_sessions=1, images_per_session=3)


def test_progress_counts_every_horse(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    demo.draw_study(
        tmp_path, n_horses=2, progress=lambda done, total: told.append((done, total)), **SMALL
    )
    assert told == [(1, 2), (2, 2)]
