import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import backbones, embedding, features, heads, models, settings
from equimood.errors import UserError
from equimood.files import read_yaml
from equimood.heads import HeadConfig, Structure
from equimood.novelty import Novelty
from equimood.tables import image_id
from PIL import Image
from safetensors.torch import load_file

CLASSES = ["calm", "tense"]
STRUCTURE = Structure(("whole", "head"), "tiny", "avg", "mlp", 6, ("class", "horse"))
CONFIG = HeadConfig(0.01, 0.01, 0.1, 0.0, 1)
BOXES = {"whole": (0, 0, 96, 72), "head": (10, 5, 60, 50)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A tiny backbone, 10 pictures with two views, their stored features, and a trained head."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("tiny", 0), ("other", 1)):
        spec = settings.Backbone(
            architecture="test_efficientnet", weights="random", input_px=48, poolings=["avg"]
        )
        backbones.fetch(name, spec, folder / name, seed, folder / "hub")
    backbone = backbones.load(folder / "tiny")

    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        pixels = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        sha256 = hashlib.sha256((folder / f"{i}.png").read_bytes()).hexdigest()
        rows += [
            {"photo_id": str(i), "image_id": image_id(sha256, box, view), "view": view,
             "path": f"{i}.png", "label": CLASSES[i % 2], "horse": f"h{i}", "session": "s",
             "video": None,
             **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))}
            for view, box in BOXES.items()
        ]  # fmt: skip
    images = pd.DataFrame(rows).assign(hidden=None)
    paths = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for view in BOXES:
            embedded = embedding.embed(
                images[images["view"] == view], folder, backbone, ["avg"], "float32",
                folder / "record", batch_size=4, workers=1,
            )  # fmt: skip
            paths.append(folder / "features" / view / "tiny" / "000.safetensors")
            embedding.write_shard(paths[-1], embedded)
    photos = features.photos(images, list(BOXES))
    X = features.matrix(paths, photos, list(BOXES), "tiny", "avg")
    packed = heads.fit(
        X, np.arange(10) % 2, np.ones((1, 10)), [CONFIG, CONFIG], kind="mlp", hidden_units=6,
        epochs=20, batch_size=5, n_classes=2,
    )  # fmt: skip
    return folder, backbone, photos, X, packed.head(0, [0, 1])


def novelty_of(X):
    horse = np.arange(len(X))
    return Novelty.fitted(torch.from_numpy(X), horse, horse % 2, seed=1)


def save(folder, head, X, fingerprint):
    models.save(
        folder,
        head,
        STRUCTURE,
        CONFIG,
        CLASSES,
        1.7,
        0.6,
        novelty_of(X),
        fingerprint,
        trained={"fold": "0", "n": 10},
    )


def test_cached_features_and_pixels_give_the_same_logits(study):
    folder, backbone, photos, X, head = study
    model = models.EmotionModel(backbone, head, STRUCTURE, CLASSES, 1.7, 0.6, novelty_of(X))
    squares = {
        view: torch.stack([embedding.square(folder / path, box, backbone)[0]
                           for path in photos["path"]])
        for view, box in BOXES.items()
    }  # fmt: skip
    with torch.inference_mode():
        end_to_end = model(*(embedding.pixels(squares[view], "cpu") for view in model.views))
        cached = model.logits(torch.from_numpy(X))
        swapped = model(*(embedding.pixels(squares[view], "cpu") for view in model.views[::-1]))
    assert end_to_end.shape == (10, 2)
    torch.testing.assert_close(end_to_end, cached, atol=1e-4, rtol=1e-4)
    logits = head(torch.from_numpy(X))
    torch.testing.assert_close(cached * 1.7, logits - logits.mean(1, keepdim=True))
    assert (swapped - cached).abs().max() > 0.01  # the order of the views matters


def test_gradients_reach_the_pixels_and_nothing_else(study):
    _, backbone, _, X, head = study
    model = models.EmotionModel(backbone, head, STRUCTURE, CLASSES, 1.0, None, novelty_of(X))
    views = [torch.rand(1, 3, 48, 48, requires_grad=True) for _ in BOXES]
    model(*views)[0, 0].backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in views)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_a_saved_model_comes_back_the_same_and_names_its_backbone(study, tmp_path):
    folder, backbone, _, X, head = study
    save(tmp_path, head, X, backbone.fingerprint)
    loaded = models.load(tmp_path, backbone)
    expected = models.EmotionModel(backbone, head, STRUCTURE, CLASSES, 1.7, 0.6, novelty_of(X))
    assert torch.equal(loaded.logits(torch.from_numpy(X)), expected.logits(torch.from_numpy(X)))
    assert (loaded.structure, loaded.views, loaded.classes) == (STRUCTURE, list(BOXES), CLASSES)
    assert torch.equal(loaded.novelty(torch.from_numpy(X)), expected.novelty(torch.from_numpy(X)))
    assert loaded.threshold == 0.6
    tensors = {*head.state_dict(), *(f"novelty.{name}" for name in novelty_of(X).state_dict())}
    assert set(load_file(tmp_path / "weights.safetensors")) == tensors
    card = read_yaml(tmp_path / "card.yaml")
    assert card["backbone_fingerprint"] == backbone.fingerprint
    assert (card["fold"], card["temperature"], card["head"]["seed"]) == ("0", 1.7, 1)
    assert card["structure"]["weight_by"] == ["class", "horse"] and "packages" in card["provenance"]
    cards = [folder / name / "card.yaml" for name in ("other", "tiny")]
    found = models.load_with(tmp_path, cards, torch.device("cpu"))
    assert found.backbone.fingerprint == backbone.fingerprint


def test_a_linear_head_and_names_that_yaml_would_misread_come_back(study, tmp_path):
    _, backbone, _, X, _ = study
    classes = ["no", "1.0", "é: [x]"]
    structure = Structure(("head",), "tiny", "avg", "linear", None, ())
    d = X.shape[1] // 2
    packed = heads.fit(
        X[:, :d], np.arange(10) % 3, np.ones((1, 10)), [CONFIG], kind="linear", hidden_units=None,
        epochs=2, batch_size=5, n_classes=3,
    )  # fmt: skip
    head = packed.head(0, [0])
    for fold in ("0", "final"):  # the second over the first
        models.save(
            tmp_path, head, structure, CONFIG, classes, 0.3, None, novelty_of(X[:, :d].copy()),
            backbone.fingerprint, {"fold": fold},
        )  # fmt: skip
    loaded = models.load(tmp_path, backbone)
    assert (loaded.structure, loaded.classes, loaded.threshold) == (structure, classes, None)
    x = torch.from_numpy(X[:, :d].copy())
    torch.testing.assert_close(loaded.logits(x).softmax(1), (head(x) / 0.3).softmax(1))
    assert read_yaml(tmp_path / "card.yaml")["fold"] == "final"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.yaml", "weights.safetensors"]


def test_another_backbone_is_refused(study, tmp_path):
    folder, backbone, _, X, head = study
    save(tmp_path, head, X, backbone.fingerprint)
    with pytest.raises(UserError, match=f"{backbone.fingerprint}.*target train again"):
        models.load(tmp_path, backbones.load(folder / "other"))
    with pytest.raises(UserError, match="'tiny', which is not in the settings"):
        models.load_with(tmp_path, [folder / "other/card.yaml"], torch.device("cpu"))


def test_a_cascade_forgets_from_the_head_down_to_the_pixels(study):
    """Level by level: what was randomised stays so, and at the end nothing learnt is left."""
    *_, X, head = study
    model = models.EmotionModel(study[1], head, STRUCTURE, CLASSES, 1.0, None, novelty_of(X))
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    twin = models.randomised(model, 3).state_dict()
    weights = [name for name in whole if not torch.equal(whole[name], twin[name])]
    levels, before = [], set()
    for level, mixed in models.cascade(model, 3, 4):
        state = mixed.state_dict()
        drawn = {name for name in weights if torch.equal(state[name], twin[name])}
        assert all(torch.equal(state[name], whole[name]) for name in set(weights) - drawn)
        assert before < drawn
        levels.append(level)
        before = drawn
        if level == 0:
            assert drawn == {name for name in weights if name.startswith("head.")}
            fingerprint = models.fingerprint(mixed)
    assert levels[0] == 0 and levels[-1] == 1 and len(levels) > 2
    assert before == set(weights)
    assert fingerprint != models.fingerprint(model)
    assert all(torch.equal(model.state_dict()[name], whole[name]) for name in whole)


def test_where_timm_names_no_blocks_the_cascade_has_head_and_backbone(study, monkeypatch):
    *_, X, head = study
    model = models.EmotionModel(study[1], head, STRUCTURE, CLASSES, 1.0, None, novelty_of(X))
    monkeypatch.setattr(backbones, "blocks", lambda network: {})
    assert [level for level, _ in models.cascade(model, 3, 4)] == [0, 1]
