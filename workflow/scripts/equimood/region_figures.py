"""The figure of regions: what each emotion rests on, against area, random weights and experts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equimood import overlays
from equimood.figures import GREY, INK, PALE, blank, class_colors
from equimood.panels import counted
from equimood.region_statistics import MORE_THAN_BOTH
from equimood.tables import ROLLUPS, ROWS

REACH = 1.25
"""Intervals are drawn as far as this multiple of the largest mean; one that goes on is pointed."""


def region_figure(
    summary: pd.DataFrame,
    classes: Sequence[str],
    view: str,
    causes: Mapping[str, str] | None = None,
    expected: Mapping[str, Sequence[str]] | None = None,
    not_asked: str | None = None,
) -> Figure:
    """Enrichment of each region by class, with intervals over horses and the control.

    Filled marks stand out from the area and from random weights after correction, hollow ones do
    not. A region's positive attribution may be large and its negative larger: a cross marks regions
    that speak against the class on the whole.

    Parameters
    ----------
    summary : from ``region_statistics.summarise``.
    classes : in the study's order; one part of the figure each.
    causes : the region that truly shows each class, where that is known; marked.
    expected : the experts' regions of each class; marked, a region by its roll-up.
    not_asked : the class that photographs are compared with.
    """
    own = summary[(summary["view"] == view) & summary["target"].isin(list(classes))]
    own = own[own["region"].isin(ROWS)]
    shown = [name for name in ROWS if name in set(own["region"])]
    present = [label for label in classes if label in set(own["target"])]
    columns = min(4, max(1, len(present)))
    rows = -(-max(1, len(present)) // columns)
    figure = blank(max(5.0, 1.2 + 1.75 * columns), 1.5 + rows * (0.65 + 0.24 * len(shown)))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    colors, at = class_colors(classes), {name: i for i, name in enumerate(shown)}
    reach = REACH * max(1.6, own["enrichment"].max() if len(own) else 0)
    for ax, label in zip(axes, present, strict=False):
        of_class = own[own["target"] == label]
        _control(ax, of_class[of_class["model"] == "random"], at, reach)
        trained = of_class[of_class["model"] == "trained"]
        _means(ax, trained, at, reach, colors[label])
        ax.set_title(overlays.short(label, 20), color=colors[label], pad=26 if not_asked else 16)
        about = [
            f"{counted(trained['n_images'].max(), 'photograph')}, "
            f"{counted(trained['n_horses'].max(), 'horse')}"
        ]
        if not_asked:
            about.append("compared with its own class" if label == not_asked else "")
        if label == not_asked:
            ax.set_facecolor("#f3f3f3")
        ax.text(
            0, 1.01, "\n".join(about), transform=ax.transAxes, va="bottom", fontsize=7, color=GREY
        )
        if causes and causes.get(label) in at:
            ax.axhspan(at[causes[label]] - 0.45, at[causes[label]] + 0.45, color=PALE, zorder=0)
        marked = _rows_of((expected or {}).get(label, []), at)
        ax.scatter(np.full(len(marked), reach), marked, marker="<", s=26, color=INK, clip_on=False)
        ax.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.tick_params(axis="y", length=0)
    for ax in axes[len(present) :]:
        ax.axis("off")
    for ax in axes[max(0, len(present) - columns) : len(present)]:  # the lowest of each column
        ax.tick_params(axis="x", labelbottom=True)
    axes[0].set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown])
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    axes[0].set_xlim(0, reach)
    figure.supxlabel("enrichment: share of positive attribution / share of area", fontsize=9)
    figure.legend(
        handles=_legend(bool(causes), bool(expected)), loc="outside upper left", ncols=2,
        fontsize=8, handlelength=1.6,
    )  # fmt: skip
    return figure


def _means(
    ax: Axes, trained: pd.DataFrame, at: Mapping[str, int], reach: float, color: str
) -> None:
    y = trained["region"].map(at).to_numpy(float) - 0.14
    told = trained["verdict"].astype(str).str.startswith(MORE_THAN_BOTH).to_numpy()
    against = (trained["signed"] < 0).to_numpy()
    mean = trained["enrichment"].to_numpy(float)
    _intervals(ax, trained, y, reach, color, linewidth=1.7)
    for own, marker, size in ((~against, "o", 26), (against, "X", 40)):
        for filled, face in ((True, color), (False, "white")):
            drawn = own & (told == filled)
            ax.scatter(
                mean[drawn], y[drawn], s=size, marker=marker, color=face, edgecolors=color,
                linewidths=1.2, zorder=4,
            )  # fmt: skip


def _control(ax: Axes, random: pd.DataFrame, at: Mapping[str, int], reach: float) -> None:
    y = random["region"].map(at).to_numpy(float) + 0.22
    _intervals(ax, random, y, reach, GREY, linewidth=1)
    ax.scatter(random["enrichment"], y, s=28, marker="|", color=GREY, linewidths=1.6, zorder=3)


def _intervals(
    ax: Axes, rows: pd.DataFrame, y: np.ndarray, reach: float, color: str, linewidth: float
) -> None:
    """Draw from low to high; what goes on beyond the axis ends in an arrow."""
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    edge = 0.97 * reach
    ax.hlines(y, low, np.minimum(high, edge), color=color, linewidth=linewidth, zorder=2)
    beyond = high > edge
    ax.scatter(np.full(beyond.sum(), edge), y[beyond], marker=">", s=9, color=color, zorder=2)


def _rows_of(names: Sequence[str], at: Mapping[str, int]) -> list[int]:
    """Rows of expected regions: their own, or the roll-up that holds them."""
    of_part = {part: rollup for rollup, parts in ROLLUPS.items() for part in parts}
    rows = (at.get(name, at.get(of_part.get(name, ""))) for name in names)
    return sorted({row for row in rows if row is not None})


def _legend(causes: bool, expected: bool) -> list[Line2D]:
    def line(label: str, **look: object) -> Line2D:
        return Line2D([], [], label=label, **({"color": INK, "linestyle": ""} | look))  # type: ignore[arg-type]

    marks = [
        line("more than its area and than random weights,\nafter correction", marker="o",
             markersize=5),
        line("hollow, dot or cross: not shown to be", marker="o", markersize=5,
             markerfacecolor="white"),
        line("speaks against the class on the whole", marker="X", markersize=6.5),
        line("same network, random weights", color=GREY, marker="|", markersize=7,
             markeredgewidth=1.6),
        line("1: no more than its area", linestyle=(0, (4, 3)), linewidth=0.9),
    ]  # fmt: skip
    if expected:
        marks.append(line("where experts expect it", marker="<", markersize=5))
    if causes:
        marks.append(line("what truly shows it", color=PALE, linestyle="-", linewidth=7))
    return marks
