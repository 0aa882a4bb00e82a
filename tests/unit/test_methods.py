import pandas as pd
import pytest
from equimood import evaluation, methods, permutation, settings
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
    gaps = {"n_images": 77, "median": 0.021, "share_over_tolerance": 0.22}
    compared = {
        "n_compared": 3, "budget": [4],
        "best": {"name": "drawn on whole + head", "value": "0.81 [0.70, 0.90]"},
        "recommended": {"name": "drawn on whole", "difference": "-0.02 [-0.10, +0.07]"},
    }  # fmt: skip
    bests = [best, best, other, best]
    return [config, images, splits, bests, judged.metrics, compared, refused, gaps]


def test_the_paragraph_states_what_was_found(found):
    text = methods.methods_paragraph(methods.facts(*found))
    flat = text.replace("\n", " ")
    n_neutral = (found[1].drop_duplicates("photo_id")["label"] == "neutral").sum()
    for claim in [
        "360 photographs of 12 horses",
        f"neutral: {n_neutral} photographs of 12 horses",
        "4 folds, stratified by class (3 horses in each)",
        "12 structures were compared",
        "whole + head by drawn (grid2, mlp of 64 units) in 3 of 4 folds",
        "2 further photographs could not be used",
        "by 2.1% of it in the median, and by more than 5% in 22% of the maps",
        "3 inner folds",
        f"Balanced accuracy was {found[4]['balanced_accuracy']['value']:.2f} [",
        "95% intervals over horses: at each end the wider of expanded percentiles",
        f"AUROC {found[4]['auroc']['value']:.2f} [",
        "units (each a horse in one annotated emotion)",
        "labels were exchanged 39 times",
        "(p = 0.025)",
        "200 bootstrap samples",
        "77 photographs, drawn evenly",
        "32 Gauss-Legendre points",
        "3 candidates (a network with some views) were compared",
        "among 4 structures",
        "The best was drawn on whole + head (macro-F1 0.81 [0.70, 0.90], optimistic",
        "drawn on whole needs the fewest operations (difference -0.02 [-0.10, +0.07])",
        "scikit-learn 1.",
        "weights backbone.safetensors",
    ]:
        assert claim in flat, claim
    assert "None" not in text
    assert "rater" not in text
    assert text.count("**") == 12
    assert all(mark not in text for mark in ["{", "}", " ,", " .", "  "])


def test_every_number_comes_from_the_facts(found):
    text = methods.TEMPLATE.read_text()
    words = methods.re.sub(r"{[{%#].*?[}%#]}", "", text, flags=methods.re.DOTALL)
    numbers = set(methods.re.findall(r"\d+", words))
    years_and_f1 = {"1", "2015", "2017", "2018"}
    assert numbers <= years_and_f1


def test_a_missing_fact_is_an_error(found):
    stated = methods.facts(*found)
    del stated["chance"]
    with pytest.raises(methods.jinja2.UndefinedError, match="chance"):
        methods.methods_paragraph(stated)


def test_without_a_permutation_test_none_is_told(found):
    del found[4]["permutation"]
    assert "permut" not in methods.methods_paragraph(methods.facts(*found))


def test_raters_are_named_where_there_were_several(found):
    found[1] = found[1].assign(n_raters=3, agreement=0.8)
    text = methods.methods_paragraph(methods.facts(*found))
    assert "(up to 3), of whom 80% agreed" in text


def test_a_single_candidate_is_not_compared_with_itself(found):
    found[5] = {"n_compared": 0, "budget": [4]}
    assert "candidates" not in methods.methods_paragraph(methods.facts(*found))


@pytest.mark.parametrize("outer", ["holdout", "leave_one_horse_out", "column", "kfold"])
@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_every_form_of_study_reads_well(found, outer, baseline):
    changed = {"split": {"outer": outer}, "explain": {"baseline": baseline, "control_images": 0}}
    changed |= {"train": {"seeds": 1, "calibrate": False}}
    found[0] = settings.load(DEMO | changed)
    text = methods.methods_paragraph(methods.facts(*found))
    assert text.count("\n\n") == 6
    assert "control" not in text
    assert "temperature" not in text


def test_the_page_escapes_the_users_text(found):
    stated = methods.facts(*found)
    stated["classes_shown"][0]["label"] = "<script>alert(1)</script>"
    page = methods.as_html(methods.methods_paragraph(stated))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<h2>Methods</h2>" in page
    assert "<b>Photographs.</b>" in page
