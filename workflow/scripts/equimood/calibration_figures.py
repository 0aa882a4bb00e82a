"""Figures of confidence: reliability before and after the temperature, accuracy against coverage.

Both are drawn from the content of ``calibration.json`` alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from equimood.evaluation import with_interval
from equimood.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAGE_IN,
    REFERENCE,
    SKY,
    VERMILION,
    blank,
)


def drawn(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw both figures, by the name of their file."""
    return {"reliability": reliability(found), "coverage": coverage(found)}


def reliability(found: Mapping[str, Any]) -> Figure:
    """Share of right answers against confidence, in bins of equal mass, over a histogram."""
    figure = blank(PAGE_IN, 4.3)
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3.2, 1))
    parts = [("before", "Before the temperature", ORANGE), ("after", "After the temperature", BLUE)]
    for axes, (part, title, color) in zip(panels[0], parts, strict=True):
        bins = found[part]["bins"]
        axes.plot([0, 1], [0, 1], **REFERENCE)
        x = [each["confidence"] for each in bins]
        rows = [[each["accuracy"][key] for key in ("value", "low", "high")] for each in bins]
        y, low, high = np.array(rows, dtype=float).T
        axes.vlines(x, low, high, color=color, linewidth=2, alpha=0.55)
        axes.plot(x, y, "o-", color=color, markersize=5, markeredgecolor="white", linewidth=1)
        axes.set(title=title, ylim=(-0.2, 1.03), yticks=np.linspace(0, 1, 6))
        axes.grid()
        error = found[part]["ece"]
        axes.annotate(
            f"calibration error {with_interval(**error)}\n"
            f"plain {found[part]['ece_plain']['value']:.2f}; chance alone gives "
            f"{found[part]['ece_chance']['value']:.2f}",
            (0.97, 0.03), xycoords="axes fraction", ha="right", fontsize=8, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    panels[0, 0].set_ylabel("share of right answers")
    edges = np.linspace(0, 1, 21)
    for axes, (part, _, color) in zip(panels[1], parts, strict=True):
        right, wrong = (np.array(found[part]["histogram"][key]) for key in ("right", "wrong"))
        axes.bar(edges[:-1], right, 0.05, align="edge", color=color, label="right")
        axes.bar(edges[:-1], wrong, 0.05, right, align="edge", color=GREY, label="wrong")
        axes.set(xlim=(-0.03, 1.03), xlabel="confidence")
        axes.legend(loc="upper left", handlelength=1, borderaxespad=0.1)
    panels[1, 0].set_ylabel("photographs")
    _footnote(figure, found, f"; {found['n_bins']} bins of equal numbers")
    return figure


def coverage(found: Mapping[str, Any]) -> Figure:
    """Accuracy of what is answered against the share answered, from the surest on."""
    figure = blank(5.8, 3.9)
    axes = figure.subplots()
    curve = found["curve"]
    x = np.array([point["coverage"] for point in curve])
    rows = [[point["accuracy"][key] for key in ("value", "low", "high")] for point in curve]
    y, low, high = np.array(rows, dtype=float).T
    axes.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0)
    axes.plot(x, y, color=BLUE, label="all folds, surest answers first")
    whole = 1 - found["error"]["value"]
    axes.axhline(whole, **REFERENCE, label="without an order")
    axes.axhline(
        found["target_accuracy"], color=GREEN, linewidth=1.4, linestyle=(0, (1, 1.5)), zorder=1,
        label=f"target, {found['target_accuracy']:.0%}",
    )  # fmt: skip
    answering = [fold for fold in found["folds"] if fold["n_answered"]]
    if answering:
        axes.plot(
            [fold["n_answered"] / fold["n_images"] for fold in answering],
            [fold["n_right"] / fold["n_answered"] for fold in answering],
            "o", color=GREY, markersize=5, markeredgecolor="white", zorder=3,
            label="each fold at its own threshold",
        )  # fmt: skip
    _operating_point(axes, found)
    bottom = min(whole, float(np.nanmin(np.append(low, y))), found["target_accuracy"]) - 0.05
    axes.set(xlim=(0, 1.02), ylim=(max(0, bottom), 1.02))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="coverage: share of photographs answered", ylabel="accuracy of the answers")
    axes.grid()
    axes.legend(
        loc="lower left", fontsize=7.5, frameon=True, facecolor="white", edgecolor="none",
        framealpha=1,
    )  # fmt: skip
    axes.set_title(
        f"Area under the risk-coverage curve {with_interval(**found['aurc'], form='.3f')},\n"
        f"without an order {found['error']['value']:.3f}"
    )
    _footnote(figure, found)
    return figure


def _operating_point(axes: Axes, found: Mapping[str, Any]) -> None:
    """Mark coverage and accuracy at the folds' own thresholds, with both intervals."""
    share, accuracy = found["coverage"], found["accuracy"]
    if accuracy["value"] is None:
        axes.annotate(
            "No fold reached the target: nothing is answered", (0.5, 0.5), ha="center",
            xycoords="axes fraction", fontsize=8.5, color=VERMILION,
        )  # fmt: skip
        return
    x, y = share["value"], accuracy["value"]
    if share["low"] is not None:
        axes.hlines(y, share["low"], share["high"], color=VERMILION, linewidth=2, zorder=3)
    if accuracy["low"] is not None:
        axes.vlines(x, accuracy["low"], accuracy["high"], color=VERMILION, linewidth=2, zorder=3)
    axes.plot(
        x, y, "D", color=VERMILION, markersize=7, markeredgecolor="white", zorder=4,
        label=f"answered {x:.0%}, of these right {y:.0%}",
    )  # fmt: skip


def _footnote(figure: Figure, found: Mapping[str, Any], more: str = "") -> None:
    figure.supxlabel(
        f"out of fold, {found['n_images']:,} photographs of {found['n_horses']} horses, "
        f"{found['confidence']:.0%} intervals over horses{more}",
        fontsize=8,
        color=GREY,
    )
