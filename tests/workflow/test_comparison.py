"""Backbones and views of the tiny study, compared by real Snakemake."""

import pandas as pd
from equimood.files import read_json, read_yaml


def test_the_candidate_that_the_search_chose_answers_as_the_model_does(undisturbed):
    for fold in ("0", "1"):
        best = read_yaml(undisturbed / f"search/{fold}/best.yaml")["structure"]
        compared = pd.read_parquet(undisturbed / f"comparison/{fold}.parquet")
        model = pd.read_parquet(undisturbed / f"model/{fold}/predictions.parquet")
        views = "+".join(best["views"])
        own = compared[compared["backbone"].eq(best["backbone"]) & compared["views"].eq(views)]
        assert own["photo_id"].tolist() == model["photo_id"].tolist()
        assert own["predicted"].tolist() == model["predicted"].tolist()


def test_every_candidate_is_compared_on_all_photographs(undisturbed):
    found = read_json(undisturbed / "comparison/comparison.json")
    table = pd.read_csv(undisturbed / "comparison/candidates.csv")
    n_photos = len(pd.read_parquet(undisturbed / "evaluation/predictions.parquet"))
    assert found["n_compared"] == len(table) == found["n_candidates"] > 1
    assert (found["n_horses"], found["n_images"]) == (8, n_photos)
    assert found["told"][0].startswith("Recommended: ") and table["recommended"].sum() == 1
    costs = pd.read_csv(undisturbed / "comparison/costs.csv")
    assert (costs["gmacs"] > 0).all() and (costs["n_timed"] > 0).all()


def test_what_each_fold_chose_stands_in_the_table_and_on_the_page(undisturbed):
    table = pd.read_csv(undisturbed / "comparison/chosen.csv", dtype={"fold": str})
    page = (undisturbed / "comparison/comparison.html").read_text()
    splits = pd.read_parquet(undisturbed / "splits/splits.parquet")
    for row in table.to_dict("records"):
        best = read_yaml(undisturbed / f"search/{row['fold']}/best.yaml")
        assert row["inner_score"] == best["score"]
        assert row["pooling"] == best["structure"]["pooling"]
        tested = splits[splits["fold"].eq(row["fold"]) & splits["role"].eq("test")]["horse"]
        assert row["horses"].split("; ") == sorted(tested)
        assert all(horse in page for horse in tested)


def test_a_run_begins_by_telling_what_it_will_search(first_run):
    _, ran = first_run
    told = (
        "2 outer folds and the final model, each with a search of 4 structures x 6 heads on 2 "
        "inner folds: 144 heads"
    )
    assert told in ran.text and ran.text.index(told) < ran.text.index("Embedding view")
