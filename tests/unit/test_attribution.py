import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_model
import torch
from equimood import (
    attribution,
    backbones,
    embedding,
    images,
    integrated_gradients,
    map_shards,
    models,
    references,
    regions,
    sampling,
    settings,
    tables,
)
from equimood.errors import UserError
from PIL import Image
from torch import nn

SIDE = 24
CLASSES = ["neutral", "alarmed", "annoyed"]
CPU = torch.device("cpu")


class TinyModel(tiny_model.TinyModel):
    classes = CLASSES


class Quadratic(nn.Module):
    """Logit 0 is the sum of the squared pixels of a weighted view: its integral is known."""

    def forward(self, *views):
        squared = sum((1 + i) * (view**2).sum((1, 2, 3)) for i, view in enumerate(views))
        return torch.stack([squared, -squared], 1)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    spec = settings.Backbone(architecture="test_resnet", weights="random", input_px=SIDE)
    backbones.fetch("tiny", spec, folder, 1, folder)
    return backbones.load(folder, CPU)


def explain(**changes):
    return settings.Explain(**{"n_steps": 8, "map_px": 8, "batch_size": 3} | changes)


def hex_id(text):
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Nine photographs of three horses, each horse held out by its own fold; two views."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    catalogue, predictions, region_rows = [], [], []
    rng = np.random.default_rng(1)
    for i in range(9):
        path, horse = f"p{i}.jpg", f"horse{i % 3}"
        pixels = rng.integers(0, 255, (8, 10, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(pixels).save(tmp_path / "images" / path)
        for view, box in (("whole", (0, 0, 60, 48)), ("head", (6, 0, 36, 30))):
            catalogue.append(
                {"image_id": hex_id(path + view), "photo_id": hex_id(path), "view": view,
                 "path": path, "label": CLASSES[i // 3], "horse": horse}
                | dict(zip(tables.BOX, box, strict=True))
            )  # fmt: skip
        predictions.append(
            {"photo_id": hex_id(path), "path": path, "horse": horse, "fold": str(i % 3),
             "truth": CLASSES[i // 3], "predicted": CLASSES[i % 2],
             "p_neutral": 0.5 - 0.3 * (i % 2), "p_alarmed": 0.2 + 0.3 * (i % 2), "p_annoyed": 0.3}
        )  # fmt: skip
        for name, box in (("eye_left", (12, 6, 20, 14)), ("ear_left", (20, 0, 30, 8))):
            region_rows.append(
                {"line": 2, "image": path, "horse": horse, "region": name, "kind": "box",
                 "points": None, "mask": None, "visible": name != "ear_left" or i != 0}
                | dict(zip(tables.BOX, map(float, box), strict=True))
            )  # fmt: skip
    return pd.DataFrame(catalogue), pd.DataFrame(predictions), pd.DataFrame(region_rows)


def run(study, load_model, tag="", settings_=None, seed=1, **options):
    catalogue, predictions, region_table = study
    chosen = settings_ or explain(control_images=0)
    rows = attribution.plan(catalogue, predictions, chosen, seed)
    new = attribution.explain_shard(
        rows, load_model, region_table, chosen, "images", f"{tag}maps.safetensors",
        f"{tag}scores.parquet", "record", device=CPU, seed=seed, **options,
    )  # fmt: skip
    maps = map_shards.read(f"{tag}maps.safetensors")
    return new, maps, tables.read(f"{tag}scores.parquet")


# ------------------------------------------------------------------------------- one batch


def test_the_integral_of_a_known_function_is_exact_for_every_view():
    """The gradient of x² integrates to x² - b², pixel by pixel."""
    pixels = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    chosen, target = explain(n_steps=4), torch.tensor([0, 1])
    found = integrated_gradients.integrate(Quadratic(), pixels, target, chosen)
    for view, map_ in enumerate(found.maps):
        start = integrated_gradients.blur(pixels[view], 16)
        exact = (1 + view) * (pixels[view] ** 2 - start**2).sum(1)
        assert torch.allclose(map_[0], exact[0], atol=1e-4)
        assert torch.allclose(map_[1], -exact[1], atol=1e-4)
    assert (found.gap < 1e-4).all()


def test_the_completeness_gap_closes_with_the_number_of_steps(backbone):
    model = TinyModel(backbone, 3).eval().requires_grad_(False)
    pixels = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(6, dtype=torch.long)
    gaps = [
        integrated_gradients.integrate(
            model, [pixels], target, explain(n_steps=n, max_steps=n)
        ).gap.median()
        for n in (4, 64)
    ]
    assert gaps[1] < 0.3 * gaps[0]
    assert gaps[1] < 0.02


def test_a_gap_is_taken_relative_to_a_tenth_of_a_logit_at_least():
    still = torch.full((1, 3, 16, 16), 0.5)
    found = integrated_gradients.integrate(Quadratic(), [still], torch.tensor([0]), explain())
    assert found.change.abs() < 1e-3
    assert found.gap == pytest.approx(0, abs=1e-2)


def test_a_blurred_start_keeps_the_mean_and_is_never_black():
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (start,) = integrated_gradients.baselines([pixels], explain(blur=0.2))
    assert start.mean((2, 3)) == pytest.approx(pixels.mean((2, 3)), abs=0.02)
    assert start.min() > 0.3
    assert start.std() < 0.1 * pixels.std()
    edge = torch.zeros(1, 1, 33, 33)
    edge[..., 17:] = 1
    profile = integrated_gradients.blur(edge, 3.0)[0, 0, 16]
    expected = torch.special.ndtr((torch.arange(33) + 0.0 - 16.5) / 3.0)
    assert torch.allclose(profile[6:27], expected[6:27], atol=0.01)
    assert torch.allclose(integrated_gradients.blur(edge.mT, 3.0)[0, 0, :, 16], profile, atol=1e-6)


def test_a_colour_is_a_start_and_must_be_given():
    pixels = torch.rand(2, 3, 16, 16)
    chosen = explain(baseline="mean")
    grey = integrated_gradients.colour(np.array([0.2, 0.4, 0.6]), 1)
    found = integrated_gradients.integrate(
        Quadratic(), [pixels], torch.tensor([0, 0]), chosen, grey
    )
    exact = (pixels**2 - torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1) ** 2).sum(1)
    assert torch.allclose(found.maps[0], exact, atol=1e-4)
    with pytest.raises(ValueError, match="`mean` needs references"):
        integrated_gradients.baselines([pixels], chosen)


@pytest.mark.parametrize("side", [5, 8, 16, 30])
def test_stored_cells_sum_to_the_attribution_whatever_their_size(side):
    maps = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    cells = integrated_gradients.shrink(maps, side)
    assert cells.shape == (3, side, side)
    assert torch.allclose(cells.sum((1, 2)), maps.sum((1, 2)), atol=1e-4)
    one = torch.zeros(1, 16, 16)
    one[0, 4, 8] = 1
    cells, centres = integrated_gradients.shrink(one, side)[0], torch.arange(side) + 0.5
    assert cells.sum(1) @ centres == pytest.approx(4.5 * side / 16, abs=0.5)
    assert cells.sum(0) @ centres == pytest.approx(8.5 * side / 16, abs=0.5)


def test_random_weights_are_the_same_for_a_seed_and_leave_the_model_as_it_was(backbone):
    model = TinyModel(backbone, 1).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = torch.rand(2, 3, SIDE, SIDE)
    first, second, other = (models.randomised(model, seed).eval()(pixels) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, rtol=0.01)
    random = models.randomised(model, 1)
    assert not torch.allclose(random.head.weight, model.head.weight, atol=0.1)
    assert random.head.weight.std().item() == pytest.approx(model.head.weight.std().item(), rel=0.2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_fingerprint_changes_with_the_head_and_with_the_views(backbone):
    model = TinyModel(backbone, 1)
    assert models.fingerprint(model) == models.fingerprint(TinyModel(backbone, 1))
    assert models.fingerprint(model) != models.fingerprint(TinyModel(backbone, 2))
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert models.fingerprint(model) != models.fingerprint(TinyModel(backbone, 1))


# -------------------------------------------------------------------------- what is explained


def photos(n, share=0.2):
    truth = np.where(np.arange(n) < share * n, "alarmed", "neutral")
    return pd.DataFrame({"photo_id": [hex_id(str(i)) for i in range(n)], "truth": truth})


def test_images_are_drawn_evenly_over_classes_and_a_small_class_leaves_its_places():
    many = photos(100)
    chosen = many[many["photo_id"].isin(sampling.over_classes(many, 20, 1))]
    assert chosen["truth"].value_counts().to_dict() == {"alarmed": 10, "neutral": 10}
    chosen = many[many["photo_id"].isin(sampling.over_classes(many, 60, 1))]
    assert chosen["truth"].value_counts().to_dict() == {"alarmed": 20, "neutral": 40}
    assert len(sampling.over_classes(many, None, 1)) == 100
    assert sampling.over_classes(many, 20, 1) != sampling.over_classes(many, 20, 2)


def test_added_images_change_the_choice_by_no_more_than_themselves():
    many = photos(200)
    before = sampling.over_classes(many.iloc[:190], 40, 1)
    after = sampling.over_classes(many.sample(frac=1, random_state=1), 40, 1)
    added = set(many["photo_id"].iloc[190:])
    assert len(before - after) == len(after & added)
    assert after - before <= added


def test_shards_share_the_photographs_out_whole(study):
    catalogue, predictions, _ = study
    parts = [attribution.plan(catalogue, predictions, explain(), 1, i, 3) for i in range(3)]
    whole = attribution.plan(catalogue, predictions, explain(), 1)
    assert sorted(pd.concat(parts)["image_id"]) == sorted(whole["image_id"])
    assert [part["photo_id"].value_counts().eq(2).all() for part in parts] == [True] * 3
    assert sum(part["photo_id"].nunique() for part in parts) == 9


def test_the_target_is_the_predicted_or_the_true_class(study):
    catalogue, predictions, _ = study
    for target in ("predicted", "true"):
        rows = attribution.plan(catalogue, predictions, explain(target=target), 1)
        column = {"predicted": "predicted", "true": "truth"}[target]
        asked = predictions.set_index("photo_id")[column]
        assert (rows["target"] == rows["photo_id"].map(asked)).all()


def test_a_contrast_is_with_the_class_named_or_else_with_the_second_likeliest(study):
    catalogue, predictions, _ = study
    rows = attribution.plan(catalogue, predictions, explain(), 1)
    assert rows["against"].isna().all()
    rows = attribution.plan(catalogue, predictions, explain(target="contrast"), 1)
    assert set(rows["target"]) == {"neutral", "alarmed"}
    assert (rows["against"] == "annoyed").all()
    named = explain(target="contrast", contrast="alarmed")
    rows = attribution.plan(catalogue, predictions, named, 1)
    expected = rows["target"].map({"neutral": "alarmed", "alarmed": "annoyed"})
    assert (rows["against"] == expected).all()


# -------------------------------------------------------------------------------- a shard


def test_an_image_is_explained_only_by_the_model_that_never_saw_its_horse(study, backbone):
    models = {fold: TinyModel(backbone, seed) for seed, fold in enumerate("012")}
    loaded = []

    def load_model(fold):
        loaded.append(fold)
        return models[fold]

    _, maps, scores = run(study, load_model)
    assert loaded == ["0", "1", "2"]
    held_out = study[1].set_index("photo_id")["fold"]
    assert (scores["fold"] == scores["photo_id"].map(held_out)).all()
    rows = attribution.plan(study[0], study[1], explain(control_images=0), 1).set_index("image_id")
    for fold, model in models.items():
        _, own, _ = run(study, lambda _, model=model: model, tag=fold)
        same = np.array(
            [np.array_equal(a, b) for a, b in zip(own.values, maps.values, strict=True)]
        )
        expected = (rows.loc[maps.image_ids, "fold"] == fold).to_numpy()
        assert np.array_equal(same, expected)


def test_maps_and_scores_are_those_of_the_image_computed_alone(study, backbone):
    model = TinyModel(backbone, 1, views=("head", "whole"))
    chosen = explain(control_images=0, map_px=None)
    _, maps, scores = run(study, lambda fold: model, settings_=chosen)
    catalogue, predictions, region_table = study
    assert maps.values.shape == (18, SIDE, SIDE)
    assert maps.image_ids == sorted(catalogue["image_id"])
    photo = predictions.iloc[4]
    rows = catalogue[catalogue["photo_id"] == photo.photo_id].set_index("view")
    fitted = {
        view: images.fit(images.read(Path("images") / photo.path),
                         tuple(rows.loc[view, tables.BOX]), SIDE, "squash", backbone.interpolation)
        for view in model.views
    }  # fmt: skip
    pixels = [fitted[view][0][None].float() / 255 for view in model.views]
    target = torch.tensor([CLASSES.index(photo.predicted)])
    alone = integrated_gradients.integrate(model.eval(), pixels, target, chosen)
    for view, map_ in zip(model.views, alone.maps, strict=True):
        image_id = rows.loc[view, "image_id"]
        at = maps.image_ids.index(image_id)
        assert np.allclose(maps.values[at], map_[0], atol=2e-3 * map_.abs().max())
        assert maps.target[at] == photo.predicted
        assert maps.gap[at] == pytest.approx(alone.gap.item(), abs=1e-4)
        own = region_table[region_table["image"] == photo.path]
        masks = regions.rasterise(own, fitted[view][1], SIDE, (48, 60), "images")
        expected = (masks["eye_left"] * map_[0].clamp(min=0).numpy()).sum()
        found = scores[(scores["image_id"] == image_id) & (scores["region"] == "eye_left")].iloc[0]
        assert found.positive == pytest.approx(expected, rel=1e-4)
        assert found.share == pytest.approx(expected / map_.clamp(min=0).sum().item(), rel=1e-4)
        assert found.enrichment == pytest.approx(found.share / found.area)


def test_scores_name_every_region_and_leave_hidden_ones_missing(study, backbone):
    _, _, scores = run(study, lambda fold: TinyModel(backbone, 1))
    assert scores.columns.tolist() == tables.REGION_SCORES.names
    assert set(scores["region"]) == {
        "eye_left", "ear_left", "background", "ears", "eyes", "context",
    }  # fmt: skip
    hidden = scores[(scores["photo_id"] == hex_id("p0.jpg")) & (scores["region"] == "ear_left")]
    assert not hidden["visible"].any()
    assert hidden["enrichment"].isna().all()
    assert len(scores) == 9 * 6
    assert hidden["missing"].tolist() == ["hidden"]


def test_a_study_without_regions_is_scored_by_thirds_of_what_each_view_sees(study, backbone):
    catalogue, predictions, _ = study
    rows = regions.stand_in(catalogue, "head")
    model = TinyModel(backbone, 1, ["whole", "head"])
    _, _, scores = run((catalogue, predictions, rows), lambda fold: model)
    assert set(scores["region"]) == {*tables.CELLS, "horse", "background"}
    area = scores.groupby(["view", "region"])["area"].mean()
    assert area["whole", "centre"] == area["head", "centre"] == pytest.approx(1 / 9)
    assert area["whole", "horse"] == pytest.approx(30 * 30 / (60 * 48))
    assert area["head", "horse"] == pytest.approx(1)
    cells = scores[scores["region"].isin(tables.CELLS)]
    assert cells.groupby("image_id")["share"].sum().to_numpy() == pytest.approx(np.ones(18))


def test_a_killed_job_goes_on_where_it_was_and_ends_with_the_same_bytes(study, backbone):
    model = TinyModel(backbone, 1)
    chosen = explain(control_images=4, batch_size=2)

    def killed(done, total):
        assert total == 13
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, lambda fold: model, "a", chosen, progress=killed)
    assert not Path("amaps.safetensors").exists()
    new, _, _ = run(study, lambda fold: model, "a", chosen)
    assert 0 < new < 13
    again, _, _ = run(study, lambda fold: model, "b", chosen)
    assert again == 0
    Path("state").rename("old_state")
    fresh, _, _ = run(study, lambda fold: model, "c", chosen)
    assert fresh == 13
    for name in ("maps.safetensors", "scores.parquet"):
        contents = {Path(tag + name).read_bytes() for tag in "abc"}
        assert len(contents) == 1


EXPLAIN_ALL = """
import sys
from pathlib import Path
from equimood import backbones, tables
from test_attribution import TinyModel, explain, run, torch
torch.set_num_threads(1)
study = [tables.read(f"{name}.parquet") for name in ("catalogue", "predictions", "regions")]
backbone = backbones.load(Path("backbone"))
models = {fold: TinyModel(backbone, int(fold), ("head", "whole")) for fold in "012"}
run(study, models.get, sys.argv[1], explain(control_images=2))
"""


def test_the_same_job_in_another_process_writes_the_same_bytes(study):
    for name, frame in zip(("catalogue", "predictions", "regions"), study, strict=True):
        frame.to_parquet(f"{name}.parquet")
    spec = settings.Backbone(architecture="test_resnet", weights="random", input_px=SIDE)
    backbones.fetch("tiny", spec, Path("backbone"), 1, Path())
    paths = [str(Path(attribution.__file__).parents[1]), str(Path(__file__).parent)]
    for hash_seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", EXPLAIN_ALL, hash_seed],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        Path("state").rename(f"state_{hash_seed}")
    for name in ("maps.safetensors", "scores.parquet"):
        assert Path(f"1{name}").read_bytes() == Path(f"2{name}").read_bytes()


def test_only_what_changed_is_explained_again(study, backbone):
    catalogue, predictions, region_table = study
    model, chosen = TinyModel(backbone, 1), explain(control_images=0)
    assert run(study, lambda fold: model)[0] == 9
    assert (
        run(study, lambda fold: model, settings_=chosen.model_copy(update={"batch_size": 2}))[0]
        == 0
    )
    assert run((catalogue, predictions, region_table.iloc[2:]), lambda fold: model)[0] == 1
    predictions.loc[0, "predicted"] = "annoyed"
    assert run((catalogue, predictions, region_table), lambda fold: model)[0] == 1
    assert run(study, lambda fold: TinyModel(backbone, 2))[0] == 9
    assert run(study, lambda fold: model, settings_=explain(control_images=0, n_steps=9))[0] == 9


def test_the_control_explains_a_drawn_few_again_with_random_weights(study, backbone):
    model = TinyModel(backbone, 1)
    _, maps, scores = run(study, lambda fold: model, settings_=explain(control_images=3))
    assert len(maps.image_ids) == 9
    control = scores[scores["model"] == "random"]
    assert control["photo_id"].nunique() == 3
    assert set(control["truth"]) == set(CLASSES)
    trained = scores[scores["model"] == "trained"].set_index(["image_id", "region"])["share"]
    both = control.set_index(["image_id", "region"])["share"].dropna()
    assert len(both) >= 12
    assert not np.allclose(both, trained.loc[both.index], rtol=0.01)


def test_an_empty_shard_gives_empty_files(study, backbone):
    catalogue, predictions, region_table = study
    new, maps, scores = run((catalogue, predictions[:0], region_table), None)
    assert (new, len(maps.image_ids), len(scores)) == (0, 0, 0)


def test_without_a_region_table_there_are_maps_and_no_scores(study, backbone):
    catalogue, predictions, _ = study
    new, maps, scores = run((catalogue, predictions, None), lambda fold: TinyModel(backbone, 1))
    assert (new, len(maps.image_ids), len(scores)) == (9, 9, 0)


def test_some_maps_are_read_alone(study, backbone):
    _, maps, _ = run(study, lambda fold: TinyModel(backbone, 1))
    some = map_shards.read("maps.safetensors", maps.image_ids[3:5])
    assert some.image_ids == maps.image_ids[3:5]
    assert np.array_equal(some.values, maps.values[3:5])


def test_the_mean_colour_is_that_of_the_pictures(study):
    colour = references.mean_colour(study[0], "images", 1)
    assert colour.shape == (3,)
    assert colour == pytest.approx([0.5] * 3, abs=0.06)


def test_a_contrast_is_kept_apart_and_told(study, backbone):
    model = TinyModel(backbone, 1)
    _, plain, _ = run(study, lambda fold: model)
    assert plain.against == [None] * 9
    chosen = explain(control_images=0, target="contrast")
    new, maps, _ = run(study, lambda fold: model, settings_=chosen)
    assert new == 9
    assert maps.target == plain.target and maps.against == ["annoyed"] * 9
    assert not np.allclose(maps.values, plain.values, atol=1e-3)


def test_every_image_ends_with_its_gap_its_steps_and_a_flag(study, backbone):
    chosen = explain(control_images=0, tolerance=0.02, max_steps=9)
    _, maps, _ = run(study, lambda fold: TinyModel(backbone, 3), settings_=chosen)
    assert set(maps.steps) == {8, 9}
    assert maps.rough.tolist() == (maps.gap > 0.02).tolist()
    assert maps.rough.any() and not maps.rough.all()


SPLITS = pd.DataFrame({
    "fold": np.repeat(["0", "1", "2"], 3),
    "horse": ["horse0", "horse1", "horse2"] * 3,
    "role": ["test", "train", "train", "train", "test", "train", "train", "train", "test"],
})  # fmt: skip


def neutral(**changes):
    return explain(
        **{"control_images": 0, "baseline": "neutral", "neutral": "neutral", "n_references": 2}
        | changes
    )


def test_references_are_of_the_class_and_of_other_horses_than_the_explained(study):
    catalogue, *_ = study
    found = references.gather(catalogue, SPLITS, neutral(), "images", 1)
    for fold, rows in found.photographs.items():
        assert set(rows["label"]) == {"neutral"}
        assert rows["photo_id"].nunique() == rows["horse"].nunique() == 2
        assert set(rows["view"]) == {"whole", "head"}
        assert f"horse{fold}" not in set(rows["horse"])
    few = references.gather(catalogue, SPLITS, neutral(n_references=1), "images", 1)
    assert found.key("0") != found.key("1") and found.key("0") != few.key("0")
    final = references.gather(catalogue, None, neutral(n_references=3, n_steps=12), "images", 1)
    assert set(final.photographs["final"]["horse"]) == {"horse0", "horse1", "horse2"}
    with pytest.raises(UserError, match="no photograph of 'neutral' among the horses"):
        references.gather(catalogue[catalogue["horse"] == "horse0"], SPLITS, neutral(), "", 1)


def test_another_baseline_asks_the_same_question_of_other_photographs(study):
    catalogue, *_ = study
    own = references.gather(catalogue, SPLITS, neutral(n_references=1), "images", 1)
    other, needed = references.another(catalogue, SPLITS, neutral(n_references=1), "images", 1)
    assert other.baseline == "neutral"
    for fold, rows in needed.photographs.items():
        assert rows["photo_id"].nunique() == 1
        assert not set(rows["photo_id"]) & set(own.photographs[fold]["photo_id"])
        assert needed.enough(fold, 1)
    assert references.choose(catalogue, "neutral", 10**6, 1, skip=10**6).empty
    many = neutral(n_references=4, n_steps=16)
    _, lacking = references.another(catalogue, SPLITS, many, "images", 1)
    assert not any(lacking.enough(fold, 4) for fold in lacking.photographs)

    other, needed = references.another(catalogue, SPLITS, explain(), "images", 1)
    assert other.baseline == "mean" and needed.colour is not None
    other, _ = references.another(catalogue, SPLITS, other, "images", 1)
    assert other.baseline == "blur"


def test_a_map_against_neutral_photographs_is_the_mean_over_them(study, backbone):
    catalogue, predictions, _ = study
    model = TinyModel(backbone, 1, views=("head", "whole"))
    chosen = neutral(map_px=None, max_steps=64, tolerance=1e-3)
    known = references.gather(catalogue, SPLITS, chosen, "images", 1)
    _, maps, _ = run(study, lambda fold: model, settings_=chosen, references=known)
    photo = predictions.iloc[4]
    rows = catalogue[catalogue["photo_id"] == photo.photo_id].set_index("view")
    box = {view: tuple(rows.loc[view, tables.BOX]) for view in model.views}
    own = known.photographs[photo.fold]

    def tensor(row, box):
        return embedding.square(Path("images") / row.path, box, backbone)[0].float() / 255

    pixels = [tensor(photo, box[view])[None] for view in model.views]
    starts = [
        torch.stack(
            [tensor(row, tuple(row[tables.BOX])) for _, row in own[own["view"] == v].iterrows()]
        )
        for v in model.views
    ]
    target = torch.tensor([CLASSES.index(photo.predicted)])
    one = explain(baseline="constant", constant=[0, 0, 0], n_steps=64, tolerance=1e-3)
    alone = [
        integrated_gradients.integrate(model, pixels, target, one, [s[j : j + 1] for s in starts])
        for j in range(2)
    ]
    for v, view in enumerate(model.views):
        expected = torch.stack([found.maps[v][0] for found in alone]).mean(0).numpy()
        at = maps.image_ids.index(rows.loc[view, "image_id"])
        assert np.corrcoef(maps.values[at].ravel(), expected.ravel())[0, 1] > 0.995
        assert np.abs(maps.values[at] - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("method", ["captum", "occlusion", "gradcam"])
def test_other_methods_go_the_same_way_and_have_a_gap_only_if_they_should_add_up(
    study, backbone, method
):
    model = TinyModel(backbone, 1, views=("head", "whole"))
    chosen = explain(max_images=2, control_images=1, method=method)
    new, maps, scores = run(study, lambda fold: model, settings_=chosen)
    assert new == 3 and np.isfinite(maps.values).all() and np.abs(maps.values).max() > 0
    assert np.isnan(maps.gap).all() == (method != "captum")
    assert not maps.rough[np.isnan(maps.gap)].any()
    assert scores.loc[scores["visible"], "enrichment"].notna().any()
    told = map_shards.gaps(["maps.safetensors"], 0.05)
    assert told["n_images"] == 4
    assert (told["median"] is None) == (method != "captum")
    assert told["steps_median"] == {"captum": 8, "occlusion": 1 + 2 * 22**2, "gradcam": 1}[method]


def test_gaps_and_explained_photographs_are_told_over_all_shards(study, backbone):
    catalogue, predictions, region_table = study
    paths, gap, steps, target = [], [], [], []
    for tag, part in (("a", predictions[:5]), ("b", predictions[5:]), ("c", predictions[:0])):
        own = (catalogue, part, region_table)
        _, maps, _ = run(own, lambda fold: TinyModel(backbone, 1, ("whole", "head")), tag)
        paths.append(f"{tag}maps.safetensors")
        gap.extend(maps.gap.tolist())
        steps.extend(maps.steps.tolist())
        target.extend(maps.target)
    assert len(gap) == 18 and min(gap) < max(gap)
    found = map_shards.gaps(paths, tolerance=float(np.sort(gap)[11]))
    assert found["n_images"] == 18
    assert found["median"] == pytest.approx(np.median(gap))
    assert found["p95"] == pytest.approx(np.percentile(gap, 95))
    assert found["steps_median"] == np.median(steps) and found["steps_p95"] >= 8
    assert found["share_over_tolerance"] == pytest.approx(np.mean(gap > np.sort(gap)[11]))
    by_class = {of["target"]: of["median"] for of in found["classes"]}
    assert by_class == pytest.approx(pd.Series(gap).groupby(target).median().to_dict())
    assert sum(of["n_images"] for of in found["classes"]) == 18
    nothing = map_shards.gaps(paths[2:], 0.05)
    assert (nothing["n_images"], nothing["median"], nothing["classes"]) == (0, None, [])
    assert map_shards.explained(paths, catalogue) == set(predictions["photo_id"])
    assert map_shards.explained(paths[:1], catalogue) == set(predictions["photo_id"][:5])
    assert map_shards.explained(paths[:1], catalogue[2:]) == set(predictions["photo_id"][1:5])
