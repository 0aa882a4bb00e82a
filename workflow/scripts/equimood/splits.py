"""Who is trained on and who is tested: whole horses, in outer and inner folds.

The Snakefile imports this module: scikit-learn is imported where it is needed.
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from equimood import settings
from equimood.errors import UserError
from equimood.tables import SPLITS

FINAL = "final"
ATTEMPTS = 50
EXAMPLES = 20
_MORE = "so that more of them train, or bring more"
MEND_OUTER = {  # what to do where a class is missing on a training side, by split.outer
    "kfold": "write another split.n_splits, or bring more horses",
    "holdout": "write a smaller split.test_share, or bring more horses",
    "leave_one_horse_out": "bring more horses",
    "column": "share its horses out among the folds of the column `fold`",
}
MEND_INNER = {
    "kfold": f"write a larger split.n_splits, {_MORE}",
    "holdout": f"write a smaller split.test_share, {_MORE}",
    "leave_one_horse_out": "bring more horses",
    "column": f"share its horses out among more folds of the column `fold`, {_MORE}",
}

Folds = list[np.ndarray]  # the test horses of each fold, as row numbers of `counts`


def n_outer_folds(split: settings.Split, horses: Iterable[str], folds: Iterable[str | None]) -> int:
    """Count the outer folds from the annotations' columns ``horse`` and ``fold``.

    With ``kfold`` and ``holdout`` the columns decide about nothing, and may be left empty; else
    numbers with which no split can succeed are refused.
    """
    fold = pd.Series(list(folds), pd.Index(list(horses)), dtype="object").groupby(level=0).first()
    n_horses = len(fold)
    if split.outer == "kfold":
        n_folds, n_tested = split.n_splits, math.ceil(n_horses / split.n_splits)
        if n_horses:
            _check_n_splits(split.n_splits, n_horses)
    elif split.outer == "holdout":
        n_folds, n_tested = 1, math.ceil(n_horses * split.test_share)
    elif split.outer == "leave_one_horse_out":
        n_folds, n_tested = n_horses, 1
    else:
        by_fold = fold.value_counts()
        if by_fold.empty:
            raise UserError(
                "split.outer: column, but the annotations name no fold; give them a column "
                "`fold`, or write holdout, kfold or leave_one_horse_out"
            )
        n_folds, n_tested = len(by_fold), int(by_fold.iloc[0])
    if n_horses:  # n_tested: the least that the largest test side can have
        _check_inner_splits(split.inner_splits, n_horses - n_tested, "an outer fold")
    return n_folds


def split(
    images: pd.DataFrame, split: settings.Split, seed: int, n_folds: int | None = None
) -> pd.DataFrame:
    """Assign every horse to a side of every outer fold, and training horses to inner folds.

    Folds are stratified by label over photographs, with scikit-learn. In ``final`` every horse
    trains. A horse without a value in the column ``fold`` is never tested (``outer: column``).

    Parameters
    ----------
    images : tables.IMAGES; the order of its rows does not matter.
    n_folds : how many outer folds the workflow expects, from :func:`n_outer_folds`.

    Returns
    -------
    tables.SPLITS, one row per fold and horse.

    Raises
    ------
    UserError : a training side, or the training side of an inner fold, would lack a class; there
        are fewer horses than folds; a horse stands in two folds of the column.
    """
    photos = images.drop_duplicates("photo_id").sort_values("photo_id", ignore_index=True)
    horse, names = photos["horse"].factorize(sort=True)
    label, labels = photos["label"].factorize(sort=True)
    classes = list(labels)
    # Photographs of each horse (n_horses, n_classes): all that a fold's balance depends on.
    counts = np.bincount(horse * len(classes) + label, minlength=len(names) * len(classes))
    counts = counts.reshape(len(names), len(classes))
    _check_numbers(counts, classes, split)
    if split.outer == "column":
        candidates = iter([_column_folds(photos)])
    elif split.outer == "leave_one_horse_out":
        candidates = iter([[np.array([code]) for code in range(len(names))]])
    elif split.outer == "holdout":
        candidates = _holdouts(counts, split.test_share, seed)
    else:
        candidates = _kfolds(counts, split.n_splits, [seed])
    outer = _best(candidates, counts, classes, "the outer folds", MEND_OUTER[split.outer])
    if n_folds is not None and len(outer) != n_folds:
        raise UserError(
            f"split.outer: {split.outer} gives {len(outer)} folds where the annotations name "
            f"{n_folds}: a horse or a fold has no usable photograph left, see quarantine.csv; "
            "mend its photographs or take it out of the table"
        )
    rows = []
    for number, test in enumerate([*outer, np.empty(0, int)]):
        fold = FINAL if number == len(outer) else str(number)
        train = np.setdiff1d(np.arange(len(names)), test)
        _check_inner_splits(split.inner_splits, len(train), f"fold {fold}")
        candidates = _kfolds(counts[train], split.inner_splits, [seed, number])
        where = f"the inner folds of fold {fold}"
        inner = _best(candidates, counts[train], classes, where, MEND_INNER[split.outer])
        inner_fold = np.full(len(names), -1)
        for inner_number, held_out in enumerate(inner):
            inner_fold[train[held_out]] = inner_number
        rows.append(
            pd.DataFrame(
                {
                    "fold": fold,
                    "horse": names,
                    "role": np.where(inner_fold < 0, "test", "train"),
                    "inner_fold": inner_fold,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)[SPLITS.names]


def audit(
    images: pd.DataFrame, splits: pd.DataFrame, near_duplicates: pd.DataFrame
) -> dict[str, Any]:
    """Count horses and photographs per fold and class, and what may leak between the sides.

    Returns
    -------
    ``horses``, ``photographs``, ``classes`` (horses and photographs of each); ``folds``: for each
    fold the horses and the photographs per class on both sides, the number of near-duplicates
    across its sides and the sessions that stand on both; ``near_duplicates``: the number of pairs
    across horses and the closest of them with their paths.

    Raises
    ------
    UserError : a horse is on both sides of a fold.
    """
    both = splits.groupby(["fold", "horse"])["role"].nunique() > 1
    if both.any():
        fold, horse = both.index[both].tolist()[0]
        raise UserError(f"splits: horse {horse!r} is on both sides of fold {fold}; split again")
    photos = images.drop_duplicates("photo_id")
    classes = sorted(photos["label"].unique())
    folds = {}
    for fold, sides in splits.groupby("fold", sort=False):
        role = photos["horse"].map(sides.set_index("horse")["role"])
        sessions = role.groupby(photos["session"]).nunique()
        pair_roles = [
            near_duplicates[name].map(sides.set_index("horse")["role"])
            for name in ("horse_a", "horse_b")
        ]
        folds[str(fold)] = {
            side: {
                "horses": int((sides["role"] == side).sum()),
                "photographs": int((role == side).sum()),
                "classes": _counts(photos.loc[role == side, "label"], classes),
            }
            for side in ("train", "test")
        } | {
            "near_duplicates_across_sides": int((pair_roles[0] != pair_roles[1]).sum()),
            "sessions_on_both_sides": sorted(sessions.index[sessions > 1]),
        }
    path = photos.set_index("photo_id")["path"]
    examples = near_duplicates.head(EXAMPLES)
    return {
        "horses": int(photos["horse"].nunique()),
        "photographs": len(photos),
        "classes": {
            label: {"horses": int(rows["horse"].nunique()), "photographs": len(rows)}
            for label, rows in photos.groupby("label")
        },
        "folds": folds,
        "near_duplicates": {
            "pairs": len(near_duplicates),
            "closest": [
                {"paths": [path[a], path[b]], "horses": [horse_a, horse_b], "bits": int(bits)}
                for a, b, horse_a, horse_b, bits in examples[
                    ["image_a", "image_b", "horse_a", "horse_b", "bits"]
                ].itertuples(index=False)
            ],
        },
    }


def _counts(labels: pd.Series, classes: list[str]) -> dict[str, int]:
    return {label: int((labels == label).sum()) for label in classes}


def _check_numbers(counts: np.ndarray, classes: list[str], split: settings.Split) -> None:
    """Refuse numbers of horses with which no search of folds can succeed."""
    if split.outer == "kfold":
        _check_n_splits(split.n_splits, len(counts))
    for name, n_horses in zip(classes, (counts > 0).sum(axis=0).tolist(), strict=True):
        if n_horses < 3:
            raise UserError(
                f"split: class {name!r} is shown by {n_horses} usable horse"
                f"{'s' * (n_horses != 1)}; a class needs at least 3: one to learn from, one to "
                "choose by, one to judge by"
            )


def _check_n_splits(n_splits: int, n_horses: int) -> None:
    if n_horses < n_splits:
        raise UserError(
            f"split.n_splits: {n_splits} folds for {n_horses} horses; write a smaller number, or "
            "`outer: leave_one_horse_out`"
        )


def _check_inner_splits(inner_splits: int, n_horses: int, where: str) -> None:
    if n_horses < inner_splits:
        raise UserError(
            f"split.inner_splits: {inner_splits} inner folds, but {n_horses} horses train in "
            f"{where}; write a smaller number or bring more horses"
        )


def _kfolds(counts: np.ndarray, n_splits: int, seed: list[int]) -> Iterator[Folds]:
    """Folds stratified by label over photographs, each attempt by another seed."""
    from sklearn.model_selection import StratifiedGroupKFold

    # scikit-learn refuses where no class has as many photographs as there are folds.
    copies = -(-n_splits // int(counts.sum(axis=0).max()))
    each = np.repeat(np.arange(counts.size), copies * counts.ravel())
    horse, label = np.divmod(each, counts.shape[1])
    for attempt in range(ATTEMPTS):
        state = np.random.SeedSequence([*seed, attempt]).generate_state(1)[0]
        folder = StratifiedGroupKFold(n_splits, shuffle=True, random_state=int(state))
        with warnings.catch_warnings():  # a rare class has fewer photographs than there are folds
            warnings.simplefilter("ignore", UserWarning)
            tests = [test for _, test in folder.split(label, label, horse)]
        yield [np.unique(horse[test]) for test in tests]


def _holdouts(counts: np.ndarray, test_share: float, seed: int) -> Iterator[Folds]:
    """Random hold-outs of whole horses, those that take the same share of every class first."""
    from sklearn.model_selection import ShuffleSplit

    draws = ShuffleSplit(10 * ATTEMPTS, test_size=test_share, random_state=seed)
    tests = [np.sort(test) for _, test in draws.split(counts)]
    total = counts.sum(axis=0)
    tests.sort(key=lambda test: np.abs(counts[test].sum(axis=0) / total - test_share).max())
    return ([test] for test in tests)


def _column_folds(photos: pd.DataFrame) -> Folds:
    """The folds of the column ``fold``, in its order (numbers by value)."""
    by_horse = photos.groupby("horse")["fold"]
    torn = by_horse.nunique(dropna=False) > 1
    if torn.any():
        horse = torn.index[torn].tolist()[0]
        found = photos.loc[photos["horse"] == horse, "fold"].fillna("none").unique()
        raise UserError(
            f"column fold: horse {horse!r} has {', '.join(sorted(found))}; all photographs of a "
            "horse belong to one fold"
        )
    fold = by_horse.first()
    names = pd.Series(fold.dropna().unique(), dtype="str")
    numbers = pd.to_numeric(names, errors="coerce")
    ordered = names[numbers.argsort()] if numbers.notna().all() else names.sort_values()
    return [np.flatnonzero((fold == name).to_numpy()) for name in ordered]


def _best(
    candidates: Iterator[Folds], counts: np.ndarray, classes: list[str], what: str, remedy: str
) -> Folds:
    """The first folds with every class on both sides, else those that come closest.

    A fold without a horse is worse than one without a class. Refuses folds of which a training
    side lacks a class.
    """
    total, n_horses = counts.sum(axis=0), (counts > 0).sum(axis=0)
    best: tuple[tuple[int, int, int], Folds, np.ndarray] | None = None
    for folds in candidates:
        test = np.array([counts[fold].sum(axis=0) for fold in folds])
        train_lacks, test_lacks = total == test, test == 0
        n_empty = sum(not len(fold) for fold in folds)
        rank = (int(train_lacks.sum()), n_empty, int(test_lacks.sum()))
        if best is None or rank < best[0]:
            best = rank, folds, train_lacks
        if best[0] <= (0, 0, int(np.clip(len(folds) - n_horses, 0, None).sum())):
            break
    assert best is not None
    _, folds, train_lacks = best
    if train_lacks.any():
        fold, label = np.argwhere(train_lacks)[0]
        shown = "1 horse shows" if n_horses[label] == 1 else f"{n_horses[label]} horses show"
        raise UserError(
            f"split: in {what}, fold {fold} holds every photograph of {classes[label]!r}, so that "
            f"none is left to learn from; {shown} it: {remedy}"
        )
    return folds
