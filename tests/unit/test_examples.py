from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import attribution, backbones, contact_sheets, examples, figures, settings, tables
from PIL import Image
from test_attribution import CLASSES, CPU, TinyModel, explain, hex_id, run, study  # noqa: F401
from test_panels import words

PHOTOS = [hex_id(f"p{i}.jpg") for i in range(9)]
BLUR = {"baseline": "blur"}
STRUCTURES = {
    "0": {"views": ["whole"], "backbone": "squashed"},
    "1": {"views": ["head", "whole"], "backbone": "squashed"},
    "2": {"views": ["whole"], "backbone": "cropped"},
}


@pytest.fixture
def explained(study, monkeypatch):  # noqa: F811
    """What draw_explanation has at hand: the models of three folds see other views."""
    torch.set_num_threads(1)
    catalogue, predictions, region_table = study
    made = {}
    for name, fit in (("squashed", "squash"), ("cropped", "crop")):
        spec = settings.Backbone(
            architecture="test_resnet", weights="random", input_px=24, fit=fit
        )  # fmt: skip
        backbones.fetch(name, spec, Path(name), 1, Path())
        made[name] = backbones.load(Path(name), CPU)
    for k, label in enumerate(CLASSES):
        predictions[f"p_{label}"] = np.where(predictions["predicted"] == label, 0.6, 0.2) - k / 50
    predictions = predictions.assign(threshold=0.5, novelty=0.9, session=None)
    models = {
        fold: TinyModel(made[structure["backbone"]], 1, structure["views"])
        for fold, structure in STRUCTURES.items()
    }
    asked = explain(control_images=3)
    _, maps, scores = run((catalogue, predictions, region_table), models.get, settings_=asked)
    assert len(scores) == len(tables.read("scores.parquet"))
    cards = {name: backbone.card for name, backbone in made.items()}
    known = examples.Known(
        predictions, catalogue, ["maps.safetensors"], ["scores.parquet"], STRUCTURES, cards,
        Path("images"),
    )  # fmt: skip
    return known, maps


def test_photographs_come_in_the_order_asked_with_the_views_their_model_saw(explained):
    known, maps = explained
    found = list(examples.gather([PHOTOS[7], PHOTOS[0], PHOTOS[2]], known))
    assert [example.answer["path"] for example in found] == ["p7.jpg", "p0.jpg", "p2.jpg"]
    assert [[view.view for view in example.views] for example in found] == [
        ["head", "whole"], ["whole"], ["whole"],
    ]  # fmt: skip
    rows = known.catalogue.set_index(["photo_id", "view"])
    scores = tables.read("scores.parquet")
    for example in found:
        assert example.target == example.answer["predicted"]
        for view in example.views:
            row = rows.loc[(example.answer["photo_id"], view.view)]
            at = maps.image_ids.index(row.image_id)
            np.testing.assert_array_equal(view.map, maps.values[at])
            assert view.gap == pytest.approx(float(maps.gap[at]))
            own = scores.query("image_id == @row.image_id and model == 'trained'")
            pd.testing.assert_frame_equal(
                view.scores.reset_index(drop=True), own.reset_index(drop=True)
            )
            x0, y0, x1, y1 = row[["x0", "y0", "x1", "y1"]]
            pixels = np.asarray(Image.open(f"images/{row.path}"))[y0:y1, x0:x1]
            assert abs(view.picture.astype(int) - pixels).max() <= 3  # JPEG decoders round
    assert found[0].views[1].extent == pytest.approx((0, 60, 48, 0))
    assert found[2].views[0].extent == pytest.approx((6, 54, 48, 0))


def test_what_has_no_map_or_no_prediction_is_left_out(explained):
    known, _ = explained
    catalogue, predictions = known.catalogue, known.predictions
    few = predictions.iloc[:4]
    rows = attribution.plan(catalogue, few, explain(control_images=0), 1)
    assert set(rows["photo_id"]) == set(PHOTOS[:4])
    structures = STRUCTURES | {"0": {"views": ["head"], "backbone": "squashed"}}  # never explained
    known = replace(known, predictions=few, structures=structures)
    found = list(examples.gather([*PHOTOS, hex_id("unknown")], known))
    assert [example.answer["path"] for example in found] == ["p1.jpg", "p2.jpg"]


def test_the_steps_that_a_map_took_are_shown(explained):
    known, _ = explained
    (example,) = examples.gather([PHOTOS[0]], known)
    steps = example.views[0].steps
    assert steps >= 4
    assert f"{steps} points" in words(example.panel(CLASSES, 0.05, "PuOr", BLUR))


def test_a_contact_sheet_names_horse_and_answer_of_each_photograph(explained, tmp_path):
    known, _ = explained
    tiles = contact_sheets.gather(known, "alarmed", 2)
    (last,) = examples.gather([PHOTOS[4]], known)
    assert last.tile == (last.views[-1], "horse1\nneutral (60%)")
    sheet = contact_sheets.draw("alarmed", tiles, BLUR)
    text = words(sheet)
    assert "Photographs of alarmed" in text
    assert sorted(horse for horse in ("horse0", "horse1", "horse2") if horse in text) == [
        "horse0", "horse1", "horse2",
    ]  # fmt: skip
    assert text.count("alarmed (58%)") == 2 and text.count("neutral (60%)") == 1
    (path,) = figures.save(sheet, tmp_path / "sheet", ["jpg"])
    assert np.asarray(Image.open(path)).std() > 20


def test_a_panel_says_what_was_predicted_and_annotated(explained):
    known, _ = explained
    (example,) = examples.gather([PHOTOS[4]], known)
    figure = example.panel(CLASSES, 0.05, "PuOr", BLUR)
    assert figure.get_suptitle() == "horse1: predicted neutral (60 %), annotated alarmed"
    assert "p4.jpg" in words(figure) and "View: head" in words(figure)
