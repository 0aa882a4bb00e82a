import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import features, heads, permutation
from equimood.best import Best
from equimood.heads import HeadConfig, Structure
from equimood.metrics import from_confusion
from scipy import stats
from test_search import CLASSES, make_study

BEST = Best(
    Structure(("whole", "head"), "small", "grid2", "linear", None, ("class",)),
    HeadConfig(0.01, 0.1, 0.5, 0.0, 7), "f1_macro", 0.5, (0.5,), 1, 1,
)  # fmt: skip


def table(*horses):
    """Rows from entries "label session video", a horse each."""
    rows = [
        {"horse": f"h{h}", **dict(zip(("label", "session", "video"), entry.split(), strict=True))}
        for h, entries in enumerate(horses) for entry in entries
    ]  # fmt: skip
    return pd.DataFrame(rows).replace("-", None)


PHOTOS = table(
    ["a s1 -", "a s1 -", "b s2 -"],  # a session has one label
    ["a s1 v1", "a s1 v1", "b s1 v2", "b s2 v3"],  # only a video has
    ["a s1 v1", "b s1 v1", "b s2 v2"],  # neither has
    ["a s1 -", "b - -"],  # a session is missing
    ["a s1 -", "a s2 -"],
    ["b s1 -"],
    ["b s1 -"],
)


def test_the_unit_is_the_coarsest_that_carries_one_label():
    found = permutation.units(PHOTOS)
    kinds = found["kind"].groupby(PHOTOS["horse"]).first().tolist()
    assert kinds == [
        "session", "video", "photograph", "photograph", "horse", "horse", "horse"
    ]  # fmt: skip
    assert found["unit"].nunique() == 2 + 3 + 3 + 2 + 1 + 1 + 1
    assert found.groupby("stratum")["unit"].nunique().tolist() == [3, 2, 3, 3, 2]


def test_labels_move_only_between_the_units_of_a_horse_or_between_horses_of_one_class():
    found = permutation.units(PHOTOS)
    labels = np.array([0 if label == "a" else 1 for label in PHOTOS["label"]])
    moved = permutation.permuted(labels, found, 3000, np.random.default_rng(0))
    units, first = np.unique(found["unit"], return_index=True)
    for unit in units:
        inside = moved[:, found["unit"] == unit]
        assert (inside == inside[:, :1]).all()
    for _, members in found.iloc[first].groupby("stratum"):
        of_stratum = np.sort(moved[:, members.index], axis=1)
        assert (of_stratum == np.sort(labels[members.index])).all()
        # every arrangement is as likely as another
        shown = moved[:, members.index].mean(axis=0)
        np.testing.assert_allclose(shown, labels[members.index].mean(), atol=0.04)


# ------------------------------------------------------------------------- is the error rate right


def null_study(rng, n_horses=12, n_images=12):
    """Photographs and labels that have nothing in common but their horse and session."""
    horse = np.repeat(np.arange(n_horses), n_images)
    session = np.tile(np.arange(n_images) // 3, n_horses)
    # Labels by photograph, by session, one for the horse.
    within = np.choose(horse % 3, [np.tile(np.arange(n_images), n_horses), session, 0 * horse])
    _, first, unit = np.unique(100 * horse + within, return_index=True, return_inverse=True)
    label = (rng.random(len(horse)) < rng.beta(1, 1, n_horses)[horse])[first][unit] * 1
    X = rng.normal(size=(len(horse), 3)) + 2 * rng.normal(size=(n_horses, 3))[horse]
    X += rng.normal(size=(n_horses, n_images, 3))[horse, session]
    names = {"horse": np.char.mod("h%02d", horse), "session": np.char.mod("s%d", session)}
    return pd.DataFrame({"label": label, "video": None, **names}), X, horse


def macro_f1(X, y, horse, n_folds=3):
    """Macro-F1 of the nearer class mean, judged on unseen horses: y (k, n) gives (k,)."""
    counts = 0
    for fold in range(n_folds):
        train, test = horse % 6 // 2 != fold, horse % 6 // 2 == fold
        is_one = y[:, train].astype(float)
        means = [
            side @ X[train] / np.maximum(side.sum(axis=1, keepdims=True), 1)
            for side in (1 - is_one, is_one)
        ]
        far = [((X[test] - mean[:, None]) ** 2).sum(axis=2) for mean in means]
        counts = counts + permutation.confusions(y[:, test], (far[1] < far[0]) * 1, 2)
    return from_confusion(counts)["f1_macro"]


def test_false_positives_are_as_rare_as_said_and_naive_shuffling_finds_too_many():
    rng = np.random.default_rng(2)
    n, k = 200, 99
    found = {"by horse": 0, "naive": 0}
    for _ in range(n):
        photos, X, horse = null_study(rng)
        y = photos["label"].to_numpy()
        moved = permutation.permuted(y, permutation.units(photos), k, rng)
        naive = np.stack([rng.permutation(y) for _ in range(k)])
        for name, others in (("by horse", moved), ("naive", naive)):
            scores = macro_f1(X, np.concatenate([y[None], others]), horse)
            found[name] += permutation.p_value(scores) <= 0.05
    low, high = stats.binom.interval(0.99, n, 0.05)
    assert low <= found["by horse"] <= high
    assert found["naive"] > 2 * high


def test_p_is_never_zero_and_counts_equals():
    assert permutation.p_value(np.array([0.9, 0.1, 0.2, 0.3])) == 0.25
    assert permutation.p_value(np.array([0.5, 0.5, 0.2, 0.7])) == 0.75


# ------------------------------------------------------------------------------------ trained again


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("permutation")
    before = Path.cwd()
    os.chdir(folder)
    torch.set_num_threads(1)
    yield make_study(folder)
    os.chdir(before)


def refit(study, n_permutations=9, record="record"):
    return permutation.fold_confusions(
        *study, BEST, CLASSES, n_permutations=n_permutations, epochs=8, batch_size=16, seed=3,
        record=Path(record),
    )  # fmt: skip


def test_the_chosen_head_is_trained_on_the_permuted_labels_and_judged_by_them(study):
    photos, splits, files = study
    found = refit(study)
    y = photos["label"].map(CLASSES.index).to_numpy()
    moved = permutation.permuted(y, permutation.units(photos), 9, np.random.default_rng(3))
    role = photos["horse"].map(splits.set_index("horse")["role"]).to_numpy()
    train, test = role == "train", role == "test"
    X = features.matrix(files, photos, ["whole", "head"], "small", "grid2")
    for k, labels in enumerate([y, *moved]):
        weights = heads.sample_weights(
            labels[train], photos["horse"][train], photos["session"][train], ["class"],
            np.ones(train.sum(), bool),
        )  # fmt: skip
        packed = heads.fit(
            X[train], labels[train], weights[None], [BEST.head], kind="linear", epochs=8,
            batch_size=16, n_classes=3, stream_seed=3,
        )  # fmt: skip
        answers = packed.logits(X[test])[0, 0].argmax(-1).numpy()
        np.testing.assert_array_equal(
            found[k], permutation.confusions(labels[test][None], answers[None], 3)[0]
        )


def every_fold(study):
    """Three outer folds of four horses."""
    photos, splits, files = study
    return [
        refit((photos, splits.assign(role=np.where(np.arange(12) % 3 == fold, "test", "train")),
               files), 19)
        for fold in range(3)
    ]  # fmt: skip


def test_real_labels_beat_permuted_ones_and_what_was_kept_is_gone_on_with(study, monkeypatch):
    found = permutation.null(every_fold(study))
    assert permutation.p_value(found["f1_macro"].to_numpy()) == 0.05
    told = permutation.tested(found, study[0])
    assert told["f1_macro"]["observed"] > told["f1_macro"]["mean"] + 0.1
    assert told["units"]["photograph"] == 72
    monkeypatch.setattr(permutation, "fit", None)  # nothing is trained again
    pd.testing.assert_frame_equal(permutation.null(every_fold(study)), found)


def test_folds_are_added_before_they_are_scored():
    folds = [[[[3, 1], [0, 0]]], [[[0, 0], [2, 2]]]]  # each shows one class
    assert permutation.null(folds)["f1_macro"][0] == pytest.approx(
        from_confusion(np.array([[3, 1], [2, 2]]))["f1_macro"]
    )


def test_a_fold_that_tests_nobody_counts_nothing(study):
    photos, splits, files = study
    final = splits.assign(role="train", inner_fold=[i % 3 for i in range(12)])
    assert not refit((photos, final, files), 2).any()
