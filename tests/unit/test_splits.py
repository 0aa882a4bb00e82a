import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import splits, tables
from equimood.errors import UserError
from equimood.settings import Split
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

CLASSES = ["alert", "calm", "tense"]
NO_PAIRS = tables.NEAR_DUPLICATES.empty_table().to_pandas()


def photographs(labels: dict[str, str], **columns: dict[str, str]) -> pd.DataFrame:
    """Rows of tables.IMAGES, two views a photograph, from each horse's labels, one letter each."""
    letters = {label[0]: label for label in CLASSES}
    rows = []
    for horse, text in labels.items():
        for i, letter in enumerate(text):
            photo = {"photo_id": f"{horse}-{i:03d}", "horse": horse, "label": letters[letter]}
            photo |= {"path": f"{horse}/{i}.jpg", "session": None, "fold": None}
            photo |= {name: values.get(horse) for name, values in columns.items()}
            rows += [photo | {"view": view} for view in ("whole", "head")]
    return pd.DataFrame(rows).astype("str")


def herd(n: int, label: str = "aacct") -> dict[str, str]:
    return {f"h{i:02d}": label for i in range(n)}


def sides(found: pd.DataFrame, fold: str) -> tuple[set[str], set[str]]:
    rows = found[found["fold"] == fold]
    return tuple(set(rows.loc[rows["role"] == role, "horse"]) for role in ("train", "test"))


def check_contract(found: pd.DataFrame, images: pd.DataFrame, split: Split, n_folds: int) -> None:
    horses, labels = set(images["horse"]), images.groupby("horse")["label"].agg(set)
    everything = set(images["label"])
    assert list(found) == tables.SPLITS.names
    assert list(found["fold"].unique()) == [*map(str, range(n_folds)), "final"]
    assert not found.duplicated(["fold", "horse"]).any()
    for fold, rows in found.groupby("fold"):
        assert set(rows["horse"]) == horses
        train = rows[rows["role"] == "train"]
        assert ((rows["inner_fold"] == -1) == (rows["role"] == "test")).all()
        assert set(train["inner_fold"]) == set(range(split.inner_splits))
        assert set().union(*labels[train["horse"]]) == everything
        for inner in range(split.inner_splits):
            learnt = train.loc[train["inner_fold"] != inner, "horse"]
            assert set().union(*labels[learnt]) == everything, (fold, inner)
        assert (len(train) == len(rows)) == (fold == "final")


@pytest.mark.parametrize("outer", ["holdout", "kfold", "leave_one_horse_out", "column"])
def test_every_way_to_split_keeps_horses_whole_and_classes_on_every_training_side(outer):
    images = photographs(herd(12), fold={f"h{i:02d}": str(i % 3) for i in range(12)})
    split = Split(outer=outer, n_splits=4, inner_splits=3)
    n_folds = splits.n_outer_folds(split, images["horse"], images["fold"])
    found = splits.split(images, split, 1, n_folds)
    assert n_folds == {"holdout": 1, "kfold": 4, "leave_one_horse_out": 12, "column": 3}[outer]
    check_contract(found, images, split, n_folds)
    tested = found[found["role"] == "test"]["horse"]
    assert tested.is_unique
    assert len(tested) == (3 if outer == "holdout" else 12)


@given(st.lists(st.text("act", min_size=1, max_size=8), min_size=3, max_size=14), st.integers(0, 9))
@hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
def test_any_herd_is_split_lawfully_or_refused_in_words(texts, seed):
    images = photographs({f"h{i:02d}": text for i, text in enumerate(texts)})
    split = Split(n_splits=3, inner_splits=2)
    try:
        found = splits.split(images, split, seed)
    except UserError as error:
        assert "split" in str(error)
        return
    check_contract(found, images, split, 3)


def uneven_herd() -> dict[str, str]:
    """24 horses, each of which shows mostly one class."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.2] * 3, 24)
    return {f"h{i:02d}": "".join(rng.choice(list("act"), 20, p=shares[i])) for i in range(24)}


def test_folds_are_stratified_by_label_over_photographs():
    images = photographs(uneven_herd())
    overall = images["label"].value_counts(normalize=True)
    for outer, within in (("kfold", 0.12), ("holdout", 0.05)):
        found = splits.split(images, Split(outer=outer, n_splits=4), 1)
        for fold in found["fold"].unique()[:-1]:
            tested = images[images["horse"].isin(sides(found, fold)[1])]
            share = tested["label"].value_counts(normalize=True)
            assert (share - overall).abs().max() < within, (outer, fold)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows():
    images = photographs(herd(12))
    first = splits.split(images, Split(), 1)
    pd.testing.assert_frame_equal(
        splits.split(images.sample(frac=1, random_state=0), Split(), 1), first
    )
    assert not splits.split(images, Split(), 2).equals(first)


def test_a_photograph_counts_once_however_many_views_it_has():
    images = photographs(uneven_herd())
    whole = images[images["view"] == "whole"]
    some = images[(images["view"] == "whole") | (images["label"] == "tense")]
    assert splits.split(whole, Split(), 1).equals(splits.split(some, Split(), 1))
    assert splits.audit(some, splits.split(some, Split(), 1), NO_PAIRS)["photographs"] == 480


def test_folds_with_every_class_on_both_sides_are_looked_for():
    """Under this seed the first attempt leaves a class out of a test side."""
    texts = ["tta", "aacaaa", "ctac", "ac", "tcacta"]
    images = photographs({f"h{i:02d}": text for i, text in enumerate(texts)})
    found = splits.split(images, Split(n_splits=3, inner_splits=2), 1)
    for fold in "012":
        tested = images[images["horse"].isin(sides(found, fold)[1])]
        assert set(tested["label"]) == set(CLASSES)


def test_the_hold_out_takes_the_share_of_horses_that_is_asked_for():
    for share, n_test in ((0.1, 2), (0.25, 5), (0.5, 10)):
        split = Split(outer="holdout", test_share=share)
        found = splits.split(photographs(herd(20)), split, 1)
        assert len(sides(found, "0")[1]) == n_test


def test_the_users_column_decides_in_its_own_order():
    fold = {f"h{i:02d}": ["10", "9", "9", "2"][i % 4] for i in range(12)}
    found = splits.split(photographs(herd(12), fold=fold), Split(outer="column"), 1)
    for number, name in enumerate(["2", "9", "10"]):
        assert sides(found, str(number))[1] == {h for h, f in fold.items() if f == name}


def test_a_horse_without_a_fold_always_trains():
    fold = {f"h{i:02d}": "test" for i in range(4)}
    images = photographs(herd(12), fold=fold)
    split = Split(outer="column")
    assert splits.n_outer_folds(split, images["horse"], images["fold"]) == 1
    assert sides(splits.split(images, split, 1), "0")[1] == set(fold)


def test_a_horse_in_two_folds_of_the_column_is_a_mistake():
    images = photographs(herd(6), fold={f"h{i:02d}": str(i % 2) for i in range(6)})
    images.loc[images["photo_id"] == "h01-000", "fold"] = "0"
    with pytest.raises(UserError, match="horse 'h01' has 0, 1"):
        splits.split(images, Split(outer="column"), 1)


def test_more_folds_than_horses_are_refused_before_any_job():
    told = r"split\.n_splits: 4 folds for 3 horses; write a smaller number, or `outer: leave_one"
    with pytest.raises(UserError, match=told):
        splits.n_outer_folds(Split(n_splits=4), ["a", "b", "c", "a"], [None] * 4)
    assert splits.n_outer_folds(Split(n_splits=4), [], []) == 4


@pytest.mark.parametrize(
    ("split", "most"),
    [
        ({"outer": "kfold", "n_splits": 2}, 5),  # 11 horses, at least 6 of them in one test side
        ({"outer": "kfold", "n_splits": 4}, 8),
        ({"outer": "holdout", "test_share": 0.25}, 8),
        ({"outer": "leave_one_horse_out"}, 10),
        ({"outer": "column"}, 7),
    ],
)
def test_more_inner_folds_than_training_horses_are_refused_before_any_job(split, most):
    fold = {f"h{i:02d}": "aaaabbbcccc"[i] for i in range(11)}
    images = photographs(herd(11), fold=fold)
    horses, folds = images["horse"], images["fold"]
    allowed, refused = (Split(**split, inner_splits=n) for n in (most, most + 1))
    n_folds = splits.n_outer_folds(allowed, horses, folds)
    splits.split(images, allowed, 1, n_folds)  # what is let through can be split
    with pytest.raises(UserError, match=rf"inner_splits: {most + 1} .*, but {most} horses train"):
        splits.n_outer_folds(refused, horses, folds)
    if split["outer"] in ("kfold", "holdout"):  # in a job the columns are not read again
        assert splits.n_outer_folds(refused, [], []) == n_folds


def test_more_folds_than_photographs_of_any_class_are_split_and_none_is_empty():
    """scikit-learn refuses the first, and leaves a fold empty in the second."""
    images = photographs({f"h{i:02d}": "act"[i % 3] for i in range(21)})
    for n_splits in (12, 21):
        found = splits.split(images, Split(n_splits=n_splits, inner_splits=8), 1)
        assert found.loc[found["role"] == "test", "fold"].nunique() == n_splits
        check_contract(found, images, Split(n_splits=n_splits, inner_splits=8), n_splits)


def test_a_column_without_folds_is_a_mistake_before_any_job():
    with pytest.raises(UserError, match=r"split\.outer: column"):
        splits.n_outer_folds(Split(outer="column"), ["a", "b"], [None, None])


@pytest.mark.parametrize(
    ("labels", "split", "message"),
    [
        (herd(3), Split(n_splits=4), r"split\.n_splits: 4 folds for 3 horses"),
        (herd(4), Split(n_splits=2, inner_splits=5), r"split\.inner_splits: 5 inner folds, but 2"),
        (herd(8, "aac") | {"k0": "t", "k1": "t"}, Split(), "'tense' is shown by 2 usable horses"),
        (
            herd(8, "aac") | {"k0": "t"},
            Split(),
            "'tense' is shown by 1 usable horse; a class needs",
        ),
    ],
)
def test_too_few_horses_are_refused_with_what_to_do(labels, split, message):
    with pytest.raises(UserError, match=message):
        splits.split(photographs(labels), split, 1)


def test_a_column_that_takes_a_class_away_from_training_is_refused():
    fold = {"k0": "1", "k1": "1", "k2": "1"} | {f"h{i:02d}": "2" for i in range(8)}
    images = photographs(herd(8, "aac") | dict.fromkeys(["k0", "k1", "k2"], "at"), fold=fold)
    told = "outer folds, fold 0 holds every photograph of 'tense', so .*; 3 horses show it: share"
    with pytest.raises(UserError, match=told):
        splits.split(images, Split(outer="column"), 1)


@pytest.mark.parametrize(
    ("split", "remedy"),
    [
        (Split(outer="column"), "share its horses out among more folds of the column `fold`, so"),
        (
            Split(n_splits=2),
            r"write a larger split\.n_splits, so that more of them train, or bring",
        ),
    ],
)
def test_a_class_that_one_training_horse_shows_is_refused_with_the_cure(split, remedy):
    fold = {"k0": "1", "k1": "1", "k2": "2"} | {f"h{i:02d}": "12"[i % 2] for i in range(8)}
    images = photographs(herd(8, "aac") | dict.fromkeys(["k0", "k1", "k2"], "at"), fold=fold)
    told = f"in the inner folds of fold .*'tense', so that .*; 1 horse shows it: {remedy}"
    with pytest.raises(UserError, match=told):
        splits.split(images, split, 1)


def test_a_class_with_fewer_photographs_than_folds_is_split_without_a_warning(recwarn):
    images = photographs(herd(9, "aac") | dict.fromkeys(["k0", "k1", "k2"], "t"))
    images = images[~images["horse"].str.startswith("k") | ~images["horse"].duplicated()]
    splits.split(images, Split(n_splits=6, inner_splits=2), 1)
    assert not [told for told in recwarn if "least populated" in str(told.message)]


def test_a_rare_class_is_spread_over_the_folds():
    """Three horses show a class: another seed is tried until every side that can have it does."""
    images = photographs(herd(9, "aac") | dict.fromkeys(["k0", "k1", "k2"], "t"))
    for seed in range(5):
        found = splits.split(images, Split(n_splits=3, inner_splits=2), seed)
        check_contract(found, images, Split(n_splits=3, inner_splits=2), 3)
        for fold in "012":
            assert len(sides(found, fold)[1] & {"k0", "k1", "k2"}) == 1


def test_a_horse_lost_in_the_catalogue_is_named_where_folds_are_counted():
    split = Split(outer="leave_one_horse_out")
    with pytest.raises(UserError, match=r"gives 5 folds where the annotations name 6.*quarantine"):
        splits.split(photographs(herd(5)), split, 1, n_folds=6)


def test_the_audit_counts_horses_photographs_and_classes():
    images = photographs(herd(8))
    found = splits.audit(images, splits.split(images, Split(n_splits=4), 1), NO_PAIRS)
    assert json.loads(json.dumps(found)) == found
    assert (found["horses"], found["photographs"]) == (8, 40)
    assert found["classes"]["calm"] == {"horses": 8, "photographs": 16}
    assert found["folds"]["0"]["test"] == {
        "horses": 2, "photographs": 10, "classes": {"alert": 4, "calm": 4, "tense": 2}
    }  # fmt: skip
    assert found["folds"]["final"]["test"]["photographs"] == 0


def test_the_audit_finds_near_duplicates_and_sessions_across_the_sides():
    fold = {"h00": "1", "h01": "1"} | {f"h{i:02d}": "2" for i in range(2, 6)}
    session = {"h00": "monday", "h01": "tuesday", "h02": "monday", "h03": "friday"}
    images = photographs(herd(6), fold=fold, session=session)
    pairs = pd.DataFrame(
        [["h00-000", "h02-001", "h00", "h02", 1], ["h03-000", "h04-000", "h03", "h04", 3]],
        columns=tables.NEAR_DUPLICATES.names,
    )
    split = Split(outer="column", inner_splits=2)
    found = splits.audit(images, splits.split(images, split, 1), pairs)
    assert [found["folds"][fold]["near_duplicates_across_sides"] for fold in ("0", "1")] == [1, 1]
    assert found["folds"]["0"]["sessions_on_both_sides"] == ["monday"]
    assert found["folds"]["final"]["near_duplicates_across_sides"] == 0
    assert found["near_duplicates"]["pairs"] == 2
    assert found["near_duplicates"]["closest"][0] == {
        "paths": ["h00/0.jpg", "h02/1.jpg"], "horses": ["h00", "h02"], "bits": 1
    }  # fmt: skip


def test_the_audit_refuses_a_horse_on_both_sides():
    images = photographs(herd(6))
    found = splits.split(images, Split(n_splits=3), 1)
    leaking = pd.concat([found, found[found["role"] == "test"].assign(role="train").head(1)])
    with pytest.raises(UserError, match="both sides"):
        splits.audit(images, leaking, NO_PAIRS)


def test_a_split_travels_through_its_file(tmp_path):
    found = splits.split(photographs(herd(6)), Split(n_splits=3), 1)
    tables.write(found, tmp_path / "splits.parquet", tables.SPLITS)
    again = tables.read(tmp_path / "splits.parquet")
    pd.testing.assert_frame_equal(again, found, check_dtype=False)


def test_the_snakefile_can_count_folds_without_the_heavy_libraries():
    code = (
        "import sys; from equimood import splits, tables; "
        "print({'torch', 'sklearn', 'timm', 'ray'} & set(sys.modules))"
    )
    library = str(Path(splits.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": library},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "set()"
