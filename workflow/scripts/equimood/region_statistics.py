"""Attribution by region over all images: means with intervals over horses."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from equimood.intervals import POSITIVE, interval, stacked
from equimood.tables import ROLLUPS

SUMMARY = ["model", "view", "target", "region", "n_images", "n_horses", "enrichment", "low", "high"]


def summarise(
    scores: Iterable[pd.DataFrame], n_bootstrap: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Mean enrichment of each region by model, view and target class, over all images.

    Intervals are those of :func:`equimood.intervals.interval`: photographs of one horse are alike,
    so whole horses are drawn (Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x). One
    horse alone has no interval.

    Parameters
    ----------
    scores : region scores, an image's rows in one table; tables are taken one at a time.

    Returns
    -------
    Columns SUMMARY; ``signed``, the mean of all attribution inside, in logits, below 0 where the
    region speaks against the class on the whole; and ``top_rate``, the share of images in which the
    region is the most enriched of its level (regions or roll-ups).
    """
    keys = ["model", "view", "target", "region", "horse"]
    parts = [_tally(_with_top(part), keys) for part in scores]
    tally = pd.concat(parts).groupby(keys, as_index=False).sum() if parts else _no_tally(keys)
    return _bootstrap(tally, n_bootstrap, confidence, seed)


def causal(
    scores: Iterable[pd.DataFrame],
    causes: Mapping[str, str],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Mean enrichment in the causal region of the target, over correctly classified images.

    Parameters
    ----------
    causes : region or roll-up that shows each class; classes without one (neutral) are left out.

    Returns
    -------
    Columns SUMMARY, per class and for all of them together (``target`` and ``region`` "all").
    """
    keys = ["model", "view", "target", "region", "horse"]
    parts = []
    for part in scores:
        own = part["correct"].astype(bool) & (part["region"] == part["target"].map(causes))
        each = part[own].assign(top=0.0)
        parts += [_tally(each, keys), _tally(each.assign(target="all", region="all"), keys)]
    tally = pd.concat(parts).groupby(keys, as_index=False).sum() if parts else _no_tally(keys)
    return _bootstrap(tally, n_bootstrap, confidence, seed)[SUMMARY]


def read_causes(path: str | Path) -> dict[str, str]:
    """Read the demo's causes.csv: the roll-up that truly shows each class that has one."""
    told = pd.read_csv(path, keep_default_na=False).set_index("label")["region"]
    return {str(label): str(region) for label, region in told.items() if region != "none"}


def _with_top(scores: pd.DataFrame) -> pd.DataFrame:
    """Mark the most enriched region of each image, among regions and among roll-ups."""
    level = scores["region"].isin(list(ROLLUPS))
    best = scores.groupby(["image_id", "model", level])["enrichment"].transform("max")
    return scores.assign(top=(scores["enrichment"] == best).astype(float))


def _tally(scores: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Counts and sums per horse: all that means and a bootstrap need."""
    seen = scores[scores["enrichment"].notna()]
    return seen.groupby(keys, as_index=False).agg(
        n_images=("enrichment", "size"),
        total=("enrichment", "sum"),
        signed=("signed", "sum"),
        top=("top", "sum"),
    )


def _no_tally(keys: list[str]) -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in [*keys, "n_images", "total", "signed", "top"]})


def _bootstrap(tally: pd.DataFrame, n: int, confidence: float, seed: int) -> pd.DataFrame:
    """Intervals of ratios of sums, the same draw of horses for every group."""
    keys = SUMMARY[:4]
    if tally.empty:
        return pd.DataFrame(columns=[*SUMMARY, "signed", "top_rate"])
    group = tally.groupby(keys, sort=True)
    of_group = group.ngroup().to_numpy()
    horses, of_horse = np.unique(tally["horse"], return_inverse=True)
    sums = np.zeros((2, len(horses), group.ngroups))
    sums[:, of_horse, of_group] = tally[["n_images", "total"]].to_numpy(float).T
    rng = np.random.default_rng(seed)
    weights = stacked(rng.multinomial(len(horses), np.full(len(horses), 1 / len(horses)), n))
    counts, totals = weights @ sums[0], weights @ sums[1]
    means = np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)
    summary = group.agg(
        n_images=("n_images", "sum"),
        n_horses=("horse", "nunique"),
        total=("total", "sum"),
        signed=("signed", "sum"),
        top=("top", "sum"),
    ).reset_index()
    summary["n_images"] = summary["n_images"].astype(int)
    summary["enrichment"] = summary["total"] / summary["n_images"]
    summary[["low", "high"]] = [
        interval(means[:, i], n, confidence, POSITIVE) or (np.nan, np.nan)
        for i in range(group.ngroups)
    ]
    summary["signed"] /= summary["n_images"]
    summary["top_rate"] = summary["top"] / summary["n_images"]
    return summary[[*SUMMARY, "signed", "top_rate"]]
