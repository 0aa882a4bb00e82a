"""The sample, and the tests of explanations of a small real network."""

import numpy as np
import pandas as pd
import pytest
import tiny_model
import torch
from equimood import (
    backbones,
    faithfulness,
    integrated_gradients,
    probing,
    regions,
    sampling,
    settings,
    tables,
    trust,
)
from equimood.references import References
from PIL import Image

SIDE = 48
CLASSES = ["calm", "tense"]
TESTS = settings.ExplanationTests(n_steps=4)
EXPLAIN = settings.Explain(n_steps=8, batch_size=4)
ANOTHER = EXPLAIN.model_copy(update={"baseline": "mean"}), References((0.5, 0.5, 0.5))
N = 8


class TinyModel(tiny_model.TinyModel):
    classes = CLASSES


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("backbone")
    spec = settings.Backbone(architecture="test_resnet", weights="random", input_px=SIDE)
    backbones.fetch("tiny", spec, folder, 1, folder)
    return backbones.load(folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Eight photographs of four horses in two folds, two views, three regions."""
    folder = tmp_path_factory.mktemp("probing")
    rng = np.random.default_rng(1)
    catalogue, predictions, given = [], [], []
    for i in range(N):
        path, photo, horse = f"{i}.png", f"{i:032x}", f"h{i % 4}"
        pixels = rng.integers(0, 255, (8, 10, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(pixels).save(folder / path)
        for view, box in (("whole", (0, 0, 60, 48)), ("head", (6, 0, 36, 30))):
            catalogue.append(
                {"image_id": f"{view}{i}", "photo_id": photo, "view": view, "path": path,
                 "horse": horse} | dict(zip(tables.BOX, box, strict=True))
            )  # fmt: skip
        predictions.append({"photo_id": photo, "horse": horse, "fold": str(i % 2),
                            "truth": CLASSES[i // 4], "predicted": "calm"})  # fmt: skip
        for name, box in (("eye_left", (12, 6, 20, 14)), ("ear_left", (20, 0, 30, 8)),
                          ("object", (40, 30, 60, 48))):  # fmt: skip
            given.append(
                {"line": 2, "image": path, "horse": horse, "region": name, "kind": "box",
                 "points": None, "mask": None, "visible": True}
                | dict(zip(tables.BOX, map(float, box), strict=True))
            )  # fmt: skip
    return folder, pd.DataFrame(catalogue), pd.DataFrame(predictions), pd.DataFrame(given)


def run(study, load, *, other=None, with_regions=True, n=N):
    folder, catalogue, predictions, given = study
    rows = probing.sample(catalogue, predictions, EXPLAIN, n, 1)
    return probing.probe(
        rows, load, lambda fold, model: other,
        given if with_regions else regions.stand_in(rows, None), EXPLAIN, TESTS, folder,
        device=torch.device("cpu"), seed=1, references=References(), another=ANOTHER,
    )  # fmt: skip


def test_the_sample_is_even_over_classes_and_horses():
    rng = np.random.default_rng(1)
    photos = pd.DataFrame({
        "photo_id": [f"{i:032x}" for i in range(400)],
        "truth": rng.choice(["a", "b", "c"], 400, p=[0.8, 0.15, 0.05]),
        "horse": [f"h{i}" for i in rng.choice(8, 400, p=[0.6, *[0.4 / 7] * 7])],
    })  # fmt: skip
    chosen = photos[photos["photo_id"].isin(sampling.over_classes_and_horses(photos, 24, 1))]
    assert chosen["truth"].value_counts().tolist() == [8, 8, 8]
    assert chosen["horse"].value_counts().between(2, 4).all()
    assert chosen["horse"].nunique() == 8
    assert sampling.over_classes_and_horses(photos.sample(frac=1, random_state=0), 24, 1) == set(
        chosen["photo_id"]
    )
    assert sampling.over_classes_and_horses(photos, 999, 1) == set(photos["photo_id"])
    assert sampling.over_classes_and_horses(photos.iloc[:0], 5, 1) == set()


@pytest.mark.parametrize("views", [("whole",), ("whole", "head")])
def test_every_test_is_made_on_every_photograph_by_its_own_fold(study, backbone, views):
    asked = []

    def load(fold):
        asked.append(fold)
        return TinyModel(backbone, int(fold), views)

    found = run(study, load, other=TinyModel(backbone, 9, views))
    assert asked == ["0", "1"]
    assert found["photo_id"].nunique() == N
    assert set(found["test"]) == set(trust.ABOUT)
    assert found["value"].notna().all()
    of = found.groupby(["test", "of", "at"], dropna=False)["photo_id"].nunique()
    assert (of == N).all()
    curves = found[found["test"] == "deletion"].pivot_table("value", ["photo_id", "of"], "at")
    assert curves.columns.tolist() == list(faithfulness.FRACTIONS)
    assert curves[0.0].unstack().std(axis=1).max() < 1e-6  # all orders begin at the photograph


def test_without_regions_thirds_are_hidden_and_without_seeds_no_seeds_are_compared(study, backbone):
    found = run(study, lambda fold: TinyModel(backbone, 1), with_regions=False, n=3)
    tests = set(found["test"])
    assert "occlusion" in tests and "seeds" not in tests
    assert (found[found["of"] == "size"]["value"] == 0).all()  # cells of one size have no order


def test_the_same_seed_gives_the_same_numbers(study, backbone):
    one, two = (run(study, lambda fold: TinyModel(backbone, 1), n=2) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_an_empty_sample_gives_an_empty_table(study, backbone):
    found = run(study, lambda fold: TinyModel(backbone, 1), n=0)
    assert list(found) == tables.EXPLANATION_TESTS.names
    assert found.empty


def test_the_same_head_gives_the_same_map_and_another_head_another(study, backbone):
    model = TinyModel(backbone, 1)
    for other, alike in ((model, True), (TinyModel(backbone, 7), False)):
        found = run(study, lambda fold: model, other=other, n=2)
        values = found[found["test"] == "seeds"]["value"]
        assert (values > 0.999).all() == alike


def judged(found):
    tests = trust.judge(found, TESTS, n_bootstrap=200, confidence=0.95, seed=1)["tests"]
    return {test["test"]: test["verdict"] for test in tests}


class Corner(TinyModel):
    """Sees contrast in the upper left sixth of the side, and nothing else."""

    def forward(self, *views):
        score = sum(
            12 * (v[..., : SIDE // 6, : SIDE // 6] - 0.5).abs().mean((1, 2, 3)) for v in views
        )
        return torch.stack([score, torch.zeros_like(score)], 1)


def test_the_maps_of_a_model_of_one_corner_are_found_to_be_right(study, backbone):
    found = run(study, lambda fold: Corner(backbone, 1), with_regions=False)
    verdict = judged(found)
    assert verdict["deletion"] == verdict["insertion"] == "passed"
    occlusion = found[found["test"] == "occlusion"].groupby("of")["value"].mean()
    assert occlusion["map"] == pytest.approx(1)
    means = found.groupby(["test", "of", "at"])["value"].mean()
    for of in ("edges", "random"):  # a thirtieth of the cells is all that the answer rests on
        assert means["deletion", "map", 0.1] < means["deletion", of, 0.1] - 0.1
        assert means["insertion", "map", 0.1] > means["insertion", of, 0.1] + 0.1


def test_an_edge_detector_is_no_explanation(study, backbone, monkeypatch):
    """It looks convincing and knows nothing of the network, which is random here, too."""

    def edges(model, views, target, *_):
        maps = [faithfulness.edges([view]).view(-1, 20, 20) for view in views]
        wide = [torch.nn.functional.interpolate(m[:, None], SIDE)[:, 0] for m in maps]
        return integrated_gradients.Integrated(tuple(wide), target, target, target)

    monkeypatch.setattr(probing, "integrate", edges)
    verdict = judged(run(study, lambda fold: TinyModel(backbone, 1), other=TinyModel(backbone, 2)))
    assert verdict["randomisation"] == "failed"
    assert verdict["deletion"] != "passed"
    assert verdict["insertion"] != "passed"


def test_maps_drawn_at_random_are_no_explanation(study, backbone, monkeypatch):
    source = torch.Generator().manual_seed(1)

    def noise(model, views, target, *_):
        maps = tuple(torch.randn(view[:, 0].shape, generator=source) for view in views)
        return integrated_gradients.Integrated(maps, target, target, target)

    monkeypatch.setattr(probing, "integrate", noise)
    verdict = judged(run(study, lambda fold: TinyModel(backbone, 1), other=TinyModel(backbone, 2)))
    assert verdict.pop("randomisation") == "passed"
    assert "passed" not in verdict.values()
    assert verdict["seeds"] == verdict["baseline"] == verdict["sensitivity"] == "failed"
