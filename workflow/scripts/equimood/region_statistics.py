"""Attribution by region over all images: means, intervals and tests over horses.

All comes from sums per horse, taken from one table of scores after another: a million images need
no more memory than a thousand, and no map is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equimood import evaluation
from equimood.intervals import POSITIVE, UNIT, draw_horses, interval
from equimood.logs import log
from equimood.region_tests import holm, p_of_ratio
from equimood.tables import CONTAINERS, NOT_SEEN, level_of

Array = NDArray[Any]
Scores = Iterable[pd.DataFrame]
"""``tables.REGION_SCORES``, all rows of an image in one table; one table at a time is in memory."""

KEYS = ["model", "view", "target", "region"]
SUMMARY = [*KEYS, "n_images", "n_horses", "enrichment", "low", "high"]
PLAIN = ["signed", "top_rate", "top_net_rate", "overlap"]  # means without an interval
MORE = [*PLAIN, "p_area", "p_random", "verdict"]
MORE_THAN_BOTH = "more than its area, more than random weights"
"""How the verdict on a region begins that was told from both."""
PAIRED = ["n_paired", "paired", "random"]
"""Images with a control in which the region is seen twice, and the sums of both enrichments."""


# ----------------------------------------------------------------------------- means and tests


def summarise(sums: pd.DataFrame, n_bootstrap: int, confidence: float, seed: int) -> pd.DataFrame:
    """Mean enrichment of each region by model, view and target class, over all images.

    Intervals are those of :func:`equimood.intervals.interval`: photographs of one horse are alike,
    so whole horses are drawn (Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x). One
    horse alone has no interval.

    Parameters
    ----------
    sums : from :func:`per_horse`.

    Returns
    -------
    Columns SUMMARY and MORE. ``signed``: the mean of all attribution inside, in logits, below 0
    where the region speaks against the class on the whole; ``top_rate``: the share of images in
    which the region comes first of its level, ``top_net_rate``: in which it does by attribution on
    the whole; ``overlap``: the mean. ``p_area`` and ``p_random``, of the trained model, are from
    ``region_tests.p_of_ratio``: the mean against 1, and against that of random weights on the
    control images. Holm (1979) corrects them for all regions of a level and all classes in a view.
    ``verdict`` says them in words.
    """
    if sums.empty:
        return pd.DataFrame(columns=[*SUMMARY, *MORE])
    figures = {"enrichment": POSITIVE, **dict.fromkeys(PLAIN)}
    found = over_horses(sums, KEYS, figures, n_bootstrap, confidence, seed)
    found = found.rename(columns={"enrichment_low": "low", "enrichment_high": "high"})
    trained = sums[sums["model"] == "trained"]
    tests = trained.groupby(KEYS, sort=True)[[*PAIRED, "n_images", "enrichment"]].apply(_tests)
    found = found.merge(tests.reset_index(), on=KEYS, how="left")
    level = found["region"].map(level_of)
    for p in ("p_area", "p_random"):
        found[p] = found.groupby(["model", "view", level])[p].transform(holm)
    found["verdict"] = [_verdict(row, 1 - confidence) for row in found.to_dict(orient="records")]
    return found[[*SUMMARY, *MORE]]


def read_summary(path: str | Path) -> pd.DataFrame:
    """Read what was written of :func:`summarise`: a class may be called 1, or NA."""
    text = ["model", "view", "target", "region", "verdict"]
    empty = {name: [""] for name in (*SUMMARY, *MORE) if name not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=empty)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which has no NaN: null."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def per_horse(scores: Scores) -> pd.DataFrame:
    """Sums over each horse's images by KEYS and fold: all that the statistics here need.

    Returns
    -------
    KEYS, fold, horse, ``n_images``; the sums of enrichment, signed, top_rate and top_net_rate (how
    often the region had rank and net_rank 1) and overlap; PAIRED.
    """
    parts = []
    for part in scores:
        seen = part[part["enrichment"].notna()]
        control = seen[seen["model"] == "random"].set_index(["image_id", "region"])["enrichment"]
        image = pd.MultiIndex.from_frame(seen[["image_id", "region"]])
        again = control.reindex(image).to_numpy(float)
        paired = (seen["model"] == "trained").to_numpy() & ~np.isnan(again)
        parts.append(
            summed(
                seen.assign(
                    top_rate=seen["rank"] == 1,
                    top_net_rate=(seen["net_rank"] == 1) & (seen["signed"] > 0),
                    n_paired=paired,
                    paired=np.where(paired, seen["enrichment"], 0),
                    random=np.where(paired, again, 0),
                ),
                [*KEYS, "fold"],
                ["enrichment", *PLAIN, *PAIRED],
            )
        )
    return total(parts, [*KEYS, "fold"])


def summed(rows: pd.DataFrame, keys: list[str], figures: list[str]) -> pd.DataFrame:
    """Sum figures, and count rows as ``n_images``, by keys and horse."""
    rows = rows.assign(n_images=1.0).astype(dict.fromkeys(figures, float))
    return rows.groupby([*keys, "horse"], as_index=False)[["n_images", *figures]].sum()


def total(parts: list[pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Add up what :func:`summed` gave of several tables."""
    parts = [part for part in parts if len(part)] or parts[:1]
    if not parts:
        return pd.DataFrame(columns=[*keys, "horse", "n_images"])
    return pd.concat(parts).groupby([*keys, "horse"], as_index=False).sum()


def per_view(
    scores: Scores, n_bootstrap: int, confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Say how much of a photograph's positive attribution each view holds, where there are several.

    Returns
    -------
    view, n_images, n_horses, ``share`` with ``share_low`` and ``share_high``.
    """
    parts = []
    for part in scores:
        own = part[(part["model"] == "trained") & (part["share"] > 0)]
        own = own.assign(positive=own["positive"] / own["share"]).drop_duplicates("image_id")
        photo = own.groupby("photo_id")
        share = own["positive"] / photo["positive"].transform("sum")
        several = photo["view"].transform("nunique") > 1
        parts.append(summed(own.assign(share=share)[several], ["view"], ["share"]))
    sums = total(parts, ["view"])
    if sums.empty:
        return []
    return records(over_horses(sums, ["view"], {"share": UNIT}, n_bootstrap, confidence, seed))


def over_horses(
    sums: pd.DataFrame,
    keys: list[str],
    figures: Mapping[str, tuple[float, float] | None],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Means over images with intervals over horses, the same draw of horses for every group.

    Parameters
    ----------
    sums : keys, horse, ``n_images`` and the figures' sums.
    figures : bounds of each figure; None where no interval is wanted.

    Returns
    -------
    keys, n_images, n_horses, and each figure with ``_low`` and ``_high`` where it has bounds.
    """
    sums = sums.groupby([*keys, "horse"], as_index=False)[["n_images", *figures]].sum()
    group = sums.groupby(keys, sort=True)
    found = group.agg(n_images=("n_images", "sum"), n_horses=("horse", "nunique")).reset_index()
    of_group = group.ngroup().to_numpy()
    horses, of_horse = np.unique(sums["horse"], return_inverse=True)
    weights = draw_horses(len(horses), n_bootstrap, seed)

    def totals(column: str) -> Array:
        laid = np.zeros((len(horses), group.ngroups))
        laid[of_horse, of_group] = sums[column]
        return weights @ laid

    counts = totals("n_images")
    for name, bounds in figures.items():
        found[name] = group[name].sum().to_numpy() / found["n_images"]
        if bounds:
            sum_ = totals(name)
            means = np.divide(sum_, counts, out=np.full_like(sum_, np.nan), where=counts > 0)
            found[[f"{name}_low", f"{name}_high"]] = [
                interval(means[:, i], n_bootstrap, confidence, bounds) or (np.nan, np.nan)
                for i in range(group.ngroups)
            ]
    found["n_images"] = found["n_images"].astype(int)
    return found


def _tests(sums: pd.DataFrame) -> pd.Series:
    """Both tests of one region, before correction, and the ratio to random weights."""
    pair = sums[sums["n_paired"] > 0]
    trained, random = pair["paired"].to_numpy(), pair["random"].to_numpy()
    images = sums["n_images"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = trained.sum() / random.sum()
    return pd.Series(
        {
            "p_area": p_of_ratio(sums["enrichment"].to_numpy(), images, images),
            "p_random": p_of_ratio(trained, random, pair["n_paired"].to_numpy()),
            "to_random": ratio,
        }
    )


def _verdict(row: Mapping[Any, Any], level: float) -> str:
    if row["model"] != "trained":
        return ""
    said = []
    for p, ratio, what in (
        (row["p_area"], row["enrichment"], "its area"),
        (row["p_random"], row["to_random"], "random weights"),
    ):
        if p <= level:
            said.append(f"{'more' if ratio > 1 else 'less'} than {what}")
        else:
            said.append(f"not told from {what}" if p == p else f"nothing known against {what}")
    against = "; on the whole against the class" if row["signed"] < 0 else ""
    return ", ".join(said) + against


def printed(summary: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    """Lay the trained model's figures out for a paper, of some regions in their order."""
    trained = summary[(summary["model"] == "trained") & summary["region"].isin(list(regions))]
    order = trained["region"].map({name: i for i, name in enumerate(regions)})
    trained = trained.assign(order=order).sort_values(["view", "target", "order"])
    control = summary[summary["model"] == "random"].set_index(KEYS[1:])["enrichment"]
    beside = control.reindex(pd.MultiIndex.from_frame(trained[KEYS[1:]])).to_numpy()
    return pd.DataFrame(
        {
            "View": trained["view"],
            "Emotion": trained["target"],
            "Region": trained["region"].str.replace("_", " "),
            "Enrichment": [
                evaluation.with_interval(*ends)
                for ends in trained[["enrichment", "low", "high"]].itertuples(index=False)
            ],
            "Random weights": ["" if np.isnan(value) else f"{value:.2f}" for value in beside],
            "p (area)": trained["p_area"].map(_p),
            "p (random)": trained["p_random"].map(_p),
        }
    )


def _p(p: float) -> str:
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


# ------------------------------------------------------------------------------------- what misses


def seen(scores: Scores) -> pd.DataFrame:
    """Count in how many images each region has a score, and why it has none in the others.

    Returns
    -------
    view, region, n_images, n_visible, ``overlap`` (mean), and a count of each of tables.NOT_SEEN.
    """
    parts = []
    for part in scores:
        trained = part[part["model"] == "trained"]
        counts = pd.DataFrame(
            {
                "view": trained["view"],
                "region": trained["region"],
                "n_images": 1,
                "n_visible": trained["visible"].astype(int),
                "overlap": trained["overlap"].fillna(0).astype(float),
            }
        )
        for why in NOT_SEEN:
            counts[why.replace(" ", "_")] = (trained["missing"] == why).astype(int)
        parts.append(counts.groupby(["view", "region"], sort=False).sum())
    if not parts:
        return pd.DataFrame()
    found = pd.concat(parts).groupby(level=[0, 1], sort=False).sum().reset_index()
    found["overlap"] = found["overlap"] / found["n_visible"].where(found["n_visible"] > 0)
    return found


def tell_missing(counts: pd.DataFrame) -> None:
    """Log how many of :func:`seen` have no score, and why, and which regions overlap most."""
    if counts.empty:
        return
    reasons = {why: int(counts[why.replace(" ", "_")].sum()) for why in NOT_SEEN}
    log.info(
        "%d of %d regions of images have no score: %s",
        sum(reasons.values()), counts["n_images"].sum(),
        ", ".join(f"{n} {why}" for why, n in reasons.items()),
    )  # fmt: skip
    covered = counts[(counts["overlap"] > 0.5) & ~counts["region"].isin(CONTAINERS)]
    if len(covered):
        log.info(
            "lie for the most part on another region, so that their attribution is also its: %s",
            ", ".join(sorted({*covered["region"]})),
        )


# ----------------------------------------------------------------------------------- known causes


def causal(
    scores: Scores, causes: Mapping[str, str], n_bootstrap: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Judge the causal region of the target, over correctly classified images.

    Parameters
    ----------
    causes : region or roll-up that shows each class; classes without one (neutral) are left out.

    Returns
    -------
    Columns SUMMARY, and ``top_rate`` (images in which the causal region comes first of its level)
    with ``top_low`` and ``top_high``, ``top_net_rate`` (in which it does on the whole) with
    ``top_net_low`` and ``top_net_high``; per class and for all of them together (``target`` and
    ``region`` "all"). ``instead``: the other regions that were, with their shares.
    """
    parts, winners = [], []
    for part in scores:
        cause = part["target"].map(causes)
        known = part["correct"].astype(bool) & cause.notna() & part["enrichment"].notna()
        each = part[known & (part["region"] == cause)]
        net = (each["net_rank"] == 1) & (each["signed"] > 0)
        each = each.assign(top_rate=each["rank"] == 1, top_net_rate=net)
        each = pd.concat([each, each.assign(target="all", region="all")])
        parts.append(summed(each, KEYS, ["enrichment", "top_rate", "top_net_rate"]))
        level = part["region"].map(level_of) == cause.map(level_of, na_action="ignore")
        shown = part["image_id"].isin(each["image_id"])
        other = (part["region"] != cause) & ~part["region"].isin(CONTAINERS)
        won = part[known & level & shown & other & (part["rank"] == 1)]
        winners.append(
            pd.concat([won, won.assign(target="all")])[["model", "view", "target", "region"]]
        )
    sums = total(parts, KEYS)
    columns = [*SUMMARY, "top_rate", "top_low", "top_high"]
    columns += ["top_net_rate", "top_net_low", "top_net_high", "instead"]
    if sums.empty:
        return pd.DataFrame(columns=columns)
    figures = {"enrichment": POSITIVE, "top_rate": UNIT, "top_net_rate": UNIT}
    found = over_horses(sums, KEYS, figures, n_bootstrap, confidence, seed)
    counts = pd.concat(winners).value_counts().reset_index()
    instead: list[dict[str, float]] = []
    for row in found.to_dict(orient="records"):
        own = counts[(counts[KEYS[:3]] == [row[key] for key in KEYS[:3]]).all(axis=1)]
        instead.append(dict(zip(own["region"], own["count"] / row["n_images"], strict=True)))
    return found.assign(instead=pd.Series(instead, dtype=object)).rename(
        columns={
            "enrichment_low": "low", "enrichment_high": "high",
            "top_rate_low": "top_low", "top_rate_high": "top_high",
            "top_net_rate_low": "top_net_low", "top_net_rate_high": "top_net_high",
        }
    )[columns]  # fmt: skip


def read_causes(path: str | Path) -> dict[str, str]:
    """Read the demo's causes.csv: the region that truly shows each class that has one."""
    told = pd.read_csv(path, keep_default_na=False).set_index("label")["region"]
    return {str(label): str(region) for label, region in told.items() if region != "none"}
