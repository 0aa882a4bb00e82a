import numpy as np
import pandas as pd
import pytest
from equimood import region_stability, region_statistics, tables
from scipy import stats


def scores(*entries):
    """(horse, target, region, enrichment[, model, correct]), an image each, ranked first."""
    rows = []
    for i, (horse, target, name, enrichment, *rest) in enumerate(entries):
        model, correct = rest or ("trained", True)
        rows.append(
            {
                "image_id": str(i), "model": model, "view": "whole", "target": target,
                "horse": horse, "region": name, "enrichment": enrichment, "signed": -enrichment,
                "correct": correct, "fold": "0", "rank": 1, "net_rank": 2, "overlap": 0.5,
                "visible": True, "missing": None,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def summarise(parts, *options):
    return region_statistics.summarise(region_statistics.per_horse(parts), *options)


def test_the_mean_is_over_images_and_the_interval_over_horses():
    """Ten images of one horse say no more about other horses than one does."""
    few = [(f"h{i}", "alarmed", "eyes", value) for i, value in enumerate([1.0, 2, 3, 4, 5, 6])]
    many = [entry for entry in few for _ in range(10)]
    one, ten = (summarise([scores(*s)], 2000, 0.95, 1).iloc[0] for s in (few, many))
    assert (one.n_images, ten.n_images, one.n_horses, ten.n_horses) == (6, 60, 6, 6)
    assert one.enrichment == ten.enrichment == pytest.approx(3.5)
    assert one.signed == ten.signed == pytest.approx(-3.5)
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))
    student = stats.t.interval(0.95, 5, 3.5, stats.sem(range(1, 7)))
    assert one.low == pytest.approx(student[0], abs=0.2)
    on_the_logarithm = 3.5 * np.exp((student[1] - 3.5) / 3.5)  # the wider bound of the two
    assert one.high == pytest.approx(on_the_logarithm)
    alone = summarise([scores(*few[:1] * 5)], 2000, 0.95, 1).iloc[0]
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
    whole = summarise([frame], 500, 0.9, 3)
    parts = summarise([frame[:57], frame[57:90], frame[90:]], 500, 0.9, 3)
    pd.testing.assert_frame_equal(whole, parts)
    assert len(whole) == 8


def test_a_region_is_on_top_where_its_rank_is_1():
    frame = scores(*[("h", "alarmed", name, 1.0) for name in ("eyes", "eyes", "ears", "eyes")])
    frame["rank"], frame["net_rank"] = [1, 2, 1, 1], [2, 1, 1, 1]
    frame["signed"] = [1, -1, -1, 1]  # what speaks against the class is no evidence for it
    found = summarise([frame], 100, 0.9, 1).set_index("region")
    assert found["top_rate"].to_dict() == {"eyes": pytest.approx(2 / 3), "ears": 1}
    assert found["top_net_rate"].to_dict() == {"eyes": pytest.approx(1 / 3), "ears": 0}


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


def test_the_causal_region_is_on_top_or_another_of_its_level_is_named():
    """Four correct images, in one of which eyes are second to tack; net ranks the other way."""
    rows = []
    for i, ranks in enumerate([(1, 2), (1, 2), (2, 1), (1, 2)]):
        for name, rank in (*zip(("eyes", "tack"), ranks, strict=True), ("eye_left", 1)):
            rows.append((f"h{i % 2}", "alarmed", name, 3.0 - rank))
            rows[-1] += ("trained", True)
    frame = scores(*rows)
    frame["image_id"] = np.repeat(list("abcd"), 3)
    frame["rank"] = [1, 2, 1, 1, 2, 1, 2, 1, 1, 1, 2, 1]
    frame["net_rank"], frame["signed"] = [2, 1, 1, 2, 1, 1, 1, 2, 1, 2, 1, 1], 1
    wrong = frame.assign(correct=False, image_id="x")
    found = region_statistics.causal([frame, wrong], {"alarmed": "eyes"}, 200, 0.9, 1)
    assert found["target"].tolist() == ["alarmed", "all"]
    assert found["top_rate"].tolist() == [0.75, 0.75]
    assert found["top_net_rate"].tolist() == [0.25, 0.25]
    assert found["instead"].tolist() == [{"tack": 0.25}] * 2
    assert found["n_images"].tolist() == [4, 4]


def test_a_class_without_a_cause_is_left_out_and_one_called_none_is_not(tmp_path):
    (tmp_path / "causes.csv").write_text(
        "label,region,cue\nalarmed,eyes,eye\nneutral,none,none\nNA,ears,ear\nnone,mouth,lips\n"
    )
    causes = region_statistics.read_causes(tmp_path / "causes.csv")
    assert causes == {"alarmed": "eyes", "NA": "ears", "none": "mouth"}


def test_no_scores_give_an_empty_summary():
    empty = pd.DataFrame(columns=tables.REGION_SCORES.names)
    assert summarise([empty], 100, 0.9, 1).empty
    assert summarise([], 100, 0.9, 1).empty
    assert region_statistics.causal([], {}, 100, 0.9, 1).empty


def judged(enrichment, control, n_horses=12, region="eyes", target="alarmed"):
    """Scores of a region on 4 images of each horse, 2 of them explained with random weights too."""
    rng = np.random.default_rng(len(region))
    rows = []
    for horse in range(n_horses):
        for image in range(4):
            about = (f"h{horse}", target, region)
            rows.append((*about, enrichment * rng.lognormal(0, 0.2), "trained", True))
            if image < 2 and control:
                rows.append((*about, control * rng.lognormal(0, 0.2), "random", True))
    frame = scores(*rows)
    frame["image_id"] = [f"{target}{h}" for h in (frame["model"] == "trained").cumsum()]
    return frame


def test_verdicts_say_what_was_planted():
    frame = pd.concat([
        judged(4, 1), judged(4, 4, region="ears"), judged(0.3, 1, region="mouth"),
        judged(1, 1, region="face"), judged(4, None, region="body"),
        judged(4, 1, n_horses=1, region="context"),
    ])  # fmt: skip
    found = summarise([frame.assign(signed=1.0)], 200, 0.95, 1).set_index("region")
    trained = found[found["model"] == "trained"]["verdict"]
    assert trained.to_dict() == {
        "eyes": "more than its area, more than random weights",
        "ears": "more than its area, not told from random weights",
        "mouth": "less than its area, less than random weights",
        "face": "not told from its area, not told from random weights",
        "body": "more than its area, nothing known against random weights",
        "context": "nothing known against its area, nothing known against random weights",
    }
    assert (found.loc[found["model"] == "random", "verdict"] == "").all()
    against = summarise([judged(4, 1).assign(signed=-1.0)], 200, 0.95, 1)
    assert against["verdict"].iloc[-1].endswith("on the whole against the class")


def test_tests_are_corrected_for_all_regions_of_a_level_and_classes():
    alone = summarise([judged(1.3, 1)], 100, 0.95, 1).iloc[-1]
    several = [judged(1.3, 1), judged(1.0, 1, region="ears"), judged(1.0, 1, target="annoyed")]
    beside = summarise([pd.concat(several)], 100, 0.95, 1)
    own = beside[(beside["region"] == "eyes") & (beside["target"] == "alarmed")].iloc[-1]
    assert 0 < alone.p_area < 0.01
    assert own.p_area == pytest.approx(3 * alone.p_area)
    other = pd.concat([judged(1.3, 1), judged(1.0, 1, region="eye_left")])  # of another level
    assert summarise([other], 100, 0.95, 1).iloc[-1].p_area == pytest.approx(alone.p_area)


def test_the_control_is_compared_on_its_own_images_alone():
    """Enriched on the images without a control, and like random weights on those with one."""
    frame = judged(1, 1)
    without = (frame["model"] == "trained") & ~frame["image_id"].isin(
        frame.loc[frame["model"] == "random", "image_id"]
    )
    frame.loc[without, "enrichment"] *= 20
    row = summarise([frame], 100, 0.95, 1).iloc[-1]
    assert row.p_area < 0.01
    assert row.p_random > 0.05


def test_the_table_for_a_paper_says_what_the_summary_says():
    table = region_statistics.printed(summarise([judged(4, 1)], 200, 0.95, 1), ["ears", "eyes"])
    assert table.shape == (1, 7)
    row = table.iloc[0]
    assert (row["Region"], row["p (area)"], row["p (random)"]) == ("eyes", "< 0.001", "< 0.001")
    assert float(row["Enrichment"].split()[0]) == pytest.approx(4, abs=0.3)
    assert float(row["Random weights"]) == pytest.approx(1, abs=0.1)


def test_what_has_no_score_is_counted_by_reason():
    frame = scores(*[("h", "alarmed", "eyes", value) for value in (1.0, np.nan, np.nan, np.nan)])
    frame["visible"] = frame["enrichment"].notna()
    frame["missing"] = [None, "hidden", "hidden", "not in the frame"]
    frame.loc[~frame["visible"], "overlap"] = np.nan
    again = frame.assign(model="random")
    row = region_statistics.seen([frame[:2], frame[2:], again]).iloc[0]
    assert row["region"] == "eyes"
    assert (row.n_images, row.n_visible, row.hidden, row.not_in_the_frame) == (4, 1, 2, 1)
    assert (row.not_annotated, row.overlap) == (0, 0.5)


def profiles(noise, seed=1):
    """Six regions, four folds of three horses with five images each."""
    rng = np.random.default_rng(seed)
    names = ["ear_left", "eye_left", "nostril_left", "upper_lip", "cheek", "neck"]
    rows = [
        (f"h{fold}{horse}", "alarmed", name, (i + 1) * rng.lognormal(0, noise))
        for fold in range(4) for horse in range(3) for _ in range(5)
        for i, name in enumerate(names)
    ]  # fmt: skip
    frame = scores(*rows)
    frame["fold"] = frame["horse"].str[1]
    return frame


def test_folds_that_order_regions_alike_are_stable_and_others_are_not():
    frame = profiles(0.05)
    found = region_stability.compare_folds(region_statistics.per_horse([frame]))
    assert found["fold"].tolist() == ["all", "0", "1", "2", "3"]
    assert found["spearman"].tolist() == [1] * 5
    assert found["n_images"].tolist() == [60, 15, 15, 15, 15]
    assert found["n_horses"].tolist() == [12, 3, 3, 3, 3]
    upset = frame.copy()
    own = upset["fold"] == "3"
    upset.loc[own, "enrichment"] = 1 / upset.loc[own, "enrichment"]
    found = region_stability.compare_folds(region_statistics.per_horse([upset])).set_index("fold")
    assert found["spearman"].to_dict() == pytest.approx(
        {"all": 0, "0": 1 / 3, "1": 1 / 3, "2": 1 / 3, "3": -1}
    )
    assert found.loc["0", "lowest"] == pytest.approx(-1)
    told = region_stability.in_words(found.reset_index())
    assert "no stable order (Spearman 0.00, lowest of two folds -1.00)" in told[0]["in_words"]


def test_few_regions_or_one_fold_say_nothing_of_stability():
    few = profiles(0.05)
    few = few[few["region"].isin(["ear_left", "neck", "cheek", "eye_left"])]
    assert region_stability.compare_folds(region_statistics.per_horse([few])).empty
    one = profiles(0.05).assign(fold="0")
    assert region_stability.compare_folds(region_statistics.per_horse([one])).empty


def test_views_share_out_what_speaks_for_an_answer():
    rows = []
    for i in range(6):
        for view, whole in (("whole", 1.0 + i / 10), ("head", 3.0)):
            for name, share in (("eyes", 0.5), ("ears", 0.0), ("mouth", 0.25)):
                rows.append({
                    "model": "trained", "view": view, "photo_id": str(i), "image_id": f"{i}{view}",
                    "horse": f"h{i}", "region": name, "share": share, "positive": share * whole,
                })  # fmt: skip
    frame = pd.DataFrame(rows)
    head, whole = region_statistics.per_view([frame[:18], frame[18:]], 200, 0.9, 1)
    expected = np.mean([3 / (4 + i / 10) for i in range(6)])
    assert (head["view"], whole["view"]) == ("head", "whole")
    assert head["share"] == pytest.approx(expected) == pytest.approx(1 - whole["share"])
    assert head["share_low"] < expected < head["share_high"]
    assert region_statistics.per_view([frame[frame["view"] == "head"]], 200, 0.9, 1) == []
