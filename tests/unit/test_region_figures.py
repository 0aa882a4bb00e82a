import numpy as np
import pandas as pd
import pytest
from equimood import figures, region_figures, region_statistics, tables
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.markers import MarkerStyle

CLASSES = ["neutral", "alarmed"]
TOLD = region_statistics.MORE_THAN_BOTH


def summary():
    rows = [
        ("trained", "alarmed", "eyes", 5, 3, 70, TOLD),
        ("trained", "alarmed", "ears", 1, 0.5, 1.5, "not told from its area"),
        ("random", "alarmed", "eyes", 1.2, np.nan, np.nan, ""),
        ("trained", "neutral", "eyes", 2, 1, 3, TOLD),
        ("trained", "alarmed", "eye_left", 9, 8, 10, TOLD),
        ("trained", "alarmed", "background", 0.5, 0, 1, "less than its area"),
    ]
    return pd.DataFrame(
        [
            {"model": m, "view": "whole", "target": t, "region": r, "n_images": 9, "n_horses": 4,
             "enrichment": e, "low": low, "high": high, "verdict": verdict,
             "signed": -1.0 if e == 1 else 1.0}
            for m, t, r, e, low, high, verdict in rows
        ]
    )  # fmt: skip


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def marks(axes, marker):
    """Points that are drawn with this marker: x, y and whether it is filled."""
    style = MarkerStyle(marker)
    shape = style.get_path().transformed(style.get_transform()).vertices
    found = []
    for drawn in axes.collections:
        if not isinstance(drawn, PathCollection) or not len(drawn.get_offsets()):
            continue
        if np.array_equal(drawn.get_paths()[0].vertices, shape):
            filled = not np.array_equal(drawn.get_facecolor()[0], to_rgba("white"))
            found += [(float(x), float(y), filled) for x, y in drawn.get_offsets()]
    return found


def test_the_figure_shows_each_class_its_control_and_what_is_told_from_both(tmp_path):
    figure = region_figures.region_figure(summary(), CLASSES, "whole", {"alarmed": "eyes"})
    neutral, alarmed = figure.axes[:2]
    assert [ax.get_title(loc="left") for ax in (neutral, alarmed)] == CLASSES
    assert [tick.get_text() for tick in neutral.get_yticklabels()] == ["ears", "eyes", "background"]
    assert sorted((x, filled) for x, _, filled in marks(alarmed, "o")) == [(0.5, False), (5, True)]
    assert [x for x, _, _ in marks(alarmed, "X")] == [1]  # the region with signed < 0
    assert [(x, round(y)) for x, y, _ in marks(alarmed, "|")] == [(1.2, 1)]
    assert any(list(line.get_xdata()) == [1, 1] for line in alarmed.lines)
    assert "what truly shows it" in words(figure)
    assert "experts" not in words(figure)
    figures.save(figure, tmp_path / "regions", ["svg", "pdf", "png"])


def test_the_class_that_others_are_compared_with_is_marked_as_such():
    neutral, alarmed = region_figures.region_figure(
        summary(), CLASSES, "whole", not_asked="neutral"
    ).axes[:2]
    assert any("compared with its own class" in text.get_text() for text in neutral.texts)
    assert not any("its own class" in text.get_text() for text in alarmed.texts)
    assert neutral.get_facecolor() != alarmed.get_facecolor()


def test_an_interval_that_goes_on_beyond_the_axis_is_pointed():
    alarmed = region_figures.region_figure(summary(), CLASSES, "whole").axes[1]
    (arrow,) = marks(alarmed, ">")
    assert round(arrow[1]) == 1  # the eyes, up to 70
    lines = [drawn for drawn in alarmed.collections if isinstance(drawn, LineCollection)]
    ends = [segment[:, 0] for own in lines for segment in own.get_segments() if len(segment)]
    ends = np.concatenate(ends)
    assert np.nanmax(ends) < alarmed.get_xlim()[1] < 10


def test_expected_regions_are_marked_a_single_one_by_its_roll_up():
    expected = {"alarmed": ["ear_left", "eyes", "tail"], "other": ["ears"]}
    figure = region_figures.region_figure(summary(), CLASSES, "whole", None, expected)
    neutral, alarmed = figure.axes[:2]
    assert [y for _, y, _ in marks(alarmed, "<")] == [0, 1]  # the tail is not among the rows
    assert not marks(neutral, "<")
    assert "where experts expect it" in words(figure)


@pytest.mark.parametrize("n_classes", [1, 5, 8])
def test_any_number_of_classes_is_drawn_each_once(n_classes, tmp_path):
    classes = [f"class {i} of a long name" for i in range(n_classes)]
    parts = [summary().assign(target=label) for label in classes]
    figure = region_figures.region_figure(pd.concat(parts), classes, "whole")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len([title for title in titles if title]) == n_classes
    figures.save(figure, tmp_path / "many", ["png"])


def test_a_study_without_regions_shows_its_thirds_and_no_summary_an_empty_figure(tmp_path):
    cells = pd.concat([summary()[:1].assign(region=name) for name in (*tables.CELLS, "horse")])
    figure = region_figures.region_figure(cells, CLASSES, "whole")
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["horse", *(name.replace("_", " ") for name in tables.CELLS)]
    empty = region_figures.region_figure(summary()[:0], CLASSES, "whole")
    figures.save(empty, tmp_path / "empty", ["png"])
