"""Model card, data sheet, the report's first page, and the limits that all state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from equimood import methods
from equimood.evaluation import METRICS, PREDICTORS
from equimood.pages import as_written

TEMPLATES = Path(__file__).parents[2] / "report"
FEW_HORSES = 10
"""Horses of a class below which a study says that they are few: the intervals are wide there."""
MANY_ROUGH_MAPS = 0.1
SIGNIFICANT = 0.05


def model_card(stated: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Write the card of the final model, as Markdown.

    Parameters
    ----------
    stated : of :func:`methods.facts`.
    card : content of the final model's card.yaml.
    """
    backbone = next(b for b in stated["backbones"] if b["name"] == card["structure"]["backbone"])
    return methods.filled(_template("model_card"), {
        **stated,
        "structure": card["structure"],
        "temperature": card["temperature"],
        "tuned": methods.WAYS[card["transfer"]["method"]] if "transfer" in card else None,
        "abstention": card["abstention"]["in_words"],
        "n_images": card["n_images"],
        "n_trained_horses": card["n_horses"],
        "made": card["provenance"],
        "backbone": backbone,
        "figures": [
            {"title": title, "text": stated["results"][name]} for name, title in METRICS.items()
        ],
        "baselines": [
            baseline | {"title": PREDICTORS.get(baseline["name"], baseline["name"])}
            for baseline in stated["baselines"]
        ],
        "limits": data_limits(stated) + model_limits(stated),
    })  # fmt: skip


def data_sheet(
    stated: Mapping[str, Any],
    images: pd.DataFrame,
    quarantine: pd.DataFrame,
    n_near_duplicates: int,
) -> str:
    """Write the sheet of the study's photographs, as Markdown.

    Parameters
    ----------
    stated : of :func:`methods.facts`.
    images, quarantine : tables.IMAGES and tables.QUARANTINE.
    """
    per_horse = images.drop_duplicates("photo_id")["horse"].value_counts()
    reasons = quarantine["reason"].value_counts()
    return methods.filled(_template("data_sheet"), {
        **stated,
        "per_horse": [int(per_horse.min()), int(per_horse.max())],
        "refused": [{"reason": reason, "n": int(n)} for reason, n in reasons.items()],
        "n_near_duplicates": n_near_duplicates,
        "limits": data_limits(stated),
    })  # fmt: skip


def front_page(stated: Mapping[str, Any]) -> str:
    """Write the report's first page, as reStructuredText that Snakemake renders with Jinja.

    Names are escaped with backslashes, which keep what they hold from both.
    """
    told = {**stated, "limits": data_limits(stated) + model_limits(stated)}
    how = (TEMPLATES / "study.rst").read_text(encoding="utf-8")
    return methods.filled(_template("front", "rst"), told) + how


def data_limits(stated: Mapping[str, Any]) -> list[str]:
    """Say in Markdown what the photographs cannot tell; ``stated`` is of :func:`methods.facts`."""
    if stated["drawn"]:
        found = ["The horses are drawn: no figure here speaks of real ones."]
    else:
        found = [
            f"The figures speak of horses like these {stated['n_horses']:,}. Of other breeds, "
            "cameras, places and situations the study says nothing."
        ]
    for judged in stated["audit"]:
        what = f"{judged['title']}: {as_written(judged['found'])}"
        if judged["verdict"] == "accepted":
            found.append(f"The audit found this. {what}. Accepted: {as_written(judged['reason'])}")
        else:
            found.append(f"The audit warns. {what}.")
    few = [c["label"] for c in stated["classes_shown"] if c["horses"] < FEW_HORSES]
    if few:
        found.append(f"Fewer than {FEW_HORSES} horses show {_names(few)}.")
    if stated["n_raters"] == 1 and not stated["drawn"]:
        found.append("One rater judged each photograph: nobody knows how sure its label is.")
    return found


def model_limits(stated: Mapping[str, Any]) -> list[str]:
    """Say in Markdown what was not shown; ``stated`` is of :func:`methods.facts`."""
    found = []
    if stated["outer"] == "holdout":
        found.append("One set of horses was held out: another set might have given other figures.")
    if not stated["final_judged"]:
        found.append(
            "The model handed out is of another kind than those judged and explained here: for it "
            f"the search chose {as_written(stated['final'])}, which it did in no outer fold."
        )
    tested = stated["permutation"]
    if tested and float(tested["p"]) > SIGNIFICANT:
        found.append(f"Trained on exchanged labels it is as good too often (p = {tested['p']}).")
    by_chance = [c["label"] for c in stated["by_class"] if c["recall_by_chance"]]
    if by_chance:
        found.append(f"Not shown to be found better than by chance: {_names(by_chance)}.")
    unbeaten = [b["name"] for b in stated["baselines"] if not b["beaten"]]
    if unbeaten:
        titles = [PREDICTORS.get(name, name).lower() for name in unbeaten]
        found.append(f"The model is not shown to be better than: {_names(titles)}.")
    rough = [
        f"{of['share_over_tolerance']:.0%} of those of {as_written(of['target'])}"
        for of in stated["gaps_by_class"]
        if (of["share_over_tolerance"] or 0) > MANY_ROUGH_MAPS
    ]
    if rough:
        found.append(
            f"Explanations that miss the score's change by more than {stated['tolerance']:.0%}: "
            f"{', '.join(rough)}. Take single maps of {'it' if len(rough) == 1 else 'them'} with "
            "care."
        )
    found.append("What a prediction rests on is what the model used, not what the horse felt.")
    return found


def _template(name: str, form: str = "md") -> str:
    return (TEMPLATES / f"{name}.{form}.jinja").read_text(encoding="utf-8")


def _names(names: Sequence[str]) -> str:
    return ", ".join(as_written(name) for name in names)
