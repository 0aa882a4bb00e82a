"""The figure of one photograph: what its prediction rests on."""

from collections.abc import Mapping, Sequence
from math import isnan
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equimood import overlays
from equimood.figures import BLUE, GREY, INK, PAGE_IN, PALE, VERMILION, blank
from equimood.overlays import Explained, colour_bar, colours, overlay, photograph, short
from equimood.settings import NOT_SURE
from equimood.tables import ROWS


def panel(
    views: Sequence[Explained],
    *,
    probabilities: Mapping[str, float],
    truth: str | None,
    predicted: str,
    answer: str,
    unlike_training: bool,
    target: str,
    against: str | None,
    horse: str,
    path: str,
    tolerance: float,
    compared: Mapping[str, Any],
    colormap: str = "PuOr",
) -> Figure:
    """What one prediction rests on: photograph, map, regions and probabilities.

    Parameters
    ----------
    views : those the model saw, drawn one below the other.
    probabilities : of each class, in the study's order.
    truth : the annotated class; None for a new photograph.
    answer : ``predicted``, or NOT_SURE.
    unlike_training : whether the photograph is unlike those of the training.
    target : the class that the map explains.
    against : the class whose score is taken off the target's; None: none.
    tolerance : completeness gap above which the map is said to be approximate.
    compared : ``settings.Explain.compared``.
    """
    heights = [max(1.8, 2.2 * view.picture.shape[0] / view.picture.shape[1]) for view in views]
    figure = blank(PAGE_IN + 1.6, sum(heights) + 0.62 * len(views) + 0.7)
    with_regions = any(view.scores["visible"].any() for view in views)
    grid = figure.add_gridspec(
        len(views) + 1, 4, width_ratios=(1, 1, 0.95 if with_regions else 0.01, 0.75),
        height_ratios=[*heights, 0.08],
    )  # fmt: skip
    for row, view in enumerate(views):
        photo, mapped = (figure.add_subplot(grid[row, column]) for column in (0, 1))
        photograph(photo, view)
        overlay(mapped, view, colormap)
        photo.set_title(f"View: {view.view}" if len(views) > 1 else "What the model saw")
        rather = "" if against is None else f"\nrather than {short(against, 18)}"
        mapped.set_title(f"What speaks for {short(target, 18)}{rather}")
        photo.set_xlabel(short(path, 44), fontsize=7.5, color=GREY)
        gap = "over 100 %" if view.gap > 1 else f"{100 * view.gap:.1f} %"
        if isnan(view.gap):  # occlusion and Grad-CAM need not add up
            gap = "not defined"
        rough = " (rough)" if view.gap > tolerance else ""
        steps = "" if view.steps is None else f", {counted(view.steps, 'point')}"
        mapped.set_xlabel(
            fill(overlays.compared_with(compared), 36) + f"\ncompleteness gap {gap}{rough}{steps}",
            fontsize=7.5,
            color=GREY,
        )
        if view.scores["visible"].any():
            _region_bars(figure.add_subplot(grid[row, 2]), view.scores, colormap)
    _probabilities(figure.add_subplot(grid[0, 3]), probabilities, truth, predicted)
    colour_bar(figure, figure.add_subplot(grid[-1, :2]), colormap)
    certainty = f"{short(predicted, 24)} ({100 * probabilities[predicted]:.0f} %)"
    if answer == NOT_SURE:
        verdict = f"{NOT_SURE}, perhaps {certainty}"
        verdict += f", annotated {short(truth, 24)}" if truth is not None else ""
    elif truth is None:
        verdict = f"predicted {certainty}"
    elif truth == predicted:
        verdict = f"predicted {certainty}, rightly"
    else:
        verdict = f"predicted {certainty}, annotated {short(truth, 24)}"
    if unlike_training:
        verdict += "\nUnlike the training photographs: nothing is known of how far to trust it"
    figure.suptitle(
        f"{short(horse, 30)}: {verdict}", x=0.01, ha="left", fontsize=11.5, fontweight="bold"
    )
    return figure


# ----------------------------------------------------------------------------------------- parts


def counted(number: float, what: str) -> str:
    """Say how many there are: 1 horse, 2 horses."""
    return f"{number:.0f} {what}{'' if number == 1 else 's'}"


def drawn_regions(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of an image's ``tables.REGION_SCORES`` that are drawn, by region: ROWS, in order."""
    found = scores[scores["enrichment"].notna()].set_index("region")
    return found.loc[[name for name in ROWS if name in found.index]]


def _region_bars(axes: Axes, scores: pd.DataFrame, colormap: str) -> None:
    """Enrichment by region: coloured as in the map by what the region says on the whole."""
    scores = drawn_regions(scores)
    shown, share = scores.index, scores["share"]
    values, signed = scores["enrichment"].to_numpy(float), scores["signed"].to_numpy(float)
    against, for_ = colours(colormap)([0.15, 0.85])
    colors = [
        against if net < 0 else for_ if value > 1 else PALE
        for value, net in zip(values, signed, strict=True)
    ]
    axes.barh(range(len(shown)), values, color=colors, height=0.72)
    for y, (name, value) in enumerate(zip(shown, values, strict=True)):
        axes.annotate(
            f"{value:.1f} ({100 * share[name]:.0f} %)", (value, y), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=7, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(shown)), [_words(name) for name in shown], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.35 * max(1.6, values.max(initial=0)))
    axes.set_title("Where it lies")
    axes.set_xlabel(
        "enrichment; in brackets, share of what speaks for it\n"
        "warm: for it; grey: no more than its area;\ncold: against it on the whole", fontsize=7.5,
    )  # fmt: skip


def _probabilities(
    axes: Axes, probabilities: Mapping[str, float], truth: str | None, predicted: str
) -> None:
    labels = list(probabilities)
    values = [probabilities[label] for label in labels]
    right = VERMILION if truth is not None and truth != predicted else BLUE
    axes.barh(
        range(len(labels)), values, height=0.62,
        color=[right if label == predicted else PALE for label in labels],
    )  # fmt: skip
    for y, value in enumerate(values):
        axes.annotate(
            f"{100 * value:.0f} %", (value, y), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7.5,
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), [short(label, 14) for label in labels], fontsize=8)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if label == truth else "normal")
    axes.set(xlim=(0, 1.2), ylim=(len(labels) - 0.4, -0.6), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("How sure")
    if truth is not None:
        axes.set_xlabel("bold: annotated", fontsize=7.5)


def _words(region: str) -> str:
    return region.replace("_", " ")
