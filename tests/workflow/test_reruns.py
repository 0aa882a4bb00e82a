"""The table of the README: what is edited, and how many jobs of which rules run again."""

from collections import Counter

import pandas as pd
import pytest
from equimood import demo
from PIL import Image, ImageOps

FIRST = {
    "ingest": 1, "split_horses": 1, "fetch_backbone": 1, "embed_shard": 4, "search_fold": 3,
    "train_fold": 3, "evaluate_folds": 1, "draw_evaluation": 1, "explain_shard": 2,
    "summarise": 1, "draw_explanation": 1, "write_methods": 1, "write_report": 1,
}  # fmt: skip
AFTER_SPLIT = {
    rule: n for rule, n in FIRST.items() if rule not in ("ingest", "fetch_backbone", "embed_shard")
}


@pytest.fixture(scope="module")
def study(clone):
    """The tiny study, run once: 8 horses, 80 photographs, 2 views, 2 shards."""
    demo.draw_study(
        clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=10, seed=5
    )
    ran = clone.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == FIRST
    assert ran.embedded == 160
    return clone


def change_table(study, change):
    path = study.folder / "mydata/annotations.csv"
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


def test_a_second_run_has_nothing_to_do(study):
    ran = study.snakemake()
    assert ran.code == 0
    assert not ran.jobs
    assert "Nothing to be done" in ran.text


def test_a_figure_setting_redraws_and_computes_nothing(study):
    study.edit("tests/configs/tiny.yaml", lambda c: c["figures"].update(colormap="RdBu_r"))
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == Counter(
        draw_evaluation=1, draw_explanation=1, write_methods=1, write_report=1
    )


def test_a_corrected_label_embeds_nothing(study):
    def correct(table):
        table.loc[0, "label"] = "relaxed" if table.loc[0, "label"] != "relaxed" else "neutral"
        return table

    change_table(study, correct)
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    assert ran.jobs == {"ingest": 1, **AFTER_SPLIT}
    assert ran.embedded == 0


def test_an_added_photograph_is_the_only_one_embedded(study):
    folder = study.folder / "mydata/images"

    def add(table):
        first = table.iloc[[0]].assign(image="added.jpg")
        ImageOps.mirror(Image.open(folder / table["image"][0])).save(folder / "added.jpg")
        return pd.concat([table, first])

    change_table(study, add)
    ran = study.snakemake("embed")
    assert ran.code == 0, ran.text
    assert ran.embedded == 1  # the whole picture; without regions it has no head
    assert ran.jobs["embed_shard"] <= 2
    catalogue = pd.read_csv(study.folder / "results/tiny/catalogue/quarantine.csv")
    assert list(catalogue["reason"]) == ["no box"]
