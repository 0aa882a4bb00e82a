"""The best configuration of every backbone and views at equal budget, trained and asked.

A candidate is a backbone with a combination of views. Poolings, heads and weights of the loss are
settings of a candidate, chosen on the inner folds as the search chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equimood import heads, settings, tables, training
from equimood.best import Best
from equimood.heads import HeadConfig, Structure
from equimood.logs import Progress, log
from equimood.search import structures

MIN_TRIALS = 2
"""Structures in which a candidate must have been tried, or all that it has: one that Optuna tried
once would bring the budget of every other down to one."""

Candidate = tuple[str, str]  # backbone, and views joined by +


@dataclass(frozen=True)
class Chosen:
    """The best of each candidate after ``budget`` structures, and why others are left out."""

    budget: int
    bests: dict[Candidate, Best]
    left_out: dict[Candidate, str]


def choose(
    trials: pd.DataFrame, search: settings.Search, backbones: Mapping[str, settings.Backbone]
) -> Chosen:
    """Give every candidate the same number of structures, the first tried, and take its best head.

    A grid tries all structures of a candidate, so that candidates differ by their poolings alone;
    Optuna tries more of what looks good, and so gave some candidates more chances than others.

    Parameters
    ----------
    trials : tables.TRIALS of one outer fold.
    backbones : those of the search, by name, for their poolings.
    """
    existing = [(of.backbone, "+".join(of.views)) for of in structures(search, backbones)]
    n_existing = {candidate: existing.count(candidate) for candidate in dict.fromkeys(existing)}
    tried: dict[Candidate, list[int]] = {candidate: [] for candidate in n_existing}
    for row in trials.drop_duplicates("trial").sort_values("trial").to_dict("records"):
        tried[row["backbone"], row["views"]].append(row["trial"])
    left_out = {
        candidate: f"the search tried {len(found)} of its {n_existing[candidate]} structures"
        for candidate, found in tried.items()
        if len(found) < min(MIN_TRIALS, n_existing[candidate])
    }
    kept = {candidate: found for candidate, found in tried.items() if candidate not in left_out}
    budget = min(map(len, kept.values()), default=0)
    bests = {
        candidate: _best(trials[trials["trial"].isin(found[:budget])], search.metric)
        for candidate, found in kept.items()
    }
    return Chosen(budget, bests, left_out)


def predict(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    chosen: Chosen,
    n_seeds: int,
    classes: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    record: Path,
    progress: Progress | None = None,
    shares: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Train every candidate's head as the chosen one is trained; judge the fold's test horses.

    Probabilities are not calibrated. Of a single candidate nothing is trained: there is nothing to
    compare.

    Parameters
    ----------
    photos : photographs that have all views of the search, as features.photos gives them: every
        candidate answers for the same ones.
    splits : the fold's rows of tables.SPLITS.
    record : folder in which the use of the state folder is noted.
    shares : as labels.shares gives them, for heads that learn these in place of the labels.

    Returns
    -------
    tables.COMPARED and p_{class}, a row per photograph and candidate.
    """
    parts = []
    for (backbone, views), best in chosen.bests.items() if len(chosen.bests) > 1 else ():
        head = training.Fold(
            photos, splits, feature_files, best, n_seeds, classes,
            epochs=epochs, batch_size=batch_size, seed=seed, record=record, shares=shares,
        ).head().cpu()  # fmt: skip
        answers = training.predict_by_head(photos, splits, feature_files, best, head, classes)
        parts.append(answers.assign(backbone=backbone, views=views))
        log.info("%s, %s: %s", backbone, views, best.structure)
        if progress:
            progress(len(parts), len(chosen.bests))
    columns = [*tables.COMPARED.names, *(f"p_{name}" for name in classes)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def told(chosen: Chosen) -> dict[str, Any]:
    """What was chosen, as YAML keeps it: budget, candidates and left_out."""
    return {
        "budget": chosen.budget,
        "candidates": [
            {
                "backbone": backbone,
                "views": views,
                "structure": asdict(best.structure),
                "head": asdict(best.head),
                "score": best.score,
                "n_trials": best.n_trials,
                "n_heads": best.n_heads,
            }
            for (backbone, views), best in chosen.bests.items()
        ],
        "left_out": [
            {"backbone": backbone, "views": views, "reason": reason}
            for (backbone, views), reason in chosen.left_out.items()
        ],
    }


def _best(trials: pd.DataFrame, metric: settings.Metric) -> Best:
    """The best of some trials, by the rules of the search: over seeds, of equals the first."""
    config = [field.name for field in fields(HeadConfig) if field.name != "seed"]
    per_fold = [name for name in map(str, trials) if name.startswith("score_")]
    # `sort=False`: in the order of the trials, and in each of the population.
    found = trials.groupby(["trial", *config], sort=False)
    scores = found["score"].mean().to_numpy()
    first = int(np.flatnonzero(scores >= scores.max() - 1e-9)[0])
    row = found.head(1).iloc[first]
    units = row["hidden_units"]
    content = {field.name: row[field.name] for field in fields(Structure)} | {
        "views": row["views"].split("+"),
        "weight_by": [name for name in row["weight_by"].split("+") if name],
        "hidden_units": None if pd.isna(units) else int(units),
    }
    return Best(
        structure=heads.structure_from(content),
        head=HeadConfig(**{name: float(row[name]) for name in config}, seed=int(row["seed"])),
        metric=metric,
        score=float(scores[first]),
        score_per_fold=tuple(found[per_fold].mean().iloc[first].astype(float)),
        n_trials=int(trials["trial"].nunique()),
        n_heads=int(len(trials) // trials["trial"].nunique()),
    )
