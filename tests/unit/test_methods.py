import pytest
from equimood import methods, pages, settings
from equimood.reference import DEMO


def test_the_paragraph_states_what_was_found(found):
    text = methods.methods_paragraph(methods.facts(**found))
    flat = text.replace("\n", " ")
    n_neutral = (found["images"].drop_duplicates("photo_id")["label"] == "neutral").sum()
    for claim in [
        "360 photographs of 12 horses",
        f"neutral: {n_neutral} photographs of 12 horses",
        "4 folds, stratified by class (3 horses in each)",
        "12 structures were compared",
        "whole + head by drawn (grid2, mlp of 64 units) in 3 of 4 folds",
        "2 further photographs could not be used",
        "by 2.1% of it in the median, and by more than 5% in 22% of the maps",
        "the intervals with the largest errors were halved, up to 128 points",
        "3 inner folds",
        f"Balanced accuracy was {found['metrics']['balanced_accuracy']['value']:.2f} [",
        "95% intervals over horses: at each end the wider of expanded percentiles",
        f"AUROC {found['metrics']['auroc']['value']:.2f} [",
        "units (each a horse in one annotated emotion)",
        "labels were exchanged 39 times",
        "(p = 0.025)",
        "200 bootstrap samples",
        "77 photographs, drawn evenly",
        "16 Gauss-Lobatto points",
        "3 candidates (a network with some views) were compared",
        "among 4 structures",
        "The best was drawn on whole + head (macro-F1 0.81 [0.70, 0.90], optimistic",
        "drawn on whole needs the fewest operations (difference -0.02 [-0.10, +0.07])",
        "scikit-learn 1.",
        "error in 10 bins of equal size, with its bootstrap bias taken off, was "
        f"{found['calibration']['after']['ece']['value']:.2f} [",
        "before the temperature)",
        "that 90% of answers be right there",
        f"the share answered was {found['calibration']['coverage']['value']:.2f} [",
        f"and of these {found['calibration']['accuracy']['value']:.2f} [",
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
    years_f1_and_icc = {
        "1", "2", "2007", "2014", "2015", "2017", "2018", "2019", "2020", "2021", "2022"
    }  # fmt: skip
    assert numbers <= years_f1_and_icc


def test_a_missing_fact_is_an_error(found):
    stated = methods.facts(**found)
    del stated["chance"]
    with pytest.raises(methods.jinja2.UndefinedError, match="chance"):
        methods.methods_paragraph(stated)


def test_fine_tuning_is_told_where_it_was_compared(found):
    baselines = found["metrics"]["baselines"]
    baselines["logistic_regression"] = baselines["majority"]
    plain = methods.methods_paragraph(methods.facts(**found))
    assert "fine-tun" not in plain
    explored = [{"chosen": way} for way in ("all_blocks", "frozen_linear", "all_blocks")]
    text = methods.methods_paragraph(methods.facts(**found, explored=explored))
    assert "the chosen configurations were trained again" in plain
    assert "the frozen configurations were trained again" in text
    assert "logistic regression on the features of the frozen configuration was" in text
    assert "8 settings were tried for at most 20 epochs" in text
    assert "chose all blocks fine-tuned in 2 of 4 folds, frozen features with a linear" in text
    assert all(mark not in text for mark in ["{", "}", " ,", " .", "  ", "None"])


def test_without_a_permutation_test_none_is_told(found):
    del found["metrics"]["permutation"]
    assert "permut" not in methods.methods_paragraph(methods.facts(**found))


def test_a_perfect_recall_of_several_horses_is_better_than_guessing(found):
    label = next(iter(found["metrics"]["classes"]))
    own = found["metrics"]["classes"][label]
    own["recall"] = {"value": 1.0, "low": None, "high": None}
    for n_horses, by_chance in ((1, True), (8, False)):
        own["n_horses"] = n_horses
        (told,) = (c for c in methods.facts(**found)["by_class"] if c["label"] == label)
        assert told["recall_by_chance"] == by_chance


def test_raters_are_named_where_there_were_several(found):
    found["images"] = found["images"].assign(n_raters=3, agreement=0.8)
    text = methods.methods_paragraph(methods.facts(**found))
    assert "(up to 3), of whom 80% agreed" in text
    assert "Krippendorff" not in text and "Cohen" not in text


def test_agreement_and_ceiling_are_stated_as_far_as_they_are_known(found):
    def figure(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    alpha, icc = {"krippendorff_alpha": figure(0.5)}, {"icc_2_1": figure(0.3), "icc_2_k": figure(1)}
    unknown = {"cohen_kappa": {"value": None, "low": None, "high": None}}
    found["agreement"] = (
        {"n_photos": 1200, "percent_agreement": figure(0.75)} | alpha | icc | unknown
    )
    kappas = {"raters": figure(0.4), "model": figure(0.2), "difference": figure(-0.2)}
    found["ceiling"] = {"n_raters": 3, "pairwise": {"cohen_kappa": kappas}, "consensus": unknown}
    found["ceiling"]["consensus"] = {"cohen_kappa": dict.fromkeys(kappas, unknown["cohen_kappa"])}
    text = methods.methods_paragraph(methods.facts(**found))
    assert "On the 1,200 photographs with two ratings or more, those left out" in text
    assert "ICC(2,1) of the ordered classes 0.30 [0.20, 0.40]" in text
    assert "equal with a chance of 0.75 [0.65, 0.85]" in text and "over pairs" not in text
    assert "two raters was 0.40 [0.30, 0.50], between the model and a rater 0.20" in text
    assert "majority of the other" not in text and "None" not in text


def test_soft_labels_are_stated(found):
    assert "shares of the classes" not in methods.methods_paragraph(methods.facts(**found))
    found["study"] = settings.load(DEMO | {"train": {"labels": "soft"}})
    assert "shares of the classes among each" in methods.methods_paragraph(methods.facts(**found))


def test_a_single_candidate_is_not_compared_with_itself(found):
    found["comparison"] = {"n_compared": 0, "budget": [4]}
    assert "candidates" not in methods.methods_paragraph(methods.facts(**found))


@pytest.mark.parametrize("outer", ["holdout", "leave_one_horse_out", "column", "kfold"])
@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_every_form_of_study_reads_well(found, outer, baseline):
    changed = {"split": {"outer": outer}, "explain": {"baseline": baseline, "control_images": 0}}
    changed |= {"train": {"seeds": 1, "calibrate": False}}
    found["study"] = settings.load(DEMO | changed)
    text = methods.methods_paragraph(methods.facts(**found))
    assert text.count("\n\n") == 6
    assert "control" not in text
    assert "temperature" not in text


@pytest.mark.parametrize(
    ("explain", "gap", "claim"),
    [
        (
            {"baseline": "neutral", "neutral": "neutral", "n_references": 4},
            0.021,
            "starting from 4 photographs of neutral (expected gradients, Erion et al. 2021) of "
            "horses that the model was trained on. The paths shared 16 Gauss-Lobatto points",
        ),
        (
            {"baseline": "constant", "constant": [0.5, 0, 1]},
            0.021,
            "starting from a constant colour (red, green and blue 50%, 0%, 100%). The path",
        ),
        (
            {"target": "contrast", "contrast": "annoyed"},
            0.021,
            "the difference between the logits of the predicted class and of annoyed through",
        ),
        ({"method": "captum"}, 0.021, "The path had 16 Gauss-Legendre points. The attributions"),
        ({"method": "occlusion"}, None, "with occlusion (Zeiler and Fergus 2014) of the predicted "
         "class's logit, less the mean over classes, through classifier and network, starting from "
         "the blurred photograph"),
        ({"method": "gradcam", "target": "true"}, None, "with Grad-CAM (Selvaraju et al. 2017) of "
         "the true class's logit, less the mean over classes, through classifier and network. "),
    ],
)  # fmt: skip
def test_every_way_to_explain_reads_well(found, explain, gap, claim):
    found["study"] = settings.load(DEMO | {"explain": explain})
    gaps = {"median": gap, "share_over_tolerance": gap, "classes": []}
    found["checks"] = {"n_photos": 9, "gaps": gaps, "views": []}
    text = methods.methods_paragraph(methods.facts(**found))
    assert claim in text
    assert ("missed the logit's change by 2.1%" in text) == (gap is not None)
    assert "None" not in text and "  " not in text


def test_the_page_escapes_the_users_text(found):
    stated = methods.facts(**found)
    stated["classes_shown"][0]["label"] = "<script>alert(1)</script>"
    page = pages.from_markdown(methods.methods_paragraph(stated), "Methods")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<h2>Methods</h2>" in page
    assert "<strong>Photographs.</strong>" in page
