"""Figures for papers, screens and projectors: one style, and the figures of data, search and test.

Every figure is a matplotlib ``Figure`` of its own (no pyplot), so that thousands cost no memory.
Colours are those of Okabe and Ito (2008), told apart with any colour vision. Text is drawn as it
stands: ``$`` in a user's label is a dollar. Importing this module sets the style, for every module
that draws.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from equimood import evaluation
from equimood.evaluation import METRICS, PREDICTORS
from equimood.files import written_whole
from equimood.raters import MEASURES

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, PALE, INK = "#7F7F7F", "#E3E3E3", "#222222"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY, "#8C6D1F", "#005F56", "#5B3A8C")
COLUMN_IN, PAGE_IN = 3.5, 7.2  # widths of one and of two columns of a journal, inches

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.05,
    "pdf.fonttype": 42,  # fonts embedded as TrueType, editable
    "svg.fonttype": "path",  # letters as outlines, so that no font is missing anywhere
    "svg.hashsalt": "equimood",
}
mpl.rcParams.update(_STYLE)

REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 0}
_PARTS = {  # of a structure, and how a figure says that all have the same
    "views": "views",
    "backbone": "backbone",
    "pooling": "pooling",
    "head": "head",
    "hidden_units": "hidden units",
    "weight_by": "weights by",
}
WAYS = {  # of transfer, and how a figure names them
    "frozen_linear": "frozen features, linear head",
    "frozen_mlp": "frozen features, MLP head",
    "last_blocks": "last blocks fine-tuned",
    "all_blocks": "all blocks fine-tuned",
    "scratch": "trained from scratch",
}
_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "jpg": None,
}
_JPEG = {"quality": 85, "subsampling": 1}  # letters stay sharp


def save(figure: Figure, stem: str | Path, formats: Iterable[str]) -> list[Path]:
    """Write ``{stem}.{format}`` whole for each of png, svg, pdf, jpg: same figure, same bytes."""
    paths = [Path(f"{stem}.{format_}") for format_ in formats]
    for path in paths:
        format_ = path.suffix[1:]
        with written_whole(path) as aside:
            kwargs: dict[str, Any] = {"pil_kwargs": _JPEG} if format_ == "jpg" else {}
            figure.savefig(aside, format=format_, metadata=_METADATA[format_], **kwargs)
    return paths


def class_colors(classes: Sequence[str]) -> dict[str, str]:
    """One colour per class, in the study's class order, the same in every figure."""
    return {label: SERIES[i % len(SERIES)] for i, label in enumerate(classes)}


def blank(width_in: float = PAGE_IN, height_in: float = 3.0) -> Figure:
    """Return an empty figure in the shared style, its layout done when it is drawn."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def evaluated(
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    trials: Mapping[str, pd.DataFrame],
    bests: Mapping[str, Mapping[str, Any]],
    images: pd.DataFrame,
    labels: Sequence[str],
    null: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Draw all figures of data, search and test, by the name of their file.

    Parameters
    ----------
    predictions, images : tables.PREDICTIONS and tables.IMAGES.
    metrics : content of metrics.json.
    trials, bests : per outer fold, tables.TRIALS and the content of best.yaml.
    labels : the classes, in the study's order.
    null : figures of trainings on true (first row) and permuted labels, if there were any.
    """
    commonest = float(predictions["truth"].value_counts(normalize=True).max())
    drawn = {
        "catalogue": catalogue(images, labels),
        "confusion": confusion(evaluation.confusion(predictions, labels)),
        "classes": classes(metrics),
        "baselines": baselines(metrics),
        "levels": levels(metrics),
        "horses": horses(evaluation.by_horse(predictions), commonest),
        "search": search(trials, bests),
    }
    if null is not None:
        drawn["permutation"] = permutation(null, metrics["permutation"])
    return drawn


def catalogue(images: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Photographs per class, and per horse and class (tables.IMAGES; views count once)."""
    photos = images.drop_duplicates("photo_id")
    counts = pd.crosstab(photos["horse"], photos["label"]).reindex(columns=list(labels))
    counts = counts.fillna(0).astype(int)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    figure = blank(PAGE_IN, max(2.4, 1.3 + 0.28 * len(labels)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.9))
    colors = class_colors(labels)

    totals, rows = counts.sum(), np.arange(len(labels))
    left.barh(rows, totals, color=[colors[label] for label in labels], height=0.7)
    for row, label in zip(rows, labels, strict=True):
        n_horses = int((counts[label] > 0).sum())
        left.annotate(
            f" {totals[label]:,} in {n_horses} horses",
            (totals[label], row),
            va="center",
            fontsize=8,
        )
    left.set(title="By class", xlabel="photographs")
    left.set_yticks(rows, list(labels))
    left.invert_yaxis()
    left.set_xlim(0, max(1, totals.max()) * 1.75)

    below, width = np.zeros(len(counts)), 0.85 if len(counts) <= 60 else 1.0
    for label in labels:
        right.bar(np.arange(len(counts)), counts[label], width, below, color=colors[label])
        below += counts[label].to_numpy()
    right.set(title=f"By horse ({len(counts)} horses)", ylabel="photographs")
    _name_horses(right, list(counts.index.astype(str)))
    return figure


def confusion(counts: pd.DataFrame) -> Figure:
    """Images by true (rows) and predicted class, coloured by share of the true class."""
    n = len(counts)
    side = min(PAGE_IN, 1.7 + 0.72 * n)
    figure = blank(side + 0.9, side)
    axes = figure.subplots()
    totals = counts.sum(axis=1).to_numpy()[:, None]
    shares = counts.to_numpy() / np.maximum(totals, 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = max(5.0, 9 - 0.35 * max(0, n - 4))
    for row, column in np.ndindex(n, n):
        share, place = shares[row, column], (column, row)
        color = "white" if share > 0.55 else INK
        axes.annotate(
            f"{int(counts.to_numpy()[row, column]):,}", place, (0, 1), textcoords="offset points",
            ha="center", va="bottom", color=color, fontsize=size, weight="bold",
        )  # fmt: skip
        axes.annotate(
            f"{share:.0%}", place, (0, -1), textcoords="offset points",
            ha="center", va="top", color=color, fontsize=size - 1.5,
        )  # fmt: skip
    labels = list(counts.columns)
    axes.set_xticks(range(n), labels)
    if max(map(len, labels)) > 9:
        axes.tick_params(axis="x", rotation=35)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(n - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(picture, shrink=0.75, aspect=25)
    bar.set_label("share of the true class")
    bar.set_ticks([0, 0.5, 1], labels=["0%", "50%", "100%"])
    bar.outline.set_visible(False)
    return figure


def classes(metrics: Mapping[str, Any]) -> Figure:
    """Recall and precision of every class, with intervals over horses (content of metrics.json)."""
    by_class = evaluation.by_class(metrics)
    n = len(by_class)
    figure = blank(5.8, 1.1 + 0.46 * n)
    axes = figure.subplots()
    rows = np.arange(n)
    for name, marker, color, shift in [
        ("recall", "o", BLUE, -0.13),
        ("precision", "D", ORANGE, 0.13),
    ]:
        columns = by_class[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
        _intervals(axes, columns, rows + shift, marker, color, name.capitalize())
    axes.axvline(1 / n, **REFERENCE, label="Recall by chance")
    axes.set_yticks(
        rows,
        [f"{row[0]}\n{row[1]:,} images, {row[2]} horses" for row in
         by_class[["class", "n_images", "n_horses"]].itertuples(index=False)],
    )  # fmt: skip
    _unit(axes, f"out of fold, with {metrics['confidence']:.0%} intervals over horses")
    axes.set_ylim(n - 0.5, -0.5)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return figure


def baselines(metrics: Mapping[str, Any]) -> Figure:
    """Model and baselines in balanced accuracy and macro-F1; the model's lead, with intervals."""
    found = {"model": metrics, **metrics["baselines"]}
    order = [name for name in PREDICTORS if name in found]
    order += [name for name in found if name not in order]
    figure = blank(PAGE_IN, 1.1 + 0.4 * len(order))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, name in zip(panels[:2], ("balanced_accuracy", "f1_macro"), strict=True):
        _unit(axes, METRICS[name])
        for row, predictor in enumerate(order):
            color = BLUE if predictor == "model" else GREY
            _labelled(axes, found[predictor][name], row, color)
    panels[0].axvline(metrics["chance"], **REFERENCE)
    panels[0].annotate(
        "chance", (metrics["chance"], 1), (0, 2), xycoords=("data", "axes fraction"), ha="center",
        textcoords="offset points", fontsize=7.5, color=GREY,
    )  # fmt: skip
    _unit(panels[2], "Model's lead in macro-F1")
    for row, predictor in enumerate(order):
        if predictor != "model":
            lead = found[predictor]["f1_macro"]["difference"]
            text = evaluation.with_interval(lead["value"], lead["low"], lead["high"], "+.2f")
            _labelled(panels[2], lead, row, GREEN if lead["value"] > 0 else VERMILION, text)
    panels[2].set_xlim(min(-0.25, panels[2].dataLim.x0 - 0.05), 1.03)
    panels[2].axvline(0, **REFERENCE | {"color": INK})
    panels[0].set_yticks(range(len(order)), [PREDICTORS.get(name, name) for name in order])
    panels[0].set_ylim(len(order) - 0.6, -0.6)
    figure.supxlabel(
        f"out of fold, {metrics['n_images']:,} images of {metrics['n_horses']} horses, "
        f"{metrics['confidence']:.0%} intervals over horses",
        fontsize=8,
        color=GREY,
    )
    return figure


def candidates(table: pd.DataFrame, found: Mapping[str, Any], n_shown: int = 30) -> Figure:
    """Every combination of backbone and views: score, difference from the best, cost.

    Parameters
    ----------
    table : candidates.csv, the best first.
    found : content of comparison.json.
    n_shown : rows shown, the best first, and the recommended one.
    """
    if not found["n_compared"]:
        figure = blank(PAGE_IN, 0.7)
        figure.text(0.01, 0.5, found["told"][0], va="center", fontsize=8.5, wrap=True)
        return figure
    metric, n_all = found["metric"], len(table)
    table = table[(np.arange(n_all) < n_shown) | table["recommended"]].reset_index(drop=True)
    rows, marked = np.arange(len(table)), table["recommended"].to_numpy(bool)
    figure = blank(PAGE_IN, 1.25 + 0.27 * len(table))
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.25, 1.25, 0.8))
    figure.set_layout_engine("constrained", wspace=0.05)
    for axes, suffix in zip(panels[:2], ("", "_difference"), strict=True):
        columns = [f"{metric}{suffix}{end}" for end in ("", "_low", "_high")]
        numbers = table[columns].to_numpy(float)
        for own, color in ((~marked, GREY), (marked, BLUE)):
            _intervals(axes, numbers[own], rows[own], "o", color, None)
    panels[0].axvline(found["nested"]["value"], **REFERENCE)
    panels[0].annotate(
        "the study's own", (found["nested"]["value"], 1), (0, 2), ha="center", fontsize=7.5,
        xycoords=("data", "axes fraction"), textcoords="offset points", color=GREY,
    )  # fmt: skip
    panels[0].set_xlabel(METRICS[metric])
    panels[1].axvline(0, **REFERENCE | {"color": INK})
    panels[1].set_xlabel("difference from the best")
    for own, color in ((~marked, GREY), (marked, BLUE)):
        panels[2].barh(rows[own], table["gmacs"][own], 0.55, color=color)
    for row, value in zip(rows, table["gmacs"], strict=True):
        panels[2].annotate(
            f"{value:.3g}", (value, row), (3, 0), textcoords="offset points", va="center",
            fontsize=7.5,
        )  # fmt: skip
    panels[2].set_xlim(0, 1.3 * table["gmacs"].max())
    panels[2].set_xlabel("GMACs a photograph")
    for axes in panels:
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    names = table["backbone"] + " on " + table["views"].str.replace("+", " + ")
    panels[0].set_yticks(rows, names)
    for text, own in zip(panels[0].get_yticklabels(), marked, strict=True):
        text.set(weight="bold" if own else "normal", color=BLUE if own else INK)
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    some = f"the best {n_shown} of {n_all}; " if len(table) < n_all else ""
    figure.supxlabel(
        f"{some}{found['n_images']:,} photographs of {found['n_horses']} unseen horses, "
        f"{found['confidence']:.0%} intervals over horses, of differences together; "
        "blue: recommended",
        fontsize=8,
        color=GREY,
    )
    return figure


def levels(metrics: Mapping[str, Any]) -> Figure:
    """Four figures of the model by image, session and horse, with intervals over horses."""
    found = metrics["levels"]
    figure = blank(PAGE_IN, 1.5 + 0.42 * len(found))
    panels = figure.subplots(1, 4, sharey=True)
    names = ("balanced_accuracy", "f1_macro", "auroc", "auprc")
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(METRICS[name])
        _unit(axes, "")
        axes.set_xticks([0, 0.5, 1])
        for row, level in enumerate(found):
            _labelled(axes, found[level][name], row, BLUE)
    for axes, chance in ((panels[0], metrics["chance"]), (panels[2], 0.5)):
        axes.axvline(chance, **REFERENCE)
        axes.annotate(
            "chance", (chance, 0), (2, 3), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=7.5, color=GREY,
        )  # fmt: skip
    panels[0].set_yticks(
        range(len(found)),
        [f"by {level}\n{judged['n_units']:,} units" for level, judged in found.items()],
    )
    panels[0].set_ylim(len(found) - 0.4, -0.6)
    figure.supxlabel(
        "A unit is an image, or all images of a horse in one annotated emotion (of one session or "
        "video), their\nprobabilities averaged. "
        f"{metrics['confidence']:.0%} intervals over {metrics['n_horses']} horses.",
        fontsize=8,
        color=GREY,
    )
    return figure


def permutation(null: pd.DataFrame, tested: Mapping[str, Any]) -> Figure:
    """Macro-F1 and balanced accuracy of trainings on permuted labels, and on the true ones.

    Parameters
    ----------
    null : a row per training, the first on the true labels.
    tested : ``permutation`` of metrics.json.
    """
    figure = blank(PAGE_IN, 2.5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("f1_macro", "balanced_accuracy"), strict=True):
        values = null[name].to_numpy(float)
        low, high = values.min(), values.max()
        n_bins = min(30, max(8, len(values) // 5))
        edges = np.linspace(low, high, n_bins + 1) if high > low else n_bins
        axes.hist(values[1:], edges, color=SKY, edgecolor="white", linewidth=0.4)
        axes.axvline(values[0], color=VERMILION, linewidth=2)
        left = values[0] < (low + high) / 2
        axes.annotate(
            f"true labels {values[0]:.2f}\np = {tested[name]['p']:.3g}", (values[0], 1),
            (4 if left else -4, -2), xycoords=("data", "axes fraction"), va="top",
            ha="left" if left else "right", textcoords="offset points", fontsize=8.5,
            color=VERMILION, weight="bold",
        )  # fmt: skip
        axes.set_xlabel(METRICS[name])
        axes.margins(x=0.06, y=0.35)  # room for the words
    panels[0].set_ylabel("trainings")
    moved = ", ".join(
        f"{n:,} {kind if n == 1 else kind + 's'}" for kind, n in tested["units"].items() if n
    )
    figure.supxlabel(
        f"Blue: {tested['n_permutations']:,} trainings of the chosen configuration on labels "
        f"exchanged by chance among {moved}, within\nhorses or between horses of one class each; "
        "judged on horses held out. One seed, so that the true labels' figure is not the report's.",
        fontsize=8,
        color=GREY,
    )
    return figure


def horses(by_horse: pd.DataFrame, commonest: float) -> Figure:
    """Accuracy on every horse, by a model that never saw it; a dot's area counts its images.

    ``commonest`` is the accuracy of always naming the commonest class.
    """
    figure = blank(PAGE_IN, 2.3)
    axes = figure.subplots()
    table = by_horse.sort_values(["accuracy", "horse"], kind="stable")
    accuracy, n_images = table["accuracy"].to_numpy(float), table["n_images"].to_numpy(float)
    biggest = 130 if len(table) <= 60 else 50  # area of the largest dot, points²
    areas = np.maximum(biggest * n_images / n_images.max(), 6)
    inner_in = np.array([PAGE_IN - 0.3, 1.3])  # about what the axes will measure
    heights = _swarm(accuracy * inner_in[0] * 72 / 1.04, np.sqrt(areas) + 1.5) / (inner_in[1] * 72)
    axes.scatter(accuracy, heights, areas, color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.6)
    pooled = table["n_correct"].sum() / n_images.sum()
    for place, text, color in [
        (pooled, f"all images {pooled:.2f}", INK),
        (commonest, "commonest class", GREY),
    ]:
        axes.axvline(place, **REFERENCE | {"color": color})
        axes.annotate(
            text, (place, 1), (0, 3), xycoords=("data", "axes fraction"), ha="center",
            textcoords="offset points", fontsize=8, color=color,
        )  # fmt: skip
    _unit(axes, "accuracy on the horse's images")
    axes.set_yticks([])
    axes.set_ylim(*(np.array([-0.5, 0.5]) * max(1, 1.1 * np.ptp(heights) + 0.2)))
    worst = ", ".join(
        f"{row.horse} ({row.n_correct} of {row.n_images})" for row in table.head(3).itertuples()
    )
    figure.supxlabel(
        f"Each dot is a horse, its area the number of images (up to {n_images.max():,.0f}). "
        f"Hardest: {worst}",
        fontsize=8,
        color=GREY,
    )
    return figure


def search(
    trials: Mapping[str, pd.DataFrame], bests: Mapping[str, Mapping[str, Any]], n_shown: int = 30
) -> Figure:
    """Score of every structure tried, in every outer fold, and which was chosen.

    Parameters
    ----------
    trials, bests : per outer fold, tables.TRIALS and the content of ``best.yaml``.
    n_shown : structures shown, the best on average first, and all that were chosen.
    """
    table = pd.concat([frame.assign(fold=fold) for fold, frame in trials.items()])
    table["hidden_units"] = _units(table["hidden_units"])
    fixed = [part for part in _PARTS if part != "head" and table[part].nunique() == 1]
    varied = [part for part in _PARTS if part not in fixed]
    table["structure"] = _joined(table[varied])
    settings = ["learning_rate", "weight_decay", "dropout", "label_smoothing"]
    heads = table.groupby(["structure", "fold", *settings])["score"].mean()  # over seeds
    scores = heads.groupby(["structure", "fold"]).agg(["max", "median"]).reset_index()
    best = pd.DataFrame([best["structure"] for best in bests.values()], index=list(bests))
    for part in ("views", "weight_by"):
        best[part] = best[part].map("+".join)
    best["hidden_units"] = _units(best["hidden_units"])
    winners = _joined(best[varied])

    means = scores.groupby("structure")["max"].mean().sort_values(ascending=False, kind="stable")
    shown = [name for i, name in enumerate(means.index) if i < n_shown or name in set(winners)]
    scores = scores[scores["structure"].isin(shown)]
    rows = scores["structure"].map(shown.index).to_numpy()
    chosen = (scores["structure"] == scores["fold"].map(winners)).to_numpy()

    figure = blank(PAGE_IN, 1.2 + 0.22 * len(shown))
    axes = figure.subplots()
    axes.hlines(
        range(len(shown)), 0, 1, transform=axes.get_yaxis_transform(), color=PALE, linewidth=0.7
    )
    axes.scatter(scores["median"], rows, 22, marker="|", color=GREY, label="median head of a fold")
    axes.scatter(
        scores["max"], rows, 32, color=SKY, edgecolor="white", linewidth=0.5,
        label="best head of a fold",
    )  # fmt: skip
    axes.scatter(
        scores["max"][chosen], rows[chosen], 95, marker="*", color=VERMILION, edgecolor="white",
        linewidth=0.5, zorder=3, label="chosen in a fold",
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    metric = str(next(iter(bests.values()))["metric"])
    axes.set_xlabel(f"{METRICS.get(metric, metric)}, mean over inner folds")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, fontsize=8)
    same = [f"{_PARTS[part]} {table[part].iloc[0]}" for part in fixed if table[part].iloc[0]]
    notes = ["the same for all: " + ", ".join(same)] if same else []
    if len(shown) < len(means):
        notes.append(f"the best {len(shown)} of {len(means)} structures")
    figure.supxlabel("; ".join(notes), fontsize=8, color=GREY)
    return figure


def exploration(bests: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Tell what was compared as a table: fold, way, score, n_tried, chosen.

    Parameters
    ----------
    bests : content of transfer's ``best.yaml``, by outer fold.
    """
    return pd.DataFrame([
        {"fold": fold, "way": way, "score": found["score"], "n_tried": found["n_tried"],
         "chosen": way == best["chosen"]}
        for fold, best in bests.items() for way, found in best["ways"].items()
    ])  # fmt: skip


def transfer(table: pd.DataFrame, metric: str) -> Figure:
    """Score of frozen features and of fine-tuning on the inner folds, in every outer fold.

    Parameters
    ----------
    table : columns fold, way, score, n_tried, chosen, as :func:`exploration` gives it.
    """
    ways = [way for way in WAYS if way in set(table["way"])]
    figure = blank(PAGE_IN, 1.1 + 0.34 * len(ways))
    axes = figure.subplots()
    rows = table["way"].map(ways.index).to_numpy()
    axes.hlines(
        range(len(ways)), 0, 1, transform=axes.get_yaxis_transform(), color=PALE, linewidth=0.7
    )
    means = table.groupby("way")["score"].mean()[ways]
    axes.scatter(means, range(len(ways)), 160, marker="|", color=GREY, label="mean over folds")
    axes.scatter(
        table["score"], rows, 32, color=SKY, edgecolor="white", linewidth=0.5, label="an outer fold"
    )
    won = table["chosen"].to_numpy(bool)
    axes.scatter(
        table["score"][won], rows[won], 95, marker="*", color=VERMILION, edgecolor="white",
        linewidth=0.5, zorder=3, label="chosen in a fold",
    )  # fmt: skip
    tried = table.groupby("way")["n_tried"].max()
    axes.set_yticks(range(len(ways)), [f"{WAYS[way]} ({tried[way]} tried)" for way in ways])
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{METRICS.get(metric, metric)}, mean over inner folds")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, fontsize=8)
    return figure


def _units(numbers: pd.Series) -> pd.Series:
    """Whole numbers as text; none is none, and makes the others floats where they were read."""
    return numbers.map(lambda n: "" if pd.isna(n) else str(int(n)))


def _joined(parts: pd.DataFrame) -> pd.Series:
    """Name a structure by its parts (rows): ``head + whole · grid2 · mlp 64``."""
    texts = parts.rename(columns=str).astype(str)
    rows = [" · ".join(part for part in row if part) for row in texts.itertuples(index=False)]
    return pd.Series(rows, index=parts.index).str.replace("+", " + ").str.replace("mlp · ", "mlp ")


def agreement(found: Mapping[str, Any], n_shown: int = 30) -> Figure:
    """How far raters agree: in all, by class and by rater (of :func:`raters.agreement`).

    ``n_shown`` raters are shown, those with the most photographs.
    """
    if not found["n_photos"]:
        return _sentence("One rater a photograph: agreement cannot be stated.")
    parts = [
        ("In all", "share or kappa",
         [(MEASURES[name], found[name]) for name in MEASURES if name in found]),
        ("Each class", "Fleiss' kappa against all others",
         [(name, of["fleiss_kappa"]) for name, of in found["classes"].items()]),
        ("Each rater", "mean Cohen's kappa with others",
         [(name, of["cohen_kappa"]) for name, of in _busiest(found["raters"], n_shown)]),
    ]  # fmt: skip
    parts = [
        (title, measure, drawn) for title, measure, rows in parts
        if (drawn := [row for row in rows if row[1]["value"] is not None])
    ]  # fmt: skip
    figure = blank(PAGE_IN, 1.2 + 0.27 * max(len(rows) for *_, rows in parts))
    panels = np.atleast_1d(figure.subplots(1, len(parts)))
    for axes, color, (title, measure, rows) in zip(panels, SERIES, parts, strict=False):
        for row, (_, of) in enumerate(rows):
            _labelled(axes, of, row, color)
        _agreement_axis(axes, title, measure, [_cut(name) for name, _ in rows])
        axes.set_xticks([0, 0.5, 1])
    figure.supxlabel(_rested_on(found), fontsize=8, color=GREY)
    return figure


def ceiling(found: Mapping[str, Any], n_shown: int = 30) -> Figure:
    """The model beside the raters, in all and rater by rater (of :func:`raters.ceiling`).

    ``n_shown`` raters are shown, those with the most photographs.
    """
    if not found["n_raters"]:
        return _sentence("No two named raters to set the model beside.")
    whole = [("pair by pair", found["pairwise"]["cohen_kappa"]),
             ("with the others'\nmajority", found["consensus"]["cohen_kappa"])]  # fmt: skip
    single = [
        (_cut(name), of["consensus"]["cohen_kappa"])
        for name, of in _busiest(found["raters"], n_shown)
    ]
    figure = blank(PAGE_IN, 1.4 + 0.36 * max(len(single), len(whole)))
    for axes, title, rows in zip(
        figure.subplots(1, 2),
        ("On average", "With the others' majority"),
        (whole, single),
        strict=True,
    ):
        for who, marker, color, shift in [("raters", "o", GREY, -0.14), ("model", "D", BLUE, 0.14)]:
            numbers = np.array(
                [[of[who][key] for key in ("value", "low", "high")] for _, of in rows], dtype=float
            )
            label = "raters" if who == "raters" else "model, on horses it never saw"
            _intervals(axes, numbers, np.arange(len(rows)) + shift, marker, color, label)
        _agreement_axis(axes, title, "Cohen's kappa", [name for name, _ in rows])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.supxlabel(_rested_on(found), fontsize=8, color=GREY)
    return figure


def _busiest(raters: Mapping[str, Any], n_shown: int) -> list[tuple[str, Any]]:
    """The raters with the most photographs, in the order given."""
    order = sorted(raters, key=lambda name: -raters[name]["n_photos"])[:n_shown]
    return [(name, of) for name, of in raters.items() if name in order]


def _agreement_axis(axes: Axes, title: str, measure: str, names: Sequence[str]) -> None:
    _unit(axes, measure)
    axes.set_title(title)
    axes.set_xlim(min(-0.03, axes.dataLim.x0 - 0.05), 1.03)
    axes.axvline(0, **REFERENCE)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.7)


def _cut(name: str, longest: int = 20) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _rested_on(found: Mapping[str, Any]) -> str:
    return (
        f"{found['n_photos']:,} photographs of {found['n_horses']} horses that two raters or more "
        f"judged, {found['confidence']:.0%} intervals over horses"
    )


def _sentence(text: str) -> Figure:
    figure = blank(PAGE_IN, 0.6)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def _intervals(
    axes: Axes,
    numbers: NDArray[Any],
    rows: NDArray[Any],
    marker: str,
    color: str,
    label: str | None,
) -> None:
    """Draw value, low, high (n, 3) as points with bars; NaN bounds draw none."""
    value, low, high = numbers.T
    axes.hlines(rows, low, high, color=color, linewidth=2, alpha=0.55)
    axes.plot(value, rows, marker, color=color, markersize=6, markeredgecolor="white", label=label)


def _labelled(
    axes: Axes, figure: Mapping[str, float | None], row: int, color: str, text: str | None = None
) -> None:
    """Draw a figure of metrics.json with its interval and, above it, its value or a longer text."""
    numbers = np.array([[figure[key] for key in ("value", "low", "high")]], dtype=float)
    value = numbers[0, 0]
    _intervals(axes, numbers, np.array([row]), "o", color, None)
    side = "center" if text is None else "left" if value < 0.4 else "right"  # keeps it inside
    axes.annotate(
        text or f"{value:.2f}", (value, row), (0, 6), textcoords="offset points",
        ha=side, va="bottom", fontsize=8.5 if text is None else 7.5, weight="bold", color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _unit(axes: Axes, label: str) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.spines["left"].set_visible(False)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x")
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)


def _name_horses(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xlim(-0.7, len(names) - 0.3)
    if len(names) <= 40 and max(map(len, names)) <= 14:
        axes.set_xticks(range(len(names)), list(names), rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_xlabel("horses, from most to fewest photographs")


def _swarm(places: NDArray[Any], widths: NDArray[Any]) -> NDArray[Any]:
    """Move dots (n,) off a line, as little as keeps them apart; all in points, sorted by place."""
    offsets = np.zeros(len(places))
    for i in range(1, len(places)):
        near = np.flatnonzero(places[i] - places[:i] < (widths[:i] + widths[i]) / 2)
        reach = (widths[near] + widths[i]) / 2
        clear = np.sqrt(np.maximum(reach**2 - (places[i] - places[near]) ** 2, 0))
        options = np.concatenate([[0.0], offsets[near] + clear, offsets[near] - clear])
        options = options[np.argsort(np.abs(options), kind="stable")]
        gaps = np.abs(options[:, None] - offsets[near]) + 1e-6
        offsets[i] = options[(gaps >= clear).all(axis=1)][0]
    return offsets
