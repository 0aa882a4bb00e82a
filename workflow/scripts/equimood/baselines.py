"""Simpler predictors on the same horses and photographs: what the model must beat."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from equimood import controls, evaluation, features
from equimood.best import Best
from equimood.controls import Evidence


def predict(
    predictions: pd.DataFrame,
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    bests: Mapping[str, Best],
    feature_files: Sequence[Path],
    n_threads: int,
    evidence: Mapping[str, Evidence] | None = None,
) -> dict[str, np.ndarray]:
    """Judge each fold's test photographs by the majority, by logistic regression, by controls.

    The regression has the features of the structure that the search chose in that fold.

    Parameters
    ----------
    predictions : tables.PREDICTIONS of all outer folds.
    photos : as features.photos gives them.
    bests : the chosen configuration of each outer fold.
    evidence : of each control by its name, a row per photograph of ``photos``.

    Returns
    -------
    Per baseline the labels of the rows of ``predictions``, (n_images,).
    """
    label = photos["label"].to_numpy(str)
    splits = splits[splits["fold"].isin(list(bests))]

    def majority(fold: str, trained: NDArray, inner: NDArray, tested: NDArray) -> ArrayLike:
        return np.full(len(tested), evaluation.majority(label[trained]), object)

    def regression(fold: str, trained: NDArray, inner: NDArray, tested: NDArray) -> ArrayLike:
        source = bests[fold].structure.source
        X, X_tested = (
            features.matrix(feature_files, photos.iloc[rows].reset_index(drop=True), *source)
            for rows in (trained, tested)
        )
        return evaluation.logistic_regression(X, label[trained], inner, X_tested, n_threads)

    found = {
        "majority": controls.out_of_fold(photos, splits, majority),
        "logistic_regression": controls.out_of_fold(photos, splits, regression),
    }
    for name, known in (evidence or {}).items():
        found[name] = controls.answers(known, photos, splits, n_threads)
    rows = pd.Index(photos["photo_id"]).get_indexer(pd.Index(predictions["photo_id"]))
    return {name: answers[rows] for name, answers in found.items()}
