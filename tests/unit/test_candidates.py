"""Every combination of backbone and views at equal budget."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import candidates, heads, search, settings, tables, training
from test_search import BACKBONES, CLASSES, SEARCH, find, in_folder, make_study, one_rater

OPTIONS = SEARCH.model_copy(update={"backbones": []})
RUN = {"epochs": 3, "batch_size": 32, "seed": 3, "record": Path("record")}


def trials_of(*structures, scores):
    """Trials as tables.TRIALS has them: (backbone, views, pooling) and scores of two heads."""
    rows = [
        {
            "trial": trial, "views": views, "backbone": backbone, "pooling": pooling,
            "head": "linear", "hidden_units": pd.NA, "weight_by": "class+horse",
            "learning_rate": rate, "weight_decay": 0.1, "dropout": 0.0, "label_smoothing": 0.0,
            "seed": 0, "score": score, "score_0": score - 0.1, "score_1": score + 0.1,
            "cost_s": 1.0, "host": "here",
        }
        for trial, ((backbone, views, pooling), of) in enumerate(
            zip(structures, scores, strict=True)
        )
        for rate, score in zip((0.01, 0.03), of, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"hidden_units": "Int64"})


ONE_HEAD = settings.Search(views=[["whole"], ["head"]], heads=["linear"])
THREE = {
    "small": settings.Backbone(architecture="resnet18", poolings=["avg", "grid2", "grid3"]),
    "large": settings.Backbone(architecture="resnet34", poolings=["avg"]),
}


def test_every_candidate_has_the_budget_of_the_least_tried_in_the_order_tried():
    trials = trials_of(
        ("small", "whole", "avg"), ("small", "whole", "grid2"), ("small", "head", "grid3"),
        ("small", "whole", "grid3"), ("small", "head", "avg"),
        scores=[(0.5, 0.6), (0.4, 0.7), (0.3, 0.3), (0.9, 0.9), (0.2, 0.3)],
    )  # fmt: skip
    search_ = ONE_HEAD.model_copy(update={"backbones": ["small"]})
    chosen = candidates.choose(trials, search_, THREE)
    assert chosen.budget == 2 and not chosen.left_out
    whole, head = chosen.bests["small", "whole"], chosen.bests["small", "head"]
    assert whole.structure.pooling == "grid2"  # grid3, with 0.9, came third
    assert (whole.score, whole.head.learning_rate) == (0.7, 0.03)
    assert head.structure.pooling == "grid3" and head.head.learning_rate == 0.01  # of equals first
    assert whole.n_trials == 2 and whole.n_heads == 2
    assert whole.structure.weight_by == ("class", "horse")
    assert whole.structure.hidden_units is None
    assert whole.score_per_fold == pytest.approx((0.6, 0.8))


def test_a_candidate_tried_too_seldom_is_left_out_and_told():
    trials = trials_of(
        ("small", "whole", "avg"), ("small", "whole", "grid2"), ("small", "head", "avg"),
        ("large", "whole", "avg"),
        scores=[(0.5, 0.5)] * 4,
    )  # fmt: skip
    chosen = candidates.choose(trials, ONE_HEAD, THREE)
    # All there is of a candidate is often enough, and then the budget of all.
    assert list(chosen.bests) == [("small", "whole"), ("large", "whole")] and chosen.budget == 1
    assert chosen.left_out == {
        ("small", "head"): "the search tried 1 of its 3 structures",
        ("large", "head"): "the search tried 0 of its 1 structures",
    }
    told = candidates.told(chosen)
    assert [of["views"] for of in told["left_out"]] == ["head", "head"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A real search over two backbones and two combinations of views, its trials run here."""
    folder = tmp_path_factory.mktemp("searched")
    photos, splits, files = make_study(folder)
    space = search.dimensions(OPTIONS, BACKBONES)
    arguments = (photos, splits, files, space, OPTIONS, CLASSES, 3, folder / "record", 800)

    def run(_):
        task = search._task(*arguments)
        for choice in search._grid(space):
            search._trial(choice, task, space)
        return find(folder, OPTIONS)  # remembers, and starts no Ray

    result = in_folder(folder, run)
    search.write(result, folder / "search/0")
    return make_study(folder), result, tables.read(folder / "search/0/trials.parquet")


def test_the_candidates_share_what_the_search_chooses(searched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(heads, "KEEP_EVERY_S", 0.0)
    study, result, trials = searched
    chosen = candidates.choose(trials, OPTIONS, BACKBONES)
    assert list(chosen.bests) == [
        (b, v) for v in ("whole", "whole+head") for b in ("small", "large")
    ]
    assert chosen.budget == 2  # the large one has one pooling, and two heads
    answers = candidates.predict(*study, chosen, 2, CLASSES, **RUN)
    assert answers.groupby(["backbone", "views"])["photo_id"].nunique().tolist() == [18] * 4
    assert set(answers["horse"]) == {"h09", "h10", "h11"}
    kept = {path.stem for path in Path("state/train").glob("*/*")}
    assert kept == {"all"}  # and nothing that only a calibration needs
    again = candidates.predict(*study, chosen, 2, CLASSES, **RUN)
    pd.testing.assert_frame_equal(answers, again)
    columns = [f"p_{name}" for name in CLASSES]
    certain = one_rater(study[0])
    alone = candidates.predict(*study, chosen, 2, CLASSES, **RUN, shares=certain)
    pd.testing.assert_frame_equal(answers, alone)
    torn = candidates.predict(*study, chosen, 2, CLASSES, **RUN, shares=0.5 * certain + 0.5 / 3)
    assert torn[columns].max(axis=1).mean() < answers[columns].max(axis=1).mean()
    tables.write(answers, tmp_path / "0.parquet", tables.COMPARED, *columns)
    # With the whole budget, the candidate of the study's choice is the study's model.
    own = result.best.structure
    of_own = trials[trials["backbone"].eq(own.backbone) & trials["views"].eq("+".join(own.views))]
    best = candidates._best(of_own, "f1_macro")
    assert (best.structure, best.head) == (own, result.best.head)
    assert best.score == pytest.approx(result.best.score)
    candidate = {(own.backbone, "+".join(own.views)): best, ("other", "whole"): best}
    found = candidates.predict(*study, candidates.Chosen(2, candidate, {}), 2, CLASSES, **RUN)
    fold = training.Fold(*study, result.best, 2, CLASSES, **RUN)
    trained = training.train(fold, settings.Train(seeds=2))
    model = training.predict(*study, result.best, trained, CLASSES)
    same = found[found["backbone"] == own.backbone]
    assert same["predicted"].tolist() == model["predicted"].tolist()


def test_of_one_candidate_nothing_is_trained(searched):
    study, _, trials = searched
    only = OPTIONS.model_copy(update={"backbones": ["large"], "views": [["whole"]]})
    own = trials[trials["backbone"].eq("large") & trials["views"].eq("whole")]
    chosen = candidates.choose(own, only, BACKBONES)
    assert len(chosen.bests) == 1
    answers = candidates.predict(*study, chosen, 2, CLASSES, **RUN)
    assert answers.empty and "views" in answers and np.isin("p_calm", answers.columns)
