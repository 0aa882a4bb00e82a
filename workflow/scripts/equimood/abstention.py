"""When not to answer: the confidence from which on answers are right often enough.

The confidence of an answer is the calibrated probability of the predicted class.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from equimood.settings import NOT_SURE

MIN_HORSES = 5
"""Horses that a threshold rests on: fewer say little of others."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Abstention:
    """When a model answers, as found on horses that it did not see.

    threshold : smallest confidence that is answered, 0 where all are; None where no confidence
        brings the target, and nothing is answered.
    target_accuracy : the share of right answers that is asked for.
    coverage, accuracy : share of photographs answered, and of these answered right; where the
        threshold is None, those of the most accurate choice there was. None without one.
    in_words : the same for a reader.
    """

    threshold: float | None
    target_accuracy: float
    coverage: float | None
    accuracy: float | None
    in_words: str

    def card(self) -> dict[str, Any]:
        """All but the threshold, which stands beside the temperature."""
        return {name: value for name, value in asdict(self).items() if name != "threshold"}


def choose_threshold(
    confidence: ArrayLike, right: ArrayLike, horse: ArrayLike, target_accuracy: float
) -> Abstention:
    """Find the smallest confidence from which on answers reach the target accuracy.

    Of many thresholds the smallest that happens to reach the target is a lucky one. Therefore the
    accuracy of what is answered must reach it when one standard error over horses is taken off,
    and one wrong answer of a further horse is added, without which a perfect score on a few
    photographs would have no error at all. The standard error is that of a ratio of sums over
    horses (linearised; Cochran 1977, Sampling Techniques, chapter 6). In simulations with 6 to
    80 horses of 30 photographs, answers about new horses then missed a target of 0.9 in 13 to 28 %
    of the studies, and by more than 0.03 in at most 9 %; in about half of them where the accuracy
    alone had to reach it. Geifman and El-Yaniv 2017 (arXiv 1705.08500) choose by a bound instead
    that takes images for independent.

    Parameters
    ----------
    confidence, right, horse : (n,) of photographs whose horse the judging heads did not see.
    """
    about = f"for {target_accuracy:.0%} right answers on horses unseen in training"
    if target_accuracy == 0:
        all_right = float(np.asarray(right, float).mean())
        return Abstention(
            0.0, 0.0, 1.0, all_right, "no accuracy is asked for: everything is answered"
        )
    order = np.argsort(-np.asarray(confidence, float), kind="stable")
    sure = np.asarray(confidence, float)[order]
    frame = pd.DataFrame({
        "horse": np.asarray(horse)[order], "right": np.asarray(right, int)[order],
    })  # fmt: skip
    by_horse = frame.groupby("horse", sort=False)["right"]
    r = frame["right"].to_numpy()
    n_before = by_horse.cumcount().to_numpy()  # of the horse, among the surer ones
    k_before = by_horse.cumsum().to_numpy() - r
    n, k = np.arange(1, len(sure) + 1), np.cumsum(r)
    n_horses = np.cumsum(n_before == 0)
    nn, kk, nk = (  # sums over horses of squares and products, the further horse's among them
        extra + np.cumsum(step)
        for extra, step in [
            (1, 2 * n_before + 1),
            (0, r * (2 * k_before + 1)),
            (0, k_before + r * (n_before + 1)),
        ]
    )
    share = k / (n + 1)
    variance = (kk - 2 * share * nk + share**2 * nn) * (n_horses + 1) / n_horses
    careful = share - np.sqrt(np.maximum(variance, 0)) / (n + 1)
    whole = np.append(sure[1:] < sure[:-1], True)  # equal confidences are answered together
    usable = np.flatnonzero(whole & (n_horses >= MIN_HORSES))
    if not len(usable):
        return Abstention(
            None, target_accuracy, None, None,
            f"{about}: not to be told from fewer than {MIN_HORSES} horses; nothing is answered",
        )  # fmt: skip
    fit = usable[careful[usable] >= target_accuracy]
    at = fit[-1] if len(fit) else usable[careful[usable].argmax()]
    coverage, accuracy = float(n[at] / len(sure)), float(k[at] / n[at])
    if not len(fit):
        told = (
            f"{about} no confidence is high enough with a standard error to spare: of the surest "
            f"{n[at]} photographs ({coverage:.0%}) {accuracy:.1%} were right, {careful[at]:.1%} "
            "with the error taken off, at best; nothing is answered"
        )
        return Abstention(None, target_accuracy, coverage, accuracy, told)
    if n[at] == len(sure):
        told = f"{about} no confidence is needed: {accuracy:.1%} of all photographs were right"
        return Abstention(0.0, target_accuracy, coverage, accuracy, told)
    threshold = float(sure[at])
    told = (
        f"{about} a confidence of {threshold:.3f} is needed: {coverage:.0%} of the photographs had "
        f"it, and {accuracy:.1%} of these were right"
    )
    return Abstention(threshold, target_accuracy, coverage, accuracy, told)


def abstention(
    logits: Array, y: Array, horse: ArrayLike, temperature: float, target_accuracy: float
) -> Abstention:
    """Choose the threshold from logits (n, C) of unseen images of the classes y (n,)."""
    p = softmax(logits.astype(float) / temperature, axis=1)
    return choose_threshold(p.max(axis=1), p.argmax(axis=1) == y, horse, target_accuracy)


def answered(confidence: ArrayLike, threshold: Any) -> Array:
    """Say which photographs are answered, bool (n,); none where the threshold is None or NaN."""
    limit = np.asarray(np.nan if threshold is None else threshold, dtype=float)
    return np.asarray(confidence, float) >= limit


def answer(predicted: str, confidence: float, threshold: Any) -> str:
    """Return the class that is answered, or NOT_SURE."""
    return predicted if bool(answered(confidence, threshold)) else NOT_SURE
