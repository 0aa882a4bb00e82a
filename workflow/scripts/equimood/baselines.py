"""Simpler predictors on the same horses and photographs: what the model must beat."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equimood import evaluation, features
from equimood.search import Best


def predict(
    predictions: pd.DataFrame,
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    bests: Mapping[str, Best],
    feature_files: Sequence[Path],
    n_threads: int,
) -> dict[str, np.ndarray]:
    """Judge each fold's test photographs by the majority and by logistic regression.

    The regression has the features of the structure that the search chose in that fold.

    Parameters
    ----------
    predictions : tables.PREDICTIONS of all outer folds.
    photos : as features.photos gives them.
    bests : the chosen configuration of each outer fold.

    Returns
    -------
    Per baseline the labels of the rows of ``predictions``, (n_images,).
    """
    answers = {
        name: np.empty(len(predictions), object) for name in ("majority", "logistic_regression")
    }
    by_id = photos.set_index("photo_id", drop=False)
    for fold, best in bests.items():
        tested = (predictions["fold"] == fold).to_numpy()
        if not tested.any():
            continue
        inner = splits[(splits["fold"] == fold) & (splits["role"] == "train")]
        inner_fold = photos["horse"].map(inner.set_index("horse")["inner_fold"])
        trained = photos[inner_fold.notna()]

        def matrix(rows: pd.DataFrame, best: Best = best) -> np.ndarray:
            chosen = best.structure
            return features.matrix(
                feature_files, rows, list(chosen.views), chosen.backbone, chosen.pooling
            )

        answers["majority"][tested] = evaluation.majority(trained["label"])
        answers["logistic_regression"][tested] = evaluation.logistic_regression(
            matrix(trained),
            trained["label"],
            inner_fold[inner_fold.notna()].astype(int),
            matrix(by_id.loc[predictions["photo_id"][tested]].reset_index(drop=True)),
            n_threads,
        )
    return answers
