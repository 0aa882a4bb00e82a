"""A tiny drawing task: which way do the stripes of the red patch run, whatever the blue ones do?"""

import hashlib
import multiprocessing
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from equimood import (
    backbones,
    embedding,
    features,
    finetuning,
    heads,
    models,
    settings,
    tables,
    transfer,
    tuned,
)
from equimood.best import Best
from equimood.errors import UserError
from equimood.files import read_json, read_yaml
from equimood.finetuning import Run, Tuning
from equimood.heads import Head, HeadConfig, Structure
from equimood.novelty import Novelty
from equimood.tables import image_id
from PIL import Image
from train_and_die import train_and_die

SIDE, CLASSES = 48, ["across", "down"]
HORSES = [f"h{i:02}" for i in range(12)]
SPLITS = pd.DataFrame({
    "fold": "0", "horse": HORSES, "role": ["train"] * 10 + ["test"] * 2,
    "inner_fold": [i % 2 for i in range(10)] + [-1] * 2,
})  # fmt: skip
BEST = Best(
    Structure(("whole",), "tiny", "avg", "linear", None, ("class",)),
    HeadConfig(0.01, 0.01, 0.0, 0.0, 1), "accuracy", 0.5, (0.5, 0.5), 1, 1,
)  # fmt: skip
OPTIONS = settings.Transfer(
    enabled=True, n_trials=2, epochs=2, min_epochs=1, batch_size=16,
    learning_rate=[0.003], layer_decay=[0.9], blocks=[2], weight_decay=[0.01],
)  # fmt: skip
LEARNS = Tuning("all_blocks", 0.003, 0.9, 2, 0.0, 0.01)
VIT = {"img_size": 32, "depth": 3}


def draw(path, label, rng):
    """A red patch of striped pixels among three blue ones."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8) + rng.integers(60, 200, 3).astype(np.uint8)
    for own, (x, y) in enumerate(rng.permutation([(2, 2), (2, 26), (26, 2), (26, 26)])):
        down = label == "down" if own == 0 else bool(rng.integers(2))
        x, y = np.array([x, y]) + rng.integers(0, 6, 2)
        bright = np.array([40, 40, 255] if own else [255, 40, 40])
        stripes = np.where((np.arange(14) // 2 % 2)[:, None], bright, bright // 4)
        patch = picture[y : y + 14, x : x + 14]
        patch[:] = stripes[None, :] if down else stripes[:, None]
    Image.fromarray(picture).save(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """144 drawings of 12 horses, a small network with random weights, and its features."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("transfer")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(144):
        label = CLASSES[i % 2]
        draw(folder / f"{i}.png", label, rng)
        box = (0, 0, SIDE, SIDE)
        sha256 = hashlib.sha256((folder / f"{i}.png").read_bytes()).hexdigest()
        rows.append({
            "photo_id": f"{i:03}", "image_id": image_id(sha256, box, "whole"), "view": "whole",
            "path": f"{i}.png", "label": label, "horse": HORSES[i // 2 % 12], "session": "s",
            **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        })  # fmt: skip
    catalogue = pd.DataFrame(rows).assign(hidden=None, video=None)
    spec = settings.Backbone(
        architecture="test_resnet", weights="random", input_px=SIDE, poolings=["avg"]
    )
    backbones.fetch("tiny", spec, folder / "tiny", 0, folder / "hub")
    path = folder / "features/whole/tiny/000.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        embedding.write_shard(path, embedding.embed(
            catalogue, folder, backbones.load(folder / "tiny"), ["avg"], "float32",
            folder / "record", 16, 1,
        ))  # fmt: skip
    return folder, catalogue, [path]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_task(study, **options):
    folder, catalogue, files = study
    return transfer._task(
        catalogue, SPLITS, files, folder / "tiny", BEST, OPTIONS.model_copy(update=options),
        CLASSES, folder, folder / "record", 30, 16, None, 1, 1, lambda *_: None,
    )  # fmt: skip


def frozen_scores(study, task):
    """Accuracy of the probe on the horses it did not see."""
    photos = features.photos(study[1], ["whole"]).iloc[task.rows]
    X = torch.from_numpy(features.matrix(study[2], photos, ["whole"], "tiny", "avg"))
    for start, weights in zip(task.starts[:-1], task.weights, strict=False):
        right = Head.from_state(start)(X).argmax(1).numpy() == task.y
        yield right[weights == 0].mean()


# Which weights learn, and how fast


def model_of(network, side):
    card = {
        "name": "n", "architecture": "a", "fingerprint": "f", "side": side, "fit": "squash",
        "crop_share": 1.0, "interpolation": "bilinear", "n_features": {}, "model_args": {},
        "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    head = heads.untrained(network.num_features, 2, "linear", None, BEST.head)
    return finetuning.Learner(backbones.Backbone(network, card), head, "avg")


@pytest.mark.parametrize(
    "name, arguments", [("vit_tiny_patch16_224", VIT), ("test_resnet", {}), ("test_convnext", {})]
)
def test_every_weight_learns_at_the_rate_that_timm_gives_its_block(name, arguments):
    network = timm.create_model(name, num_classes=0, **arguments)
    model = model_of(network, 32)
    names = {id(value): name for name, value in model.named_parameters()}
    found = {
        names[id(value)]: (group["full_rate"], group["weight_decay"])
        for group in finetuning.parameter_groups(model, replace(LEARNS, layer_decay=0.5))
        for value in group["params"]
    }
    optimiser = timm.optim.create_optimizer_v2(
        network, opt="adamw", lr=0.003, weight_decay=0.01, layer_decay=0.5
    )
    expected = {
        names[id(value)]: (pytest.approx(0.003 * group["lr_scale"]), group["weight_decay"])
        for group in optimiser.param_groups
        for value in group["params"]
    }
    own = {"head.weight": (0.003, 0.01), "head.bias": (0.003, 0.0)}
    assert found == expected | own
    assert len(found) == len(list(model.parameters()))


def test_a_block_of_a_transformer_learns_at_half_the_rate_of_the_one_above():
    model = model_of(timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT), 32)
    rates = {
        id(value): group["full_rate"]
        for group in finetuning.parameter_groups(model, replace(LEARNS, layer_decay=0.5))
        for value in group["params"]
    }
    blocks = [rates[id(block.mlp.fc1.weight)] for block in model.backbone.network.blocks]
    assert blocks == pytest.approx([0.003 / 4, 0.003 / 2, 0.003])
    assert rates[id(model.backbone.network.patch_embed.proj.weight)] == pytest.approx(0.003 / 8)


def changed(study, method, epochs):
    """Blocks of the network whose weights an epoch or two have changed."""
    task = make_task(study, epochs=3)
    backbone = backbones.load(study[0] / "tiny")
    run = Run(task, replace(LEARNS, method=method), 0, backbone)
    before = {name: value.clone() for name, value in run.model.backbone.network.named_parameters()}
    run.up_to(epochs)
    return {
        run.layers[name]
        for name, value in run.model.backbone.network.named_parameters()
        if not torch.equal(value, before[name])
    }


def test_the_last_blocks_learn_before_all_others_do(study):
    assert changed(study, "last_blocks", 3) == {3, 4}
    assert changed(study, "all_blocks", 1) == {3, 4}


def test_at_last_all_blocks_learn(study):
    assert changed(study, "all_blocks", 2) == {0, 1, 2, 3, 4}


def test_an_architecture_without_known_blocks_is_refused():
    with pytest.raises(UserError, match="another backbone"):
        finetuning.layers(torch.nn.Linear(2, 2))


# Augmentation


def test_an_augmented_square_keeps_most_of_the_picture_and_its_left_side():
    squares = torch.zeros((40, 3, SIDE, SIDE), dtype=torch.uint8)
    squares[..., : SIDE // 2] = 200
    torch.manual_seed(0)
    found = finetuning.Augmentation(SIDE, 1.0, flip=False)(squares).float()
    assert found.shape == squares.shape
    assert (found[..., : SIDE // 2].mean((1, 2, 3)) > found[..., SIDE // 2 :].mean((1, 2, 3))).all()
    assert len({float(one.mean()) for one in found}) == 40  # each in its own way


def test_flips_are_asked_for_and_no_strength_changes_nothing():
    squares = torch.zeros((40, 3, 8, 8), dtype=torch.uint8)
    squares[..., :4] = 200
    torch.manual_seed(0)
    assert torch.equal(finetuning.Augmentation(8, 0.0, flip=False)(squares), squares)
    flipped = finetuning.Augmentation(8, 0.0, flip=True)(squares)
    mirrored = [bool((one == square.flip(-1)).all()) for one, square in zip(flipped, squares,
                                                                          strict=True)]  # fmt: skip
    assert 5 < sum(mirrored) < 35


# Training


def test_fine_tuning_starts_as_the_frozen_model(study):
    task = make_task(study)
    run = Run(task, LEARNS, 0, backbones.load(study[0] / "tiny"))
    right = run.logits(run.judged).argmax(1) == task.y[run.judged]
    assert right.mean() == pytest.approx(next(frozen_scores(study, task)))


def test_a_tuned_model_beats_frozen_random_features(study):
    task = make_task(study, epochs=12)
    heard = []
    scores = finetuning.cross_validate(task, LEARNS, lambda *said: heard.append(said))
    assert np.mean(scores[-1]) > np.mean(list(frozen_scores(study, task))) + 0.05
    assert [epoch for epoch, _ in heard] == list(range(1, 13))
    assert heard[-1][1] == pytest.approx(np.mean(scores[-1]))
    unseen = np.load(task.unseen(LEARNS))
    inner = SPLITS.set_index("horse")["inner_fold"]
    horses = features.photos(study[1], ["whole"]).iloc[task.rows]["horse"].map(inner).to_numpy()
    of_fold = [(unseen.argmax(1) == task.y)[horses == fold].mean() for fold in (0, 1)]
    assert of_fold == pytest.approx(scores[-1])


def test_a_killed_fine_tuning_goes_on_from_its_last_epoch(study, tmp_path, monkeypatch):
    tried = replace(LEARNS, augmentation=0.5)
    whole = make_task(study, epochs=3)
    undisturbed = finetuning.cross_validate(whole, tried)
    logits = np.load(whole.unseen(tried))

    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    task = make_task(study, epochs=3)
    killed = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(task, tried))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(read_json(task.memo(tried))["scores"]) == 1
    epochs = []
    learn = Run._epoch
    monkeypatch.setattr(Run, "_epoch", lambda run, n: (epochs.append(n), learn(run, n)))
    assert finetuning.cross_validate(task, tried) == undisturbed
    assert epochs == [1, 1, 2, 2]  # of two inner folds
    np.testing.assert_array_equal(np.load(task.unseen(tried)), logits)
    assert not list(task.folder.glob("*-[01].safetensors"))
    assert finetuning.cross_validate(task, tried) == undisturbed
    assert len(epochs) == 4  # what is finished is only told again


# A fold


def trials_of_search(score):
    """One linear head of the search, with this score in both inner folds."""
    return pd.DataFrame([{
        "trial": 0, "head": "linear", "learning_rate": 0.01, "weight_decay": 0.01, "dropout": 0.0,
        "label_smoothing": 0.0, "score": score, "score_0": score, "score_1": score,
    }])  # fmt: skip


def explore(study, score):
    folder, catalogue, files = study
    return transfer.run(
        catalogue, SPLITS, files, folder / "tiny", BEST, trials_of_search(score), OPTIONS, CLASSES,
        folder, folder / "record", probe_epochs=10, probe_batch_size=16,
        train=settings.Train(), seed=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def explored(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = {name: explore(study, score) for name, score in (("low", 0.0), ("high", 1.1))}
    for name, each in found.items():
        transfer.write(each, folder / name, BEST, {"fold": "0"})
    return folder, found


def test_the_inner_folds_choose_frozen_or_tuned(explored):
    folder, found = explored
    assert tuned.chosen([folder / "low/best.yaml"]) == folder / "low"
    assert tuned.chosen([folder / "high/best.yaml"]) is None
    assert tuned.chosen([]) is None
    ways = found["low"].summary["ways"]
    assert list(ways) == ["frozen_linear", *tuned.METHODS]
    assert found["low"].summary["chosen"] == max(ways, key=lambda way: ways[way]["score"])


def test_trials_are_told_whole(explored):
    folder, found = explored
    trials = tables.read(folder / "low/trials.parquet")
    assert list(trials["method"]) == [m for m in tuned.METHODS for _ in range(2)]
    assert trials["score"].tolist() == pytest.approx(
        trials[["score_0", "score_1"]].mean(axis=1).tolist()
    )
    assert set(trials["epochs"]) <= {1, 2}
    assert not list(folder.glob("state/transfer/*/tune-*"))
    pd.testing.assert_frame_equal(found["low"].trials, found["high"].trials)  # remembered


def test_a_saved_model_gives_the_same_probabilities(study, explored):
    folder, found = explored
    card = read_yaml(folder / "low/card.yaml")
    assert (card["n_images"], card["n_horses"]) == (120, 10)
    tuned.adopt(folder / "low", folder / "model")
    model = models.load(folder / "model", backbones.load(study[0] / "tiny"))
    assert model.backbone.fingerprint == card["tuned_fingerprint"] != card["backbone_fingerprint"]
    pixels = torch.rand((3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = (found["low"].model(pixels) / card["temperature"]).softmax(1)
        torch.testing.assert_close(model(pixels).softmax(1), expected)
        frozen = backbones.load(study[0] / "tiny")(pixels, ["avg"])["avg"]
        assert not torch.allclose(model.backbone(pixels, ["avg"])["avg"], frozen)


def test_test_horses_are_judged_from_pixels(study, explored):
    model = models.load(explored[0] / "low", backbones.load(study[0] / "tiny"))
    found = tuned.predict(model, study[1], SPLITS, study[0], workers=1)
    assert set(found["horse"]) == set(HORSES[10:])
    assert len(found) == 24
    row = found.iloc[5]
    square, _ = embedding.square(study[0] / row["path"], (0, 0, SIDE, SIDE), model.backbone)
    with torch.inference_mode():
        expected = model(embedding.pixels(square[None], "cpu")).double().softmax(1)[0]
    assert row[["p_across", "p_down"]].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert row["predicted"] == CLASSES[int(expected.argmax())]
    nothing = tuned.predict(model, study[1], SPLITS.iloc[:10], study[0], workers=1)
    assert list(nothing) == list(found)
    assert nothing.empty


def test_a_vision_transformer_is_fine_tuned_saved_and_loaded(study, tmp_path):
    folder, catalogue, _ = study
    catalogue = catalogue.iloc[:48]
    spec = settings.Backbone(
        architecture="vit_tiny_patch16_224", weights="random", model_args={**VIT, "num_heads": 3},
        input_px=32, poolings=["cls_mean"],
    )  # fmt: skip
    backbones.fetch("tiny", spec, tmp_path / "tiny", 0, tmp_path / "hub")
    backbone = backbones.load(tmp_path / "tiny")
    path = tmp_path / "features/whole/tiny/000.safetensors"
    embedding.write_shard(path, embedding.embed(
        catalogue, folder, backbone, ["cls_mean"], "float32", tmp_path / "record", 16, 1
    ))  # fmt: skip
    best = replace(BEST, structure=replace(BEST.structure, pooling="cls_mean"))
    task = transfer._task(
        catalogue, SPLITS, [path], tmp_path / "tiny", best, OPTIONS, CLASSES, folder,
        tmp_path / "record", 5, 16, None, 1, 1, lambda *_: None,
    )  # fmt: skip
    run = Run(task, replace(LEARNS, learning_rate=1e-4), 2, backbone)
    run.up_to(1)
    tuned = backbones.tuned(backbone, run.model.backbone.network.state_dict())
    models.save(
        tmp_path / "model", run.model.head, best.structure, best.head, CLASSES, 1.0, 0.5,
        Novelty.fitted(run.features(), task.horse, task.inner, 1), backbone.fingerprint, {}, tuned,
    )  # fmt: skip
    loaded = models.load(tmp_path / "model", backbone)
    pixels = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    run.model.backbone.network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixels).softmax(1), run.model(pixels).softmax(1))
