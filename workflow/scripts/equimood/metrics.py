"""Figures of merit from confusion matrices: the search and the evaluation count alike."""

import numpy as np

CHUNK_FLOATS = 1 << 21  # of a matrix of replicates and rows


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


def ranking(
    score: np.ndarray, positive: np.ndarray, group: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC and the precision-recall curve, one class against the rest.

    As in scikit-learn: rows of equal score are one threshold, and the second area is the average
    precision, a sum of steps, for which a straight line between points would be too kind (Davis
    and Goadrich 2006, doi 10.1145/1143844.1143874).

    Parameters
    ----------
    score, positive : (n,) how sure of the class the predictor is, and whether the row is of it.
    group : (n,) column of ``weights`` that says how often the row counts.
    weights : (B, G), at least 0.

    Returns
    -------
    AUROC and AUPRC, (B,) each; NaN where no row of one side counts.
    """
    order = np.argsort(-score, kind="stable")
    score, positive, group = score[order], positive[order], group[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # rows that end a tie
    first = np.append(0, last[:-1] + 1)
    hits = np.add.reduceat(positive, first, dtype=int) if len(score) else first[:0]
    # Only thresholds with a positive row move either area.
    first, last, hits = first[hits > 0], last[hits > 0], hits[hits > 0]
    ends = np.cumsum(hits)
    areas = np.full((2, len(weights)), np.nan)
    if not len(ends):
        return areas[0], areas[1]
    of_positive = group[positive]
    for rows in np.array_split(
        np.arange(len(weights)), max(1, len(weights) * len(score) // CHUNK_FLOATS)
    ):
        said = np.cumsum(weights[rows].take(group, axis=1), axis=1)  # weight at or above each row
        right = np.cumsum(weights[rows].take(of_positive, axis=1), axis=1).take(ends - 1, axis=1)
        before = np.concatenate([np.zeros((len(rows), 1)), right[:, :-1]], axis=1)
        total, n_right = said[:, -1:], right[:, -1:]
        above = np.where(first > 0, said.take(first - 1, axis=1), 0)
        said = said.take(last, axis=1)
        step = right - before
        n_wrong = total - n_right
        below = n_wrong - (said - right + above - before) / 2  # wrong ones, ties by half
        with np.errstate(invalid="ignore", divide="ignore"):
            areas[0, rows] = (step * below).sum(axis=1) / (n_right * n_wrong)[:, 0]
            areas[1, rows] = (step * _ratio(right, said)).sum(axis=1) / n_right[:, 0]
    return areas[0], areas[1]
