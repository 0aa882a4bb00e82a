import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from equimood import heads
from equimood.errors import UserError
from equimood.heads import Head, HeadConfig
from equimood.metrics import from_confusion
from sklearn import metrics
from sklearn.preprocessing import StandardScaler
from torch import nn

N, D, C = 90, 12, 3
DEFAULT = HeadConfig(0.01, 0.01, 0.0, 0.0, 1)
RUN = {"epochs": 4, "batch_size": 16, "n_classes": C, "stream_seed": 5}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def features(n=N, d=D, n_folds=3, seed=0):
    """Separable but noisy rows, on very unequal scales, with the folds in which they train."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, n)
    signal = rng.normal(size=(C, d))[y] + 1.5 * rng.normal(size=(n, d))
    X = (signal * np.geomspace(0.01, 100, d) + rng.normal(size=d) * 50).astype(np.float32)
    fold = rng.integers(0, n_folds, n)
    weights = (fold != np.arange(n_folds)[:, None]) * rng.uniform(0.5, 2, n)
    return X, y, weights.astype(np.float32)


def population(size):
    rng = np.random.default_rng(7)
    return [
        HeadConfig(
            learning_rate=float(rng.choice([0.001, 0.01, 0.03])),
            weight_decay=float(rng.choice([0.0, 0.1, 1.0])),
            dropout=float(rng.choice([0.0, 0.2, 0.5])),
            label_smoothing=float(rng.choice([0.0, 0.1])),
            seed=int(rng.integers(0, 3)),
        )
        for _ in range(size)
    ]


class Reference(nn.Module):
    """One head of torch.nn, with the dropout masks given."""

    def __init__(self, kind, hidden, seed):
        super().__init__()
        self.first = nn.Linear(D, hidden if kind == "mlp" else C)
        self.second = nn.Linear(hidden, C) if kind == "mlp" else None
        stream = torch.Generator().manual_seed(seed)
        for layer in filter(None, (self.first, self.second)):
            bound = 1 / math.sqrt(layer.in_features)
            for value in (layer.weight.data.T, layer.bias.data):
                value.copy_((2 * torch.rand(value.shape, generator=stream) - 1) * bound)

    def forward(self, z, keep):
        if self.second is None:
            return self.first(z * keep)
        return self.second(self.first(z).relu() * keep)


def train_reference(X, y, weights, config, kind, hidden, all_weights):
    """Train a head with torch.optim.AdamW on one fold, row lists and masks as documented."""
    trained = weights > 0
    z = torch.tensor(StandardScaler().fit(X[trained].astype(float)).transform(X)).float()
    y, w = torch.tensor(y), torch.tensor(weights)
    model = Reference(kind, hidden, config.seed)
    groups = []
    for layer in filter(None, (model.first, model.second)):
        slower = min(1, heads.FULL_RATE_INPUTS / layer.in_features)
        groups.append({"params": [layer.weight], "lr": slower * config.learning_rate})
        groups.append({"params": [layer.bias], "weight_decay": 0})
    optimiser = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    n_batches = math.ceil((all_weights > 0).sum(1).max() / RUN["batch_size"])
    n_steps = RUN["epochs"] * n_batches
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    stream = torch.Generator().manual_seed(RUN["stream_seed"])
    noise = torch.Generator().manual_seed((1 << 32) + config.seed)
    units = hidden if kind == "mlp" else D
    width = math.ceil((all_weights > 0).sum(1).max() / n_batches)
    for _ in range(RUN["epochs"]):
        order = torch.randperm(len(y), generator=stream)
        order = order[torch.tensor(trained)[order]]
        edges = [len(order) * k // n_batches for k in range(n_batches + 1)]
        for start, end in itertools.pairwise(edges):
            rows = order[start:end]
            keep = torch.ones(len(rows), units)
            if config.dropout:
                drawn = torch.rand(width, units, generator=noise)[: len(rows)]
                keep = (drawn >= config.dropout) / (1 - config.dropout)
            loss = nn.functional.cross_entropy(
                model(z[rows], keep), y[rows],
                label_smoothing=config.label_smoothing, reduction="none",
            )  # fmt: skip
            optimiser.zero_grad()
            (loss * w[rows]).mean().backward()
            optimiser.step()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        return model(z, torch.ones(len(z), units))


@pytest.mark.parametrize("kind, hidden", [("linear", None), ("mlp", 5)])
@pytest.mark.parametrize("fold", [0, 2])
@pytest.mark.parametrize("full_rate_inputs", [heads.FULL_RATE_INPUTS, 10])
def test_each_head_is_the_one_torch_optim_trains_singly(
    kind, hidden, fold, full_rate_inputs, monkeypatch
):
    monkeypatch.setattr(heads, "FULL_RATE_INPUTS", full_rate_inputs)
    X, y, weights = features()
    configs = population(12)
    assert {c.dropout for c in configs} == {0.0, 0.2, 0.5}
    packed = heads.fit(X, y, weights, configs, kind=kind, hidden_units=hidden, **RUN)
    logits = packed.logits(X)
    for p, config in enumerate(configs):
        expected = train_reference(X, y, weights[fold], config, kind, hidden, weights)
        torch.testing.assert_close(logits[p, fold], expected, atol=1e-4, rtol=1e-4)


def test_a_head_on_many_features_is_not_sure_of_labels_that_say_nothing():
    """Its loss on unseen rows is 2.3; at the full rate it was 69."""
    X, y, weights = features(n=200, d=8000)
    y = np.random.default_rng(2).permutation(y)
    config = HeadConfig(0.03, 0.01, 0.5, 0.0, seed=1)
    packed = heads.fit(X, y, weights, [config], kind="mlp", hidden_units=64, **RUN | {"epochs": 30})
    unseen = weights[0] == 0
    logits = packed.logits(X)[0, 0][torch.tensor(unseen)]
    assert nn.functional.cross_entropy(logits, torch.tensor(y[unseen])) < 5


def test_a_feature_that_hardly_varied_in_training_does_not_decide_alone():
    X, y, weights = features()
    X[:, 0] = np.arange(N) == np.flatnonzero(weights[0])[0]  # one training row has it, a little
    X[:, 0] *= 1e-6
    packed = heads.fit(X, y, weights, population(3), kind="linear", **RUN)
    strange = X[:1].copy()
    strange[0, 0] = 1.0  # a million times as much
    usual, far = packed.logits(X[:1]), packed.logits(strange)
    assert (usual - far).abs().max() < 10
    assert torch.equal(packed.head(0, [1])(torch.tensor(strange))[0], far[1, 0, 0])


def assert_same_logits(found, expected):
    """Equal within 1e-5 of the largest logit: with many features Adam makes more of rounding."""
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "kind, hidden, d", [("linear", None, 40), ("mlp", 8, 40), ("mlp", 5, 2000)]
)
def test_a_head_is_the_same_alone_in_a_pack_of_7_and_of_50(kind, hidden, d):
    X, y, weights = features(n=150, d=d)
    configs = population(50)
    run = {**RUN, "epochs": 20 if d < 100 else 10}
    of_50 = heads.fit(X, y, weights, configs, kind=kind, hidden_units=hidden, **run).logits(X)
    of_7 = heads.fit(X, y, weights, configs[:7], kind=kind, hidden_units=hidden, **run).logits(X)
    for p in range(7):
        alone = heads.fit(X, y, weights, [configs[p]], kind=kind, hidden_units=hidden, **run)
        alone = alone.logits(X)[0]
        assert_same_logits(of_7[p], alone)
        assert_same_logits(of_50[p], alone)
        assert torch.equal(of_50[p].argmax(-1), alone.argmax(-1))


def test_rounds_that_bound_memory_change_nothing():
    X, y, weights = features(d=2000)
    configs = population(9)
    together = heads.fit(X, y, weights, configs, kind="mlp", hidden_units=8, **RUN)
    seen = []
    rounds = heads.fit(
        X, y, weights, configs, kind="mlp", hidden_units=8, memory_mb=4, **RUN,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    steps_of_a_round = RUN["epochs"] * math.ceil((weights > 0).sum(1).max() / 16)
    assert len(seen) == 3 * steps_of_a_round and seen[-1][0] == seen[-1][1] == len(seen)
    assert_same_logits(rounds.logits(X), together.logits(X))


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("memory_mb", [4, 1024])
def test_a_training_that_is_killed_goes_on_to_the_same_bits(at, memory_mb, tmp_path, monkeypatch):
    """It was kept in rounds of 4 heads; with other memory it finishes what it had begun first."""
    monkeypatch.setattr(heads, "KEEP_EVERY_S", 0.02)
    X, y, weights = features(d=2000)
    how = {"configs": population(9), "kind": "mlp", "hidden_units": 8, "memory_mb": 4, **RUN}
    whole = heads.fit(X, y, weights, **how).logits(X)

    def kill(done, total):
        if done >= at * total:
            raise Killed

    kept = tmp_path / "kept.safetensors"
    with pytest.raises(Killed):
        heads.fit(X, y, weights, **how, kept=kept, progress=kill)
    again = []
    how["memory_mb"] = memory_mb
    packed = heads.fit(X, y, weights, **how, kept=kept, progress=lambda done, _: again.append(done))
    assert len(again) < 3 * RUN["epochs"] * math.ceil((weights > 0).sum(1).max() / 16)
    if memory_mb == 4:
        assert torch.equal(packed.logits(X), whole)
    assert_same_logits(packed.logits(X), whole)
    once_more = []
    heads.fit(X, y, weights, **how, kept=kept, progress=lambda *told: once_more.append(told))
    assert not once_more


def test_a_training_of_less_than_a_minute_writes_nothing(tmp_path):
    X, y, weights = features()
    heads.fit(X, y, weights, population(3), kind="linear", kept=tmp_path / "kept", **RUN)
    assert not (tmp_path / "kept").exists()


def test_the_same_call_twice_gives_the_same_bits():
    X, y, weights = features()
    first, second = (heads.fit(X, y, weights, population(6), kind="linear", **RUN).logits(X)
                     for _ in range(2))  # fmt: skip
    assert torch.equal(first, second)


def test_rows_that_are_not_trained_on_have_no_influence():
    X, y, weights = features()
    configs = population(5)
    before = heads.fit(X, y, weights, configs, kind="linear", **RUN).logits(X)[:, 1]
    held_out = weights[1] == 0
    changed, relabelled = X.copy(), y.copy()
    changed[held_out] *= -3
    relabelled[held_out] = 0
    other = weights[1:2]
    fold_alone = heads.fit(X, y, other, configs, kind="linear", **RUN).logits(X)[:, 0]
    after = heads.fit(changed, relabelled, other, configs, kind="linear", **RUN).logits(X)[:, 0]
    assert torch.equal(after, fold_alone)
    assert before.shape == (5, N, C)


def test_features_on_wild_scales_are_standardised_and_constant_ones_ignored():
    X, y, weights = features()
    with_constant = np.concatenate([X, np.full((N, 1), 1234.5, np.float32)], axis=1)
    packed = heads.fit(with_constant, y, weights, population(3), kind="linear", **RUN)
    held_out = with_constant.copy()
    held_out[:, -1] = -1e6
    assert torch.equal(packed.logits(held_out), packed.logits(with_constant))
    z = (X[weights[0] > 0] - packed.mean[0, :D].numpy()) * packed.inverse_std[0, :D].numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)


def test_features_that_are_not_finite_are_refused():
    X, y, weights = features()
    X[3, 2] = np.inf
    with pytest.raises(UserError, match="float32"):
        heads.fit(X, y, weights, [DEFAULT], kind="linear", **RUN)


def test_a_head_averages_the_logits_of_its_seeds_and_survives_its_state():
    X, y, weights = features()
    configs = [replace(DEFAULT, seed=s, dropout=0.5) for s in range(3)]
    packed = heads.fit(X, y, weights, configs, kind="mlp", hidden_units=6, **RUN)
    head = packed.head(1, [0, 2])
    expected = packed.logits(X)[[0, 2], 1].mean(0)
    torch.testing.assert_close(head(torch.tensor(X)), expected, atol=1e-5, rtol=1e-5)
    again = Head.from_state(head.state_dict())
    assert torch.equal(again(torch.tensor(X)), head(torch.tensor(X)))
    assert not any(p.requires_grad for p in head.parameters())


def test_heads_learn_what_a_logistic_regression_learns():
    X, y, weights = features(n=300)
    packed = heads.fit(
        X, y, weights, [replace(DEFAULT, learning_rate=0.03)], kind="linear",
        **{**RUN, "epochs": 30},
    )  # fmt: skip
    judged = weights == 0
    accuracy = from_confusion(packed.confusion(X, y, judged))["accuracy"][0]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    for f in range(3):
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        regression.fit(X[~judged[f]], y[~judged[f]])
        assert abs(accuracy[f] - regression.score(X[judged[f]], y[judged[f]])) < 0.06


def test_confusion_counts_equal_scikit_learn():
    X, y, weights = features()
    packed = heads.fit(X, y, weights, population(4), kind="linear", **RUN)
    judged = weights == 0
    predicted = packed.logits(X).argmax(-1).numpy()
    counts = packed.confusion(X, y, judged)
    for p in range(4):
        for f in range(3):
            rows = judged[f]
            expected = metrics.confusion_matrix(y[rows], predicted[p, f, rows], labels=range(C))
            np.testing.assert_array_equal(counts[p, f], expected)


def test_sample_weights_give_every_class_horse_and_session_the_same_total():
    labels = np.array(["a", "a", "a", "b", "b", "a", "b"])
    horses = np.array(["h", "h", "h", "h", "i", "i", "j"])
    sessions = np.array(["1", "2", "2", "1", "1", None, "1"], dtype=object)
    mask = np.array([True] * 6 + [False])
    for by, groups in {
        "class": labels,
        "horse": horses,
        "session": [f"{h} {s}" for h, s in zip(horses, sessions, strict=True)],
    }.items():
        weights = heads.sample_weights(labels, horses, sessions, [by], mask)
        totals = {g: weights[[k == g for k in groups] & mask].sum() for g in set(groups[:6])}
        assert np.ptp(list(totals.values())) < 1e-6
        assert weights[mask].mean() == pytest.approx(1) and weights[6] == 0
    both = heads.sample_weights(labels, horses, sessions, ["class", "horse"], mask)
    by_class = heads.sample_weights(labels, horses, sessions, ["class"], mask)
    by_horse = heads.sample_weights(labels, horses, sessions, ["horse"], mask)
    ratio = both[mask] / (by_class * by_horse)[mask]
    assert np.ptp(ratio) < 1e-6
    flat = heads.sample_weights(labels, horses, sessions, [], mask)
    np.testing.assert_array_equal(flat, mask.astype(np.float32))


def test_labels_of_each_fold_and_shares_of_classes():
    X, y, weights = features()
    other = np.roll(y, 7)
    configs = population(3)
    alone = [
        heads.fit(X, of, weights, configs, kind="linear", **RUN).logits(X) for of in (y, other)
    ]
    per_fold = np.stack([other if fold == 1 else y for fold in range(len(weights))])
    packed = heads.fit(X, per_fold, weights, configs, kind="linear", **RUN).logits(X)
    assert torch.equal(packed[:, 0], alone[0][:, 0])
    assert torch.equal(packed[:, 1], alone[1][:, 1])

    shares = 0.75 * np.eye(C)[y] + 0.25 * np.eye(C)[other]
    soft = heads.fit(X, shares, weights, configs, kind="linear", **RUN).logits(X)
    certain = heads.fit(X, np.eye(C)[y], weights, configs, kind="linear", **RUN).logits(X)
    assert torch.equal(certain, alone[0])
    # Half of all raters say one thing, half another: the head is in doubt between the two.
    halves = 0.5 * np.eye(C)[y] + 0.5 * np.eye(C)[(y + 1) % C]
    torn = heads.fit(X, halves, weights, configs, kind="linear", **RUN).logits(X)
    trained = weights[0] > 0
    assert torn[:, 0].softmax(-1)[:, trained].max() < certain[:, 0].softmax(-1)[:, trained].max()
    assert not torch.equal(soft, certain)
