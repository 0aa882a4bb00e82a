import numpy as np
import pandas as pd
import pytest
import torch
from equimood import baselines, evaluation, features
from equimood.best import Best
from equimood.heads import HeadConfig, Structure
from test_search import make_study

HEAD = HeadConfig(0.01, 0.01, 0.0, 0.0, 1)


def best(views, backbone, pooling):
    structure = Structure(views, backbone, pooling, "linear", None, ("class",))
    return Best(structure, HEAD, "f1_macro", 0.5, (0.5,), 1, 1)


BESTS = {
    "0": best(("head", "whole"), "small", "grid2"),
    "1": best(("whole",), "large", "avg"),
    "2": best(("whole",), "small", "avg"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve horses, the first three tested in fold 0, the next in fold 1, none in fold 2."""
    torch.set_num_threads(1)
    photos, splits, files = make_study(tmp_path_factory.mktemp("baselines"))
    horses = sorted(splits["horse"])
    parts = []
    for fold, tested in (("0", horses[:3]), ("1", horses[3:6]), ("2", [])):
        inner = [-1 if horse in tested else i % 3 for i, horse in enumerate(horses)]
        role = ["test" if horse in tested else "train" for horse in horses]
        parts.append(
            pd.DataFrame({"fold": fold, "horse": horses, "role": role, "inner_fold": inner})
        )
    fold_of = {horse: str(i // 3) for i, horse in enumerate(horses[:6])}
    judged = photos[photos["horse"].isin(fold_of)]
    predictions = pd.DataFrame(
        {"photo_id": judged["photo_id"], "fold": judged["horse"].map(fold_of),
         "truth": judged["label"]}
    ).sample(frac=1, random_state=1)  # fmt: skip
    return predictions, photos, pd.concat(parts), files


def predict(study, **changes):
    predictions, photos, splits, files = study
    photos = changes.get("photos", photos)
    return baselines.predict(predictions, photos, splits, BESTS, files, n_threads=1)


def test_each_fold_is_judged_from_its_own_training_horses_and_chosen_features(study):
    predictions, photos, splits, files = study
    found = predict(study)
    assert set(found) == {"majority", "logistic_regression"}
    for fold in ("0", "1"):
        own = splits[splits["fold"] == fold].set_index("horse")
        trained = photos[photos["horse"].map(own["role"]) == "train"]
        rows = np.flatnonzero(predictions["fold"] == fold)
        asked = photos.set_index("photo_id", drop=False).loc[predictions["photo_id"].iloc[rows]]
        structure = BESTS[fold].structure
        X, X_asked = (
            features.matrix(
                files, part, list(structure.views), structure.backbone, structure.pooling
            )
            for part in (trained, asked)
        )
        inner = trained["horse"].map(own["inner_fold"]).to_numpy()
        expected = evaluation.logistic_regression(X, trained["label"], inner, X_asked, 1)
        assert found["logistic_regression"][rows].tolist() == list(expected)
        assert set(found["majority"][rows]) == {trained["label"].mode()[0]}
    right = found["logistic_regression"] == predictions["truth"].to_numpy()
    assert right.mean() > 0.6  # a third is chance: answers stand in the rows of their photographs


def test_labels_of_test_horses_have_no_influence(study):
    predictions, photos, splits, _ = study
    before = predict(study)
    for fold in ("0", "1"):
        tested = splits.query("fold == @fold and role == 'test'")["horse"]
        turned = photos.assign(label=photos["label"].mask(photos["horse"].isin(tested), "tense"))
        after = predict(study, photos=turned)
        rows = (predictions["fold"] == fold).to_numpy()
        for name, answers in before.items():
            assert answers[rows].tolist() == after[name][rows].tolist()
        assert after["majority"][~rows].tolist() != before["majority"][~rows].tolist()
