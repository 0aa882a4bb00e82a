import pytest
from equimood import methods, pages, settings
from equimood.reference import DEMO


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
        "95% expanded percentile intervals",
        "200 bootstrap samples",
        "77 photographs, drawn evenly",
        "32 Gauss-Legendre points",
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
    years_and_f1 = {"1", "2015", "2017", "2018", "2020", "2022"}
    assert numbers <= years_and_f1


def test_a_missing_fact_is_an_error(found):
    stated = methods.facts(*found)
    del stated["chance"]
    with pytest.raises(methods.jinja2.UndefinedError, match="chance"):
        methods.methods_paragraph(stated)


def test_fine_tuning_is_told_where_it_was_compared(found):
    plain = methods.methods_paragraph(methods.facts(*found))
    assert "fine-tun" not in plain
    explored = [{"chosen": way} for way in ("all_blocks", "frozen_linear", "all_blocks")]
    text = methods.methods_paragraph(methods.facts(*found, explored))
    assert "8 settings were tried for at most 20 epochs" in text
    assert "chose all blocks fine-tuned in 2 of 4 folds, frozen features with a linear" in text
    assert all(mark not in text for mark in ["{", "}", " ,", " .", "  ", "None"])


def test_raters_are_named_where_there_were_several(found):
    found[1] = found[1].assign(n_raters=3, agreement=0.8)
    text = methods.methods_paragraph(methods.facts(*found))
    assert "(up to 3), of whom 80% agreed" in text


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
    page = pages.from_markdown(methods.methods_paragraph(stated), "Methods")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<h2>Methods</h2>" in page
    assert "<strong>Photographs.</strong>" in page
