"""How far a confidence can be trusted: reliability, and accuracy against coverage.

The confidence of an answer is the calibrated probability of the predicted class. Photographs of
one horse resemble one another, so horses are the unit of every interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from equimood import evaluation
from equimood.abstention import answered
from equimood.files import write_json, write_text
from equimood.intervals import UNIT, draw_horses, expanded_percentiles, interval

N_BINS = 10
"""Bins of equal mass, fewer where they would hold fewer than IMAGES_PER_BIN photographs."""
IMAGES_PER_BIN = 10
N_POINTS = 200
"""Points of the risk-coverage curve at most."""

Array = NDArray[Any]


def equal_mass_bins(confidence: ArrayLike) -> Array:
    """Put confidences (n,) into bins of about equal numbers: (n,) 0, 1, …; equal ones together."""
    confidence = np.asarray(confidence, float)
    n_bins = min(N_BINS, max(1, len(confidence) // IMAGES_PER_BIN))
    edges = np.quantile(confidence, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1]


def judge(
    predictions: pd.DataFrame,
    temperatures: Mapping[str, float],
    classes: Sequence[str],
    target_accuracy: float,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Judge confidences, and answers held back, on pooled out-of-fold predictions.

    Parameters
    ----------
    predictions : tables.PREDICTIONS with a column ``p_{class}`` per class.
    temperatures : of each fold's model, with which the uncalibrated probabilities are restored.

    Returns
    -------
    Content of ``calibration.json``. Figures are ``{"value", "low", "high"}``:
    ``before`` and ``after`` the temperature: ``ece``, ``ece_plain``, ``ece_chance``, ``bins``
    (n_images, n_horses, confidence, accuracy with low and high) and ``histogram`` (photographs
    predicted right and wrong in twentieths of confidence); ``aurc``, ``error`` and ``curve``
    (threshold, coverage, accuracy with low and high); ``coverage`` and ``accuracy`` of what is
    answered at each fold's own threshold; ``unlike_training``: share flagged; ``folds`` (fold,
    temperature, threshold, n_images, n_answered, n_right); ``classes``: of each, ``ece`` and
    ``ece_before`` of its probability, ``coverage`` and ``recall`` of its photographs,
    ``precision`` of its answers.

    Notes
    -----
    ``ece_plain`` is the expected calibration error (Guo et al. 2017, arXiv 1706.04599) of the
    predicted class in N_BINS bins of equal mass: sum over bins of |sum of confidence - right| / n.
    It comes out too large, the more so the more bins and the fewer photographs: gaps of chance do
    not cancel (Kumar et al. 2019, arXiv 1909.10155; Roelofs et al. 2022, arXiv 2012.08668).
    ``ece`` takes off the bias that the bootstrap over horses shows, the replicates' mean minus
    ``ece_plain`` (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 10), and
    never falls below 0; the replicates of its interval are shifted by twice that bias.
    ``ece_chance`` is the plain error that true confidences would show, from the replicates'
    deviations: mean, and the range of chance. Where ``ece_plain`` lies inside it, 0 belongs to the
    interval of ``ece``, which is then still above 0 and no evidence. What all of them miss are gaps
    of opposite sign inside one bin.

    ``aurc`` is the area under the risk-coverage curve (Geifman et al. 2019, arXiv 1805.08206): the
    mean, over photographs from surest to least sure, of the error among those at least as sure. An
    order by chance has ``error``, the share of wrong answers.
    """
    p = predictions[[f"p_{label}" for label in classes]].to_numpy(float)
    truth = pd.Index(list(classes)).get_indexer(pd.Index(predictions["truth"]))
    best = p.argmax(axis=1)
    sure, right = p.max(axis=1), best == truth
    of_fold = predictions["fold"].map(temperatures).to_numpy(float)
    before = softmax(np.log(np.maximum(p, np.finfo(float).tiny)) * of_fold[:, None], axis=1)
    answers = answered(sure, predictions["threshold"].to_numpy(float))
    over = _Horses.drawn(predictions["horse"].to_numpy(str), n_bootstrap, confidence, seed)

    found: dict[str, Any] = {
        "before": _reliability(before.max(axis=1), right, over),
        "after": _reliability(sure, right, over),
        **_risk_coverage(sure, right, over),
        "error": over.share(~right),
        "coverage": over.share(answers),
        "accuracy": over.share(right, answers),
        "unlike_training": over.share(predictions["novelty"].to_numpy(float) > 1),
        "folds": _folds(predictions, temperatures, answers, right),
        "classes": {
            label: {
                "n_images": int((truth == c).sum()),
                "n_answered": int((answers & (truth == c)).sum()),
                "ece_before": _ece(before[:, c], truth == c, over)["ece"],
                "ece": _ece(p[:, c], truth == c, over)["ece"],
                "coverage": over.share(answers, truth == c),
                "recall": over.share(right, answers & (truth == c)),
                "precision": over.share(right, answers & (best == c)),
            }
            for c, label in enumerate(classes)
        },
    }
    return found | {
        "target_accuracy": target_accuracy,
        "n_images": len(predictions),
        "n_horses": len(over.names),
        "n_answered": int(answers.sum()),
        "n_bins": len(found["after"]["bins"]),
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
    }


@dataclass(frozen=True)
class _Horses:
    """The horses behind the photographs, and how often each counts."""

    names: Array
    horse: Array  # (n,) index into names
    n_bootstrap: int
    weights: Array  # of horses, see intervals.draw_horses
    confidence: float

    @classmethod
    def drawn(cls, horse: Array, n_bootstrap: int, confidence: float, seed: int) -> "_Horses":
        names, index = np.unique(horse, return_inverse=True)
        weights = draw_horses(len(names), n_bootstrap, seed)
        return cls(names, index, n_bootstrap, weights, confidence)

    @property
    def draws(self) -> Array:
        """How often each horse is drawn, (B, n_horses)."""
        return self.weights[1 : 1 + self.n_bootstrap]

    def sums(self, values: Array, groups: Array | None = None, n_groups: int = 1) -> Array:
        """Sum values (n,) by horse and group (n,): (n_horses, n_groups)."""
        cell = self.horse * n_groups + (0 if groups is None else groups)
        summed = np.bincount(cell, np.asarray(values, float), len(self.names) * n_groups)
        return summed.reshape(len(self.names), n_groups)

    def interval(self, figure: Array) -> dict[str, float | None]:
        """Value, low and high of a share on ``weights``, (1 + B + n_horses,); NaN is None."""
        if np.isnan(figure[0]):
            return {"value": None, "low": None, "high": None}
        low, high = interval(figure, self.n_bootstrap, self.confidence, UNIT) or (None, None)
        return {"value": float(figure[0]), "low": low, "high": high}

    def shares(self, above: Array, below: Array) -> list[dict[str, float | None]]:
        """Ratios, with intervals, of sums by horse and group, (n_horses, n_groups) each."""
        return [self.interval(of) for of in _ratio(self.weights @ above, self.weights @ below).T]

    def share(self, rows: Array, of: Array | None = None) -> dict[str, float | None]:
        """Share of photographs ``rows`` (n, bool) among ``of`` (n, bool; all)."""
        of = np.ones(len(rows), bool) if of is None else of
        return self.shares(self.sums(rows & of), self.sums(of))[0]


def _ece(confidence: Array, right: Array, over: _Horses) -> dict[str, Any]:
    """Expected calibration error, plain, by chance, and with its bias off: see :func:`judge`."""
    bins = equal_mass_bins(confidence)
    gaps = over.sums(confidence - right, bins, bins.max() + 1)  # (n_horses, n_bins)
    images = over.sums(np.ones(len(bins)))[:, 0]
    plain = np.abs(gaps.sum(axis=0)).sum() / images.sum()
    drawn, drawn_images = over.draws @ gaps, over.draws @ images
    replicates = np.abs(drawn).sum(axis=1) / drawn_images
    by_chance = np.abs(drawn - gaps.sum(axis=0)).sum(axis=1) / drawn_images
    chance = _read(by_chance.mean(), by_chance, over)
    bias = replicates.mean() - plain
    corrected = _read(max(0.0, plain - bias), np.maximum(replicates - 2 * bias, 0), over)
    if chance["high"] is None or plain <= chance["high"]:
        corrected["low"] = None if corrected["high"] is None else 0.0
    return {
        "ece": corrected,
        "ece_plain": {"value": float(plain), "low": None, "high": None},
        "ece_chance": chance,
    }


def _read(value: float, replicates: Array, over: _Horses) -> dict[str, float | None]:
    """Read an interval from replicates alone: an error at 0 has no symmetric one."""
    low: float | None = None
    high: float | None = None
    if len(over.names) > 1 and np.ptp(replicates):
        low, high = expanded_percentiles(replicates, len(over.names), over.confidence)
    return {"value": float(value), "low": low, "high": high}


def _reliability(confidence: Array, right: Array, over: _Horses) -> dict[str, Any]:
    bins = equal_mass_bins(confidence)
    n_bins = bins.max() + 1
    images = over.sums(np.ones(len(bins)), bins, n_bins)
    sums = over.sums(confidence, bins, n_bins).sum(axis=0)
    drawn = over.shares(over.sums(right, bins, n_bins), images)
    return _ece(confidence, right, over) | {
        "bins": [
            {
                "n_images": int(images[:, b].sum()),
                "n_horses": int((images[:, b] > 0).sum()),
                "confidence": float(sums[b] / images[:, b].sum()),
                "accuracy": accuracy,
            }
            for b, accuracy in enumerate(drawn)
        ],
        "histogram": {
            name: np.histogram(confidence[rows], np.linspace(0, 1, 21))[0].tolist()
            for name, rows in (("right", right), ("wrong", ~right))
        },
    }


def _risk_coverage(confidence: Array, right: Array, over: _Horses) -> dict[str, Any]:
    """Accuracy of what is answered at each of up to N_POINTS thresholds, and the area above it."""
    values = np.unique(confidence)
    if len(values) > N_POINTS:
        values = np.unique(np.quantile(confidence, np.linspace(0, 1, N_POINTS), method="lower"))
    step = np.searchsorted(values, confidence, side="right") - 1

    def from_the_surest(rows: Array) -> Array:
        return over.sums(rows, step, len(values))[:, ::-1].cumsum(axis=1)

    images, hits = from_the_surest(np.ones(len(right))), from_the_surest(right)
    areas = _area(over.weights @ images, over.weights @ hits)
    coverage = images.sum(axis=0) / len(right)
    return {
        "aurc": over.interval(areas),
        "curve": [
            {"threshold": float(threshold), "coverage": float(share), "accuracy": accuracy}
            for threshold, share, accuracy in zip(
                values[::-1], coverage, over.shares(hits, images), strict=True
            )
        ],
    }


def _area(images: Array, hits: Array) -> Array:
    """Area under the risk-coverage curve, (B,), of counts (B, n_points) from the surest on."""
    risk = np.nan_to_num(1 - _ratio(hits, images))
    return _ratio((np.diff(images, axis=1, prepend=0) * risk).sum(axis=1), images[:, -1])


def _folds(
    predictions: pd.DataFrame, temperatures: Mapping[str, float], answers: Array, right: Array
) -> list[dict[str, Any]]:
    frame = predictions[["fold", "threshold"]].assign(answers=answers, right=answers & right)
    rows = []
    for fold, own in frame.groupby("fold", sort=True):
        threshold = own["threshold"].iloc[0]
        rows.append({
            "fold": fold,
            "temperature": temperatures[str(fold)],
            "threshold": None if pd.isna(threshold) else float(threshold),
            "n_images": len(own),
            "n_answered": int(own["answers"].sum()),
            "n_right": int(own["right"].sum()),
        })  # fmt: skip
    return rows


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


# -------------------------------------------------------------------------------------- tables

FIGURES = {  # of all photographs: where they stand in calibration.json
    "ece_before": ("before", "ece"),
    "ece_plain_before": ("before", "ece_plain"),
    "ece": ("after", "ece"),
    "ece_plain": ("after", "ece_plain"),
    "ece_chance": ("after", "ece_chance"),
    "aurc": ("aurc",),
    "error": ("error",),
    "coverage": ("coverage",),
    "accuracy": ("accuracy",),
    "unlike_training": ("unlike_training",),
}
OF_CLASS = ("ece_before", "ece", "coverage", "recall", "precision")


def table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out the figures as rows: class (empty: all photographs), figure, value, low, high."""
    rows = []
    for name, path in FIGURES.items():
        figure: Any = found
        for key in path:
            figure = figure[key]
        rows.append({"class": "", "figure": name, **figure})
    for label, own in found["classes"].items():
        rows += [{"class": label, "figure": name, **own[name]} for name in OF_CLASS]
    frame = pd.DataFrame(rows)
    return frame.astype({"value": float, "low": float, "high": float})


def write_tables(found: Mapping[str, Any], folder: Path) -> None:
    """Write ``calibration.json``, the table with all digits as CSV, and one for a paper as LaTeX.

    In the latter, "right" is the share of right answers among those given: of the photographs of a
    class, its recall.
    """
    write_json(folder / "calibration.json", found)
    whole = table(found)
    write_text(folder / "calibration.csv", whole.to_csv(index=False))
    everything = {
        "ece_before": found["before"]["ece"],
        "ece": found["after"]["ece"],
        "coverage": found["coverage"],
        "right": found["accuracy"],
        "precision": {"value": None, "low": None, "high": None},
    }
    per_class = {
        label: {name: own.get(name, own["recall"]) for name in everything}
        for label, own in found["classes"].items()
    }
    titles = ["ECE before", "ECE", "Answered", "Right", "Precision"]
    printed = pd.DataFrame([
        {"Class": label}
        | {
            title: "" if figure["value"] is None else evaluation.with_interval(**figure)
            for title, figure in zip(titles, own.values(), strict=True)
        }
        for label, own in [*per_class.items(), ("All", everything)]
    ])  # fmt: skip
    write_text(folder / "calibration.tex", evaluation.latex(printed))
