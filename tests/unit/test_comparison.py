"""Which backbone and views: simulated answers whose truth is known."""

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml
from equimood import comparison, evaluation, figures, recommendation
from sklearn.metrics import balanced_accuracy_score, f1_score

CLASSES = ["calm", "cross", "glad", "shy"]
CHEAP, DEAR, WORSE = ("small", "whole"), ("large", "whole"), ("small", "head")
COSTS = pd.DataFrame({
    "backbone": ["large", "small"], "architecture": ["resnet50", "resnet18"], "side_px": 224,
    "parameters": [23_500_000, 11_200_000], "weights_mb": [94.3, 44.8], "gmacs": [4.09, 1.81],
    "seconds": [np.nan, 0.02], "n_timed": [0, 96], "device": [None, "CPU"],
})  # fmt: skip
NESTED = {name: {"value": 0.6, "low": 0.5, "high": 0.7} for name in evaluation.METRICS}


def simulated(skill, n_horses=24, n_images=20, seed=0):
    """Answers of candidates of a known share of right ones (on the logit), two folds of horses."""
    rng = np.random.default_rng(seed)
    horse = np.repeat(np.arange(n_horses), n_images)
    truth = rng.integers(0, 4, len(horse))
    of_horse = rng.normal(0, 0.8, n_horses)
    parts = []
    for (backbone, views), logit in skill.items():
        right = 1 / (1 + np.exp(-(logit + of_horse + rng.normal(0, 0.3, n_horses))))
        wrong = (truth + rng.integers(1, 4, len(horse))) % 4
        said = np.where(rng.random(len(horse)) < right[horse], truth, wrong)
        parts.append(pd.DataFrame({
            "backbone": backbone, "views": views, "photo_id": np.arange(len(horse)).astype(str),
            "horse": [f"h{i:02}" for i in horse], "fold": (horse % 2).astype(str),
            "truth": np.array(CLASSES)[truth], "predicted": np.array(CLASSES)[said],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=seed)


def told(candidates, left_out=()):
    structure = {
        "pooling": "avg", "head": "mlp", "hidden_units": 64, "weight_by": ["class", "horse"],
    }  # fmt: skip
    head = {"learning_rate": 0.01, "weight_decay": 0.1, "dropout": 0.0, "label_smoothing": 0.0,
            "seed": 1000}  # fmt: skip
    return {
        "budget": 4,
        "candidates": [
            {"backbone": backbone, "views": views, "score": 0.5, "n_trials": 4, "n_heads": 48,
             "structure": {**structure, "backbone": backbone, "views": views.split("+")},
             "head": head}
            for backbone, views in candidates
        ],
        "left_out": [
            {"backbone": backbone, "views": views, "reason": "seldom"}
            for backbone, views in left_out
        ],
    }  # fmt: skip


def compare(answers, skill, chosen=None, metric="f1_macro", n_bootstrap=300):
    chosen = chosen or dict.fromkeys("01", told(skill))
    return comparison.compare(
        answers, chosen, COSTS, NESTED, CLASSES, metric, n_bootstrap, 0.95, seed=1
    )


SKILL = {DEAR: 1.2, CHEAP: 1.2, WORSE: -0.3}


@pytest.fixture(scope="module")
def found():
    return compare(simulated(SKILL), SKILL)


def test_the_cheap_of_two_equals_is_recommended_and_the_worse_is_not(found):
    candidates = found.candidates.set_index(["backbone", "views"])
    assert candidates.index[candidates["recommended"]].tolist() == [CHEAP]
    assert candidates.index[candidates["worse"]].tolist() == [WORSE]
    words = " ".join(found.facts["told"])
    assert words.startswith(
        "Recommended: small on whole. 3 candidates (a backbone with some views)"
    )
    assert "on 24 horses (480 photographs)" in words
    assert "Shown to be worse than the best: small on head -" in words
    assert "differ from the best either" not in words  # of the three there is no other
    assert "Not shown to differ is not shown to be equal" in words
    assert "0.60 [0.50, 0.70]" in words  # the study's own


@pytest.mark.parametrize("n_horses", [8, 24])
def test_equal_candidates_are_seldom_called_different(n_horses):
    """At 95 %, a given one of six equals should be called worse in at most 2.5 % of studies."""
    skill = {
        (backbone, views): 0.8
        for backbone in ("small", "large")
        for views in ("whole", "head", "whole+head")
    }
    runs = [compare(simulated(skill, n_horses, seed=s), skill, n_bootstrap=100) for s in range(30)]
    assert np.mean([run.candidates["worse"] for run in runs]) < 0.05
    cheap = [run.candidates["gmacs"][run.candidates["recommended"]].iloc[0] for run in runs]
    assert np.mean(np.array(cheap) == 1.81) > 0.9


def test_every_figure_is_that_of_scikit_learn_and_differences_are_from_the_best(found):
    answers = simulated(SKILL)
    for row in found.candidates.to_dict("records"):
        own = answers[(answers["backbone"] == row["backbone"]) & (answers["views"] == row["views"])]
        arguments = (own["truth"], own["predicted"])
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(*arguments))
        assert row["f1_macro"] == pytest.approx(f1_score(*arguments, average="macro"))
        assert row["f1_macro_low"] < row["f1_macro"] < row["f1_macro_high"]
    first = found.candidates.iloc[0]
    assert first["f1_macro_difference"] == 0 and np.isnan(first["f1_macro_difference_low"])
    np.testing.assert_allclose(
        found.candidates["f1_macro_difference"], found.candidates["f1_macro"] - first["f1_macro"]
    )
    # Pairs on the same draws: narrower than two figures apart, though read together.
    apart = found.candidates["f1_macro_high"] - found.candidates["f1_macro_low"]
    paired = (
        found.candidates["f1_macro_difference_high"] - found.candidates["f1_macro_difference_low"]
    )
    assert paired[1] < np.hypot(apart[0], apart[1])


@pytest.mark.parametrize(("seed", "first"), [(4, "head"), (5, "whole")])
def test_of_those_that_cost_the_same_the_one_that_scored_highest_is_recommended(seed, first):
    skill = {("small", "whole"): 0.8, ("small", "head"): 0.8, DEAR: 0.8}
    candidates = compare(simulated(skill, n_horses=8, seed=seed), skill).candidates
    assert not candidates["worse"].any() and candidates["views"][
        candidates["recommended"]
    ].tolist() == [first]
    assert candidates["views"][candidates["backbone"].eq("small")].iloc[0] == first


def test_a_candidate_of_two_views_costs_twice(found):
    both = {("small", "whole+head"): 1.0, ("large", "whole"): 1.0}
    candidates = compare(simulated(both), both).candidates.set_index(["backbone", "views"])
    assert candidates["gmacs"].to_dict() == {
        ("small", "whole+head"): 3.62,
        ("large", "whole"): 4.09,
    }


def test_main_effects_average_over_what_all_have():
    skill = {
        ("small", "whole"): 1.5, ("large", "whole"): 0.5, ("small", "head"): 0.5,
        ("large", "head"): -0.5, ("large", "whole+head"): 2.0,
    }  # fmt: skip
    run = compare(simulated(skill), skill)
    value = run.candidates.set_index(["backbone", "views"])["f1_macro"]
    effects = run.effects.set_index(["factor", "value"])
    small = effects.loc[("backbone", "small")]
    assert small["f1_macro"] == pytest.approx(
        (value["small", "whole"] + value["small", "head"]) / 2
    )
    assert small["n_averaged"] == 2 and np.isnan(small["f1_macro_difference_high"])  # the best
    assert effects.loc[("backbone", "large"), "f1_macro_difference_high"] < 0
    views = effects.loc["views"]  # of the large backbone alone, which has them all
    assert views.loc["whole", "n_averaged"] == 1
    assert views.loc["whole", "f1_macro"] == pytest.approx(value["large", "whole"])
    assert list(views.index) == ["whole+head", "whole", "head"]


def test_a_candidate_that_one_fold_left_out_is_not_compared():
    answers = simulated(SKILL)
    here = answers["backbone"].eq("small") | answers["fold"].eq("0")
    chosen = {"0": told(SKILL), "1": told([CHEAP, WORSE], [DEAR])}
    run = compare(answers[here], SKILL, chosen)
    assert set(zip(run.candidates["backbone"], run.candidates["views"], strict=True)) == {
        CHEAP,
        WORSE,
    }
    assert run.facts["n_candidates"] == 3 and run.facts["n_compared"] == 2
    assert run.facts["left_out"] == [
        {"fold": "1", "backbone": "large", "views": "whole", "reason": "seldom"}
    ]


def test_of_one_candidate_the_page_says_that_there_is_nothing_to_compare(tmp_path):
    none = simulated({CHEAP: 1.0}).iloc[:0]
    run = compare(none, {CHEAP: 1.0})
    assert run.facts["n_compared"] == 0 and "nothing to compare" in run.facts["told"][0]
    page = recommendation.page(run.candidates, run.effects, run.facts, COSTS, by_fold())
    assert "nothing to compare" in page and "What each outer fold chose" in page
    seldom = dict.fromkeys("01", told([CHEAP], [DEAR, WORSE]))
    words = compare(none, SKILL, seldom).facts["told"][0]
    assert words.startswith("Of 3 candidates") and "n_trials" in words


def test_what_would_settle_it_grows_as_the_difference_shrinks():
    def words(difference):
        row = {"f1_macro_difference": difference, "f1_macro_difference_low": difference - 0.2,
               "f1_macro_difference_high": difference + 0.2}  # fmt: skip
        return recommendation._what_would_settle(pd.Series(row), "f1_macro", 24)

    assert "about 96 horses" in words(-0.1)  # twice the precision, four times the horses
    assert "more than 20 times" in words(-0.01) and "up to 0.21 is not ruled out" in words(-0.01)
    assert "scored the same" in words(0.0)


def best(backbone, views, metric="f1_macro"):
    of = told([(backbone, views)])["candidates"][0]
    return {"structure": of["structure"], "head": of["head"], "metric": metric, "score": 0.55}


def by_fold(explored=None):
    answers = simulated({CHEAP: 1.0}, n_horses=24)
    bests = {"0": best("small", "whole"), "1": best("large", "whole+head")}
    return comparison.by_fold(bests, answers, CLASSES, explored or {})


def test_what_each_fold_chose_stands_beside_the_horses_it_did_not_see():
    table = by_fold()
    answers = simulated({CHEAP: 1.0}, n_horses=24)
    assert table["views"].tolist() == ["whole", "whole+head"]
    assert table["n_horses"].tolist() == [12, 12] and table["n_images"].tolist() == [240, 240]
    assert table["horses"][1].split("; ")[:2] == ["h01", "h03"]
    for row in table.to_dict("records"):
        own = answers[answers["fold"] == row["fold"]]
        expected = balanced_accuracy_score(own["truth"], own["predicted"])
        assert row["balanced_accuracy"] == pytest.approx(expected)
        assert row["outer_score"] == pytest.approx(
            f1_score(own["truth"], own["predicted"], average="macro")
        )
        assert row["inner_score"] == 0.55 and row["weight_by"] == "class+horse"
        assert row["way"] == "frozen"


def test_a_fold_whose_backbone_was_fine_tuned_says_so_in_table_and_page():
    ways = {"frozen_mlp": {"score": 0.55}, "last_blocks": {"score": 0.6}}
    explored = {
        "0": {"chosen": "frozen_mlp", "ways": ways},
        "1": {"chosen": "last_blocks", "ways": ways},
    }
    table = by_fold(explored)
    assert table["way"].tolist() == ["frozen", "last_blocks"]
    assert table["inner_score"].tolist() == [0.55, 0.6]
    printed = recommendation._printed_choices(table)
    assert printed["Fine-tuned"].tolist() == ["no", "last blocks"]
    assert "Fine-tuned" not in recommendation._printed_choices(by_fold())


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_tables_and_page_are_written_and_escaped(found, tmp_path):
    chosen = dict.fromkeys("01", told(SKILL))
    choices = by_fold().assign(horses="<b>Nelly</b>; " + "; ".join("abcdefghij"))
    comparison.write(found, COSTS, comparison.configurations(chosen), choices, tmp_path)
    assert pd.read_csv(tmp_path / "candidates.csv")["recommended"].tolist().count(True) == 1
    assert len(pd.read_csv(tmp_path / "configurations.csv")) == 6
    assert r"\toprule" in (tmp_path / "candidates.tex").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())["n_horses"] == 24
    page = Text()
    page.feed((tmp_path / "comparison.html").read_text())
    assert "<b>Nelly</b>, a, b" in page.text and "b" not in page.tags
    assert "and 3 more" in page.text
    assert "20 ms an image (CPU, 96 images)" in page.text and "not in this run" in page.text
    assert page.tags.count("table") == 5 and "nan" not in page.text.lower()


def test_costs_come_from_cards_and_from_jobs_that_embedded(tmp_path):
    def card(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(bytes(2_500_000))
        (folder / "card.yaml").write_text(yaml.safe_dump({
            "name": name, "architecture": "resnet18", "side": 224, "n_parameters": 11_176_512,
            "macs": 1_813_561_344,
        }))  # fmt: skip
        return folder / "card.yaml"

    def used(name, **facts):
        facts |= {"wall_s": 100, "backbone": name.split("-")[1]}
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
        return tmp_path / f"{name}.json"

    usages = [
        used("whole-a-000", images=90, embedding_s=9.0, device="CPU"),
        used("head-a-000", images=10, embedding_s=3.0, device="CPU"),
        used("whole-a-001", images=0, embedding_s=0.0, device="CPU"),  # all were in the store
        used("whole-b-000", images=0, embedding_s=0.0, device="CPU"),
        used("whole-c-000", images=5, embedding_s=1.0, device="CPU"),
        used("whole-c-001", images=5, embedding_s=0.1, device="NVIDIA H100"),
    ]
    costs = comparison.cost_table([card(name) for name in "abc"], usages).set_index("backbone")
    assert costs["seconds"]["a"] == pytest.approx(0.12) and costs["n_timed"]["a"] == 100
    assert costs["device"]["a"] == "CPU" and np.isnan(costs["seconds"]["b"])
    assert costs["n_timed"]["c"] == 0  # two devices: no one figure
    assert costs["weights_mb"]["a"] == 2.5 and costs["gmacs"]["a"] == pytest.approx(1.813561344)


def test_the_figure_names_every_candidate_and_says_when_there_is_none(found, tmp_path):
    figure = figures.candidates(found.candidates, found.facts)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ranked = found.candidates["backbone"] + " on " + found.candidates["views"]
    assert names == ranked.tolist()
    bold = [text.get_weight() for text in figure.axes[0].get_yticklabels()]
    assert [weight == "bold" for weight in bold] == found.candidates["recommended"].tolist()
    first = figures.candidates(found.candidates, found.facts, n_shown=1)  # and the recommended one
    assert len(first.axes[0].get_yticklabels()) == 2 - found.candidates["recommended"].iloc[0]
    one = compare(simulated({CHEAP: 1.0}).iloc[:0], {CHEAP: 1.0})
    for name, drawn in (("some", figure), ("none", figures.candidates(one.candidates, one.facts))):
        (path,) = figures.save(drawn, tmp_path / name, ["png"])
        assert path.stat().st_size > 2000
