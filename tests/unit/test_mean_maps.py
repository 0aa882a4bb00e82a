from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from equimood import attribution, images, map_shards, mean_maps, tables
from equimood.mean_maps import LANDMARKS, SIDE
from test_attribution import study  # noqa: F401
from test_examples import CLASSES, explained  # noqa: F401

FACE = np.array([(3, 0), (1, 0), (3, 3), (1, 3), (2.4, 8), (1.6, 8), (2, 9)], float)
"""A face from the front, ears up; the horse's left is on the right."""
AT = {name: i for i, name in enumerate(LANDMARKS)}


def turned(points, degrees=0.0, scale=1.0, shift=(0, 0)):
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return scale * points @ turn.T + shift


def random_faces(n, rng, hidden=0.0):
    faces = np.stack([
        turned(FACE, rng.uniform(-60, 60), rng.uniform(5, 30), rng.uniform(0, 200, 2))
        for _ in range(n)
    ])  # fmt: skip
    faces[rng.random(faces.shape[:2]) < hidden] = np.nan
    return faces


def test_a_similarity_is_found_and_mirrors_nothing():
    other = turned(FACE, 33, 2.5, (40, -7))
    affine = mean_maps.similarity(FACE, other)
    np.testing.assert_allclose(mean_maps.moved(affine, FACE), other, atol=1e-9)
    back = mean_maps.similarity(other, FACE)
    np.testing.assert_allclose(
        mean_maps.chained(affine, back), [[1, 0, 0], [0, 1, 0]], atol=1e-9
    )  # fmt: skip
    mirrored = FACE * (-1, 1)
    assert np.linalg.det(mean_maps.similarity(FACE, mirrored)[:, :2]) > 0
    few = np.full_like(FACE, np.nan)
    few[:2] = FACE[:2]
    assert mean_maps.similarity(few, FACE) is None
    assert mean_maps.similarity(np.ones_like(FACE), FACE) is None


def test_the_mean_face_is_found_though_parts_are_hidden_and_ears_are_up():
    faces = random_faces(80, np.random.default_rng(1), hidden=0.3)
    mean = mean_maps.mean_shape(faces)
    affine = mean_maps.similarity(FACE, mean)
    np.testing.assert_allclose(mean_maps.moved(affine, FACE), mean, atol=1e-6)
    assert mean[AT["ear_left"], 1] < mean[AT["eye_left"], 1] < mean[AT["mouth_corner"], 1]
    assert mean[AT["eye_left"], 0] > mean[AT["eye_right"], 0]
    assert mean_maps.mean_shape(np.full((3, len(LANDMARKS), 2), np.nan)) is None


def photograph(points, size=4.0):
    return {
        name: np.array([*points[i], size, size])
        for i, name in enumerate(LANDMARKS)
        if not np.isnan(points[i]).any()
    }


def test_horses_that_show_one_side_alone_get_a_mean_face_of_each_side():
    rng = np.random.default_rng(1)
    faces = random_faces(30, rng)
    left = [i for i, name in enumerate(LANDMARKS) if name.endswith("left")]
    right = [i for i, name in enumerate(LANDMARKS) if name.endswith("right")]
    faces[:20, right], faces[20:, left] = np.nan, np.nan
    found = mean_maps.mean_faces([photograph(face) for face in faces])
    assert len(found) == 2
    assert {name.rpartition("_")[2] for name in found[0].regions} == {"left", "corner"}
    assert {name.rpartition("_")[2] for name in found[1].regions} == {"right", "corner"}
    whole = mean_maps.mean_faces([photograph(face) for face in [*faces, FACE]])
    assert len(whole) == 1  # a face from the front joins them
    assert whole[0].regions.keys() == {*LANDMARKS}


def test_places_are_centres_of_what_is_visible():
    given = {"line": 2, "image": "a.jpg", "horse": "h", "mask": None, "points": None}
    boxes = dict.fromkeys(tables.BOX, np.nan)
    corners = dict(zip(tables.BOX, (10.0, 20, 14, 30), strict=True))
    rows = [
        {"region": "eye_left", "kind": "box", "visible": True} | corners,
        {"region": "eye_right", "kind": "box", "visible": False} | corners,
        {"region": "ear_left", "kind": "points", "points": "0 0 4 0 4 8", "visible": True} | boxes,
        {"region": "ear_right", "kind": "mask", "mask": "a.png", "visible": True} | boxes,
        {"region": "legs", "kind": "box", "visible": True} | corners,
    ]  # fmt: skip
    found = mean_maps.places(pd.DataFrame([given | row for row in rows]))
    assert found.keys() == {("a.jpg", "h")}
    assert {name: list(place) for name, place in found["a.jpg", "h"].items()} == {
        "eye_left": [12, 25, 4, 10], "ear_left": [2, 4, 4, 8],
    }  # fmt: skip


def bump(at, side=56, width=1.5):
    cells = np.arange(side) + 0.5
    gaussian = [np.exp(-(((cells - x) / width) ** 2) / 2) for x in at]
    return np.outer(gaussian[1], gaussian[0])


def test_a_bump_on_the_left_eye_stays_on_the_left_eye():
    """Whatever the photograph's shift, turn and scale, and whatever else is hidden."""
    rng = np.random.default_rng(1)
    (face,) = mean_maps.mean_faces([photograph(face) for face in random_faces(20, rng)])
    on_face = mean_maps.MeanMaps(face)
    for i in range(40):
        points = turned(FACE - (2, 4), rng.uniform(-50, 50), rng.uniform(2.5, 3.5), (28, 28))
        shown = points.copy()
        shown[rng.choice(len(LANDMARKS), 3, replace=False)] = np.nan
        to_cells = mean_maps.similarity(face.landmarks, shown)
        laid, inside = mean_maps.lay(bump(points[AT["eye_left"]]), to_cells)
        on_face.add("alarmed", f"horse{i % 4}", laid, inside)
    mean = on_face.mean("alarmed")
    y, x = np.unravel_index(np.nanargmax(mean), mean.shape)
    assert np.hypot(*(face.landmarks[AT["eye_left"]] - (x + 0.5, y + 0.5))) < 1.5
    right = face.landmarks[AT["eye_right"]].astype(int)
    assert mean[right[1], right[0]] < 0.2 * np.nanmax(mean)
    assert np.isnan(on_face.mean("neutral")).all()
    assert on_face.counts("alarmed") == (40, 4)


def test_a_horse_counts_once_however_many_photographs_it_has():
    face = mean_maps.Face(FACE, {})
    on_face = mean_maps.MeanMaps(face)
    whole, half = np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    half[:, : SIDE // 2] = 1
    for _ in range(9):
        on_face.add("alarmed", "often", whole, whole)
    on_face.add("alarmed", "once", 3 * half, half)
    mean = on_face.mean("alarmed")
    assert mean[:, : SIDE // 2] == pytest.approx(2)
    assert mean[:, SIDE // 2 :] == pytest.approx(1)  # where the other's map does not reach


def eyes_seen_by(known, rows, path):
    """Write maps that are a bump on the left eye, as each photograph's own model would see it."""
    eyes = {
        row["image"]: ((row["x0"] + row["x1"]) / 2, (row["y0"] + row["y1"]) / 2)
        for row in rows
        if row["region"] == "eye_left"
    }
    folds = known.predictions.set_index("photo_id")["fold"]
    targets = known.predictions.set_index("photo_id")["predicted"]
    seen = known.catalogue[
        known.catalogue["image_id"].isin(map_shards.image_ids("maps.safetensors"))
    ]
    maps = []
    for row in seen.itertuples():
        backbone = known.backbones[known.structures[folds[row.photo_id]]["backbone"]]
        box = (row.x0, row.y0, row.x1, row.y1)
        *_, affine = images.place(box, backbone["side"], backbone["fit"], backbone["crop_share"])
        at = mean_maps.moved(affine, np.array(eyes[row.path])) * 48 / backbone["side"]
        maps.append(bump(at, side=48))
    part = {
        "maps": np.array(maps, np.float16), "scale": np.ones(len(maps), np.float32),
        "image_id": tables.pack_ids(seen["image_id"]), "gap": np.zeros(len(maps), np.float32),
        "target": np.array([CLASSES.index(targets[i]) for i in seen["photo_id"]]),
    }  # fmt: skip
    others = {name: np.zeros(len(maps), int) for name in map_shards.MAP_TENSORS if name not in part}
    part |= {name: np.zeros(len(maps), int) for name in others}
    attribution._write_maps([part], path, {"classes": CLASSES})


def test_maps_of_a_study_are_laid_where_its_regions_lie(explained, tmp_path):  # noqa: F811
    """The regions of a photograph, the frame of its view and the map's cells belong together."""
    known, _ = explained
    rng = np.random.default_rng(1)
    rows = []
    for path, horse in known.predictions[["path", "horse"]].itertuples(index=False):
        points = turned(FACE, rng.uniform(-10, 10), 4, (8, 4))
        for name, (x, y) in zip(LANDMARKS, points, strict=True):
            rows.append(
                {"line": 2, "image": path, "horse": horse, "region": name, "kind": "box",
                 "points": None, "mask": None, "visible": True,
                 "x0": x - 2, "y0": y - 2, "x1": x + 2, "y1": y + 2}
            )  # fmt: skip
    tables.write(pd.DataFrame(rows), tmp_path / "regions.parquet", tables.GIVEN_REGIONS)
    known = replace(known, maps=[tmp_path / "maps.safetensors"])
    eyes_seen_by(known, rows, known.maps[0])
    found = mean_maps.gather(known, tmp_path / "regions.parquet", seed=1)
    assert found.keys() == {"whole", "head"}
    assert sum(found["whole"][0].counts(label)[0] for label in CLASSES) == len(known.predictions)
    for (maps,) in found.values():
        eye = maps.face.landmarks[AT["eye_left"]]
        for label in CLASSES[:2]:  # those predicted
            mean = np.nan_to_num(maps.mean(label))
            y, x = np.unravel_index(mean.argmax(), mean.shape)
            assert np.hypot(*(eye - (x + 0.5, y + 0.5))) < 2.5
    figure = mean_maps.draw(found["whole"], CLASSES, "whole")
    told = {axes.get_title(loc="left") for axes in figure.axes}
    assert {*CLASSES} <= told
    none = tmp_path / "none.parquet"
    tables.write(pd.DataFrame(rows).iloc[:0], none, tables.GIVEN_REGIONS)
    assert mean_maps.gather(known, none, seed=1) == {}
