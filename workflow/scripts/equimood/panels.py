"""Figures of explanations: one photograph, a class at a glance, regions against a random network.

The photograph is shown in its own proportions; the map is laid where the model saw it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from equimood import images
from equimood.figures import BLUE, GREY, INK, PAGE_IN, PALE, VERMILION, blank, class_colors
from equimood.settings import NOT_SURE
from equimood.tables import ROLLUPS

SHOWN_PX = 640
"""Longer side at which a photograph is drawn."""
SMOOTH_CELLS = 0.8
"""Standard deviation, in cells of the map, of the blur that joins speckles; for the eye alone."""
FULL_STRENGTH = 99.5
"""Percentile of a map's strength that gets the full colour: no single cell sets the scale."""
ROWS = [*(name for name in ROLLUPS if name != "context"), *ROLLUPS["context"]]
"""Regions drawn: the horse's roll-ups, and what surrounds it one by one."""
GROUPS = {
    "confident": "Right, the surest",
    "typical": "Right, of median certainty",
    "doubtful": "In doubt",
    "wrong": "Wrong",
}


@dataclass(frozen=True)
class Explained:
    """One view of a photograph with its map.

    Attributes
    ----------
    view : the view's name.
    picture : (h, w, 3) uint8, the frame in its own proportions.
    extent : left, right, bottom, top of the model's input, in pixels of ``picture``.
    map : (m, m) signed attribution of each cell of the input.
    gap : completeness gap; NaN where the method has none.
    scores : the image's ``tables.REGION_SCORES``; empty without regions.
    """

    view: str
    picture: np.ndarray
    extent: tuple[float, float, float, float]
    map: np.ndarray
    gap: float
    scores: pd.DataFrame


def frame(
    picture: Tensor,
    box: tuple[int, int, int, int],
    side: int,
    fit: Literal["squash", "pad", "crop"],
    crop_share: float,
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Cut a view out of a photograph and say where the model's input lies on it.

    Parameters
    ----------
    picture : uint8 (3, h, w), upright.
    box : the view's, in pixels.
    side : of the model's input, pixels.
    fit, crop_share : how the frame was fitted into it.

    Returns
    -------
    ``picture`` and ``extent`` of an :class:`Explained`.
    """
    _, affine = images.fit(picture, box, side, fit, "bilinear", crop_share)
    x0, y0, x1, y1 = box
    cut = picture[:, y0:y1, x0:x1]
    scale = min(1.0, SHOWN_PX / max(x1 - x0, y1 - y0))
    size = [max(1, round(scale * length)) for length in cut.shape[1:]]
    low, high = ((corner - affine[:, 2]) / affine.diagonal() for corner in (0, side))
    (left, top), (right, bottom) = (
        (point - (x0, y0)) * (size[1] / (x1 - x0), size[0] / (y1 - y0)) for point in (low, high)
    )
    shown = resize(cut, size, antialias=True).permute(1, 2, 0).numpy()
    return shown, (float(left), float(right), float(bottom), float(top))


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
        photo, overlay = (figure.add_subplot(grid[row, column]) for column in (0, 1))
        _photograph(photo, view)
        _overlay(overlay, view, colormap)
        photo.set_title(f"View: {view.view}" if len(views) > 1 else "What the model saw")
        overlay.set_title(f"What speaks for {_short(target, 18)}")
        photo.set_xlabel(_short(path, 44), fontsize=7.5, color=GREY)
        gap = "over 100 %" if view.gap > 1 else f"{100 * view.gap:.1f} %"
        if np.isnan(view.gap):  # occlusion and Grad-CAM need not add up
            gap = "not defined"
        rough = " (rough)" if view.gap > tolerance else ""
        overlay.set_xlabel(f"completeness gap {gap}{rough}", fontsize=7.5, color=GREY)
        if view.scores["visible"].any():
            _region_bars(figure.add_subplot(grid[row, 2]), view.scores, colormap)
    _probabilities(figure.add_subplot(grid[0, 3]), probabilities, truth, predicted)
    _colour_bar(figure, figure.add_subplot(grid[-1, :2]), colormap)
    certainty = f"{_short(predicted, 24)} ({100 * probabilities[predicted]:.0f} %)"
    if answer == NOT_SURE:
        verdict = f"{NOT_SURE}, perhaps {certainty}"
        verdict += f", annotated {_short(truth, 24)}" if truth is not None else ""
    elif truth is None:
        verdict = f"predicted {certainty}"
    elif truth == predicted:
        verdict = f"predicted {certainty}, rightly"
    else:
        verdict = f"predicted {certainty}, annotated {_short(truth, 24)}"
    if unlike_training:
        verdict += "\nUnlike the training photographs: nothing is known of how far to trust it"
    figure.suptitle(
        f"{_short(horse, 30)}: {verdict}", x=0.01, ha="left", fontsize=11.5, fontweight="bold"
    )
    return figure


def pick(predictions: pd.DataFrame, label: str, n: int) -> dict[str, list[str]]:
    """Choose photographs of a class for its contact sheet: photo_ids by group, other horses first.

    Parameters
    ----------
    predictions : ``tables.PREDICTIONS`` with ``p_{class}``, those that were explained.
    n : photographs per group; none is in two groups.
    """
    columns = [name for name in map(str, predictions.columns) if name.startswith("p_")]
    own = predictions[predictions["truth"] == label]
    ranked = np.sort(own[columns].to_numpy(float), axis=1)
    own = own.assign(margin=ranked[:, -1] - ranked[:, -2], certainty=ranked[:, -1])
    right = own["predicted"] == label
    middle = own.loc[right, "certainty"].median()
    measures = {
        "confident": (right, -own["certainty"]),
        "wrong": (~right, -own["certainty"]),
        "doubtful": (own["margin"].notna(), own["margin"]),
        "typical": (right, (own["certainty"] - middle).abs()),
    }
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()
    for group, (fits, measure) in measures.items():
        free = own[fits & ~own["photo_id"].isin(taken)].assign(measure=measure)
        free = free.sort_values(["measure", "photo_id"])
        free["turn"] = free.groupby("horse").cumcount()
        chosen[group] = free.sort_values(["turn", "measure"])["photo_id"].head(n).tolist()
        taken.update(chosen[group])
    return {group: chosen[group] for group in GROUPS}


def contact_sheet(
    label: str,
    groups: Mapping[str, Sequence[tuple[Explained, str]]],
    colormap: str = "PuOr",
) -> Figure:
    """Show a class at a glance: rows of photographs above their maps.

    Parameters
    ----------
    groups : in the order of GROUPS, each photograph's view and caption.
    """
    shown = {name: groups[name] for name in GROUPS if groups.get(name)}
    columns = max((len(group) for group in shown.values()), default=1)
    tile_in = 1.75
    tall = [
        1.85 * tile_in * max(v.picture.shape[0] / v.picture.shape[1] for v, _ in group) + 0.6
        for group in shown.values()
    ]
    figure = blank(max(4.0, tile_in * columns), sum(tall) + 0.85)
    figure.suptitle(
        f"Photographs of {_short(label, 40)}, and what each prediction rests on",
        x=0.01, ha="left", fontsize=11.5, fontweight="bold",
    )  # fmt: skip
    parts = figure.subfigures(len(shown) + 1, 1, squeeze=False, height_ratios=[*tall, 0.4])[:, 0]
    for part, (name, group) in zip(parts, shown.items(), strict=False):
        part.suptitle(GROUPS[name], x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        for pair, tile in zip_longest(part.subplots(2, columns, squeeze=False).T, group):
            if tile is None:
                pair[0].axis("off")
                pair[1].axis("off")
                continue
            view, caption = tile
            _photograph(pair[0], view)
            _overlay(pair[1], view, colormap)
            pair[1].set_xlabel(caption, fontsize=7.5)
    _colour_bar(parts[-1], parts[-1].subplots(), colormap)
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
        ax.set_title(_short(label, 20), color=colors[label])
        ax.text(
            1, 1.01, f"{_counted(n['n_images'].max(), 'photograph')}\n"
            f"{_counted(n['n_horses'].max(), 'horse')}",
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


def _photograph(axes: Axes, view: Explained, *, faded: bool = False) -> None:
    picture = view.picture
    if faded:
        grey = picture.astype(float) @ (0.299, 0.587, 0.114)
        picture = (255 - 0.55 * (255 - grey))[..., None].repeat(3, 2).astype(np.uint8)
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal", anchor="N")
    axes.spines[:].set_visible(False)


def _overlay(axes: Axes, view: Explained, colormap: str) -> None:
    """Signed map over the faded photograph; strength is both colour and opacity."""
    _photograph(axes, view, faded=True)
    smooth = gaussian_filter(view.map.astype(float), SMOOTH_CELLS)
    full = np.percentile(np.abs(smooth), FULL_STRENGTH)
    strength = np.clip(smooth / full, -1, 1) if full > 0 else np.zeros_like(smooth)
    rgba = _colours(colormap)((strength + 1) / 2)
    rgba[..., 3] = np.clip(1.15 * np.abs(strength), 0, 1) ** 0.8 * 0.95
    height, width = view.picture.shape[:2]
    axes.imshow(rgba, extent=view.extent, interpolation="bilinear", zorder=2)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _colours(colormap: str) -> Colormap:
    """The diverging map, positive in its warm half: PuOr has orange at its low end."""
    colours = mpl.colormaps[colormap]
    low, high = colours(0.1), colours(0.9)
    return colours.reversed() if low[0] - low[2] > high[0] - high[2] else colours


def _colour_bar(figure: Figure | SubFigure, axes: Axes, colormap: str) -> None:
    scale = ScalarMappable(Normalize(-1, 1), _colours(colormap))
    bar = figure.colorbar(scale, cax=axes.inset_axes((0.25, 0, 0.5, 1)), orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["speaks against", "neither", "speaks for"], fontsize=7.5)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axes.axis("off")


def _counted(number: float, what: str) -> str:
    return f"{number:.0f} {what}{'' if number == 1 else 's'}"


def _region_bars(axes: Axes, scores: pd.DataFrame, colormap: str) -> None:
    """Enrichment by region: coloured as in the map by what the region says on the whole."""
    scores = scores.set_index("region")
    found, share = scores["enrichment"].dropna(), scores["share"]
    shown = [name for name in ROWS if name in found.index]
    values, signed = found[shown].to_numpy(float), scores["signed"][shown].to_numpy(float)
    against, for_ = _colours(colormap)([0.15, 0.85])
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
    axes.set_yticks(range(len(labels)), [_short(label, 14) for label in labels], fontsize=8)
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


def _short(text: str, length: int) -> str:
    """Text as it stands, its middle left out where it is longer."""
    text = str(text).replace("\n", " ")
    if len(text) <= length:
        return text
    return f"{text[: (length - 1) // 2]}…{text[len(text) - length // 2 :]}"
