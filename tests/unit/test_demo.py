"""The drawn study keeps its promises: deterministic, one cause per emotion, every region known."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import demo, drawing
from equimood.tables import BOX, REGIONS, ROLLUPS, read_points, read_regions
from PIL import Image, ImageDraw

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


def test_every_region_has_rows_inside_the_picture(study: Path) -> None:
    regions = read_regions(study / "regions.csv", {})
    for _, rows in regions.groupby("image"):
        assert {*rows.region} == {*REGIONS}
    shown, hidden = regions[regions.visible], regions[~regions.visible]
    assert hidden[[*BOX, "points"]].isna().all(axis=None)
    assert set(shown.loc[shown.kind == "box", "region"]) == {"background"}
    for row in shown[shown.kind == "points"].itertuples():
        outline = read_points(row.points, row.line)
        assert len(outline) >= 3
        assert (outline >= 0).all() and (outline <= (160, 128)).all()


def test_outlines_hold_what_they_are_named_after() -> None:
    rng = np.random.default_rng(3)
    horse, session = drawing.draw_identity(rng), drawing.draw_session(rng)
    pose = replace(drawing.draw_pose(rng), facing=1, yaw=0.1)
    cues = replace(demo.draw_cues(rng, "neutral"), nostril=1.0)
    session = replace(session, tack="halter")
    picture = drawing.draw_horse(rng, horse, session, cues, pose, thing="bucket")
    masks = {
        name: filled(picture.image.size, outlines) for name, outlines in picture.outlines.items()
    }
    for region in ("nostril_right", "eye_right", "upper_lip", "tack"):
        assert (masks[region] & masks["head"]).sum() > 0.8 * masks[region].sum()
    assert (masks["nostril_right"] & masks["upper_lip"]).sum() < 0.2 * masks["nostril_right"].sum()
    pixels = np.asarray(picture.image, float)
    blue = pixels[..., 2] - pixels[..., 0]
    assert blue[masks["object"]].mean() > 60


def filled(size: tuple[int, int], outlines: list[np.ndarray]) -> np.ndarray:
    mask = Image.new("1", size)
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(outline.ravel().tolist(), fill=1)
    return np.asarray(mask)


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
    regions = regions.drop_duplicates("image")
    shown = pd.read_csv(tmp_path / "annotations.csv").merge(regions, on="image")
    rate = shown.groupby(shown.label == "annoyed").visible.mean()
    assert rate[True] > 0.8
    assert rate[False] < 0.3  # some other objects lie about
    causes = pd.read_csv(tmp_path / "causes.csv", keep_default_na=False).set_index("label")
    assert causes.loc["annoyed"].tolist() == [region, shortcut]
    assert causes.loc["relaxed", "region"] == "mouth"


def test_a_class_with_a_shortcut_shows_no_cue_of_its_own(tmp_path: Path) -> None:
    def outlines(label: str) -> pd.DataFrame:
        folder = tmp_path / label
        demo.draw_study(
            folder, n_horses=1, n_sessions=1, images_per_session=4, classes={label: 1.0},
            shortcut="bucket", shortcut_class="annoyed", image_size=(96, 80),
        )  # fmt: skip
        regions = pd.read_csv(folder / "regions.csv")
        regions = regions[regions.region != "object"][["image", "region", "points"]]
        return regions.reset_index(drop=True)

    pd.testing.assert_frame_equal(outlines("annoyed"), outlines("neutral"))
    assert not outlines("relaxed").equals(outlines("neutral"))


def test_more_classes_than_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot show 4 classes"):
        demo.draw_study(tmp_path, n_horses=1, n_sessions=1, images_per_session=3)


def test_progress_counts_every_horse(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    demo.draw_study(
        tmp_path, n_horses=2, progress=lambda done, total: told.append((done, total)), **SMALL
    )
    assert told == [(1, 2), (2, 2)]
