"""Figures of explanations: one photograph, and regions against a random network."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equimood.figures import BLUE, GREY, INK, PAGE_IN, PALE, VERMILION, blank, class_colors
from equimood.overlays import Explained, colour_bar, colours, overlay, photograph, short
from equimood.settings import NOT_SURE
from equimood.tables import REGIONS, ROLLUPS

ROWS = [*(name for name in ROLLUPS if name != "context"), *ROLLUPS["context"]]
"""Regions drawn: the horse's roll-ups, and what surrounds it one by one."""
MOST_CELLS = 8
"""Regions of a study's own, such as cells of a grid, that are drawn of an image."""


def panel(
    views: Sequence[Explained],
    *,
    probabilities: Mapping[str, float],
    truth: str | None,
    predicted: str,
    answer: str,
    unlike_training: bool,
    target: str,
    horse: str,
    path: str,
    tolerance: float,
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
    tolerance : completeness gap above which the map is said to be approximate.
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
        mapped.set_title(f"What speaks for {short(target, 18)}")
        photo.set_xlabel(short(path, 44), fontsize=7.5, color=GREY)
        gap = "over 100 %" if view.gap > 1 else f"{100 * view.gap:.1f} %"
        rough = " (rough)" if view.gap > tolerance else ""
        steps = "" if view.steps is None else f", {counted(view.steps, 'gradient')}"
        mapped.set_xlabel(f"completeness gap {gap}{rough}{steps}", fontsize=7.5, color=GREY)
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


def region_figure(
    summary: pd.DataFrame,
    classes: Sequence[str],
    view: str,
    causes: Mapping[str, str] | None = None,
) -> Figure:
    """Enrichment of each region by class, with intervals over horses and the control.

    A region's positive attribution may be large and its negative larger: a cross marks regions that
    speak against the class on the whole.

    Parameters
    ----------
    summary : from ``region_statistics.summarise``.
    classes : in the study's order; one part of the figure each.
    causes : the region that truly shows each class, where that is known; marked.
    """
    own = summary[(summary["view"] == view) & summary["target"].isin(list(classes))]
    shown = [name for name in ROWS if name in set(own["region"])]
    present = [label for label in classes if label in set(own["target"])]
    columns = min(4, max(1, len(present)))
    rows = -(-max(1, len(present)) // columns)
    figure = blank(max(4.0, 1.1 + 1.75 * columns), 1.1 + rows * (0.7 + 0.24 * len(shown)))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    colors = class_colors(classes)
    at = {name: i for i, name in enumerate(shown)}
    for ax, label in zip(axes, present, strict=False):
        for model, shift in (("random", 0.22), ("trained", -0.12)):
            part = own[(own["target"] == label) & (own["model"] == model)]
            part = part[part["region"].isin(shown)]
            y = part["region"].map(at).astype(float) + shift
            color = colors[label] if model == "trained" else GREY
            ax.hlines(y, part["low"], part["high"], color=color, linewidth=1.6)
            face = color if model == "trained" else "white"
            against = (model == "trained") & (part["signed"] < 0)
            for own_kind, marker in ((~against, "o"), (against, "X")):
                ax.scatter(
                    part["enrichment"][own_kind], y[own_kind], s=20 if marker == "o" else 34,
                    marker=marker, color=face, edgecolors=color, zorder=3,
                )  # fmt: skip
        n = own[(own["target"] == label) & (own["model"] == "trained")]
        ax.set_title(short(label, 20), color=colors[label])
        ax.text(
            1, 1.01, f"{counted(n['n_images'].max(), 'photograph')}\n"
            f"{counted(n['n_horses'].max(), 'horse')}",
            transform=ax.transAxes, ha="right", va="bottom", fontsize=6.5, color=GREY,
        )  # fmt: skip
        if causes and causes.get(label) in at:
            ax.axhspan(at[causes[label]] - 0.45, at[causes[label]] + 0.45, color=PALE, zorder=0)
        ax.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.tick_params(axis="y", length=0)
    for ax in axes[len(present) :]:
        ax.axis("off")
    axes[0].set_yticks(range(len(shown)), [_words(name) for name in shown])
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    axes[0].set_xlim(left=0)
    figure.supxlabel("enrichment: share of positive attribution / share of area", fontsize=9)
    marks = [
        Line2D([], [], color=INK, marker="o", markersize=4.5, label="trained model"),
        Line2D([], [], color=INK, marker="X", markersize=6, markeredgecolor="white",
               label="trained model, the region speaks against it on the whole"),
        Line2D([], [], color=GREY, marker="o", markersize=4.5, markerfacecolor="white",
               label="same network, random weights"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 3)),
               label="1: no more than its area"),
    ]  # fmt: skip
    if causes:
        marks.append(Line2D([], [], color=PALE, linewidth=7, label="what truly shows it"))
    figure.legend(handles=marks, loc="outside upper left", ncols=2, fontsize=8)
    return figure


# ----------------------------------------------------------------------------------------- parts


def counted(number: float, what: str) -> str:
    """Say how many there are: 1 horse, 2 horses."""
    return f"{number:.0f} {what}{'' if number == 1 else 's'}"


def drawn_regions(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of an image's ``tables.REGION_SCORES`` that are drawn, by region.

    ROWS, in this order, then the most enriched of other names than the ethogram's.
    """
    found = scores[scores["enrichment"].notna()].set_index("region")
    own = found[~found.index.isin([*REGIONS, *ROLLUPS])]
    own = own.sort_values("enrichment", ascending=False, kind="stable").head(MOST_CELLS)
    return found.loc[[*(name for name in ROWS if name in found.index), *own.index]]


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
            f"{100 * share[name]:.0f} %", (value, y), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(shown)), [_words(name) for name in shown], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(1.6, values.max(initial=0)))
    axes.set_title("Where it lies")
    axes.set_xlabel(
        "enrichment (1: no more than its area) and share\n"
        "of what speaks for it; cold: against it on the whole", fontsize=7.5,
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
