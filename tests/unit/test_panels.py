import numpy as np
import pandas as pd
import pytest
import torch
from equimood import contact_sheets, figures, images, overlays, panels, settings, tables
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

CLASSES = ["neutral", "alarmed"]


def explained(map_=None, scores=True, view="whole"):
    rng = np.random.default_rng(1)
    values = {"ears": 3.0, "eyes": 0.5, "background": np.nan}
    rows = [
        dict.fromkeys(tables.REGION_SCORES.names)
        | {
            "region": name,
            "enrichment": value,
            "share": 0.1,
            "signed": 1.0,
            "visible": value == value,
        }
        for name, value in values.items()
    ]
    return overlays.Explained(
        view,
        rng.integers(0, 255, (40, 60, 3), np.uint8),
        (0.0, 60.0, 40.0, 0.0),
        rng.normal(size=(8, 8)) if map_ is None else map_,
        0.2,
        pd.DataFrame(rows if scores else [], columns=tables.REGION_SCORES.names).astype(
            {"enrichment": float, "visible": bool}
        ),
    )


NEUTRAL = {"baseline": "neutral", "n": 16, "label": "calm"}


def panel(*views, **changes):
    asked = {
        "probabilities": {"neutral": 0.3, "alarmed": 0.7}, "truth": "neutral", "horse": "Comet",
        "predicted": "alarmed", "answer": "alarmed", "unlike_training": False,
        "target": "alarmed", "against": None, "path": "a.jpg", "tolerance": 0.05,
        "compared": NEUTRAL,
    }  # fmt: skip
    return panels.panel(views or [explained()], **(asked | changes))


def words(figure):
    """All that stands in a figure, wherever its lines break."""
    found = (text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))
    return " ".join(" ".join(found).split())


def drawn(axes):
    """Colours of an axes' content, (h, w, 3) in 0-1, as it is on paper."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    x0, y0, x1, y1 = axes.get_window_extent().extents.round().astype(int)
    pixels = np.asarray(canvas.buffer_rgba())[::-1][y0:y1, x0:x1, :3]
    return pixels[::-1] / 255


def overlay_of(map_, extent=(0.0, 60.0, 40.0, 0.0)):
    figure = Figure(figsize=(3, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    grey = np.full((40, 60, 3), 128, np.uint8)
    view = overlays.Explained("whole", grey, extent, map_, 0.0, explained().scores)
    overlays.overlay(axes, view, "PuOr")
    return drawn(axes)


def test_the_map_lies_where_the_model_saw_it():
    """A centre crop of a wide frame: what the model did not see carries no colour."""
    picture = torch.full((3, 100, 300), 128, dtype=torch.uint8)
    shown, extent = overlays.frame(picture, (50, 10, 250, 90), 32, "crop", 1.0)
    assert shown.shape == (80, 200, 3)
    assert extent == pytest.approx((60, 140, 80, 0))
    _, extent = overlays.frame(picture, (50, 10, 250, 90), 40, "pad", 1.0)
    assert extent == pytest.approx((0, 200, 140, -60))
    large = torch.zeros(3, 3000, 2000, dtype=torch.uint8)
    shown, extent = overlays.frame(large, (0, 0, 2000, 3000), 32, "squash", 1.0)
    assert max(shown.shape) == overlays.SHOWN_PX
    assert extent == pytest.approx((0, shown.shape[1], shown.shape[0], 0))


def test_what_speaks_for_is_warm_and_what_speaks_against_is_cool_where_it_stands():
    map_ = np.zeros((8, 8))
    map_[1:3, 1:3], map_[5:7, 5:7] = 1, -1
    pixels = overlay_of(map_)
    height, width = pixels.shape[:2]
    warmth = pixels[..., 0] - pixels[..., 2]
    assert warmth[height // 4, width // 4] > 0.3
    assert warmth[3 * height // 4, 3 * width // 4] < -0.1
    assert abs(warmth[height // 4, 3 * width // 4]) < 0.02
    half = overlay_of(map_, extent=(30.0, 60.0, 40.0, 0.0))
    assert np.abs(half[:, : width // 2 - 2, 0] - half[:, : width // 2 - 2, 2]).max() < 0.02


def test_the_scale_is_symmetric_and_an_empty_map_is_colourless():
    map_ = np.random.default_rng(1).normal(size=(8, 8))
    one, other = (p[..., 0] - p[..., 2] for p in (overlay_of(map_), overlay_of(-map_)))
    clear = (np.abs(one) > 0.1) & (np.abs(other) > 0.1)
    assert clear.mean() > 0.03
    assert (np.sign(one) == -np.sign(other))[clear].all()
    nothing = overlay_of(np.zeros((8, 8)))
    assert np.ptp(nothing) < 0.02


def test_any_diverging_map_is_turned_so_that_warm_speaks_for():
    for name in ("PuOr", "PuOr_r", "RdBu", "RdBu_r", "coolwarm"):
        red, _, blue = to_rgb(overlays.colours(name)(0.95))
        assert red > blue


def test_a_panel_says_horse_truth_prediction_gap_and_regions():
    text = words(panel())
    for part in ("Comet", "predicted alarmed (70 %)", "annotated neutral", "gap 20.0 % (rough)",
                 "ears", "eyes", "enrichment", "a.jpg", "30 %"):  # fmt: skip
        assert part in text
    assert "background" not in text
    assert "rightly" in words(panel(predicted="neutral", answer="neutral", target="neutral"))
    assert "Unlike" not in text and "not sure" not in text
    held_back = words(panel(answer="not sure", unlike_training=True))
    assert "Comet: not sure, perhaps alarmed (70 %), annotated neutral" in held_back
    assert "Unlike the training photographs" in held_back
    assert "Comet: not sure, perhaps alarmed (70 %)" in words(panel(answer="not sure", truth=None))
    assert "annotated" not in words(panel(truth=None))
    assert "rough" not in words(panel(tolerance=0.3))


def test_a_panel_says_what_is_asked_and_what_the_photograph_is_compared_with():
    text = words(panel())
    assert "What speaks for alarmed" in text and "rather than" not in text
    assert "Compared with 16 photographs of calm" in text
    assert "rather than neutral" in words(panel(against="neutral"))
    for asked, told in (
        ({}, "the photograph itself, blurred"),
        ({"baseline": "mean"}, "the mean colour of the photographs"),
        ({"baseline": "constant", "constant": (0, 0, 0)}, "one colour"),
        ({"baseline": "neutral", "neutral": "at rest"}, "4 photographs of at rest"),
    ):
        compared = settings.Explain(**asked).compared
        assert f"Compared with {told}" in words(panel(compared=compared))
    nothing = settings.Explain(method="gradcam").compared
    assert "Compared" not in words(panel(compared=nothing))


def test_rollups_surroundings_and_stand_ins_are_drawn_once_each_in_their_order():
    names = ["top_left", "horse", "background", "eye_left", "ears"]
    scores = pd.DataFrame({"region": names, "enrichment": [1.0, 9, 2, 3, 4]})
    assert panels.drawn_regions(scores).index.tolist() == [
        "ears",
        "background",
        "horse",
        "top_left",
    ]


def test_text_from_tables_is_drawn_as_it_stands(tmp_path):
    figure = panel(horse=r"$\frac{1}$ <b>", path="a$b_c$.jpg", truth=r"\$x_y^", target="$")
    figures.save(figure, tmp_path / "panel", ["png", "svg"])
    assert r"$\frac{1}$ <b>" in words(figure)
    for text in figure.findobj(lambda a: hasattr(a, "get_parse_math")):
        assert not text.get_parse_math()


def test_long_names_keep_their_ends():
    assert overlays.short("horse_2019_paddock_07.jpg", 11) == "horse…7.jpg"
    assert overlays.short("short", 11) == "short"


def test_a_panel_without_regions_and_one_of_two_views_are_drawn(tmp_path):
    alone = panel(explained(scores=False))
    both = panel(explained(), explained(view="head"))
    figures.save(alone, tmp_path / "alone", ["png"])
    figures.save(both, tmp_path / "both", ["png"])
    assert "Where it lies" not in words(alone)
    assert "View: whole" in words(both)
    assert "View: head" in words(both)


def predictions(n=40):
    rng = np.random.default_rng(1)
    p = rng.uniform(0.1, 0.9, n)
    return pd.DataFrame(
        {
            "photo_id": [f"{i:03d}" for i in range(n)], "horse": [f"h{i % 8}" for i in range(n)],
            "truth": np.where(np.arange(n) % 4 < 3, "alarmed", "neutral"),
            "predicted": np.where(p > 0.5, "alarmed", "neutral"),
            "p_neutral": 1 - p, "p_alarmed": p,
        }
    )  # fmt: skip


def test_a_contact_sheet_shows_each_photograph_once_in_the_group_it_belongs_to():
    given = predictions().set_index("photo_id")
    groups = contact_sheets.pick(given.reset_index(), "alarmed", 3)
    assert list(groups) == list(contact_sheets.GROUPS)
    every = [photo for group in groups.values() for photo in group]
    assert len(every) == len(set(every)) == 12
    assert (given.loc[every, "truth"] == "alarmed").all()
    assert (given.loc[groups["wrong"], "predicted"] == "neutral").all()
    assert (given.loc[groups["confident"] + groups["typical"], "predicted"] == "alarmed").all()
    assert given.loc[groups["confident"], "p_alarmed"].min() > 0.75
    assert (given.loc[groups["doubtful"], "p_alarmed"] - 0.5).abs().max() < 0.2
    assert given.loc[groups["doubtful"], "predicted"].nunique() == 2  # right or wrong
    assert given.loc[groups["confident"], "horse"].nunique() == 3


def test_a_small_class_leaves_groups_empty():
    few = predictions().query("truth == 'neutral'").head(3)
    groups = contact_sheets.pick(few, "neutral", 3)
    every = [photo for group in groups.values() for photo in group]
    assert sorted(every) == sorted(few["photo_id"])


def test_a_contact_sheet_draws_what_there_is(tmp_path):
    tile = (explained(), "Comet: alarmed 70 %")
    sheet = contact_sheets.draw("alarmed", {"confident": [tile] * 2, "wrong": [tile]}, NEUTRAL)
    text = words(sheet)
    assert contact_sheets.GROUPS["confident"] in text
    assert contact_sheets.GROUPS["doubtful"] not in text
    assert text.count("Comet") == 3
    assert "Compared with 16 photographs of calm" in text
    figures.save(sheet, tmp_path / "sheet", ["png"])
    figures.save(contact_sheets.draw("alarmed", {}, NEUTRAL), tmp_path / "empty", ["png"])


def test_a_bar_has_the_maps_colour_of_what_its_region_says_on_the_whole():
    view = explained()
    view.scores["signed"] = [1.0, -1.0, 0.0]
    figure = Figure()
    panels._region_bars(figure.subplots(), view.scores, "PuOr")
    ears, eyes = (to_rgb(bar.get_facecolor()[:3]) for bar in figure.axes[0].patches)
    assert ears[0] > ears[2]  # warm: enriched, and for it
    assert eyes[2] > eyes[0]  # cold: against it


def test_the_frame_is_the_picture_the_model_was_given():
    """Squashed back to the input's side, the drawn frame is the input."""
    picture = torch.randint(0, 255, (3, 12, 18), generator=torch.Generator().manual_seed(1))
    picture = picture.to(torch.uint8).repeat_interleave(10, 1).repeat_interleave(10, 2)
    shown, _ = overlays.frame(picture, (20, 10, 160, 110), 64, "squash", 1.0)
    square, _ = images.fit(picture, (20, 10, 160, 110), 64, "squash", "bilinear")
    again, _ = images.fit(
        torch.from_numpy(shown).permute(2, 0, 1), (0, 0, 140, 100), 64, "squash", "bilinear"
    )
    assert torch.equal(square, again)
