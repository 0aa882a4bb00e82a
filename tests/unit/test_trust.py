"""Verdicts: what is known to be right passes, what knows nothing of the model does not."""

import numpy as np
import pandas as pd
import pytest
from equimood import settings, tables, trust, trust_pages

TESTS = settings.ExplanationTests()
AT = (0.0, 0.1, 0.5, 1.0)
CURVES = {"early": (0.9, 0.3, 0.2, 0.2), "late": (0.9, 0.9, 0.7, 0.2)}
OVER = {"n_bootstrap": 400, "confidence": 0.95, "seed": 1}


def probed(n_horses=8, per_horse=2, *, map_="early", edges="late", hidden=0.8, size=0.3,
           forgot=0.0, moved=0.3, seeds=0.9, baseline=0.9):  # fmt: skip
    """A sample of a good explanation, unless said otherwise, with some noise."""
    rng = np.random.default_rng(1)
    rows = []

    def add(test, of, value, at=np.nan):
        value += rng.normal(0, 0.03)
        rows.append({**about, "test": test, "of": of, "at": at, "value": value})

    for i in range(n_horses * per_horse):
        about = {"photo_id": f"{i:03d}", "horse": f"h{i % n_horses}", "fold": "0",
                 "truth": "calm", "target": "calm"}  # fmt: skip
        for of, kind in (("map", map_), ("edges", edges), ("random", "late")):
            for at, down in zip(AT, CURVES[kind], strict=True):
                add("deletion", of, down, at)
                add("insertion", of, 1.1 - down, at)
        add("occlusion", "map", hidden)
        add("occlusion", "size", size)
        for at in (0.0, 1.0):
            add("randomisation", "map", forgot, at)
            add("randomisation", "strength", 0.5, at)
        add("sensitivity", "map", moved)
        add("seeds", "map", seeds)
        add("baseline", "mean", baseline)
    return pd.DataFrame(rows, columns=tables.EXPLANATION_TESTS.names)


def verdicts(table, **changes):
    return {
        test["test"]: test["verdict"]
        for test in trust.judge(table, TESTS, **OVER | changes)["tests"]
    }


def test_a_good_explanation_passes_every_test():
    assert set(verdicts(probed()).values()) == {"passed"}
    assert list(verdicts(probed())) == list(trust.ABOUT)


@pytest.mark.parametrize(
    ("fault", "test", "verdict"),
    [
        ({"map_": "late"}, "deletion", {"failed", "doubtful"}),  # a random map
        ({"map_": "late", "edges": "early"}, "insertion", {"failed"}),
        ({"edges": "early"}, "deletion", {"failed", "doubtful"}),  # no better than edges
        ({"hidden": -0.2}, "occlusion", {"failed"}),
        ({"hidden": 0.6, "size": 0.6}, "occlusion", {"doubtful"}),
        ({"forgot": 0.9}, "randomisation", {"failed"}),
        ({"forgot": TESTS.unlike}, "randomisation", {"doubtful"}),
        ({"moved": 1.4}, "sensitivity", {"failed"}),
        ({"seeds": 0.2}, "seeds", {"failed"}),
        ({"baseline": TESTS.alike}, "baseline", {"doubtful"}),
    ],
)
def test_a_fault_is_found_by_its_own_test(fault, test, verdict):
    found = verdicts(probed(**fault))
    assert found.pop(test) in verdict
    if not {"map_", "edges"} & set(fault):
        assert set(found.values()) == {"passed"}


def test_the_area_under_a_curve_counts_the_distance_between_its_points():
    table = probed(per_horse=1)
    figure = trust.judge(table, TESTS, **OVER)["tests"][0]["compared"][0]
    expected = np.trapezoid(CURVES["late"], AT) - np.trapezoid(CURVES["early"], AT)
    assert figure["value"] == pytest.approx(expected, abs=0.02)
    assert figure["low"] < figure["value"] < figure["high"]


def test_one_horse_leaves_all_in_doubt_and_no_sample_is_not_judged():
    alone = verdicts(probed(n_horses=1, per_horse=6))
    assert set(alone.values()) == {"doubtful"}
    assert verdicts(probed(n_horses=1, per_horse=6, hidden=-0.2))["occlusion"] == "failed"
    found = trust.judge(probed().iloc[:0], TESTS, **OVER)
    assert {test["verdict"] for test in found["tests"]} == {"not judged"}
    assert trust_pages.in_a_sentence(found) == "No test could be judged."


def test_a_test_that_could_not_be_made_is_left_out_of_the_count():
    """A fine-tuned model has no other seeds."""
    table = probed()
    found = trust.judge(table[table["test"] != "seeds"], TESTS, **OVER)
    assert trust_pages.in_a_sentence(found) == (
        "6 of 6 tests passed; not judged: another training."
    )


def test_more_photographs_of_a_horse_say_no_more_of_other_horses():
    copies = pd.concat([probed(per_horse=1).assign(photo_id=lambda t, i=i: t["photo_id"] + str(i))
                        for i in range(5)])  # fmt: skip
    alone, many = (
        trust.judge(table, TESTS, **OVER)["tests"][2]["compared"][0]
        for table in (probed(per_horse=1), copies)
    )
    assert (many["low"], many["high"]) == pytest.approx((alone["low"], alone["high"]))


# --------------------------------------------------------------------------- outside the horse


def summary(*rows):
    columns = ["model", "view", "target", "region", "n_images", "top_rate"]
    rated = pd.DataFrame(rows, columns=columns)
    net = rated["top_rate"].where(rated["region"] != "ears", 0.5)
    return rated.assign(
        top_net_rate=net, enrichment=1.0 + rated["top_rate"], signed=rated["top_rate"] - 0.5,
        verdict="more than its area, more than random weights",
    )  # fmt: skip


def test_a_region_outside_the_horse_is_named_when_most_images_of_a_class_rest_on_it():
    found = trust.most_enriched(
        summary(
            ("trained", "whole", "annoyed", "object", 95, 1.0),  # in 5 there is none
            ("trained", "whole", "annoyed", "background", 100, 0.0),
            ("trained", "whole", "annoyed", "ears", 90, 0.05),
            ("trained", "whole", "annoyed", "context", 100, 0.95),  # all of it
            ("trained", "whole", "annoyed", "upper_lip", 100, 1.0),  # a part
            ("trained", "whole", "relaxed", "mouth", 60, 0.9),
            ("trained", "whole", "relaxed", "object", 60, 0.1),
            ("random", "whole", "relaxed", "object", 60, 0.9),
            ("trained", "head", "relaxed", "background", 60, 0.0),
            ("trained", "head", "relaxed", "mouth", 60, 0.4),
        )
    )
    head, annoyed, relaxed = found
    assert (head["view"], head["outside"], head["outside_share"]) == ("head", None, 0.0)
    assert annoyed["outside"] == annoyed["region"] == "object"
    assert annoyed["outside_share"] == pytest.approx(0.95)
    assert (annoyed["n_images"], annoyed["named"]) == (100, True)
    assert (relaxed["region"], relaxed["share"]) == ("mouth", 0.9)
    assert (relaxed["outside"], relaxed["outside_share"]) == ("object", 0.1)
    assert not relaxed["named"]
    assert (annoyed["leading"], annoyed["leading_enrichment"]) == ("object", 2.0)
    assert (annoyed["most_net"], relaxed["most_net"]) == ("object", None)
    assert (relaxed["leading"], head["leading"]) == ("mouth", None)  # which speaks against it


def test_a_rare_region_leads_nothing_and_the_head_counts_as_the_horse():
    seldom, often, background = ("human", 1, 0.9), ("head", 200, 0.8), ("background", 200, 0.7)
    rows = [("trained", "whole", "calm", *row) for row in (seldom, often, background)]
    (found,) = trust.most_enriched(summary(*rows))
    assert (found["leading"], found["region"], found["most_net"]) == ("head", "head", None)
    doubted = summary(*rows).assign(verdict="more than its area, not told from random weights")
    assert trust.most_enriched(doubted)[0]["leading"] is None


def test_a_study_without_regions_names_none():
    assert trust.most_enriched(summary()) == []


# ------------------------------------------------------------------------------------ in words


def test_the_page_begins_with_what_was_not_passed_and_escapes_names():
    found = trust.judge(probed(forgot=0.9, baseline=TESTS.alike), TESTS, **OVER)
    nasty = "<img src=x> {{ 7 * 7 }}"
    found["most_enriched"] = [{
        "view": nasty, "target": nasty, "n_images": 9, "leading": "ears",
        "leading_enrichment": 3.0, "region": "object", "share": 0.9,
        "outside": "object", "outside_share": 0.9, "named": True,
        "most_net": "object", "most_signed": 2.0,
    }]  # fmt: skip
    page = trust_pages.page(found, b"png")
    assert "5 of 7 tests passed" not in page.split("<h3>")[1]
    assert page.index("Forgetting what was learnt") < page.index("Another baseline")
    assert page.index("Another baseline</h3>") < page.index("Covering what the map marks</h3>")
    assert "&lt;img src=x&gt; {{ 7 * 7 }}" in page
    assert "<img src=x>" not in page
    randomised = found["tests"][3]["compared"][0]
    assert f"{randomised['value']:.2f} [" in page
    assert "below 0.3" in page


def test_the_sentence_counts_and_names():
    found = trust.judge(probed(forgot=0.9, baseline=TESTS.alike), TESTS, **OVER)
    assert trust_pages.in_a_sentence(found) == (
        "5 of 7 tests passed; failed: forgetting what was learnt; doubtful: another baseline."
    )


def test_the_figure_draws_every_order_and_both_likenesses():
    figure = trust_pages.curves(trust.judge(probed(), TESTS, **OVER))
    covering, showing, forgetting = figure.axes
    assert [line.get_label() for line in covering.get_lines()] == [
        "by the map", "by edges", "at random",
    ]  # fmt: skip
    assert covering.get_lines()[0].get_ydata() == pytest.approx(CURVES["early"], abs=0.03)
    assert len(showing.get_lines()) == 3
    assert len(forgetting.get_lines()) == 3  # two likenesses and the threshold
