"""Heads searched per second, against Ray Tune with one head per trial, in the same run.

    PYTHONPATH=workflow/scripts python benchmarks/search.py [--head mlp]

Equimood's whole search is timed, with the start of Ray; of the references Tune's part alone, with
default settings and with ``reuse_actors=True``. Their trials train the same heads on the same
features in memory, one at a time, so that the best score must be the same.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from equimood import embedding, features, heads
from equimood.files import digest
from equimood.heads import HeadConfig
from equimood.metrics import from_confusion
from equimood.settings import Backbone, Search

CLASSES = ["annoyed", "curious", "neutral", "relaxed"]
VIEWS = [f"view{i}" for i in range(12)]
BACKBONES = {"measured": Backbone(architecture="none", poolings=["avg"])}
OPTIONS = Search(
    views=[[view] for view in VIEWS], hidden_units=[64], weight_by=[["class"], ["class", "horse"]]
)
LIBRARY = str(Path(features.__file__).parents[1])


def main() -> None:
    """Measure all three, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", nargs="?", choices=["equimood", "default", "reuse"])
    parser.add_argument("--head", choices=["linear", "mlp"], default="linear")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--features", type=int, default=320)
    parser.add_argument("--slots", type=int, default=2)
    asked = parser.parse_args()
    if asked.who:
        result = equimood(asked) if asked.who == "equimood" else reference(asked)
        print(json.dumps(result))
        return
    told = {}
    for who in ("equimood", "default", "reuse"):
        with tempfile.TemporaryDirectory() as home:  # a plain ray.init leaves a token there
            done = subprocess.run(
                [sys.executable, __file__, who, *sys.argv[1:]], check=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": LIBRARY, "HOME": home},
            )  # fmt: skip
        told[who] = json.loads(done.stdout.splitlines()[-1])
        print(f"{who:9} {told[who]['heads']:5} heads in {told[who]['seconds']:6.1f} s: "
              f"{told[who]['heads'] / told[who]['seconds']:7.2f} heads/s, best score of the "
              f"compared {told[who]['best']:.4f}")  # fmt: skip
    rates = {who: of["heads"] / of["seconds"] for who, of in told.items()}
    for who in ("default", "reuse"):
        print(f"Equimood / {who} {rates['equimood'] / rates[who]:.0f}")


def study(asked: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """Photographs of 24 horses, their splits, and the features of each view (n, d)."""
    rng = np.random.default_rng(0)
    y = np.arange(asked.rows) % len(CLASSES)
    photos = pd.DataFrame({
        "photo_id": [digest("photo", i) for i in range(asked.rows)],
        "label": np.array(CLASSES)[y],
        "horse": [f"h{i:02}" for i in rng.integers(0, 24, asked.rows)],
        "session": "s", "video": None,
        **{f"image_{v}": [digest(v, i) for i in range(asked.rows)] for v in VIEWS},
    })  # fmt: skip
    horses = sorted(set(photos["horse"]))
    splits = pd.DataFrame({
        "fold": "0", "horse": horses, "role": "train",
        "inner_fold": [i % 3 for i in range(len(horses))],
    })  # fmt: skip
    signal = 0.8 * np.eye(len(CLASSES), asked.features)[y]
    X = {v: (signal + rng.normal(size=signal.shape)).astype(np.float32) for v in VIEWS}
    return photos, splits, X


def equimood(asked: argparse.Namespace) -> dict[str, Any]:
    """Search all structures; best score of the structure that the references search."""
    from equimood import cluster, search  # it sets what Ray and Tune read

    photos, splits, X = study(asked)
    options = OPTIONS.model_copy(update={"heads": [asked.head]})
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        files = []
        for view, vectors in X.items():
            order = np.argsort(photos[f"image_{view}"])
            ids = photos[f"image_{view}"].iloc[order].tolist()
            files.append(Path("features", view, "measured", "000.safetensors"))
            embedding.write_shard(
                files[-1], embedding.Embedded(ids, {"avg": vectors[order]}, "none", 0)
            )
        began = time.perf_counter()
        found = search.run(
            photos, splits, files, BACKBONES, options, CLASSES, 0, Path("record"),
            nodes=cluster.Nodes(1, asked.slots, 4000),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        os.chdir("/")
    trials = found.trials
    compared = trials[(trials["views"] == VIEWS[0]) & (trials["weight_by"] == "class")]
    return {"heads": len(trials), "seconds": seconds, "best": compared["score"].max()}


def reference(asked: argparse.Namespace) -> dict[str, Any]:
    """Search the heads of the first structure, one per trial."""
    import ray
    from ray import tune

    photos, splits, X = study(asked)
    inner = photos["horse"].map(splits.set_index("horse")["inner_fold"]).to_numpy()
    trained = inner != np.arange(3)[:, None]
    y = pd.Categorical(photos["label"], categories=CLASSES).codes.astype(int)
    weights = np.stack([
        heads.sample_weights(
            photos["label"].to_numpy(), photos["horse"].to_numpy(), photos["session"].to_numpy(),
            ("class",), rows,
        )
        for rows in trained
    ])  # fmt: skip
    configs = [
        asdict(HeadConfig(*chosen, seed=0))
        for chosen in itertools.product(
            OPTIONS.learning_rate, OPTIONS.weight_decay, OPTIONS.dropout, OPTIONS.label_smoothing
        )
    ]
    units = 64 if asked.head == "mlp" else None

    def trial(config: dict[str, Any], X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict:
        packed = heads.fit(
            X, y, weights, [HeadConfig(**config["head"])], kind=asked.head, hidden_units=units,
            epochs=OPTIONS.epochs, batch_size=OPTIONS.batch_size, n_classes=len(CLASSES),
        )  # fmt: skip
        confusion = packed.confusion(X, y, weights == 0)
        return {"score": float(from_confusion(confusion)[OPTIONS.metric].mean())}

    ray.init(num_cpus=asked.slots, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_parameters(trial, X=X[VIEWS[0]], y=y, weights=weights),
            param_space={"head": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(
                metric="score", mode="max", reuse_actors=asked.who == "reuse"
            ),
            run_config=tune.RunConfig(storage_path=folder),
        )
        began = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - began
    ray.shutdown()
    best = results.get_best_result().metrics["score"]
    return {"heads": len(configs), "seconds": seconds, "best": best}


if __name__ == "__main__":
    main()
