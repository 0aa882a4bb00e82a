import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from equimood import examples, gallery, overlays
from PIL import Image
from test_attribution import study  # noqa: F401
from test_examples import CLASSES, PHOTOS, explained  # noqa: F401

PAGE = sorted((Path(__file__).parents[2] / "workflow/report/gallery").iterdir())


def write(known, folder, **changes):
    asked = {
        "study": "tiny", "classes": CLASSES, "n": None, "tolerance": 0.05,
        "compared": {"baseline": "blur"}, "tests": None, "drawn": False, "colormap": "PuOr",
        "seed": 1,
    }  # fmt: skip
    n = gallery.write(folder, known, PAGE, **asked | changes)
    text = (folder / "data.js").read_text(encoding="ascii")
    start, found = text.split("window.gallery = ")
    assert start == '"use strict";\n'
    return n, json.loads(found.removesuffix(";\n"))


def test_the_gallery_has_picture_map_and_facts_of_every_image(explained, tmp_path):  # noqa: F811
    known, _ = explained
    n, found = write(known, tmp_path / "gallery")
    photos = {photo["id"]: photo for photo in found["photos"]}
    assert n == len(photos) == len(PHOTOS) == found["n_explained"]
    assert {path.name for path in PAGE} <= {path.name for path in (tmp_path / "gallery").iterdir()}
    for example in examples.gather(PHOTOS, known):
        photo = photos[example.answer["photo_id"]]
        assert photo["horse"] == example.answer["horse"]
        assert CLASSES[photo["predicted"]] == example.answer["predicted"]
        assert CLASSES[photo["truth"]] == example.answer["truth"]
        assert photo["p"] == pytest.approx([example.answer[f"p_{name}"] for name in CLASSES])
        assert photo["gap"] == pytest.approx(example.views[0].gap, rel=1e-3)
        assert [view["view"] for view in photo["views"]] == [v.view for v in example.views]
        for told, view in zip(photo["views"], example.views, strict=True):
            own = view.scores.set_index("region")
            for name, enrichment, share, signed in told["regions"]:
                measured = own.loc[name, ["enrichment", "share", "signed"]].tolist()
                assert [enrichment, share, signed] == pytest.approx(measured, rel=1e-3)
            picture = Image.open(tmp_path / f"gallery/pictures/{told['image']}.jpg")
            assert list(picture.size) == told["size"]
            assert np.abs(np.asarray(picture).astype(int) - view.picture).mean() < 12  # a JPEG
            left, top, width, height = told["place"]
            assert view.extent == pytest.approx(
                (left * told["size"][0], (left + width) * told["size"][0],
                 (top + height) * told["size"][1], top * told["size"][1]), abs=0.1,
            )  # fmt: skip


def test_a_map_has_the_colours_and_strengths_of_the_panels(explained, tmp_path):  # noqa: F811
    known, _ = explained
    write(known, tmp_path / "gallery")
    (example,) = examples.gather([PHOTOS[1]], known)
    for view in example.views:
        image = Image.open(tmp_path / f"gallery/maps/{view.image_id}.png").convert("RGBA")
        expected = 255 * overlays.tint(overlays.strength(view.map), "PuOr")
        off = np.abs(np.asarray(image) - expected)
        seen = expected[..., 3] > 8
        assert seen.any()
        assert off[seen].max() < 5  # a palette of 255 strengths


def test_it_names_the_tests_by_their_verdict_and_what_photographs_are_compared_with(
    explained,  # noqa: F811
    tmp_path,
):
    verdicts = {"deletion": "passed", "seeds": "passed", "baseline": "failed"}
    tests = [{"test": test, "verdict": verdict} for test, verdict in verdicts.items()]
    _, found = write(explained[0], tmp_path / "tested", tests={"tests": tests}, drawn=True)
    assert found["tests"] == {"passed": ["deletion", "seeds"], "failed": ["baseline"]}
    assert found["drawn"] is True and found["compared"] == {"baseline": "blur"}
    _, found = write(explained[0], tmp_path / "not")
    assert found["tests"] is None and found["drawn"] is False


def test_any_number_is_drawn_evenly_and_in_any_blocks_alike(explained, tmp_path, monkeypatch):  # noqa: F811
    known, _ = explained
    _, whole = write(known, tmp_path / "whole")
    monkeypatch.setattr(gallery, "BLOCK", 2)
    _, blocks = write(known, tmp_path / "blocks", workers=2)
    assert blocks == whole
    n, few = write(known, tmp_path / "few", n=3)
    assert n == 3
    assert sorted(photo["truth"] for photo in few["photos"]) == [0, 1, 2]
    assert len(list((tmp_path / "few/pictures").iterdir())) == sum(
        len(photo["views"]) for photo in few["photos"]
    )
    n, none = write(known, tmp_path / "none", n=0)
    assert n == 0 and none["photos"] == []


def test_a_large_map_is_made_small_and_a_large_picture_too(explained, tmp_path, monkeypatch):  # noqa: F811
    known, _ = explained
    monkeypatch.setattr(gallery, "MAP_PX", 4)
    monkeypatch.setattr(gallery, "LONGEST_PX", 30)
    _, found = write(known, tmp_path / "gallery", n=1)
    view = found["photos"][0]["views"][0]
    assert Image.open(tmp_path / f"gallery/maps/{view['image']}.png").size == (4, 4)
    assert max(view["size"]) == 30


def test_a_study_without_regions_has_none_in_its_gallery(explained, tmp_path):  # noqa: F811
    known, _ = explained
    empty = examples.tables.read(known.scores[0]).iloc[:0]
    examples.tables.write(empty, tmp_path / "none.parquet", examples.tables.REGION_SCORES)
    _, found = write(replace(known, scores=[tmp_path / "none.parquet"]), tmp_path / "gallery")
    assert all(view["regions"] == [] for photo in found["photos"] for view in photo["views"])
