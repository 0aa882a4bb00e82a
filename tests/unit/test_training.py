from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from equimood import features, heads, models, probing, settings, training
from equimood.abstention import choose_threshold
from equimood.best import Best
from equimood.files import write_yaml
from equimood.heads import HeadConfig, Structure
from equimood.novelty import Novelty
from scipy.special import log_softmax, softmax
from test_search import CLASSES, make_study, one_rater

STRUCTURE = Structure(("whole", "head"), "small", "grid2", "linear", None, ("class",))
BEST = Best(STRUCTURE, HeadConfig(0.03, 0.01, 0.2, 0.0, 3000), "f1_macro", 0.5, (0.5,), 1, 1)
RUN = {"epochs": 8, "batch_size": 16, "seed": 3}
SEEDS = [0, 1]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    torch.set_num_threads(1)
    return make_study(tmp_path_factory.mktemp("training"))


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(study, best=BEST, progress=None, shares=None, **options):
    options = settings.Train(**{"seeds": 2, **options})
    fold = training.Fold(
        *study, best, options.seeds, CLASSES, **RUN, record=Path("record"), progress=progress,
        shares=shares,
    )  # fmt: skip
    return training.train(fold, options)


def by_hand(study, trained_on):
    """Average logits of two seeds, (F, n, C), of the training horses' photographs."""
    photos, _, files = study
    X = features.matrix(files, photos, ["whole", "head"], "small", "grid2")
    y = photos["label"].map(CLASSES.index).to_numpy()
    weights = np.stack([
        heads.sample_weights(photos["label"], photos["horse"], photos["session"], ["class"], rows)
        for rows in trained_on
    ])  # fmt: skip
    packed = heads.fit(
        X, y, weights, [replace(BEST.head, seed=3000 + s) for s in SEEDS], kind="linear",
        epochs=8, batch_size=16, n_classes=3, stream_seed=3,
    )  # fmt: skip
    return packed.logits(X).mean(0).numpy(), y


def of_training_horses(study):
    photos, splits, files = study
    horses = splits[splits["role"] == "train"].set_index("horse")["inner_fold"]
    photos = photos[photos["horse"].isin(horses.index)].reset_index(drop=True)
    return (photos, splits, files), photos["horse"].map(horses).to_numpy()


def mean_nll(logits, y):
    return -log_softmax(logits.astype(float), axis=1)[np.arange(len(y)), y].mean()


def test_the_head_averages_seeds_trained_on_every_training_horse(study):
    own, inner = of_training_horses(study)
    expected, _ = by_hand(own, np.ones((1, len(inner)), bool))
    head = train(study).head
    X = features.matrix(own[2], own[0], ["whole", "head"], "small", "grid2")
    found = head(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


def test_the_temperature_is_the_likeliest_for_horses_that_no_head_saw(study):
    own, inner = of_training_horses(study)
    folds = np.arange(3)[:, None]
    logits, y = by_hand(own, inner != folds)
    unseen = np.where((inner == folds)[:, :, None], logits, 0).sum(0)
    trained = train(study)
    grid = np.exp(np.linspace(-2.9, 2.9, 581))
    losses = [mean_nll(unseen / t, y) for t in grid]
    assert trained.temperature == pytest.approx(grid[np.argmin(losses)], rel=0.02)
    assert trained.facts["log_loss"] == pytest.approx(min(losses), abs=1e-4)
    assert trained.facts["log_loss_before_calibration"] == pytest.approx(
        mean_nll(unseen, y), abs=1e-4
    )
    assert trained.facts["n_horses"] == 9 and trained.facts["n_images"] == len(y)


def test_a_planted_temperature_is_found():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 3)) * 2
    y = (honest + rng.gumbel(size=honest.shape)).argmax(1)  # drawn from softmax(honest)
    overconfident = (3 * honest).astype(np.float32)
    assert training.fit_temperature(overconfident, y) == pytest.approx(3, rel=0.05)


def test_calibration_can_be_left_out(study):
    assert train(study, calibrate=False).temperature == 1


def test_threshold_and_novelty_come_from_horses_that_no_head_and_no_fit_saw(study):
    own, inner = of_training_horses(study)
    folds = np.arange(3)[:, None]
    logits, y = by_hand(own, inner != folds)
    unseen = np.where((inner == folds)[:, :, None], logits, 0).sum(0)
    trained = train(study, target_accuracy=0.6)
    p = softmax(unseen.astype(float) / trained.temperature, axis=1)
    right = p.argmax(1) == y
    expected = choose_threshold(p.max(1), right, own[0]["horse"], 0.6)
    assert trained.abstention.threshold == pytest.approx(expected.threshold, abs=1e-3)
    assert trained.facts["abstention"]["target_accuracy"] == 0.6
    assert "threshold" not in trained.facts["abstention"]  # it stands beside the temperature
    assert train(study, target_accuracy=0).abstention.threshold == 0
    X = features.matrix(own[2], own[0], ["whole", "head"], "small", "grid2")
    novelty = Novelty.fitted(torch.from_numpy(X), own[0]["horse"], inner, RUN["seed"])
    for name, value in novelty.state_dict().items():
        assert torch.equal(trained.novelty.state_dict()[name], value), name
    assert trained.facts["novelty"]["limit"] == float(novelty.limit)
    tested = training.predict(*study, BEST, trained, CLASSES)
    assert set(tested["threshold"]) == {trained.abstention.threshold}
    test_photos = study[0].set_index("photo_id").loc[tested["photo_id"]].reset_index()
    X = features.matrix(own[2], test_photos, ["whole", "head"], "small", "grid2")
    np.testing.assert_allclose(tested["novelty"], novelty(torch.from_numpy(X)), rtol=1e-5)


def test_test_horses_have_no_influence_on_the_model(study):
    photos, splits, files = study
    tested = photos["horse"].isin(splits.loc[splits["role"] == "test", "horse"])
    relabelled = photos.assign(label=photos["label"].mask(tested, CLASSES[0]))
    first, second = train(study), train((relabelled, splits, files))
    without = train((photos[~tested], splits, files))
    for other in (second, without):
        assert other.temperature == first.temperature
        assert other.abstention == first.abstention
        assert other.facts["novelty"] == first.facts["novelty"]
        for name, value in first.head.state_dict().items():
            assert torch.equal(other.head.state_dict()[name], value)


def test_every_photograph_of_the_test_horses_is_judged_once_with_probabilities(study):
    photos, splits, files = study
    trained = train(study)
    found = training.predict(photos, splits, files, BEST, trained, CLASSES)
    tested = photos[photos["horse"].isin(["h09", "h10", "h11"])]
    assert sorted(found["photo_id"]) == sorted(tested["photo_id"]) and len(found) == 18
    probabilities = found[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert list(found["predicted"]) == [CLASSES[c] for c in probabilities.argmax(1)]
    assert list(found["truth"]) == list(tested["label"]) and set(found["fold"]) == {"0"}
    assert list(found["image_id"]) == list(tested["image_whole"])
    X = features.matrix(files, tested, ["whole", "head"], "small", "grid2")
    logits = trained.head(torch.from_numpy(X)).numpy() / trained.temperature
    np.testing.assert_allclose(np.log(probabilities), log_softmax(logits, axis=1), atol=1e-4)


def test_soft_labels_of_one_rater_train_the_same_head_and_those_of_several_another(study):
    by_label, certain = train(study), one_rater(study[0])
    alone = train(study, shares=certain)
    assert (alone.temperature, alone.facts) == (by_label.temperature, by_label.facts)
    for name, value in by_label.head.state_dict().items():
        assert torch.equal(alone.head.state_dict()[name], value)
    torn = train(study, shares=0.5 * certain + 0.5 / 3)
    X = torch.from_numpy(features.matrix(study[2], study[0], ["whole", "head"], "small", "grid2"))
    assert torn.head(X).softmax(1).max(1)[0].mean() < by_label.head(X).softmax(1).max(1)[0].mean()
    assert len(list(Path("state/train").iterdir())) == 3  # nothing is taken for something else


def test_the_final_model_judges_nobody(study):
    photos, splits, files = study
    inner = splits["inner_fold"].where(splits["role"] == "train", 0)
    final = splits.assign(fold="final", role="train", inner_fold=inner)
    trained = train((photos, final, files))
    assert trained.facts["n_horses"] == 12
    found = training.predict(photos, final, files, BEST, trained, CLASSES)
    assert found.empty and {f"p_{name}" for name in CLASSES} <= set(found)
    assert isinstance(found, pd.DataFrame)


@pytest.mark.parametrize("fits", [1, 2])
def test_a_training_that_is_killed_goes_on_to_the_same_head(study, fits, monkeypatch):
    """Killed in the first fit, of all horses, or in the second, which calibrates."""
    undisturbed = train(study)
    monkeypatch.setattr(heads, "KEEP_EVERY_S", 0.0)
    ended = 0

    def kill(done, total):
        nonlocal ended
        if ended == fits - 1 and done > total / 2:
            raise InterruptedError
        ended += done == total

    with pytest.raises(InterruptedError):
        train(study, progress=kill)
    resumed = []
    trained = train(study, progress=lambda done, total: resumed.append((done, total)))
    steps = {total for _, total in resumed}  # of each fit that was not over
    assert len(steps) == 3 - fits and len(resumed) < sum(steps)
    assert trained.facts == undisturbed.facts and trained.temperature == undisturbed.temperature
    for name, value in undisturbed.head.state_dict().items():
        assert torch.equal(trained.head.state_dict()[name], value), name
    (state,) = Path("state/train").iterdir()
    assert Path("record", f"train-{state.name}").exists()


class NoBackbone(torch.nn.Module):
    device = torch.device("cpu")


@pytest.mark.parametrize("tuned", [False, True])
def test_other_seeds_are_those_after_the_models_own(study, tuned):
    """A fine-tuned model has none: its training takes hours."""
    photos, splits, files = study
    fold = str(splits["fold"].iloc[0])
    card, best = Path(f"model/{fold}/card.yaml"), Path(f"search/{fold}/best.yaml")
    write_yaml(card, {"transfer": {"method": "all_blocks"}} if tuned else {"classes": CLASSES})
    write_yaml(best, asdict(BEST))
    retrain = probing.retrainer(
        [card], [best], splits, photos=photos, feature_files=files, n_seeds=2, classes=CLASSES,
        **RUN, record=Path("record"),
    )  # fmt: skip
    trained = train(study)
    model = models.EmotionModel(
        NoBackbone(), trained.head, STRUCTURE, CLASSES, 2.0, None, trained.novelty
    )
    twin = retrain(fold, model)
    if tuned:
        assert twin is None
        return
    X = torch.from_numpy(features.matrix(files, photos, ["whole", "head"], "small", "grid2"))
    later = replace(BEST, head=replace(BEST.head, seed=3002))
    expected = (train(study, later).head(X) / 2).softmax(1)
    torch.testing.assert_close(twin.logits(X).softmax(1), expected)
    assert not torch.allclose(twin.logits(X), model.logits(X), atol=1e-3)
