"""What a paper states of a study, and its methods section."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from equimood import settings, trust_pages
from equimood.evaluation import METRICS, with_interval
from equimood.files import provenance
from equimood.pages import as_written
from equimood.raters import MEASURES

TEMPLATE = Path(__file__).parents[2] / "report" / "methods.md.jinja"
WAYS = {
    "frozen_linear": "frozen features with a linear head",
    "frozen_mlp": "frozen features with an MLP",
    "last_blocks": "the last blocks fine-tuned",
    "all_blocks": "all blocks fine-tuned",
    "scratch": "training from random weights",
}
N_CHOSEN = 3  # structures named, the most often chosen first


def facts(
    study: settings.Settings,
    images: pd.DataFrame,
    splits: pd.DataFrame,
    quarantine: pd.DataFrame,
    bests: Sequence[Mapping[str, Any]],
    *,
    metrics: Mapping[str, Any],
    comparison: Mapping[str, Any],
    calibration: Mapping[str, Any],
    audit: Sequence[Mapping[str, Any]],
    checks: Mapping[str, Any],
    agreement: Mapping[str, Any],
    ceiling: Mapping[str, Any],
    card: Mapping[str, Any],
    trusted: Mapping[str, Any] | None = None,
    explored: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Collect every number and name that the documents of the report state.

    Parameters
    ----------
    images, splits, quarantine : tables.IMAGES, tables.SPLITS and tables.QUARANTINE.
    bests : content of best.yaml of each outer fold.
    metrics, comparison, calibration, audit, agreement, ceiling : content of the JSON files of these
        names.
    checks : content of checks.json.
    card : content of the final model's card.yaml.
    trusted : content of tests.json, unless explanations were not tested.
    explored : content of transfer's best.yaml of each outer fold, where it was enabled.
    """
    photos = images.drop_duplicates("photo_id")
    sessions = photos.dropna(subset="session").drop_duplicates(["horse", "session"])
    held_out = splits[(splits["role"] == "test")].groupby("fold")["horse"].nunique()
    chosen = Counter(_in_words(best["structure"]) for best in bests).most_common()
    made = provenance()
    return {
        "study": study.study,
        "audit": [found for found in audit if found["verdict"] in ("warned", "accepted")],
        "n_photos": len(photos),
        "n_horses": photos["horse"].nunique(),
        "n_sessions": len(sessions),
        "drawn": study.demo is not None,
        "classes": len(study.data.classes),
        "classes_shown": [
            {"label": label, "photos": len(shown), "horses": shown["horse"].nunique()}
            for label in study.data.classes
            for shown in [photos[photos["label"] == label]]
        ],
        "n_refused": len(quarantine.drop_duplicates(["image", "horse"])),
        "n_raters": int(photos["n_raters"].max()),
        "mean_agreement": float(photos["agreement"].mean()),
        "labels": study.train.labels,
        "agreement": {name: _known(agreement.get(name)) for name in MEASURES},
        "n_rated": agreement["n_photos"],
        "ceiling": {
            f"{kind}_{who}": _known(ceiling[kind]["cohen_kappa"][who]) if kind in ceiling else None
            for kind in ("pairwise", "consensus")
            for who in ("raters", "model")
        },
        "min_agreement": study.ingest.min_agreement,
        "views": [
            {"name": name, **study.views[name].model_dump()} for name in study.searched_views
        ],
        "outer": study.split.outer,
        "n_folds": len(bests),
        "test_horses": sorted(set(held_out.tolist())),
        "inner_splits": study.split.inner_splits,
        "backbones": [
            {"name": name, **_told(study.backbones[name])} for name in study.searched_backbones
        ],
        "heads": study.search.heads,
        "epochs": study.search.epochs,
        "weight_by": [" and ".join(names) for names in study.search.weight_by],
        "n_trials": sorted({best["n_trials"] for best in bests}),
        "n_heads": sorted({best["n_heads"] for best in bests}),
        "searched_views": [" + ".join(names) for names in study.search.views],
        "metric": METRICS[study.search.metric].lower().replace("-f", "-F"),
        "chosen": [{"structure": structure, "n": n} for structure, n in chosen[:N_CHOSEN]],
        "n_chosen_else": len(chosen[N_CHOSEN:]),
        "final": _in_words(card["structure"]),
        "final_judged": _in_words(card["structure"]) in dict(chosen),
        "transfer": study.transfer.model_dump(include={"n_trials", "epochs", "flip"})
        if explored
        else None,
        "ways": [
            {"way": WAYS[way], "n": n}
            for way, n in Counter(found["chosen"] for found in explored).most_common()
        ],
        "train_seeds": study.train.seeds,
        "calibrate": study.train.calibrate,
        "n_judged": metrics["n_images"],
        "confidence": metrics["confidence"],
        "n_bootstrap": metrics["n_bootstrap"],
        "chance": f"{metrics['chance']:.2f}",
        "results": {name: _printed(metrics[name]) for name in METRICS},
        "by_class": [
            {
                "label": label,
                "n_images": found["n_images"],
                "n_horses": found["n_horses"],
                "recall": _printed(found["recall"]),
                "precision": _printed(found["precision"]),
                "recall_by_chance": _by_chance(found, metrics["chance"], metrics["confidence"]),
            }
            for label, found in metrics["classes"].items()
        ],
        "n_bins": calibration["n_bins"],
        "ece": _printed(calibration["after"]["ece"]),
        "ece_before": _printed(calibration["before"]["ece"]),
        "target_accuracy": calibration["target_accuracy"],
        "coverage": _printed(calibration["coverage"]),
        "answered_right": calibration["n_answered"] and _printed(calibration["accuracy"]),
        "baselines": [
            {
                "name": name,
                "f1_macro": _printed(found["f1_macro"]),
                "lead": _printed(found["f1_macro"]["difference"]),
                "beaten": (found["f1_macro"]["difference"]["low"] or 0.0) > 0,
            }
            for name, found in metrics["baselines"].items()
        ],
        "n_compared": comparison["n_compared"],
        "budget": comparison["budget"],
        "best": comparison.get("best"),
        "recommended": comparison.get("recommended"),
        "levels": [
            {
                "unit": told["unit"],
                "n_units": told["n_units"],
                "f1_macro": _printed(told["f1_macro"]),
            }
            for level, told in metrics["levels"].items()
            if level != "image"
        ],
        "permutation": _permutation(metrics.get("permutation")),
        **study.explain.model_dump(exclude={"map_px", "batch_size"}),
        "n_explained": checks["n_photos"],
        "median_gap": checks["gaps"]["median"],
        "share_rough": checks["gaps"]["share_over_tolerance"],
        "gaps_by_class": checks["gaps"]["classes"],
        "views_hold": checks["views"],
        "explained": trust_pages.stated(trusted, study.explain.neutral) if trusted else None,
        "n_tested": trusted["n_images"] if trusted else 0,
        "python": made["python"],
        "packages": made["packages"],
        "commit": made["commit"],
        "seed": study.seed,
    }


def methods_paragraph(facts: Mapping[str, Any]) -> str:
    """Fill in the methods section; return Markdown, a paragraph a line."""
    paragraphs = re.split(r"\n\s*\n", TEMPLATE.read_text(encoding="utf-8"))
    joined = "\n\n".join(" ".join(filled(part, facts).split()) for part in paragraphs)
    return re.sub(r" ([,.;)])", r"\1", joined) + "\n"


def filled(template: str, facts: Mapping[str, Any]) -> str:
    """Fill in a template of Markdown. A missing fact raises jinja2.UndefinedError."""
    environment = jinja2.Environment(
        autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "count": _count, "share": _share, "span": _span, "listed": _listed, "name": as_written,
    }  # fmt: skip
    return environment.from_string(template).render(facts)


def _permutation(tested: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if tested is None:
        return None
    found = tested["f1_macro"]
    return {
        "n_permutations": tested["n_permutations"],
        **{key: f"{found[key]:.2f}" for key in ("observed", "mean")},
        "p": f"{found['p']:.3g}",
    }


def _told(backbone: settings.Backbone) -> dict[str, Any]:
    told = backbone.model_dump(include={"architecture", "weights", "fit", "input_px", "poolings"})
    return told | {"weights": Path(backbone.weights).name}  # of a file, not where it was


def _in_words(structure: Mapping[str, Any]) -> str:
    units = f" of {structure['hidden_units']} units" if structure["hidden_units"] else ""
    how = f"({structure['pooling']}, {structure['head']}{units})"
    return f"{' + '.join(structure['views'])} by {structure['backbone']} {how}"


def _by_chance(found: Mapping[str, Any], chance: float, confidence: float) -> bool:
    """Whether a class's recall is not shown to be better than guessing.

    A perfect recall has no interval: then as if each horse were one guess, all of them right.
    """
    recall = found["recall"]
    if recall["low"] is None and recall["value"] == 1:
        return bool(chance ** found["n_horses"] > 1 - confidence)
    return (recall["low"] or 0.0) <= chance


def _printed(figure: Mapping[str, float | None]) -> str:
    value = figure["value"]
    assert value is not None
    return with_interval(value, figure["low"], figure["high"])


def _known(figure: Mapping[str, float | None] | None) -> str | None:
    return _printed(figure) if figure and figure["value"] is not None else None


def _count(number: int) -> str:
    return f"{number:,}"


def _share(number: float) -> str:
    return f"{100 * number:.3g}%"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listed(names: Iterable[str], word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last
