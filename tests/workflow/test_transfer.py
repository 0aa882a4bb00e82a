"""Fine-tuned models in a real run: trained, explained, and asked about new photographs."""

import pandas as pd
import pytest
from clone import Clone
from equimood import demo
from equimood.files import read_yaml
from safetensors.numpy import load_file

STUDY = "tests/configs/transfer.yaml"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("transfer"))
    demo.draw_study(clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=4, seed=5)
    return clone


def test_explanations_and_predictions_are_those_of_the_fine_tuned_model(study):
    ran = study.snakemake("transfer", study=STUDY)
    assert ran.code == 0, ran.text
    assert ran.jobs["transfer_fold"] == 2
    results = study.folder / "results/transfer"
    table = pd.read_csv(results / "transfer/exploration.csv")
    assert list(table["way"]) == ["frozen_linear", "last_blocks", "all_blocks", "scratch"]
    assert (results / "transfer/exploration.png").stat().st_size > 0
    for fold in ("0", "final"):  # whatever two epochs gained
        name = f"results/transfer/transfer/{fold}/best.yaml"
        study.edit(name, lambda best: best.update(chosen=best["tuned"]["method"]))

    ran = study.snakemake("explain", "predict", study=STUDY)
    assert ran.code == 0, ran.text
    assert not ran.jobs["transfer_fold"]
    for fold in ("0", "final"):
        card = read_yaml(results / f"model/{fold}/card.yaml")
        assert card["transfer"] == read_yaml(results / f"transfer/{fold}/best.yaml")["tuned"]
        assert any(n.startswith("backbone.") for n in load_file(
            results / f"model/{fold}/weights.safetensors"
        ))  # fmt: skip
    assert len(load_file(results / "attributions/000.safetensors")["maps"]) == 4
    assert len(pd.read_csv(results / "predictions/predictions.csv")) == 32


def test_nothing_of_it_is_done_unless_it_is_enabled(study):
    study.edit(STUDY, lambda config: config["transfer"].update(enabled=False))
    ran = study.snakemake("--dry-run", "train", study=STUDY)
    assert ran.code == 0, ran.text
    assert "transfer_fold" not in ran.text
    ran = study.snakemake("--dry-run", "transfer", study=STUDY)
    assert ran.code != 0
    assert "transfer.enabled: false; write true" in ran.text
