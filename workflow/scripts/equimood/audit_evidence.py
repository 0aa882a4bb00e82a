"""What labels can be told from without the horse: what the audit measures on the images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from equimood import controls, evaluation
from equimood.audit import Finding
from equimood.controls import Evidence
from equimood.intervals import draw_horses, interval

CONTEXT = ["tack", "human", "object"]  # regions that are not the horse; background is always there


def of_evidence(
    evidence: Mapping[str, Evidence | None],
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    classes: Sequence[str],
    n_threads: int,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> list[Finding]:
    """Judge how well labels are told from each kind of evidence, on the study's outer folds.

    The figure is balanced accuracy with an interval over horses, as for the model itself.

    Parameters
    ----------
    evidence : of ``metadata``, ``picture_facts`` and ``background``, None where there is none; and
        ``hidden_boxes``, which is told beside the background.
    photos : photo_id, label, horse.
    """
    answers = {
        name: controls.answers(known, photos, splits, n_threads)
        for name, known in evidence.items()
        if known is not None
    }
    scores: dict[str, dict[str, Any]] = {}
    chance = 1 / len(classes)
    for name, labels in answers.items():
        known = evidence[name]
        judged = np.array([label is not None for label in labels])
        if known is not None:
            judged &= known.known
        rows = photos[judged].reset_index(drop=True)
        if rows["label"].nunique() < 2:
            continue
        said = labels[judged]
        found = evaluation.paired(
            rows["label"], rows["horse"], {name: said}, classes=classes, reference=name,
            n_bootstrap=n_bootstrap, confidence=confidence, seed=seed,
        )  # fmt: skip
        scores[name] = found[name]["balanced_accuracy"]
    findings = []
    for name in (name for name in evidence if name != "hidden_boxes"):
        score = scores.get(name)
        if score is None:
            findings.append(Finding(name, None, _absent(name)))
            continue
        words = f"balanced accuracy {_told(score)}, chance {chance:.2f}"
        examples = []
        if name == "background" and "hidden_boxes" in scores:
            examples.append(
                f"place and size of what was hidden, alone: {_told(scores['hidden_boxes'])}"
            )
        low, floor = score["low"], chance
        if (
            name == "background" and "hidden_boxes" in scores
        ):  # the hole's own shape is no background
            floor = max(floor, float(scores["hidden_boxes"]["value"]))
        value = None if low is None else max(0.0, low - floor)
        findings.append(Finding(name, value, words, examples))
    return findings


def _absent(name: str) -> str:
    return {
        "metadata": "the table has no column beside those that Equimood knows",
        "background": "left out by `controls.background`, or no box of the horse is known (x0, y0, "
        "x1, y1 or a table of regions)",
    }.get(name, "too few photographs")


def _told(score: Mapping[str, float | None]) -> str:
    assert score["value"] is not None
    return evaluation.with_interval(score["value"], score["low"], score["high"])


def of_context(
    photos: pd.DataFrame, regions: pd.DataFrame, n_bootstrap: int, confidence: float, seed: int
) -> Finding:
    """Compare how often tack, a human or an object is seen in each class and in the others.

    A photograph without a row in the region table says nothing. Intervals draw whole horses.

    Parameters
    ----------
    photos : path, horse, label.
    regions : tables.GIVEN_REGIONS.
    """
    annotated = pd.MultiIndex.from_frame(regions[["image", "horse"]].drop_duplicates())
    keys = pd.MultiIndex.from_frame(photos[["path", "horse"]])
    photos = photos[keys.isin(annotated)].reset_index(drop=True)
    if photos.empty:
        return Finding("context", None, "no table of regions")
    keys = pd.MultiIndex.from_frame(photos[["path", "horse"]])
    told: list[tuple[float, bool, str]] = []
    horse, names = photos["horse"].factorize(sort=True)
    weights = draw_horses(len(names), n_bootstrap, seed)
    for region in CONTEXT:
        rows = regions[(regions["region"] == region) & regions["visible"]]
        seen = keys.isin(pd.MultiIndex.from_frame(rows[["image", "horse"]]))
        if not seen.any():
            continue
        for label in sorted(photos["label"].unique()):
            own = (photos["label"] == label).to_numpy()
            counts = np.zeros((4, len(names)))  # seen and all, of the class and of the others
            for row, kept in enumerate((own & seen, own, ~own & seen, ~own)):
                counts[row] = np.bincount(horse[kept], minlength=len(names))
            totals = weights @ counts.T
            if not totals[0, 1] or not totals[0, 3]:
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = totals[:, ::2] / totals[:, 1::2]
            ends = interval(shares[:, 0] - shares[:, 1], n_bootstrap, confidence, (-1.0, 1.0))
            inside, outside = shares[0]
            certain = ends is None or ends[0] > 0 or ends[1] < 0
            if certain and inside != outside:
                words = (
                    f"{region}: in {inside:.0%} of the photographs of {label}, in {outside:.0%} of "
                    "the others"
                )
                told.append((-abs(inside - outside), inside < outside, words))
    if not told:
        return Finding("context", 0, "none goes certainly with a class")
    told.sort()
    largest = {words.split(":")[0]: words for _, _, words in reversed(told)}
    others = [words for words in largest.values() if words != told[0][2]]
    return Finding("context", float(-told[0][0]), told[0][2], others)
