"""Figures of merit from confusion matrices: the search and the evaluation count alike."""

import numpy as np


def from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Compute scikit-learn's figures from counts (…, C, C), true classes in rows.

    As there, classes without an image are left out of recall's mean, classes neither shown nor
    predicted out of F1's, and what would be 0/0 is 0. The Matthews correlation of several classes
    is Gorodkin's (2004, Computational Biology and Chemistry 28:367).

    Returns
    -------
    ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``matthews_corrcoef`` (…), and ``recall``,
    ``precision``, ``f1`` (…, C) of each class.
    """
    confusion = np.asarray(confusion, dtype=float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, said = confusion.sum(axis=-1), confusion.sum(axis=-2)  # (…, C)
    total = confusion.sum(axis=(-2, -1))
    recall, f1 = _ratio(hits, true), _ratio(2 * hits, true + said)
    covariance = hits.sum(axis=-1) * total - (true * said).sum(axis=-1)
    variances = (total**2 - (true**2).sum(axis=-1)) * (total**2 - (said**2).sum(axis=-1))
    return {
        "accuracy": _ratio(hits.sum(axis=-1), total),
        "balanced_accuracy": _ratio(recall.sum(axis=-1), (true > 0).sum(axis=-1)),
        "f1_macro": _ratio(f1.sum(axis=-1), (true + said > 0).sum(axis=-1)),
        "matthews_corrcoef": _ratio(covariance, np.sqrt(variances)),
        "recall": recall,
        "precision": _ratio(hits, said),
        "f1": f1,
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
