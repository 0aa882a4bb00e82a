"""What several tests of documents start from."""

import pandas as pd
import pytest
from equimood import calibration, evaluation, permutation, settings
from equimood.reference import DEMO
from test_evaluation import study

CLASSES = DEMO["data"]["classes"]


@pytest.fixture
def found():
    """What a study of 12 horses in 4 folds leaves behind."""
    config = settings.load(DEMO | {"split": {"n_splits": 4}, "explain": {"max_images": 77}})
    predictions = study(classes=CLASSES)
    baselines = {"majority": ["neutral"] * len(predictions)}
    judged = evaluation.evaluate(predictions, CLASSES, baselines, 200, 0.95, 1)
    sure = calibration.judge(predictions, dict.fromkeys("0123", 1.5), CLASSES, 0.9, 200, 0.95, 1)
    images = pd.DataFrame(
        {
            "photo_id": predictions["image_id"],
            "view": "whole",
            "label": predictions["truth"],
            "horse": predictions["horse"],
            "session": "s1",
            "video": None,
            "agreement": 1.0,
            "n_raters": 1,
        }
    )
    chance = pd.DataFrame(0.25, range(40), permutation.FIGURES)
    chance.iloc[0] = 0.8
    judged.metrics["permutation"] = permutation.tested(chance, images)
    images = pd.concat([images, images.assign(view="head")])
    horses = predictions[["horse", "fold"]].drop_duplicates()
    splits = pd.DataFrame(
        [
            {"fold": fold, "horse": horse, "role": "test" if fold == own else "train"}
            for fold in ["0", "1", "2", "3", "final"]
            for horse, own in horses.itertuples(index=False)
        ]
    )
    best = {
        "structure": {
            "views": ["whole", "head"], "backbone": "drawn", "pooling": "grid2", "head": "mlp",
            "hidden_units": 64, "weight_by": ["class"],
        },
        "n_trials": 12, "n_heads": 48,
    }  # fmt: skip
    other = best | {"structure": best["structure"] | {"head": "linear", "hidden_units": None}}
    refused = pd.DataFrame(
        {"image": ["a", "a", "b"], "horse": "h1", "view": ["whole", "head", None]}
    )
    by_class = [{"target": "alarmed", "share_over_tolerance": 0.31},
                {"target": "relaxed", "share_over_tolerance": None}]  # fmt: skip
    gaps = {"n_images": 77, "median": 0.021, "share_over_tolerance": 0.22, "classes": by_class}
    checks = {"n_photos": 77, "gaps": gaps, "views": []}
    compared = {
        "n_compared": 3, "budget": [4],
        "best": {"name": "drawn on whole + head", "value": "0.81 [0.70, 0.90]"},
        "recommended": {"name": "drawn on whole", "difference": "-0.02 [-0.10, +0.07]"},
    }  # fmt: skip
    return {
        "study": config, "images": images, "splits": splits, "quarantine": refused,
        "bests": [best, best, other, best], "metrics": judged.metrics, "comparison": compared,
        "calibration": sure, "audit": [], "checks": checks, "agreement": {"n_photos": 0},
        "ceiling": {"n_raters": 0}, "card": {"structure": dict(best["structure"])},
    }  # fmt: skip
