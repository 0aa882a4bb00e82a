"""Heads per second: a packed population against one torch.nn head after another, in the same run.

    PYTHONPATH=workflow/scripts python benchmarks/heads.py [--rows 480] [--features 320] ...

The reference trains the same heads one at a time as a careful user would: torch.nn modules,
torch.optim.AdamW with cosine decay, on standardised features in memory, batch by batch. Both sides
do the same epochs with the same batch size. The reference is timed on a few heads and scaled.
The floor is the time of the matrix products and of AdamW's reads and writes alone, at the rates of
a large matrix product and of a large copy in the same run.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from equimood import heads
from equimood.heads import HeadConfig
from torch import nn

KINDS: list[tuple[heads.Kind, bool]] = [("linear", False), ("mlp", True)]


def main() -> None:
    """Measure linear heads and MLPs; print heads per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--features", type=int, default=320)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--reference-heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = [
        HeadConfig(lr, decay, dropout, smoothing, 1)
        for lr, decay, dropout, smoothing in itertools.product(
            [0.001, 0.003, 0.01, 0.03], [0.01, 0.1, 1.0], [0.0, 0.5], [0.0, 0.1]
        )
    ]
    rng = np.random.default_rng(0)
    y = rng.integers(0, asked.classes, asked.rows)
    X = rng.normal(size=(asked.rows, asked.features)).astype(np.float32)
    X[:, : asked.classes] += np.eye(asked.classes)[y]
    weights = (np.arange(asked.rows) % asked.folds != np.arange(asked.folds)[:, None]) * 1.0
    some = configs[:: max(1, len(configs) // asked.reference_heads)][: asked.reference_heads]
    print(
        f"{len(configs)} configurations x {asked.folds} folds, {asked.rows} rows x "
        f"{asked.features} features, {asked.epochs} epochs, {device}, {asked.threads} thread(s)"
    )

    for kind, hidden in KINDS:
        units = asked.hidden if hidden else None

        def pack(kind: heads.Kind = kind, units: int | None = units) -> object:
            return heads.fit(
                X, y, weights, configs, kind=kind, hidden_units=units, epochs=asked.epochs,
                batch_size=asked.batch, n_classes=asked.classes, device=device,
            )  # fmt: skip

        def singly(units: int | None = units) -> object:
            return [train_singly(X, y, weights[0] > 0, c, units, asked, device) for c in some]

        seconds = timed(pack, device)
        packed = len(configs) * asked.folds / seconds
        single = len(some) / timed(singly, device)
        print(f"{kind:6}  packed {packed:8.1f} heads/s   one at a time {single:6.1f} heads/s   "
              f"ratio {packed / single:5.1f}   share of the floor "
              f"{floor(asked, units, len(configs), device) / seconds:.2f}")  # fmt: skip


def floor(
    asked: argparse.Namespace, hidden: int | None, n_heads: int, device: torch.device
) -> float:
    """Seconds that a packed training would take, if nothing but its arithmetic took time."""
    a = torch.rand(2048, 2048, device=device)
    flops = 2 * 2048**3 / timed(lambda: a @ a, device)
    big = torch.rand(1 << 26, device=device)
    bandwidth = 8 * len(big) / timed(lambda: big.clone(), device)
    trained = asked.rows * (asked.folds - 1) / asked.folds
    steps = asked.epochs * -(-trained // asked.batch)
    d, c = asked.features, asked.classes
    weights = d * c if hidden is None else d * hidden + hidden * c
    # Forward and the gradient of the weights, 2 each; through the second layer the inputs', too.
    per_row = 4 * weights if hidden is None else 4 * d * hidden + 6 * hidden * c
    arithmetic = per_row * trained * asked.epochs * n_heads * asked.folds / flops
    # Gradient and weight and two moments are read, and the last three written, 4 bytes each.
    traffic = 28 * weights * steps * n_heads * asked.folds / bandwidth
    return arithmetic + traffic


def train_singly(
    X: np.ndarray,
    y: np.ndarray,
    trained: np.ndarray,
    config: HeadConfig,
    hidden: int | None,
    asked: argparse.Namespace,
    device: torch.device,
) -> nn.Module:
    """Train one head of one fold with torch.nn and torch.optim."""
    torch.manual_seed(config.seed)
    own = torch.from_numpy(X[trained]).to(device)
    own = (own - own.mean(0)) / own.std(0)
    labels = torch.from_numpy(y[trained]).to(device)
    d = own.shape[1]
    layers: list[nn.Module] = [nn.Dropout(config.dropout), nn.Linear(d, asked.classes)]
    if hidden:
        layers = [nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(config.dropout),
                  nn.Linear(hidden, asked.classes)]  # fmt: skip
    model = nn.Sequential(*layers).to(device)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    n_steps = asked.epochs * -(-len(own) // asked.batch)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(asked.epochs):
        for rows in torch.randperm(len(own), device=device).split(asked.batch):
            optimiser.zero_grad()
            loss(model(own[rows]), labels[rows]).backward()
            optimiser.step()
            scheduler.step()
    return model


def timed(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
