import numpy as np
import pandas as pd
import pytest
from equimood import ethogram, tables
from sklearn.metrics import roc_auc_score

ROLLED = ["ears", "eyes", "mouth", "body", "context"]
SINGLE = ["ear_left", "ear_right", "eye_left", "neck", "background", "head"]


def study(enrichment, n_horses=8, names=(*ROLLED, *SINGLE), target="alarmed", model="trained"):
    """Two images a horse, each with the regions' enrichments as ``enrichment(rng)`` draws them."""
    rng = np.random.default_rng(1)
    rows = []
    for image in range(2 * n_horses):
        for name, value in zip(names, enrichment(rng), strict=True):
            rows.append(
                {"image_id": f"{target}{image}", "model": model, "view": "whole", "target": target,
                 "horse": f"h{image % n_horses}", "region": name, "enrichment": value}
            )  # fmt: skip
    return pd.DataFrame(rows)


def by_chance(rng):
    return rng.lognormal(size=len(ROLLED) + len(SINGLE))


def agree(frame, expected, **options):
    return ethogram.agree([frame], expected, options.get("n", 300), 0.95, 1)


def test_it_is_sklearns_auroc_and_precision_of_every_image():
    frame = study(by_chance)
    found = agree(frame, {"alarmed": ["ears", "eye_left"]}).set_index("target").loc["alarmed"]
    aurocs, precisions = [], []
    for _, own in frame.groupby("image_id"):
        own = own[own["region"].isin(SINGLE) & (own["region"] != "head")]
        hit = own["region"].isin(["ear_left", "ear_right", "eye_left"])
        aurocs.append(roc_auc_score(hit, own["enrichment"]))
        first = own["enrichment"].sort_values(ascending=False).index[:3]
        precisions.append(hit[first].mean())
    assert found.auroc == pytest.approx(np.mean(aurocs))
    assert found.precision == pytest.approx(np.mean(precisions))
    assert found.chance == pytest.approx(3 / 5)
    assert (found.n_images, found.n_horses, found.expected) == (16, 8, "ears eye_left")


def test_roll_ups_alone_are_compared_with_roll_ups_and_what_surrounds_the_horse():
    def eyes_first(rng):
        parts, background, head = rng.lognormal(3, 1, 4), 1, 99
        return [1, 9, 1, 1, 99, *parts, background, head]  # 99: they hold others

    found = agree(study(eyes_first), {"alarmed": ["eyes"]}).iloc[0]
    assert (found.auroc, found.precision) == (1, 1)
    assert found.chance == pytest.approx(0.2)
    assert (found.expected_enrichment, found.other_enrichment) == (9, 1)


def test_regions_drawn_by_chance_give_a_half_and_the_interval_says_so():
    covered = []
    for target in range(30):
        frame = study(by_chance, target=f"class {target}", n_horses=10)
        frame["enrichment"] = np.random.default_rng(target).lognormal(size=len(frame))
        row = agree(frame, {f"class {target}": ["ears", "eyes"]}, n=100).iloc[0]
        covered.append(row.auroc_low < 0.5 < row.auroc_high)
    assert np.mean(covered) > 0.8


def test_equal_regions_count_half_and_are_no_hit():
    found = agree(study(lambda rng: [1.0] * 11), {"alarmed": ["eyes"]}).iloc[0]
    assert (found.auroc, found.precision) == (0.5, 0)


def test_images_that_show_no_expected_or_no_other_region_are_left_out():
    frame = study(by_chance)
    own = frame["region"] == "eyes"
    frame.loc[own & (frame["image_id"] == "alarmed0"), "enrichment"] = np.nan
    frame.loc[~own & (frame["image_id"] == "alarmed1"), "enrichment"] = np.nan
    assert agree(frame, {"alarmed": ["eyes"]}).iloc[0].n_images == 14


def test_classes_are_told_apart_and_together_and_in_words():
    frame = pd.concat([
        study(lambda rng: [1, 9, *rng.lognormal(0, 0.3, 9)]),
        study(lambda rng: [0.1, *rng.lognormal(0, 0.3, 10)], target="annoyed"),
        study(by_chance, target="neutral"),
        study(by_chance, model="random"),
    ])  # fmt: skip
    found = agree(frame, {"alarmed": ["eyes"], "annoyed": ["ears"]})
    trained = found[found["model"] == "trained"].set_index("target")
    assert trained["auroc"].to_dict() == {"": 0.5, "alarmed": 1, "annoyed": 0}
    assert trained["n_images"].to_dict() == {"": 32, "alarmed": 16, "annoyed": 16}
    told = " ".join(ethogram.in_words(found))
    assert "alarmed, expected eyes (view whole): AUROC 1.00" in told
    beside = found[found["model"] == "random"].set_index("target").loc["alarmed", "auroc"]
    assert f"({beside:.2f} [" in told and told.count("with random weights") == 2  # and of all
    assert "since no horse differs" in told
    chance = agree(study(by_chance), {"alarmed": ["eyes", "ears"]})
    assert "not told from chance; at 0.5" in ethogram.in_words(chance)[0]


def test_without_expectations_or_images_there_is_a_table_without_rows():
    assert agree(study(by_chance), {}).empty
    assert agree(study(by_chance), {"annoyed": ["eyes"]}).empty
    columns = agree(study(by_chance)[:0].assign(horse=""), {"alarmed": ["eyes"]}).columns
    assert {"auroc", "auroc_low", "precision", "expected"} <= set(columns)
    assert "head" in tables.CONTAINERS
