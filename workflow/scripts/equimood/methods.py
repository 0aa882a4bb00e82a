"""The methods section of a paper, filled in from a study's settings and results."""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from equimood import settings
from equimood.evaluation import METRICS, with_interval
from equimood.files import provenance

TEMPLATE = Path(__file__).parents[2] / "report" / "methods.md.jinja"
N_CHOSEN = 3  # structures named, the most often chosen first

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Methods</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 44em; margin: 2em auto }}</style>
</head><body>
{body}
</body></html>
"""


def facts(
    study: settings.Settings,
    images: pd.DataFrame,
    splits: pd.DataFrame,
    bests: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    comparison: Mapping[str, Any],
    quarantine: pd.DataFrame,
    gaps: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect every number and name that the methods section states.

    Parameters
    ----------
    images, splits : tables.IMAGES and tables.SPLITS.
    bests : content of best.yaml of each outer fold.
    metrics, comparison : content of metrics.json and comparison.json.
    quarantine : tables.QUARANTINE.
    gaps : of checks.json.
    """
    photos = images.drop_duplicates("photo_id")
    sessions = photos.dropna(subset="session").drop_duplicates(["horse", "session"])
    held_out = splits[(splits["role"] == "test")].groupby("fold")["horse"].nunique()
    chosen = Counter(_in_words(best["structure"]) for best in bests).most_common()
    made = provenance()
    return {
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
        "train_seeds": study.train.seeds,
        "calibrate": study.train.calibrate,
        "n_judged": metrics["n_images"],
        "confidence": metrics["confidence"],
        "n_bootstrap": metrics["n_bootstrap"],
        "chance": f"{metrics['chance']:.2f}",
        "results": {name: _printed(metrics[name]) for name in METRICS},
        "baselines": [
            {
                "name": name,
                "f1_macro": _printed(found["f1_macro"]),
                "lead": _printed(found["f1_macro"]["difference"]),
            }
            for name, found in metrics["baselines"].items()
        ],
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
        "n_compared": comparison["n_compared"],
        "budget": comparison["budget"],
        "best": comparison.get("best"),
        "recommended": comparison.get("recommended"),
        **study.explain.model_dump(exclude={"map_px", "batch_size"}),
        "n_explained": gaps["n_images"],
        "median_gap": gaps["median"],
        "share_rough": gaps["share_over_tolerance"],
        "python": made["python"],
        "packages": made["packages"],
        "commit": made["commit"],
        "seed": study.seed,
    }


def methods_paragraph(facts: Mapping[str, Any], template: Path = TEMPLATE) -> str:
    """Fill in the template; return Markdown, a paragraph a line. A missing fact raises."""
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    environment.filters |= {"count": _count, "share": _share, "span": _span, "listed": _listed}
    paragraphs = re.split(r"\n\s*\n", template.read_text(encoding="utf-8"))
    texts = (environment.from_string(part).render(facts) for part in paragraphs)
    joined = "\n\n".join(" ".join(text.split()) for text in texts)
    return re.sub(r" ([,.;)])", r"\1", joined) + "\n"


def as_html(markdown: str) -> str:
    """Return the methods section as a page of its own, its text escaped."""
    body = []
    for part in markdown.split("\n\n"):
        text = html.escape(part.strip())
        if text.startswith("## "):
            body.append(f"<h2>{text[3:]}</h2>")
        else:
            paragraph = re.sub(r"^\*\*(.+?)\*\*", r"<b>\1</b>", text)
            body.append(f"<p>{paragraph}</p>")
    return _PAGE.format(body="\n".join(body))


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


def _printed(figure: Mapping[str, float | None]) -> str:
    value = figure["value"]
    assert value is not None
    return with_interval(value, figure["low"], figure["high"])


def _count(number: int) -> str:
    return f"{number:,}"


def _share(number: float) -> str:
    return f"{100 * number:.3g}%"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last
