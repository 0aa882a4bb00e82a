"""What people look at: a panel per image, a contact sheet per emotion, the regions behind each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from equimood import attribution, features, figures
from equimood.backbones import Backbone
from equimood.tables import ROLLUPS

OVERLAY = 0.85  # opacity where an attribution is strongest
SMOOTHING = 0.012  # of the maps as shown (not as counted), standard deviation in sides
PEAK = 99.7  # percentile of |attribution| at which the colours end
KINDS = {
    "typical": "Typical: right, of middling confidence",
    "confident": "Confident: right, most certain",
    "wrong": "Wrong: taken for this class, most certain",
    "doubtful": "Doubtful: least certain",
}
N_PER_KIND = 5


@dataclass(frozen=True)
class View:
    """What the model saw of a photograph: ``pixels`` (side, side, 3) uint8, ``map`` (h, w)."""

    name: str
    pixels: np.ndarray
    map: np.ndarray


@dataclass(frozen=True)
class Example:
    """An explained photograph; ``scores`` are its rows of tables.REGION_SCORES, trained model."""

    photo_id: str
    path: str
    horse: str
    truth: str | None
    predicted: str
    target: str
    probabilities: dict[str, float]
    gap: float
    views: list[View]
    scores: pd.DataFrame


def examples(
    photo_ids: Iterable[str],
    predictions: pd.DataFrame,
    catalogue: pd.DataFrame,
    scores: pd.DataFrame,
    maps: Sequence[str | Path],
    structures: Mapping[str, Mapping[str, Any]],
    backbones: Mapping[str, Backbone],
    images_dir: Path,
    classes: Sequence[str],
) -> Iterator[Example]:
    """Gather what is known of photographs, one at a time.

    Parameters
    ----------
    predictions, catalogue, scores : tables.PREDICTIONS, tables.IMAGES, tables.REGION_SCORES.
    maps : attributions/{shard}.safetensors.
    structures : of each fold's model, for its views and backbone.
    backbones : by name, for how they frame a picture.
    """
    told: dict[Any, Any] = predictions.set_index("photo_id").to_dict(orient="index")
    frames: dict[Any, Any] = {
        photo: rows.set_index("view") for photo, rows in catalogue.groupby("photo_id")
    }
    wanted = [photo for photo in photo_ids if photo in told]
    shown = {
        photo: [frames[photo].loc[view] for view in structures[told[photo]["fold"]]["views"]]
        for photo in wanted
    }
    found: dict[str, tuple[np.ndarray, str, float]] = {}
    needed = [row.image_id for rows in shown.values() for row in rows]
    for path in maps:
        part = attribution.read_maps(path, needed)
        for name, values, target, gap in zip(
            part.image_ids, part.values, part.target, part.gap, strict=True
        ):
            found[name] = (values, target, float(gap))
    own = dict(iter(scores[scores["model"] == "trained"].groupby("photo_id")))
    for photo, rows in shown.items():
        if any(row.image_id not in found for row in rows):
            continue
        answer = told[photo]
        backbone = backbones[structures[answer["fold"]]["backbone"]]
        views = []
        for row in rows:
            square, _ = features.square(
                images_dir / row.path, (row.x0, row.y0, row.x1, row.y1), backbone
            )
            values = found[row.image_id][0]
            smooth = gaussian_filter(values, SMOOTHING * len(values))
            views.append(View(str(row.name), square.permute(1, 2, 0).numpy(), smooth))
        _, target, gap = found[rows[0].image_id]
        yield Example(
            photo_id=photo,
            path=answer["path"],
            horse=answer["horse"],
            truth=answer["truth"],
            predicted=answer["predicted"],
            target=target,
            probabilities={name: float(answer[f"p_{name}"]) for name in classes},
            gap=gap,
            views=views,
            scores=own.get(photo, scores.iloc[:0]),
        )


def chosen_by_rule(predictions: pd.DataFrame, label: str) -> dict[str, list[str]]:
    """Choose photographs answered with ``label``, by rule and not by hand; photo_ids per kind."""
    rows = predictions[predictions["predicted"] == label].copy()
    rows["p"] = rows[f"p_{label}"]
    rows = rows.sort_values(["p", "photo_id"], ascending=[False, True])
    right, wrong = (rows[(rows["truth"] == label) == good] for good in (True, False))
    from_middle = (right["p"] - right["p"].median()).abs().sort_values(kind="stable").index
    return {
        "typical": right.loc[from_middle[:N_PER_KIND], "photo_id"].tolist(),
        "confident": right["photo_id"].head(N_PER_KIND).tolist(),
        "wrong": wrong["photo_id"].head(N_PER_KIND).tolist(),
        "doubtful": rows["photo_id"].tail(N_PER_KIND).tolist(),
    }


def panel(example: Example, colormap: str, tolerance: float) -> Figure:
    """Photograph, signed attribution, enrichment of regions, probabilities, completeness gap."""
    n_views = len(example.views)
    figure = figures.blank(2.6 * 2 * n_views + 4.2, 3.4)
    axes = figure.subplots(
        1, 2 * n_views + 2, width_ratios=[1.15] * (2 * n_views) + [0.75, 0.6], squeeze=False
    )[0]
    peak = _peak(example)
    for v, view in enumerate(example.views):
        photograph, overlay = axes[2 * v], axes[2 * v + 1]
        photograph.imshow(view.pixels)
        photograph.set_title(f"What the model sees ({view.name})")
        picture = _overlay(overlay, view, peak, colormap)
        overlay.set_title("What speaks for and against")
    bar = figure.colorbar(
        picture, ax=axes[2 * n_views - 1], location="bottom", fraction=0.05, pad=0.02
    )
    bar.set_ticks([-peak, 0, peak], labels=["against", "0", f"for “{example.target}”"])
    bar.outline.set_visible(False)
    for axis in axes[: 2 * n_views]:
        axis.set_axis_off()
    _region_bars(axes[-2], example.scores)
    _probability_bars(axes[-1], example)
    truth = "" if example.truth is None else f" · rated {example.truth}"
    mark = "" if example.truth is None else " ✓" if example.truth == example.predicted else " ✗"
    flag = " (over the tolerance: read with care)" if example.gap > tolerance else ""
    figure.suptitle(
        f"{example.horse} · {example.path}\nanswered {example.predicted}{truth}{mark} · "
        f"completeness gap {example.gap:.1%}{flag}",
        fontsize=9, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def contact_sheet(label: str, kinds: Mapping[str, Sequence[Example]], colormap: str) -> Figure:
    """One class: what speaks for it in typical, confident, wrong and doubtful photographs."""
    figure = figures.blank(2 * N_PER_KIND, 2.35 * len(KINDS))
    rows = figure.subplots(len(KINDS), N_PER_KIND, squeeze=False)
    for cells, (kind, words) in zip(rows, KINDS.items(), strict=True):
        cells[0].set_title(words)
        for axis in cells:
            axis.set_axis_off()
        for axis, example in zip(cells, kinds[kind], strict=False):
            view = example.views[-1]
            _overlay(axis, view, _peak(example), colormap)
            answer = f"p = {example.probabilities[label]:.2f}"
            rated = "" if example.truth in (None, label) else f" · rated {example.truth}"
            axis.text(
                0, -0.03, f"{example.horse}\n{answer}{rated}", transform=axis.transAxes,
                fontsize=7.5, va="top",
            )  # fmt: skip
        if not kinds[kind]:
            cells[0].text(0.02, 0.5, "none", transform=cells[0].transAxes, color=figures.GREY)
    figure.suptitle(f"Answered “{label}”", x=0.01, ha="left", fontsize=12)
    return figure


def region_figure(summary: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Mean enrichment of each roll-up by class with its interval, and the random control.

    ``summary`` as regions.summarise gives it.
    """
    rolled = summary[summary["region"].isin(ROLLUPS)]
    views = sorted(rolled["view"].unique())
    names = [name for name in ROLLUPS if name in set(rolled["region"])]
    if not names:
        figure = figures.blank(figures.PAGE_IN, 1.2)
        figure.text(0.02, 0.5, "No table of regions was given: see data.regions.")
        return figure
    figure = figures.blank(max(figures.PAGE_IN, 2.0 * len(classes)), 0.6 + 2.2 * len(views))
    grid = figure.subplots(len(views), len(classes), squeeze=False, sharex=True, sharey=True)
    place = np.arange(len(names))
    for cells, view in zip(grid, views, strict=True):
        for axis, label in zip(cells, classes, strict=True):
            here = rolled[(rolled["view"] == view) & (rolled["target"] == label)]
            for model, shift, color in (
                ("random", 0.18, figures.GREY),
                ("trained", -0.18, figures.BLUE),
            ):
                rows = here[here["model"] == model].set_index("region").reindex(names)
                axis.barh(place + shift, rows["enrichment"], 0.34, color=color, label=model)
                axis.hlines(place + shift, rows["low"], rows["high"], color=figures.INK, lw=1)
            axis.axvline(1, color=figures.INK, lw=0.8, ls=":")
            axis.set_title(label)
            axis.set_yticks(place, [name.replace("_", " ") for name in names])
        cells[0].set_ylabel(f"view {view}")
        cells[0].invert_yaxis()
    figure.supxlabel("enrichment: share of positive attribution over share of area (1: chance)",
                     fontsize=8.5)  # fmt: skip
    grid[0][-1].legend(loc="lower right", title="weights", fontsize=7.5)
    return figure


def _peak(example: Example) -> float:
    """Attribution at which the colours end, the same for all views of an image."""
    values = np.concatenate([np.abs(view.map).ravel() for view in example.views])
    return max(float(np.percentile(values, PEAK)), 1e-12)


def _overlay(axis: Axes, view: View, peak: float, colormap: str) -> Any:
    """Draw the photograph in grey and the signed map over it, stronger where it counts."""
    side = view.pixels.shape[0]
    axis.imshow(view.pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    strength = np.minimum(np.abs(view.map) / peak, 1)
    return axis.imshow(
        view.map, cmap=colormap, vmin=-peak, vmax=peak, alpha=OVERLAY * np.sqrt(strength),
        extent=(-0.5, side - 0.5, side - 0.5, -0.5), interpolation="bilinear",
    )  # fmt: skip


def _region_bars(axis: Axes, scores: pd.DataFrame) -> None:
    axis.set_title("Regions")
    shown = scores[scores["region"].isin(ROLLUPS)].dropna(subset="enrichment")
    if shown.empty:
        axis.set_axis_off()
        axis.text(0, 0.5, "no regions given", color=figures.GREY, transform=axis.transAxes)
        return
    several = shown["view"].nunique() > 1
    names = shown["region"].astype(str).str.replace("_", " ")
    if several:
        names = names + " (" + shown["view"].astype(str) + ")"
    axis.barh(names, shown["enrichment"], color=figures.BLUE, height=0.65)
    axis.axvline(1, color=figures.INK, lw=0.8, ls=":")
    axis.set_xlabel("enrichment (1: chance)")
    axis.invert_yaxis()


def _probability_bars(axis: Axes, example: Example) -> None:
    axis.set_title("Probability")
    names, values = list(example.probabilities), list(example.probabilities.values())
    colors = [figures.ORANGE if name == example.predicted else figures.GREY for name in names]
    axis.barh(names, values, color=colors, height=0.65)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()
