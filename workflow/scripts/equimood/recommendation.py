"""A recommendation in words, and the page and tables that it stands on.

What is recommended is the candidate that computes least of those not shown to be worse than the
best, and of several that compute the same the one that scored highest. Not shown to differ is never
called equal.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from equimood.evaluation import METRICS, with_interval

TEMPLATE = Path(__file__).parents[2] / "report" / "comparison.html.jinja"
CANDIDATE = ["backbone", "views"]
OF_LABELS = ("balanced_accuracy", "f1_macro", "accuracy", "matthews_corrcoef")
HARDLY = 20  # times the horses: what would take more is not worth settling
FACTORS = {
    "backbone": "Backbones, averaged over the views",
    "views": "Views, averaged over the backbones",
}


def n_views(views: str) -> int:
    """Views of a combination, joined by +."""
    return views.count("+") + 1


def nothing_compared(facts: Mapping[str, Any]) -> list[str]:
    """Say why there is no recommendation."""
    if facts["n_candidates"] == 1:
        return [
            "One backbone with one set of views was searched, so there is nothing to compare. To "
            "compare several, name more backbones, or more views in search.views."
        ]
    return [
        f"Of {facts['n_candidates']} candidates (a backbone with some views) fewer than two were "
        "tried often enough in every fold to be compared. A larger search.n_trials tries all of "
        "them."
    ]


def in_words(candidates: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """The recommendation, a paragraph an entry."""
    metric = str(facts["metric"])
    name, together = _in_text(metric), f"{facts['confidence']:.0%}"
    best = candidates.iloc[0]
    chosen = candidates[candidates["recommended"]].iloc[0]
    counted = (
        f"{len(candidates)} candidates (a backbone with some views) were compared on "
        f"{facts['n_horses']} horses ({facts['n_images']:,} photographs) that the judged models "
        "never saw."
    )
    others = candidates[~candidates["worse"] & ~candidates["recommended"]].drop(
        index=0, errors="ignore"
    )
    told = []
    if chosen.name == best.name:
        told.append(
            f"Recommended: {_named(chosen)}. {counted} It has the highest {name}, "
            f"{_value(chosen, metric)}, "
            + (
                "and computes least of all."
                if chosen["gmacs"] == candidates["gmacs"].min()
                else "and all that compute less are shown to be worse."
            )
        )
    else:
        told.append(
            f"Recommended: {_named(chosen)}. {counted} It computes least ({_gmacs(chosen)} a "
            f"photograph) of those not shown to be worse than the best, {_named(best)} "
            f"({_gmacs(best)}). {name[0].upper()}{name[1:]}: {_value(chosen, metric)} against "
            f"{_value(best, metric)}; the difference is {_difference(chosen, metric)}."
        )
        told.append(_what_would_settle(chosen, metric, int(facts["n_horses"])))
    if len(others):
        rest = "; ".join(
            f"{_named(row)} {_difference(row, metric)}" for _, row in others.iterrows()
        )
        told.append(f"Not shown to differ from the best either, with the difference: {rest}.")
    if candidates["worse"].any():
        rest = "; ".join(
            f"{_named(row)} {_difference(row, metric)}"
            for _, row in candidates[candidates["worse"]].iterrows()
        )
        told.append(f"Shown to be worse than the best: {rest}.")
    n_pairs = len(candidates) - 1
    several = (
        f"The {n_pairs} intervals of differences hold together at {together} (Bonferroni). "
        if n_pairs > 1
        else ""
    )
    told.append(
        f"{several}Not shown to differ is not shown to be equal. The best was picked by looking at "
        "these test horses, and so is whatever you pick from this table: its figure comes out a "
        f"little too high. The study's own {name}, {_printed_figure(facts['nested'])}, does not "
        "suffer from this, since every choice was made inside each fold without the horses tested."
    )
    return told


def in_short(row: pd.Series, metric: str) -> dict[str, str]:
    """Name, value and difference from the best of a row of candidates, as text."""
    return {
        "name": _named(row),
        "value": _value(row, metric),
        "difference": _difference(row, metric),
    }


def page(
    candidates: pd.DataFrame,
    effects: pd.DataFrame,
    facts: Mapping[str, Any],
    costs: pd.DataFrame,
    by_fold: pd.DataFrame,
) -> str:
    """Return the page that states the recommendation and the choice of every fold, escaped.

    Arguments as comparison.write has them.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        **facts,
        candidates=_shown(printed(candidates)),
        marked=candidates["recommended"].tolist() if len(candidates) else [],
        effects={
            title: _shown(_printed_effects(effects, factor))
            for factor, title in FACTORS.items()
            if len(effects) and (effects["factor"] == factor).any()
        },
        costs=_shown(_printed_costs(costs)),
        chosen=_shown(_printed_choices(by_fold)),
    )


def _what_would_settle(chosen: pd.Series, metric: str, n_horses: int) -> str:
    """How many horses would show the difference found, if it were the true one."""
    value, low, high = (float(chosen[f"{metric}_difference{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(high) or value == 0 or high == value:
        return "They scored the same; only other horses can tell them apart."
    needed = n_horses * ((high - value) / -value) ** 2
    # An interval shrinks with the square root of the number of horses.
    if needed > HARDLY * n_horses:
        return (
            f"What would settle it: more than {HARDLY} times as many horses, if the difference "
            f"found, {-value:.2g}, is the true one. One of up to {-low:.2g} is not ruled out."
        )
    rounded = max(round(needed, 1 - math.floor(math.log10(needed))), n_horses + 1)
    return (
        f"What would settle it: more horses. If the difference found, {-value:.2g}, is the true "
        f"one, half of all studies with about {rounded:,.0f} horses like these would show it."
    )


def _named(row: pd.Series) -> str:
    return f"{row['backbone']} on {row['views'].replace('+', ' + ')}"


def _gmacs(row: pd.Series) -> str:
    return f"{row['gmacs']:.3g} GMACs"


def _value(row: pd.Series, metric: str) -> str:
    return with_interval(*(row[f"{metric}{end}"] for end in ("", "_low", "_high")))


def _difference(row: pd.Series, metric: str) -> str:
    value, low, high = (row[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
    return with_interval(value, low, high, "+.2f")


def _printed_figure(figure: Mapping[str, Any]) -> str:
    return with_interval(figure["value"], figure["low"], figure["high"])


def _in_text(metric: str) -> str:
    return METRICS[metric].lower().replace("-f", "-F").replace("matthews", "Matthews")


def _some(names: str, n_shown: int = 8) -> str:
    """The first of many names; a table has them all."""
    every = names.split("; ")
    rest = f" and {len(every) - n_shown} more" if len(every) > n_shown else ""
    return ", ".join(every[:n_shown]) + rest


def _shown(table: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": table.to_numpy(object).tolist()}


def printed(candidates: pd.DataFrame) -> pd.DataFrame:
    """The table of candidates, rounded for a paper."""
    return pd.DataFrame({
        "Backbone": candidates["backbone"],
        "Views": candidates["views"].map(lambda views: views.replace("+", " + ")),
        **{
            title: [make(row, name) for _, row in candidates.iterrows()]
            for name in OF_LABELS[:2]
            for title, make in (
                (METRICS[name], _value), (f"{METRICS[name]}, from the best", _difference),
            )
        },
        "GMACs": [f"{value:.3g}" for value in candidates["gmacs"]],
    })  # fmt: skip


def _printed_effects(effects: pd.DataFrame, factor: str) -> pd.DataFrame:
    own = effects[effects["factor"] == factor]
    return pd.DataFrame({
        factor.capitalize(): own["value"].str.replace("+", " + "),
        "Averaged over": own["n_averaged"],
        **{
            title: [make(row, name) for _, row in own.iterrows()]
            for name in OF_LABELS[:2]
            for title, make in (
                (METRICS[name], _value), (f"{METRICS[name]}, from the best", _difference),
            )
        },
    })  # fmt: skip


def _printed_costs(costs: pd.DataFrame) -> pd.DataFrame:
    printed = pd.DataFrame({
        "Backbone": costs["backbone"],
        "Architecture": costs["architecture"],
        "Input": [f"{side} px" for side in costs["side_px"]],
        "Parameters": [f"{n / 1e6:.1f} million" for n in costs["parameters"]],
        "Weights": [f"{size:.0f} MB" if size >= 10 else f"{size:.1f} MB"
                    for size in costs["weights_mb"]],
        "GMACs an image": [f"{value:.3g}" for value in costs["gmacs"]],
    })  # fmt: skip
    if costs["n_timed"].any():
        printed["Measured"] = [
            f"{1000 * row['seconds']:.3g} ms an image ({row['device']}, {row['n_timed']:,} images)"
            if row["n_timed"]
            else "not in this run"
            for row in costs.to_dict("records")
        ]
    return printed


def _printed_choices(by_fold: pd.DataFrame) -> pd.DataFrame:
    units = by_fold["hidden_units"].map(lambda n: "" if pd.isna(n) else f" {int(n)}")
    metric = METRICS[by_fold["metric"].iloc[0]]
    scores = {f"{metric}, inner folds": "inner_score", f"{metric}, test horses": "outer_score"}
    if metric != METRICS["balanced_accuracy"]:
        scores["Balanced accuracy, test horses"] = "balanced_accuracy"
    return pd.DataFrame({
        "Fold": by_fold["fold"],
        "Test horses": by_fold["horses"].map(_some),
        "Photographs": by_fold["n_images"],
        "Backbone": by_fold["backbone"],
        **(
            {"Fine-tuned": by_fold["way"].replace("frozen", "no").str.replace("_", " ")}
            if by_fold["way"].ne("frozen").any()
            else {}
        ),
        "Views": by_fold["views"].str.replace("+", " + "),
        "Pooling": by_fold["pooling"],
        "Head": by_fold["head"] + units,
        "Weights by": by_fold["weight_by"].str.replace("+", " and "),
        "Learning rate": by_fold["learning_rate"],
        "Weight decay": by_fold["weight_decay"],
        "Dropout": by_fold["dropout"],
        "Label smoothing": by_fold["label_smoothing"],
        **{title: [f"{value:.2f}" for value in by_fold[name]] for title, name in scores.items()},
    })  # fmt: skip
