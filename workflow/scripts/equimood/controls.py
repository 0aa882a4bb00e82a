"""What labels can be told from without looking at the horse: out-of-fold answers of simple models.

The audit and the baselines ask the same question by the same code: each outer fold's test horses
are judged by a model of its training horses, whose settings the inner folds choose. Whole horses
stand on either side, as everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from threadpoolctl import threadpool_limits

from equimood import evaluation, features, regions, tables
from equimood.splits import FINAL

TREES = {"max_leaf_nodes": [3, 15]}
N_ROUNDS, RATE = 40, 0.15
LEAST_IN_LEAF = 10
MAX_LEVELS = 200  # scikit-learn's histograms hold 255 categories
GRID = 8  # cells per side in which the hidden boxes are drawn

Array = NDArray[np.generic]
Answer = Callable[[str, Array, Array, Array], ArrayLike]
"""Fold, rows that train, their inner folds, rows to judge -> labels of the rows to judge."""


@dataclass(frozen=True)
class Evidence:
    """What a control may look at, a row per photograph.

    known : (n_photos,) which photographs have it; the others get the commonest class.
    table : a column per fact, numbers or categories, for gradient-boosted trees; or
    matrix : (n_photos, d) features, for logistic regression.
    """

    known: NDArray[np.bool_]
    table: pd.DataFrame | None = None
    matrix: NDArray[np.float32] | None = None


def out_of_fold(photos: pd.DataFrame, splits: pd.DataFrame, answer: Answer) -> NDArray[np.object_]:
    """Let every outer fold's test photographs be judged: (n_photos,), None where never tested.

    Parameters
    ----------
    photos : photo_id, label, horse; any order.
    splits : tables.SPLITS; ``final`` is left out.
    """
    answers = np.full(len(photos), None, object)
    for fold, sides in splits[splits["fold"] != FINAL].groupby("fold", sort=False):
        inner = photos["horse"].map(sides.set_index("horse")["inner_fold"]).to_numpy(float)
        tested, trained = np.flatnonzero(inner == -1), np.flatnonzero(inner >= 0)
        if len(tested):
            answers[tested] = np.asarray(
                answer(str(fold), trained, inner[trained].astype(int), tested), object
            )
    return answers


def answers(
    evidence: Evidence, photos: pd.DataFrame, splits: pd.DataFrame, n_threads: int
) -> NDArray[np.object_]:
    """Judge photographs from one kind of evidence: see :func:`out_of_fold`."""
    label = photos["label"].to_numpy(str)

    def judge(fold: str, trained: Array, inner: Array, tested: Array) -> ArrayLike:
        found = np.full(len(tested), evaluation.majority(label[trained]), object)
        learnt, asked = evidence.known[trained], evidence.known[tested]
        rows, inner = trained[learnt], inner[learnt]
        # Evidence of few photographs may leave an inner fold, or all, with one class.
        shown = [len(set(label[rows[inner != fold]])) for fold in set(inner.tolist())]
        if not asked.any() or len(shown) < 2 or min(shown) < 2:
            return found
        if evidence.matrix is not None:
            X = evidence.matrix
            found[asked] = evaluation.logistic_regression(
                X[rows], label[rows], inner, X[tested[asked]], n_threads
            )
        elif evidence.table is not None:
            X_train, X_test = (evidence.table.iloc[part] for part in (rows, tested[asked]))
            found[asked] = boosted_trees(X_train, label[rows], inner, X_test)
        return found

    return out_of_fold(photos, splits, judge)


def boosted_trees(
    X_train: pd.DataFrame,
    y_train: ArrayLike,
    inner_fold: ArrayLike,
    X_test: pd.DataFrame,
) -> Array:
    """Predict test rows of a table by gradient-boosted trees; what is missing stays missing.

    A missing value goes down the branch that suits it best, so that "not visible" is a fact of its
    own and never counts as absent (scikit-learn's HistGradientBoostingClassifier, after LightGBM:
    Ke et al. 2017). The size of the trees is chosen by macro-F1 over the study's inner folds;
    classes weigh the same.

    Parameters
    ----------
    X_train : (n, d) numbers, or categories of pandas' type.
    y_train : (n,) labels.
    inner_fold : (n,) inner fold of each row's horse.
    X_test : (m, d).

    Returns
    -------
    (m,) predicted labels.
    """
    trees = HistGradientBoostingClassifier(
        max_iter=N_ROUNDS,
        learning_rate=RATE,
        min_samples_leaf=LEAST_IN_LEAF,
        class_weight="balanced",
        categorical_features="from_dtype",
        early_stopping=False,  # it would set rows aside, not horses
        random_state=0,
    )
    search = GridSearchCV(
        trees,
        TREES,
        scoring="f1_macro",
        cv=PredefinedSplit(np.asarray(inner_fold)),
        error_score="raise",
    )
    with threadpool_limits(1):  # these tables are small: threads would wait for one another
        search.fit(X_train, np.asarray(y_train, dtype=str))
        return np.asarray(search.predict(X_test))


# ------------------------------------------------------------------------------------ evidence


def metadata(photos: pd.DataFrame, covariates: pd.DataFrame) -> Evidence | None:
    """The user's other columns, the session and its number within the horse.

    A column of numbers is numbers; any other is categories, of which those that only one horse has
    say nothing of another horse and are left out.

    Parameters
    ----------
    photos : photo_id, horse, session.
    covariates : photo_id, then columns of text.
    """
    given = covariates.set_index("photo_id").reindex(photos["photo_id"]).reset_index(drop=True)
    given["session"] = photos["session"].to_numpy()
    visit = photos.groupby("horse")["session"].rank("dense").to_numpy(float)
    columns: dict[str, pd.Series] = {"number of the session": pd.Series(visit)}
    for name in given:
        text = given[name]
        numbers = pd.to_numeric(text, errors="coerce")
        if numbers.notna().sum() == text.notna().sum():
            columns[str(name)] = numbers.astype(float)
            continue
        n_horses = photos["horse"].reset_index(drop=True).groupby(text).nunique()
        counts = text.value_counts()
        shared = counts.index[n_horses.reindex(counts.index) > 1][:MAX_LEVELS]
        levels = pd.CategoricalDtype(sorted(shared))
        columns[str(name)] = text.where(text.isin(shared)).astype(levels)
    table = pd.DataFrame(
        {k: column for k, column in columns.items() if column.nunique(dropna=False) > 1}
    )
    if table.empty:
        return None
    return Evidence(np.ones(len(photos), bool), table=table)


def picture_facts(photos: pd.DataFrame, images: pd.DataFrame, colours: pd.DataFrame) -> Evidence:
    """Size, proportions, and the mean and spread of each colour channel of each picture."""
    sizes = images.drop_duplicates("photo_id").set_index("photo_id")[["width", "height"]]
    table = sizes.reindex(photos["photo_id"]).astype(float)
    table["aspect"] = table["width"] / table["height"]
    table = table.join(colours.set_index("photo_id")).reset_index(drop=True)
    return Evidence(np.ones(len(photos), bool), table=table)


def embedded(
    photos: pd.DataFrame,
    images: pd.DataFrame,
    feature_files: Sequence[Path],
    views: list[str],
    backbone: str,
    pooling: str,
) -> Evidence | None:
    """Features of views in which a photograph may be missing; None if all are.

    Parameters
    ----------
    images : tables.IMAGES or tables.CONTROLS with these views.
    """
    shown = features.photos(images, views)
    shown = shown[shown["photo_id"].isin(photos["photo_id"])].reset_index(drop=True)
    if shown.empty:
        return None
    vectors = features.matrix(feature_files, shown, views, backbone, pooling)
    place = pd.Index(photos["photo_id"]).get_indexer(pd.Index(shown["photo_id"]))
    matrix = np.zeros((len(photos), vectors.shape[1]), np.float32)
    matrix[place] = vectors
    known = np.zeros(len(photos), bool)
    known[place] = True
    return Evidence(known, matrix=matrix)


def hidden_boxes(photos: pd.DataFrame, controls: pd.DataFrame) -> Evidence:
    """Where the background's filled boxes lie: the share hidden of each of 8 × 8 cells.

    It says how much of what the background tells comes from the shape of the hole.
    """
    hidden = controls.set_index("photo_id")[["hidden", "width", "height"]]
    hidden = hidden.reindex(photos["photo_id"])
    matrix = np.zeros((len(photos), GRID**2), np.float32)
    for i, (text, width, height) in enumerate(hidden.itertuples(index=False)):
        if isinstance(text, str):
            scale = np.tile([GRID / width, GRID / height], 2)
            x0, y0, x1, y1 = (np.array(tables.read_hidden(text)) * scale).T
            over = (
                regions.overlap(y0, y1, GRID)[:, :, None] * regions.overlap(x0, x1, GRID)[:, None]
            )
            matrix[i] = over.max(axis=0).ravel()
    return Evidence(hidden["hidden"].notna().to_numpy(), matrix=matrix)


def codes(photos: pd.DataFrame, table: pd.DataFrame) -> Evidence:
    """Action-unit codes of tables.read_codes, NaN where not visible.

    Parameters
    ----------
    photos : path, horse.
    """
    keys = pd.MultiIndex.from_arrays([photos["path"], photos["horse"]])
    given = table.set_index(["image", "horse"])
    known = keys.isin(given.index)
    return Evidence(np.asarray(known), table=given.reindex(keys).reset_index(drop=True))


def gather(
    photos: pd.DataFrame,
    images: pd.DataFrame,
    aside: pd.DataFrame,
    covariates: pd.DataFrame | None,
    feature_files: Sequence[Path],
    networks: Mapping[str, Mapping[str, Any]],
    coded: pd.DataFrame | None = None,
) -> dict[str, Evidence]:
    """Collect the evidence that the data allow: metadata, codes, and what ``networks`` names.

    Parameters
    ----------
    photos : as features.photos gives them, of the searched views.
    images, aside : tables.IMAGES and tables.CONTROLS.
    networks : per control its ``views``, ``backbone`` and ``pooling``.
    """
    found: dict[str, Evidence | None] = {}
    if covariates is not None:
        found["metadata"] = metadata(photos, covariates)
    if coded is not None:
        found["codes"] = codes(photos, coded)
    every = pd.concat([part for part in (images, aside[images.columns]) if len(part)])
    for name, asked in networks.items():
        found[name] = embedded(photos, every, feature_files, **asked)
    return {name: evidence for name, evidence in found.items() if evidence is not None}
