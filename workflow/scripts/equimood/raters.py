"""How far the raters agree, and how the model's agreement with them compares.

Agreement beyond chance sets the ceiling of what a model of the labels can show. The horse is the
unit of uncertainty here too: figures come with intervals over horses (bootstrap and jackknife),
except where one horse alone stands behind them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equimood.intervals import UNIT, draw_horses, interval

MEASURES = {
    "percent_agreement": "Agreement",
    "cohen_kappa": "Cohen's kappa",
    "fleiss_kappa": "Fleiss' kappa",
    "krippendorff_alpha": "Krippendorff's alpha",
    "icc_2_1": "ICC(2,1)",
    "icc_2_k": "ICC(2,k)",
}
MIN_SHARED = 10
"""Photographs that two raters must share to be compared: a kappa of fewer is mostly noise."""

Array = NDArray[Any]
Total = Callable[[Array], Array]
CORRELATION, DIFFERENCE = (-1.0, 1.0), (-2.0, 2.0)  # least and greatest value
BETWEEN_TWO = {"percent_agreement": UNIT, "cohen_kappa": CORRELATION}


@dataclass(frozen=True)
class Panel:
    """Photographs with two ratings or more.

    photo_id, horse : (n,) horse as an index.
    names : the R raters that the table names and that judged one of these photographs.
    codes : (n, R) index of the class that each of them saw, -1 where not rated.
    counts : (n, C) ratings of each class, nameless ones included.
    n_contradictions : photographs that a rater gave two classes; left out for this rater.
    """

    photo_id: Array
    horse: Array
    names: list[str]
    codes: Array
    counts: Array
    n_contradictions: int

    def only(self, rows: Array) -> Self:
        """The photographs of ``rows`` (n, bool)."""
        horse = np.unique(self.horse[rows], return_inverse=True)[1]
        parts = self.photo_id[rows], horse, self.names, self.codes[rows], self.counts[rows]
        return type(self)(*parts, self.n_contradictions)


def panel(ratings: pd.DataFrame, classes: Sequence[str]) -> Panel:
    """Gather the photographs with two ratings or more from tables.RATINGS."""
    twice = ratings["rater"].notna() & ratings.duplicated(["photo_id", "rater"], keep=False)
    n_contradictions = len(ratings[twice].drop_duplicates(["photo_id", "rater"]))
    ratings = ratings[~twice]
    ratings = ratings[ratings.groupby("photo_id")["label"].transform("size") >= 2]
    photo_ids, photo = np.unique(ratings["photo_id"].to_numpy(str), return_inverse=True)
    label = pd.Index(list(classes)).get_indexer(pd.Index(ratings["label"]))
    shape = len(photo_ids), len(classes)
    counts = np.bincount(photo * shape[1] + label, minlength=shape[0] * shape[1]).reshape(shape)
    rater, names = pd.factorize(ratings["rater"], sort=True)
    codes = np.full((len(photo_ids), len(names)), -1, np.int16)
    codes[photo[rater >= 0], rater[rater >= 0]] = label[rater >= 0]
    horses = ratings.drop_duplicates("photo_id").set_index("photo_id")["horse"]
    horse = np.unique(horses.loc[photo_ids].to_numpy(str), return_inverse=True)[1]
    return Panel(photo_ids, horse, [str(name) for name in names], codes, counts, n_contradictions)


def _sum(values: Array) -> Array:
    return np.asarray(values.sum(axis=0))


def percent_agreement(counts: Array, total: Total = _sum) -> Array:
    """Share of the pairs of ratings of a photograph that are equal, mean over photographs.

    Parameters
    ----------
    counts : (n, C) ratings of each class; rows with one rating have no pair.
    total : how values of photographs (n, …) are summed; replicates of a bootstrap come first.
    """
    return _ratio(total(_equal_pairs(counts)), total(counts.sum(axis=1) >= 2))


def fleiss_kappa(counts: Array, total: Total = _sum) -> Array:
    """Fleiss' kappa (1971, Psychological Bulletin 76:378); parameters as of percent_agreement.

    Raters may differ in number from photograph to photograph: chance is then reckoned from the
    mean of the photographs' shares of classes (Gwet 2014, Handbook of inter-rater reliability).
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    p = _ratio(total(shares), total(np.ones((len(counts), 1))))
    return _beyond(percent_agreement(counts, total), (p**2).sum(axis=-1))


def krippendorff_alpha(counts: Array, total: Total = _sum) -> Array:
    """Krippendorff's alpha of classes without order; parameters as of percent_agreement.

    From the coincidences of Hayes and Krippendorff (2007, Communication Methods and Measures 1:77).
    """
    ratings = counts.sum(axis=1)
    n_c = total(counts * (ratings >= 2)[:, None].astype(float))
    n = n_c.sum(axis=-1)
    equal = total(_equal_pairs(counts) * ratings)
    return np.asarray(1 - _ratio((n - 1) * (n - equal), n**2 - (n_c**2).sum(axis=-1)))


def specific_agreement(counts: Array, total: Total = _sum) -> Array:
    """Chance that a second rater sees a class that a first one sees, (…, C).

    Of all pairs of ratings with the class in one, the share with it in both (the proportion of
    specific agreement; Fleiss 1971 has it as a conditional probability).
    """
    others = counts.sum(axis=1, keepdims=True) - 1
    return _ratio(total(counts * (counts - 1.0)), total(counts * others.astype(float)))


def icc(scores: Array, total: Total = _sum) -> tuple[Array, Array]:
    """ICC(2,1) and ICC(2,k): absolute agreement of one rater, and of the mean of all k.

    Two-way random effects, single ratings in the cells: Shrout and Fleiss (1979, Psychological
    Bulletin 86:420); McGraw and Wong (1996, Psychological Methods 1:30) call them ICC(A,1) and
    ICC(A,k).

    Parameters
    ----------
    scores : (n, k) numbers that k raters gave n photographs, none missing.
    total : as of percent_agreement.
    """
    scores = scores - scores.mean()  # keeps the squares small
    k = scores.shape[1]
    n = total(np.ones(len(scores)))
    by_rater = _ratio(total(scores), n[..., None])  # (…, k)
    grand = by_rater.mean(axis=-1)
    rows = k * (total(scores.mean(axis=1) ** 2) - n * grand**2)
    columns = n * ((by_rater - grand[..., None]) ** 2).sum(axis=-1)
    whole = total((scores**2).sum(axis=1)) - n * k * grand**2
    ms_rows, ms_columns = _ratio(rows, n - 1), _ratio(columns, np.asarray(k - 1.0))
    ms_error = _ratio(whole - rows - columns, (n - 1) * (k - 1.0))
    between = ms_rows - ms_error
    raters = _ratio(ms_columns - ms_error, n)
    return (
        _ratio(between, ms_rows + (k - 1) * ms_error + k * raters),
        _ratio(between, ms_rows + raters),
    )


def cohen_kappa(confusion: Array) -> Array:
    """Cohen's kappa (1960, Educational and Psychological Measurement 20:37) of counts (…, C, C)."""
    n = confusion.sum(axis=(-2, -1))
    chance = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1)
    return _beyond(_percent(confusion), _ratio(chance, n.astype(float) ** 2))


def agreement(
    rated: Panel,
    classes: Sequence[str],
    ordered: bool,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Measure how far the raters agree: over all photographs, per class and per rater.

    Returns
    -------
    n_photos (with two ratings or more), n_horses, n_raters (with a name), n_contradictions. Where
    n_photos is not 0, also each of MEASURES as value, low and high (``cohen_kappa`` is the mean
    over pairs of raters, as Light 1971 has it, Psychological Bulletin 76:365); ``classes``: per
    class n_ratings, ``specific_agreement`` and ``fleiss_kappa`` of the class against all others;
    ``raters``: per rater n_photos, and the means of percent_agreement and cohen_kappa over the
    pairs it is in; ``pairs``: a, b, n_photos and both measures of two raters. What cannot be
    reckoned is None.

    Pairs need MIN_SHARED photographs. Intraclass correlations are of the steps of ``ordered``
    classes, on the photographs that every named rater judged.
    """
    found: dict[str, Any] = {
        "n_photos": len(rated.photo_id),
        "n_horses": int(rated.horse.max() + 1) if len(rated.horse) else 0,
        "n_raters": len(rated.names),
        "n_contradictions": rated.n_contradictions,
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
    }
    if not found["n_photos"]:
        return found
    sample = _Sample.draw(rated.horse, n_bootstrap, confidence, seed)
    compared = {
        (a, b): _Compared.of(sample, rated.codes[:, a], rated.codes[:, b], len(classes))
        for a, b in combinations(range(len(rated.names)), 2)
    }
    compared = {pair: of for pair, of in compared.items() if of.n_photos >= MIN_SHARED}
    total, counts = sample.total, rated.counts
    found["percent_agreement"] = sample.figure(percent_agreement(counts, total), UNIT)
    found["cohen_kappa"] = sample.figure(_mean([of.cohen_kappa for of in compared.values()]))
    found["fleiss_kappa"] = sample.figure(fleiss_kappa(counts, total))
    found["krippendorff_alpha"] = sample.figure(krippendorff_alpha(counts, total))
    if ordered:
        found |= _correlations(rated, n_bootstrap, confidence, seed)
    specific = specific_agreement(counts, total)
    found["classes"] = {}
    for c, label in enumerate(classes):
        split = np.stack([counts[:, c], counts.sum(axis=1) - counts[:, c]], axis=1)
        found["classes"][label] = {
            "n_ratings": int(counts[:, c].sum()),
            "specific_agreement": sample.figure(specific[:, c], UNIT),
            "fleiss_kappa": sample.figure(fleiss_kappa(split, total)),
        }
    found["raters"] = {}
    for r, name in enumerate(rated.names):
        judged, own = rated.codes[:, r] >= 0, [of for pair, of in compared.items() if r in pair]
        found["raters"][name] = {"n_photos": int(judged.sum())} | {
            measure: sample.figure(_mean([getattr(of, measure) for of in own]), bounds)
            for measure, bounds in BETWEEN_TWO.items()
        }
    found["pairs"] = [
        {"a": rated.names[a], "b": rated.names[b], "n_photos": of.n_photos}
        | {
            measure: sample.figure(getattr(of, measure), bounds)
            for measure, bounds in BETWEEN_TWO.items()
        }
        for (a, b), of in compared.items()
    ]
    return found


def ceiling(
    rated: Panel,
    predictions: pd.DataFrame,
    classes: Sequence[str],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Set the model's agreement with the raters beside the raters' with each other.

    Both on the same photographs: those judged out of fold that two raters or more judged. Where
    no class had a majority, nothing was judged: the raters agree better here than in all.

    Parameters
    ----------
    predictions : tables.PREDICTIONS of all outer folds.

    Returns
    -------
    n_photos, n_horses, n_raters (that can be compared: 0 or 2 and more). Where n_raters is not 0,
    under ``pairwise`` the mean over pairs of raters beside the mean over pairs of the model and a
    rater, and under ``consensus`` the mean of each rater against the majority of the others (ties
    left out) beside the model against the same majority: for each of BETWEEN_TWO, ``raters``,
    ``model`` and ``difference``, the model minus the raters, as value, low and high. ``raters``
    has the same of each rater.
    """
    answers = predictions.set_index("photo_id")["predicted"]
    rated = rated.only(np.isin(rated.photo_id, answers.index.to_numpy(str)))
    model = pd.Index(list(classes)).get_indexer(pd.Index(answers.loc[rated.photo_id]))
    n_classes = len(classes)
    sample = _Sample.draw(rated.horse, n_bootstrap, confidence, seed)
    pairs: dict[tuple[int, int], _Compared] = {}
    for a, b in combinations(range(len(rated.names)), 2):
        of = _Compared.of(sample, rated.codes[:, a], rated.codes[:, b], n_classes)
        if of.n_photos >= MIN_SHARED:
            pairs[a, b] = of
    members = sorted({r for pair in pairs for r in pair})
    found: dict[str, Any] = {
        "n_photos": len(rated.photo_id),
        "n_horses": int(rated.horse.max() + 1) if len(rated.horse) else 0,
        "n_raters": len(members),
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
    }
    if not members:
        return found

    def compare(first: Array, second: Array) -> _Compared:
        return _Compared.of(sample, first, second, n_classes)

    others = {r: _others(rated, r) for r in members}
    by_rater = {
        "pairwise": {
            r: ([of for pair, of in pairs.items() if r in pair], [compare(model, codes)])
            for r in members
            for codes in [rated.codes[:, r]]
        },
        "consensus": {
            r: ([compare(rated.codes[:, r], rest)], [compare(model, rest)])
            for r, rest in others.items()
        },
    }
    found["raters"] = {rated.names[r]: {} for r in members}
    for kind, of_raters in by_rater.items():
        everyone = list(pairs.values()) if kind == "pairwise" else [
            of for own, _ in of_raters.values() for of in own
        ]  # fmt: skip
        with_model = [of for _, own in of_raters.values() for of in own]
        found[kind] = _beside(sample, everyone, with_model)
        for r, (own, of_model) in of_raters.items():
            judged = rated.codes[:, r] >= 0
            found["raters"][rated.names[r]] |= {
                "n_photos": int(judged.sum()), kind: _beside(sample, own, of_model)
            }  # fmt: skip
    return found


@dataclass(frozen=True)
class _Sample:
    """The horses as they are, as B replicates draw them, and without each: see intervals.stacked.

    weights : (1 + B + H, H).
    """

    horse: Array
    n_bootstrap: int
    weights: Array
    confidence: float

    @classmethod
    def draw(cls, horse: Array, n_bootstrap: int, confidence: float, seed: int) -> Self:
        n_horses = int(horse.max() + 1) if len(horse) else 0
        return cls(horse, n_bootstrap, draw_horses(n_horses, n_bootstrap, seed), confidence)

    def total(self, values: Array) -> Array:
        """Sum values of photographs (n, …) over each sample: (1 + B + H, …)."""
        n_horses = self.weights.shape[1]
        flat = values.reshape(len(values), -1)
        sums = np.stack([np.bincount(self.horse, v, n_horses) for v in flat.T], axis=1)
        return (self.weights @ sums).reshape(-1, *values.shape[1:])

    def figure(
        self, numbers: Array | None, bounds: tuple[float, float] = CORRELATION
    ) -> dict[str, float | None]:
        """Value, low and high of a figure (1 + B + H,) that lies within bounds."""
        if numbers is None or np.isnan(numbers[0]):
            return {"value": None, "low": None, "high": None}
        low, high = interval(numbers, self.n_bootstrap, self.confidence, bounds) or (None, None)
        return {"value": float(numbers[0]), "low": low, "high": high}


@dataclass(frozen=True)
class _Compared:
    """Two raters on the photographs they share (n, bool), in each sample: (1 + B + H,) each."""

    shared: Array
    n_photos: int
    percent_agreement: Array
    cohen_kappa: Array

    @classmethod
    def of(cls, sample: _Sample, first: Array, second: Array, n_classes: int) -> Self:
        """Compare class indices (n,), -1 where there is none."""
        shared = (first >= 0) & (second >= 0)
        n_horses, n_cells = sample.weights.shape[1], n_classes**2
        cell = first[shared].astype(int) * n_classes + second[shared]
        counts = np.bincount(sample.horse[shared] * n_cells + cell, minlength=n_horses * n_cells)
        confusion = sample.weights @ counts.reshape(n_horses, n_cells)
        confusion = confusion.reshape(-1, n_classes, n_classes)
        return cls(shared, int(shared.sum()), _percent(confusion), cohen_kappa(confusion))


def _beside(sample: _Sample, raters: list[_Compared], model: list[_Compared]) -> dict[str, Any]:
    """Means of comparisons among raters and with the model, and their difference."""
    found = {}
    for measure, bounds in BETWEEN_TWO.items():
        of_raters = _mean([getattr(of, measure) for of in raters])
        of_model = _mean([getattr(of, measure) for of in model])
        assert of_raters is not None and of_model is not None
        found[measure] = {
            "raters": sample.figure(of_raters, bounds),
            "model": sample.figure(of_model, bounds),
            "difference": sample.figure(of_model - of_raters, DIFFERENCE),
        }
    return found


def _others(rated: Panel, rater: int) -> Array:
    """The class that most other raters saw, (n,): -1 in a tie, and where the rater saw none."""
    own = rated.codes[:, rater]
    judged = np.flatnonzero(own >= 0)
    counts = rated.counts.copy()
    counts[judged, own[judged]] -= 1
    top = counts.max(axis=1)
    clear = (own >= 0) & ((counts == top[:, None]).sum(axis=1) == 1)
    return np.where(clear, counts.argmax(axis=1), -1)


def _correlations(
    rated: Panel, n_bootstrap: int, confidence: float, seed: int
) -> dict[str, dict[str, float | None] | int]:
    whole = rated.only(np.all(rated.codes >= 0, axis=1))
    n_photos, n_raters = whole.codes.shape
    single: Array | None = None
    average: Array | None = None
    sample = _Sample.draw(whole.horse, n_bootstrap, confidence, seed)
    if n_photos >= 2 and n_raters >= 2:
        single, average = icc(whole.codes.astype(float), sample.total)
    return {
        "icc_2_1": sample.figure(single), "icc_2_k": sample.figure(average),
        "n_icc_photos": n_photos,
    }  # fmt: skip


def table_of_agreement(found: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out :func:`agreement`: level (all, class, rater, pair), name, other, measure, value …"""
    rows: list[dict[str, Any]] = []

    def add(level: str, figures: Mapping[str, Any], name: str = "", other: str = "") -> None:
        for measure, figure in figures.items():
            if isinstance(figure, Mapping) and "value" in figure:
                rows.append(
                    {"level": level, "name": name, "other": other, "measure": measure, **figure}
                )

    add("all", found)
    for level, part in [("class", "classes"), ("rater", "raters")]:
        for name, figures in found.get(part, {}).items():
            add(level, figures, name)
    for pair in found.get("pairs", []):
        add("pair", pair, pair["a"], pair["b"])
    columns = ["level", "name", "other", "measure", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], float))


def table_of_ceiling(found: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out :func:`ceiling`: kind, rater (empty: all), measure, who, value, low, high."""
    parts = [("", found), *found.get("raters", {}).items()]
    rows = [
        {"kind": kind, "rater": rater, "measure": measure, "who": who, **figure}
        for rater, figures in parts
        for kind in ("pairwise", "consensus")
        for measure, beside in figures.get(kind, {}).items()
        for who, figure in beside.items()
    ]
    columns = ["kind", "rater", "measure", "who", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], float))


def _equal_pairs(counts: Array) -> Array:
    """Share of equal pairs among the ratings of each photograph, (n,)."""
    n = counts.sum(axis=1)
    return np.asarray((counts * (counts - 1)).sum(axis=1) / np.maximum(n * (n - 1), 1))


def _percent(confusion: Array) -> Array:
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    return _ratio(hits, confusion.sum(axis=(-2, -1)))


def _beyond(observed: Array, chance: Array) -> Array:
    """Agreement beyond chance; NaN where chance leaves no room."""
    return _ratio(observed - chance, 1 - chance)


def _mean(numbers: Sequence[Array]) -> Array | None:
    """Mean of arrays (1 + B + H,) without their NaN; None of none, NaN where all are."""
    if not numbers:
        return None
    stacked = np.stack(numbers)
    known = ~np.isnan(stacked)
    return _ratio(np.where(known, stacked, 0).sum(axis=0), known.sum(axis=0))


def _ratio(above: Array, below: Array) -> Array:
    """Divide; NaN where the divisor is (but for rounding) 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=np.abs(below) > 1e-12)
