"""Which architecture: backbones and views compared on unseen horses, with what each costs.

Every candidate (a backbone with a combination of views) answered for the same photographs, so that
differences are paired: each is taken on the same draws of horses. Differences from the best are
read together: with k candidates each of the k - 1 intervals has the confidence
1 - (1 - confidence) / (k - 1), after Bonferroni, so that the truly best candidate, and any other as
good, is seldom called worse (multiple comparisons with the best: Hsu 1984, Annals of Statistics
12:1136).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equimood import evaluation, recommendation
from equimood.files import read_json, read_yaml, write_json, write_text
from equimood.intervals import Horses
from equimood.metrics import from_confusion
from equimood.recommendation import CANDIDATE, OF_LABELS, n_views
from equimood.scoring import Scorer

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    candidates : a row per candidate, the best first: backbone, views, parameters, weights_mb, gmacs
        (of a photograph, all its views), and value, low, high, and difference from the best of each
        of OF_LABELS.
    effects : the same for each backbone, averaged over views, and each combination of views,
        averaged over backbones; ``factor`` says which of the two.
    facts : content of ``comparison.json``.
    """

    candidates: pd.DataFrame
    effects: pd.DataFrame
    facts: dict[str, Any]


def compare(
    answers: pd.DataFrame,
    chosen: Mapping[str, Mapping[str, Any]],
    costs: pd.DataFrame,
    nested: Mapping[str, Any],
    classes: Sequence[str],
    metric: str,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> Comparison:
    """Compare the candidates that were tried often enough in every outer fold.

    Parameters
    ----------
    answers : tables.COMPARED of all outer folds.
    chosen : per outer fold, what candidates.told says.
    costs : as :func:`cost_table` gives it.
    nested : content of metrics.json: the study's own figures.
    metric : of OF_LABELS, which decides.
    """
    told = [
        {(of["backbone"], of["views"]) for of in fold["candidates"]} for fold in chosen.values()
    ]
    known = [
        (of["backbone"], of["views"])
        for fold in chosen.values()
        for of in [*fold["candidates"], *fold["left_out"]]
    ]
    ordered = list(dict.fromkeys(known))
    kept = [candidate for candidate in ordered if all(candidate in of_fold for of_fold in told)]
    facts: dict[str, Any] = {
        "metric": metric,
        "confidence": confidence,
        "n_candidates": len(ordered),
        "n_compared": len(kept) if len(kept) > 1 else 0,
        "budget": sorted({fold["budget"] for fold in chosen.values()}),
        "left_out": [
            {"fold": name, **of} for name, fold in chosen.items() for of in fold["left_out"]
        ],
        "nested": {key: nested[metric][key] for key in ("value", "low", "high")},
    }
    if facts["n_compared"] == 0 or answers.empty:
        facts["n_compared"] = 0
        empty = pd.DataFrame(columns=[*CANDIDATE, "gmacs"])
        return Comparison(
            empty, pd.DataFrame(), facts | {"told": recommendation.nothing_compared(facts)}
        )

    scored, horses, n_images = _scored(answers, kept, classes, n_bootstrap, confidence, seed)
    of_backbone = costs.set_index("backbone")
    cost = {
        candidate: (of_backbone["gmacs"][candidate[0]] * n_views(candidate[1]), i)
        for i, candidate in enumerate(kept)
    }
    candidates = _compared(scored, horses, metric, cost)
    candidates.insert(2, "parameters", candidates["backbone"].map(of_backbone["parameters"]))
    candidates.insert(3, "weights_mb", candidates["backbone"].map(of_backbone["weights_mb"]))
    gmacs = candidates["backbone"].map(of_backbone["gmacs"]) * candidates["views"].map(n_views)
    candidates.insert(4, "gmacs", gmacs)
    worse = candidates[f"{metric}_difference_high"] < 0
    # A stable sort: of those that cost the same, the one that scored highest.
    recommended = candidates[~worse].sort_values("gmacs", kind="stable").index[0]
    candidates.insert(2, "recommended", candidates.index == recommended)
    candidates.insert(3, "worse", worse)
    facts |= {"n_horses": len(horses.shows), "n_images": n_images}
    facts["best"] = recommendation.in_short(candidates.iloc[0], metric)
    facts["recommended"] = recommendation.in_short(
        candidates[candidates["recommended"]].iloc[0], metric
    )
    facts["told"] = recommendation.in_words(candidates, facts)
    return Comparison(candidates, _effects(scored, horses, metric), facts)


def cost_table(cards: Sequence[str | Path], usages: Sequence[str | Path]) -> pd.DataFrame:
    """Say what each backbone costs.

    Parameters
    ----------
    cards : of the fetched backbones, beside their weights.
    usages : what usage.record wrote of the jobs of embed_shard.

    Returns
    -------
    backbone, architecture, side_px, parameters, weights_mb, gmacs (of one image), and seconds (of
    one image, decoding included), n_timed and device where a job embedded any.
    """
    times = pd.DataFrame(
        [
            {name: used[name] for name in _TIMED}
            for used in map(read_json, usages)
            if used.get("images")
        ],
        columns=list(_TIMED),
    )
    rows = []
    for path in map(Path, cards):
        card = read_yaml(path)
        own = times[times["backbone"] == card["name"]]
        devices = own["device"].unique()
        one = len(devices) == 1  # times of two devices say nothing together
        rows.append({
            "backbone": card["name"],
            "architecture": card["architecture"],
            "side_px": card["side"],
            "parameters": card["n_parameters"],
            "weights_mb": path.with_name("weights.safetensors").stat().st_size / 1e6,
            "gmacs": card["macs"] / 1e9,
            "seconds": own["embedding_s"].sum() / own["images"].sum() if one else np.nan,
            "n_timed": int(own["images"].sum()) if one else 0,
            "device": devices[0] if one else None,
        })  # fmt: skip
    return pd.DataFrame(rows)


_TIMED = ("backbone", "images", "embedding_s", "device")


def configurations(chosen: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The configuration of every candidate that was trained in each outer fold."""
    return pd.DataFrame([
        {"fold": fold, **_configuration(of), "n_trials": of["n_trials"], "inner_score": of["score"]}
        for fold, told in chosen.items()
        for of in told["candidates"]
    ])  # fmt: skip


def by_fold(
    bests: Mapping[str, Mapping[str, Any]],
    predictions: pd.DataFrame,
    classes: Sequence[str],
    explored: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """What was chosen in each outer fold, and how it did on the horses held out there.

    Parameters
    ----------
    bests : content of best.yaml of each outer fold.
    predictions : tables.PREDICTIONS of all outer folds.
    explored : content of transfer's best.yaml of each outer fold, empty where it was left out.

    Returns
    -------
    fold, n_horses, horses (names, joined), n_images, way (frozen, or how the backbone was
    fine-tuned), the parts of the configuration, metric, inner_score, outer_score (both of that
    metric) and balanced_accuracy.
    """
    rows = []
    for fold, best in bests.items():
        tested = predictions[predictions["fold"] == fold]
        scorer = Scorer.of(tested["truth"], tested["predicted"], tested["horse"], classes)
        figures = from_confusion(scorer.confusion().sum(axis=0))
        names = sorted(tested["horse"].unique())
        way, inner_score = "frozen", best["score"]
        if fold in explored and not explored[fold]["chosen"].startswith(way):
            way = explored[fold]["chosen"]
            inner_score = explored[fold]["ways"][way]["score"]
        rows.append({
            "fold": fold,
            "n_horses": len(names),
            "horses": "; ".join(names),
            "n_images": len(tested),
            "way": way,
            **_configuration(best),
            "metric": best["metric"],
            "inner_score": inner_score,
            "outer_score": float(figures[best["metric"]]) if len(tested) else np.nan,
            "balanced_accuracy": float(figures["balanced_accuracy"]) if len(tested) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def write(
    found: Comparison,
    costs: pd.DataFrame,
    configurations: pd.DataFrame,
    by_fold: pd.DataFrame,
    folder: Path,
) -> None:
    """Write the tables, ``comparison.json``, the LaTeX table and the page."""
    exact = {
        "candidates": found.candidates,
        "effects": found.effects,
        "costs": costs,
        "configurations": configurations,
        "chosen": by_fold,
    }
    for name, table in exact.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(
        folder / "candidates.tex", evaluation.latex(recommendation.printed(found.candidates))
    )
    write_json(folder / "comparison.json", found.facts)
    html = recommendation.page(found.candidates, found.effects, found.facts, costs, by_fold)
    write_text(folder / "comparison.html", html)


def _scored(
    answers: pd.DataFrame,
    kept: Sequence[tuple[str, str]],
    classes: Sequence[str],
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> tuple[dict[tuple[str, str], dict[str, Array]], Horses, int]:
    """Score every candidate, per figure, on all weights of the horses: see Horses.weights."""
    of_candidate: dict[Any, pd.DataFrame] = dict(iter(answers.groupby(CANDIDATE)))
    scorers = {}
    for candidate in kept:
        rows = of_candidate[candidate].sort_values("photo_id")
        scorers[candidate] = Scorer.of(rows["truth"], rows["predicted"], rows["horse"], classes)
    first = scorers[kept[0]]
    horses = Horses.of(first.shows, n_bootstrap, confidence, seed)
    scored = {}
    for candidate, scorer in scorers.items():
        if not np.array_equal(scorer.truth, first.truth):
            raise ValueError(f"{candidate} and {kept[0]} answered for different photographs")
        found = scorer(horses.weights)
        scored[candidate] = {metric: found[metric] for metric in OF_LABELS}
    return scored, horses, len(first.truth)


def _compared(
    scored: Mapping[tuple[str, str], Mapping[str, Array]],
    horses: Horses,
    metric: str,
    cost: Mapping[tuple[str, str], Any],
) -> pd.DataFrame:
    """A row per entry, the best first (of equals the cheapest), with differences from the best."""
    value = {candidate: figures[metric][0] for candidate, figures in scored.items()}
    ranked = sorted(scored, key=lambda candidate: (-round(value[candidate], 9), cost[candidate]))
    best = ranked[0]
    together = replace(horses, confidence=1 - (1 - horses.confidence) / max(1, len(scored) - 1))
    rows = []
    for candidate in ranked:
        row: dict[str, Any] = dict(zip(CANDIDATE, candidate, strict=True))
        for name in OF_LABELS:
            own = scored[candidate][name]
            lead = own - scored[best][name]
            for suffix, figure in (
                ("", horses.interval(own, name)),
                ("_difference", together.interval(lead, name, difference=True)),
            ):
                row[f"{name}{suffix}"] = figure["value"]
                for bound in ("low", "high"):
                    known = candidate != best or not suffix
                    row[f"{name}{suffix}_{bound}"] = figure[bound] if known else None
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(table.columns[len(CANDIDATE) :], float))


def _effects(
    scored: Mapping[tuple[str, str], Mapping[str, Array]], horses: Horses, metric: str
) -> pd.DataFrame:
    """Main effects: each value of a factor averaged over those of the other that all have."""
    parts = []
    for which, factor in enumerate(CANDIDATE):
        values = list(dict.fromkeys(candidate[which] for candidate in scored))
        others = [
            other
            for other in dict.fromkeys(candidate[1 - which] for candidate in scored)
            if all(_pair(which, value, other) in scored for value in values)
        ]
        if len(values) < 2 or not others:
            continue
        means = {
            _pair(which, value, ""): {
                name: np.mean([scored[_pair(which, value, of)][name] for of in others], axis=0)
                for name in OF_LABELS
            }
            for value in values
        }
        table = _compared(means, horses, metric, {key: i for i, key in enumerate(means)})
        table = table.rename(columns={factor: "value"}).drop(columns=CANDIDATE[1 - which])
        table.insert(0, "factor", factor)
        table.insert(2, "n_averaged", len(others))
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _pair(which: int, value: str, other: str) -> tuple[str, str]:
    return (value, other) if which == 0 else (other, value)


def _configuration(best: Mapping[str, Any]) -> dict[str, Any]:
    structure, head = best["structure"], best["head"]
    return {
        "backbone": structure["backbone"],
        "views": "+".join(structure["views"]),
        "pooling": structure["pooling"],
        "head": structure["head"],
        "hidden_units": structure["hidden_units"],
        "weight_by": "+".join(structure["weight_by"]),
        **{name: value for name, value in head.items() if name != "seed"},
    }
