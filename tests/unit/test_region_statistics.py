import numpy as np
import pandas as pd
import pytest
from equimood import region_statistics, tables
from scipy import stats


def scores(*entries):
    """(horse, target, region, enrichment[, model, correct]), an image each."""
    rows = []
    for i, (horse, target, name, enrichment, *rest) in enumerate(entries):
        model, correct = rest or ("trained", True)
        rows.append(
            {
                "image_id": str(i), "model": model, "view": "whole", "target": target,
                "horse": horse, "region": name, "enrichment": enrichment, "signed": -enrichment,
                "correct": correct,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_mean_is_over_images_and_the_interval_over_horses():
    """Ten images of one horse say no more about other horses than one does."""
    few = [(f"h{i}", "alarmed", "eyes", value) for i, value in enumerate([1.0, 2, 3, 4, 5, 6])]
    many = [entry for entry in few for _ in range(10)]
    one, ten = (
        region_statistics.summarise([scores(*s)], 2000, 0.95, 1).iloc[0] for s in (few, many)
    )
    assert (one.n_images, ten.n_images, one.n_horses, ten.n_horses) == (6, 60, 6, 6)
    assert one.enrichment == ten.enrichment == pytest.approx(3.5)
    assert one.signed == ten.signed == pytest.approx(-3.5)
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))
    student = stats.t.interval(0.95, 5, 3.5, stats.sem(range(1, 7)))
    assert one.low == pytest.approx(student[0], abs=0.2)
    on_the_logarithm = 3.5 * np.exp((student[1] - 3.5) / 3.5)  # the wider bound of the two
    assert one.high == pytest.approx(on_the_logarithm)
    alone = region_statistics.summarise([scores(*few[:1] * 5)], 2000, 0.95, 1).iloc[0]
    assert np.isnan([alone.low, alone.high]).all()


def test_summaries_are_the_same_however_the_images_are_shared_out():
    rng = np.random.default_rng(1)
    entries = [
        (f"h{rng.integers(8)}", label, name, rng.gamma(2.0), model, True)
        for model in ("trained", "random")
        for label in ("alarmed", "annoyed")
        for name in ("eyes", "ears")
        for _ in range(20)
    ]
    frame = scores(*entries)
    whole = region_statistics.summarise([frame], 500, 0.9, 3)
    parts = region_statistics.summarise([frame[:57], frame[57:90], frame[90:]], 500, 0.9, 3)
    pd.testing.assert_frame_equal(whole, parts)
    assert len(whole) == 8


def test_the_top_region_is_the_most_enriched_of_its_level():
    frame = scores(*[("h", "alarmed", name, 0.0) for name in ("eye_left", "tail", "eyes", "body")])
    frame["image_id"] = "one"
    frame["enrichment"] = [5.0, 1.0, 4.0, 1.0]
    top = region_statistics.summarise([frame], 100, 0.9, 1).set_index("region")["top_rate"]
    assert top.to_dict() == {"eye_left": 1, "eyes": 1, "tail": 0, "body": 0}


def test_the_causal_region_is_judged_on_correct_images_and_without_neutral():
    frame = scores(
        ("h1", "alarmed", "eyes", 4.0),
        ("h2", "alarmed", "eyes", 6.0),
        ("h1", "alarmed", "ears", 100.0),
        ("h1", "alarmed", "eyes", 100.0, "trained", False),
        ("h2", "annoyed", "ears", 2.0),
        ("h2", "neutral", "ears", 100.0),
        ("h1", "alarmed", "eyes", 1.0, "random", True),
        ("h1", "annoyed", "ears", np.nan, "random", True),
    )
    causes = {"alarmed": "eyes", "annoyed": "ears", "neutral": "none"}
    found = region_statistics.causal([frame], causes, 100, 0.9, 1).set_index(["model", "target"])
    assert found["enrichment"].to_dict() == {
        ("random", "alarmed"): 1,
        ("random", "all"): 1,
        ("trained", "alarmed"): 5,
        ("trained", "all"): 4,
        ("trained", "annoyed"): 2,
    }


def test_a_class_without_a_cause_is_left_out_and_one_called_none_is_not(tmp_path):
    (tmp_path / "causes.csv").write_text(
        "label,region,cue\nalarmed,eyes,eye\nneutral,none,none\nNA,ears,ear\nnone,mouth,lips\n"
    )
    causes = region_statistics.read_causes(tmp_path / "causes.csv")
    assert causes == {"alarmed": "eyes", "NA": "ears", "none": "mouth"}


def test_no_scores_give_an_empty_summary():
    empty = pd.DataFrame(columns=tables.REGION_SCORES.names)
    assert region_statistics.summarise([empty], 100, 0.9, 1).empty
    assert region_statistics.causal([], {}, 100, 0.9, 1).empty
