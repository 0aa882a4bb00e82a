"""Figures of merit as functions of how often each horse counts.

The whole study is one weight a horse, a bootstrap replicate another, the study without a horse a
third: whatever an interval needs is one call on a matrix of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from equimood.metrics import from_confusion, ranking

Array = NDArray[Any]


@dataclass(frozen=True)
class Scorer:
    """What one predictor said of the rows of a study.

    truth, predicted : (n,) positions of the classes.
    horse : (n,) 0 to n_horses - 1.
    probabilities : (n, C), None of a predictor that gives labels alone.
    """

    truth: Array
    predicted: Array
    horse: Array
    n_horses: int
    n_classes: int
    probabilities: Array | None = None

    @classmethod
    def of(
        cls,
        truth: ArrayLike,
        predicted: ArrayLike,
        horse: ArrayLike,
        classes: Sequence[str],
        probabilities: ArrayLike | None = None,
    ) -> Self:
        """Take labels and names of horses as tables have them, (n,)."""
        names, code = np.unique(np.asarray(horse, dtype=str), return_inverse=True)
        return cls(
            codes(truth, classes), codes(predicted, classes), code, len(names), len(classes),
            None if probabilities is None else np.asarray(probabilities, float),
        )  # fmt: skip

    def __call__(self, weights: ArrayLike) -> dict[str, Array]:
        """Score the study with the horses weighted (B, n_horses).

        Returns
        -------
        (B,) by the name of a figure, and (B, C) of each class: recall, precision, f1; with
        probabilities also auroc, auprc (macro), log_loss, brier_score, and class_auroc,
        class_auprc.
        """
        weights = np.asarray(weights, dtype=float)
        figures = from_confusion(np.tensordot(weights, self.confusion(), axes=1))
        if self.probabilities is None:
            return figures
        images = weights @ np.bincount(self.horse, minlength=self.n_horses)
        for name, loss in _losses(self.probabilities, self.truth).items():
            figures[name] = (weights @ np.bincount(self.horse, loss, self.n_horses)) / images
        by_class = [
            ranking(self.probabilities[:, c], self.truth == c, self.horse, weights)
            for c in range(self.n_classes)
        ]
        for name, of_class in zip(("auroc", "auprc"), zip(*by_class, strict=True), strict=True):
            each = np.stack(of_class, axis=-1)  # (B, C)
            shown = np.isfinite(each)
            figures[f"class_{name}"] = each
            figures[name] = np.where(shown, each, 0).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)
        return figures

    def confusion(self) -> Array:
        """Count images per horse, true class and predicted class: (n_horses, C, C)."""
        cell = (self.horse * self.n_classes + self.truth) * self.n_classes + self.predicted
        shape = (self.n_horses, self.n_classes, self.n_classes)
        return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)

    @property
    def shows(self) -> Array:
        """Which classes each horse shows: (n_horses, C) bool."""
        return self.confusion().sum(axis=2) > 0


def codes(labels: ArrayLike, classes: Sequence[str]) -> Array:
    """Return (n,) positions in ``classes``."""
    found = pd.Index(list(classes)).get_indexer(pd.Index(np.asarray(labels, dtype=object)))
    if (found < 0).any():
        unknown = np.asarray(labels, dtype=object)[found < 0][0]
        raise ValueError(f"label {unknown!r} is not among the classes {list(classes)}")
    return np.asarray(found)


def _losses(p: Array, truth: Array) -> dict[str, Array]:
    """Return the log loss and Brier score of each image, (n,): 0 is best.

    With two classes the Brier score is halved, as it was first written for the two-class case.
    """
    n_classes = p.shape[1]
    is_true = np.eye(n_classes)[truth]
    eps = np.finfo(float).eps
    brier = ((p - is_true) ** 2).sum(axis=1)
    return {
        "log_loss": -np.log(np.clip((p * is_true).sum(axis=1), eps, 1 - eps)),
        "brier_score": brier / 2 if n_classes == 2 else brier,
    }
