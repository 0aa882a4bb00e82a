import re
from html import escape

import jinja2
import pandas as pd
import pytest
from docutils.core import publish_parts
from equimood import cards, methods, pages

NASTY = "<img src=x onerror=alert(1)> *a* [b](javascript:c) | `d` &amp; é"
CARD = {
    "structure": {"views": ["whole", "head"], "backbone": "drawn", "pooling": "grid2",
                  "head": "mlp", "hidden_units": 64},
    "temperature": 0.8, "abstention": {"in_words": "for 90% a confidence of 0.612 is needed"},
    "n_images": 360, "n_horses": 12,
    "provenance": {"created": "2026-01-31T10:00:00+00:00", "commit": "abc1234"},
}  # fmt: skip


def test_a_model_of_a_structure_that_no_fold_chose_is_said_to_be_unjudged(found):
    def limits():
        return " ".join(cards.model_limits(methods.facts(**found))).replace("\\", "")

    assert "handed out" not in limits()
    found["card"]["structure"]["pooling"] = "avg"
    assert "for it the search chose whole + head by drawn (avg, mlp of 64 units)" in limits()


@pytest.fixture
def stated(found):
    return methods.facts(**found)


def test_the_model_card_states_the_model_and_its_figures(stated):
    text = cards.model_card(stated, CARD)
    flat = " ".join(text.split())
    for claim in [
        "4 emotions (neutral, annoyed, relaxed and alarmed)",
        "mlp of 64 units on grid2 features; temperature 0.80",
        "360 photographs of 12 horses; made 2026-01-31 with Equimood (commit abc1234)",
        '"not sure": for 90% a confidence of 0.612 is needed.',
        f"| Balanced accuracy | {stated['results']['balanced_accuracy']} |",
        f"| Majority class | {stated['baselines'][0]['f1_macro']} |",
    ]:
        assert claim in flat, claim
    for label, judged in zip(stated["by_class"], stated["classes_shown"], strict=True):
        assert f"| {label['label']} | {judged['photos']} | {judged['horses']} |" in flat
    assert "None" not in text
    assert "fine-tuned" not in text
    tuned = cards.model_card(stated, CARD | {"transfer": {"method": "last_blocks"}})
    assert "; then the last blocks fine-tuned on this study's photographs)" in tuned


def test_the_data_sheet_counts_what_is_there_and_what_was_refused(stated, found):
    images = found["images"].query("view == 'whole'").iloc[5:]
    refused = pd.DataFrame({"reason": ["too dark", "too dark", "no | such file"]})
    text = cards.data_sheet(stated, images, refused, 3)
    assert "A horse has 25 to 30 photographs." in text
    assert "- 3 rows were not used:" in text
    page = pages.from_markdown(text, "demo")
    assert "<td>too dark</td>\n<td>2</td>" in page
    assert "<td>no | such file</td>\n<td>1</td>" in page
    assert "3 pairs" in page


def test_limits_follow_from_what_was_found(stated):
    assert not any("better than" in limit for limit in cards.model_limits(stated))
    baseline = stated["baselines"][0]
    stated |= {
        "baselines": [baseline | {"beaten": False}],
        "outer": "holdout",
        "n_raters": 1,
        "drawn": False,
        "gaps_by_class": [{"target": "alarmed", "share_over_tolerance": 0.05}],
    }
    stated["audit"] = [
        {"title": "Labels told from the background", "found": "0.41", "verdict": "warned"},
        {"title": "A class carried by one site", "found": "site is yard in 100%",
         "verdict": "accepted", "reason": "one yard only"},
    ]  # fmt: skip
    stated["permutation"] = stated["permutation"] | {"p": "0.21"}
    stated["by_class"][1]["recall_by_chance"] = True
    stated["classes_shown"][2]["horses"] = 4
    told = "\n".join(cards.data_limits(stated) + cards.model_limits(stated))
    for claim in [
        "horses like these 12",
        "Fewer than 10 horses show relaxed",
        "One rater",
        r"The audit warns. Labels told from the background: 0\.41.",
        "Accepted: one yard only",
        "exchanged labels it is as good too often (p = 0.21)",
        "One set of horses was held out",
        "than by chance: annoyed",
        "better than: majority class",
    ]:
        assert claim in told, claim
    assert "Explanations" not in told
    stated["gaps_by_class"][0]["share_over_tolerance"] = 0.31
    told = "\n".join(cards.model_limits(stated))
    assert "more than 5%: 31% of those of alarmed. Take single maps of it with care" in told


def test_names_appear_as_written_and_run_nothing(stated):
    name = NASTY
    stated["classes_shown"][0]["label"] = stated["by_class"][0]["label"] = name
    page = pages.from_markdown(cards.model_card(stated, CARD), name)
    assert "<img" not in page
    assert "href" not in page
    assert "<em>" not in page
    written = "&lt;img src=x onerror=alert(1)&gt; *a* [b](javascript:c) | `d` &amp;amp; é"
    assert f"<td>{written}</td>" in page
    assert f"<title>{written}</title>" in page


def test_the_first_page_states_figures_and_doubts(stated):
    name = NASTY + " {{ 7 * 7 }} {% raw %} {# c #} :math:`x` __y__"
    stated["classes_shown"][0]["label"] = stated["by_class"][0]["label"] = name
    stated["by_class"][0]["recall_by_chance"] = True
    written = cards.front_page(stated)
    # As Snakemake does.
    rendered = jinja2.Environment().from_string(written).render()
    html = publish_parts(rendered, writer_name="html")["html_body"]
    shown = re.sub(r"<[^>]+>", "", html)
    assert f"balanced accuracy was {stated['results']['balanced_accuracy']}" in shown
    assert shown.count(escape(name, quote=False)) == 2
    assert "<img" not in html
    assert "never saw" in shown


def test_a_failed_test_of_the_explanations_stands_at_the_top_of_the_first_page(stated):
    def shown():
        written = cards.front_page(stated)
        rendered = jinja2.Environment().from_string(written).render()
        return re.sub(r"<[^>]+>", "", publish_parts(rendered, writer_name="html")["html_body"])

    assert "Explanations:" not in shown()  # not tested
    leading = [{
        "target": "annoyed", "view": "whole", "leading": "neck_posture", "leading_enrichment": 3.14,
    }]  # fmt: skip
    stated |= {"baseline": "neutral", "n_explained": 200}
    stated["explained"] = {
        "summary": "7 of 7 tests passed.", "failed": [], "outside": [], "leading": leading,
        "most_net": [{"target": "annoyed", "view": "whole", "most_net": "background",
                      "most_signed": 5.21}],
    }  # fmt: skip
    assert "neck posture of annoyed in view whole (3.1 times its area's share)." in shown()
    assert "200 photographs were explained. What" in shown()
    stated["views_hold"] = [{"view": "whole", "share": 0.3}, {"view": "head", "share": 0.7}]
    assert "answer, view whole holds 30%, view head holds 70%: shares" in shown()
    assert (
        "more lies in background (5.2 logits) than in any region of the horse: compared" in shown()
    )
    assert "Explanations: 7 of 7 tests passed." in shown()
    card = pages.from_markdown(cards.model_card(stated, CARD), "demo")
    assert "<p>Explanations of the judged models: 7 of 7 tests passed.</p>" in card
    assert shown().index("In short") < shown().index("Explanations: 7 of 7")
    name = NASTY + " {{ 7 * 7 }}"
    stated["explained"] = {
        "summary": "6 of 7 tests passed; failed: forgetting what was learnt.",
        "failed": [
            {"title": "Forgetting what was learnt", "means": "It shows the picture.",
             "measured": "rank correlation 0.80 [0.70, 0.90] (should be below 0.3)"}
        ],
        "leading": [],
        "most_net": [],
        "outside": [{"target": name, "view": "whole", "outside": "object", "outside_share": 0.95,
                     "n_images": 98}],
    }  # fmt: skip
    page = " ".join(shown().split())
    assert page.index("Forgetting what was learnt: rank correlation 0.80") < page.index("In short")
    assert "In 95% of the 98 photographs explained as " + escape(name, quote=False) in page
    assert "is object, which is no part of the horse" in page
