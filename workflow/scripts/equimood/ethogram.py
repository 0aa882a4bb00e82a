"""How far explanations agree with the regions that experts expect for each class.

The measure is the explanation's own order of regions: where the expected ones stand in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from equimood.evaluation import with_interval
from equimood.intervals import POSITIVE, UNIT
from equimood.region_statistics import Scores, over_horses, summed, total
from equimood.tables import CELLS, CONTAINERS, ROLLUPS, level_of

FIGURES = ["auroc", "precision", "chance", "expected_enrichment", "other_enrichment"]
KEYS = ["model", "view", "target"]


def agree(
    scores: Scores,
    ethogram: Mapping[str, Sequence[str]],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Measure in each image how the expected regions stand among all that have a score.

    Where only roll-ups are expected of a class, the overview is compared; else single regions,
    those of a roll-up each. What holds the others, such as the head, is never among the others.

    Parameters
    ----------
    ethogram : expected regions or roll-ups of each class.

    Returns
    -------
    KEYS, ``expected``, n_images (those that show an expected and another region), n_horses, and
    means over images, with intervals over horses where ``_low`` and ``_high`` follow: ``auroc``,
    the share of pairs of an expected and another region in which the expected one is the more
    enriched, equal ones half (0.5 by chance); ``precision``, the share of expected ones among the
    first k of the image, k as many as are expected and shown (``chance`` if they were drawn); and
    the mean enrichments of both. With an empty target, over all classes that expect something.
    """
    parts = []
    for part in scores:
        shown = part[part["enrichment"].notna() & part["target"].isin([*ethogram])]
        each = [_placed(own, ethogram[str(label)]) for label, own in shown.groupby("target")]
        if each:
            images = pd.concat(each)
            parts.append(summed(pd.concat([images, images.assign(target="")]), KEYS, FIGURES))
    sums = total(parts, KEYS)
    bounds = [UNIT, UNIT, None, POSITIVE, POSITIVE]
    columns = ["auroc", "auroc_low", "auroc_high", "precision", "precision_low", "precision_high"]
    columns += ["chance", "expected_enrichment", "other_enrichment"]
    columns = [*KEYS, "expected", "n_images", "n_horses", *columns]
    if sums.empty:
        return pd.DataFrame(columns=columns)
    figures = dict(zip(FIGURES, bounds, strict=True))
    found = over_horses(sums, KEYS, figures, n_bootstrap, confidence, seed)
    named = {target: " ".join(regions) for target, regions in ethogram.items()}
    return found.assign(expected=found["target"].map(named).fillna(""))[columns]


def _placed(scores: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    """Figures of each image of one class: a row per image with KEYS, horse and FIGURES."""
    if all(region in ROLLUPS for region in regions):
        expected = set(regions)
        own = scores[scores["region"].map(level_of) == "overview"]
    else:
        expected = {part for region in regions for part in ROLLUPS.get(region, [region])}
        own = scores[~scores["region"].isin([*ROLLUPS, *CELLS])]
    own = own[~own["region"].isin(CONTAINERS - expected)]
    own = own.assign(hit=own["region"].isin(expected).astype(float))
    image = [own["image_id"], own["model"]]
    enrichment = own["enrichment"].groupby(image)
    own["k"], own["n"] = own["hit"].groupby(image).transform("sum"), enrichment.transform("size")
    own = own[(own["k"] > 0) & (own["k"] < own["n"])]
    image = [own["image_id"], own["model"]]
    enrichment = own["enrichment"].groupby(image)
    hit = own["hit"]
    # Equal ones count half in pairs, and are no hit among the first k unless all of them are.
    beaten = (enrichment.rank() * hit).groupby(image).sum()
    first = ((enrichment.rank("max", ascending=False) <= own["k"]) * hit).groupby(image).sum()
    of_both = enrichment.sum()
    of_expected = (own["enrichment"] * hit).groupby(image).sum()
    about = own.groupby(["image_id", "model"])[["view", "target", "horse", "k", "n"]].first()
    k, others = about["k"], about["n"] - about["k"]
    return about.assign(
        auroc=(beaten - k * (k + 1) / 2) / (k * others),
        precision=first / k,
        chance=k / about["n"],
        expected_enrichment=of_expected / k,
        other_enrichment=(of_both - of_expected) / others,
    ).reset_index()


def in_words(agreement: pd.DataFrame) -> list[str]:
    """Say the agreement of the trained model, class by class, beside that of random weights."""
    trained: Any = agreement[agreement["model"] == "trained"].to_dict(orient="records")
    control = agreement[agreement["model"] == "random"].set_index(["view", "target"])
    found = []
    for row in trained:
        told = with_interval(row["auroc"], row["auroc_low"], row["auroc_high"])
        how = (
            "above chance" if row["auroc_low"] > 0.5
            else "below chance" if row["auroc_high"] < 0.5
            else "not told from chance" if row["auroc_low"] == row["auroc_low"]
            else "without an interval, since no horse differs or there is but one"
        )  # fmt: skip
        beside = ""
        if (row["view"], row["target"]) in control.index:
            drawn: Any = control.loc[row["view"], row["target"]]
            ends = drawn["auroc"], drawn["auroc_low"], drawn["auroc_high"]
            beside = f" ({with_interval(*ends)} with random weights)"
        who = f"{row['target']}, expected {row['expected']}" if row["target"] else "all classes"
        found.append(
            f"{who} (view {row['view']}): AUROC {told}{beside}, {how}; at 0.5 an expected region "
            "is as often less enriched than another as more. Of the first regions "
            f"{row['precision']:.0%} are expected ones, by chance {row['chance']:.0%}"
        )
    return found
