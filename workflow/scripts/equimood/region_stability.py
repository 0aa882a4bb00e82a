"""Whether the models of the outer folds rest on the same regions."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equimood.tables import level_of

MIN_COMMON = 5
"""Regions that the profiles of two folds must share, for a rank correlation to say anything."""


def compare_folds(sums: pd.DataFrame) -> pd.DataFrame:
    """Compare the order of regions between the models of the outer folds.

    A profile is the mean enrichment of the regions of a level, for one class, over one fold's
    images; two are compared by Spearman's rank correlation over the regions that both have.

    Parameters
    ----------
    sums : from ``region_statistics.per_horse``.

    Returns
    -------
    model, view, level, target, fold, n_images, n_horses, ``spearman`` (mean over the other folds)
    and ``lowest``; with fold "all", over all pairs.
    """
    columns = ["model", "view", "level", "target", "fold", "n_images", "n_horses"]
    columns += ["spearman", "lowest"]
    if sums.empty:
        return pd.DataFrame(columns=columns)
    sums = sums.assign(level=sums["region"].map(level_of))
    rows: list[dict[str, Any]] = []
    keys = ["model", "view", "level", "target"]
    for key, own in sums.groupby(keys, sort=True):
        table = own.pivot_table(
            index="region", columns="fold", values=["enrichment", "n_images"], aggfunc="sum"
        )
        profiles: pd.DataFrame = table["enrichment"] / table["n_images"]  # type: ignore[assignment]
        likeness = profiles.corr("spearman", min_periods=MIN_COMMON).to_numpy()
        pairs = np.where(np.eye(len(likeness), dtype=bool), np.nan, likeness)
        folds: list[tuple[str, NDArray[Any], pd.DataFrame]] = [("all", pairs, own)]
        for i, fold in enumerate(profiles.columns):
            folds.append((str(fold), pairs[i], own[own["fold"] == fold]))
        for fold, found, of_fold in folds:
            if not np.isnan(found).all():
                rows.append(
                    dict(zip(keys, key, strict=True))
                    | {
                        "fold": fold,
                        "n_images": int(of_fold.groupby("region")["n_images"].sum().max()),
                        "n_horses": int(of_fold["horse"].nunique()),
                        "spearman": float(np.nanmean(found)),
                        "lowest": float(np.nanmin(found)),
                    }
                )
    return pd.DataFrame(rows, columns=columns)


def in_words(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Say for each class and view how alike the folds' models are, beside random weights."""
    where = ["view", "level", "target"]
    overall = table[table["fold"] == "all"]
    control = overall[overall["model"] == "random"].set_index(where)["spearman"].to_dict()
    found = []
    for row in overall.to_dict(orient="records"):
        if row["model"] == "trained":
            chance = control.get(tuple(row[name] for name in where))
            how = (
                "much the same order" if row["spearman"] >= 0.8
                else "a similar order" if row["spearman"] >= 0.5
                else "no stable order"
            )  # fmt: skip
            words = f"the models of the folds put the regions into {how}"
            words += f" (Spearman {row['spearman']:.2f}, lowest of two folds {row['lowest']:.2f}"
            words += "" if chance is None else f"; with random weights {chance:.2f}"
            found.append(
                {name: row[name] for name in [*where, "spearman", "lowest"]}
                | {"random": chance, "in_words": f"{words})"}
            )
    return found
