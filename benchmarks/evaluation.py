"""Evaluation of 100,000 predictions with 2,000 draws of horses, and scikit-learn in the same run.

    PYTHONPATH=workflow/scripts python benchmarks/evaluation.py [--images 100000] [--horses 200] ...

Equimood's side is evaluation.evaluate: all figures, by class, by image, session and horse, a
baseline beside the model, intervals and differences. The reference resamples rows of whole horses
and scores each replicate with scikit-learn, at image level alone and without a baseline; it is
timed on a few replicates and scaled to all. Peak memory is the process's, before the reference.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd
from equimood import evaluation
from equimood.tables import PREDICTIONS
from sklearn import metrics as sk
from threadpoolctl import threadpool_limits

CLASSES = ["neutral", "annoyed", "relaxed", "alarmed"]


def main() -> None:
    """Time both sides; print seconds, their ratio and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--horses", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--reference-replicates", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    predictions = drawn(asked.images, asked.horses)
    with threadpool_limits(asked.threads):
        before_mb = peak_mb()
        began, began_cpu = time.perf_counter(), time.process_time()
        constant = ["neutral"] * len(predictions)
        found = evaluation.evaluate(
            predictions, CLASSES, {"majority": constant}, asked.replicates, 0.95, 1
        )
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        print(
            f"{asked.images:,} images, {asked.horses} horses, {asked.replicates:,} replicates: "
            f"{took_s:.1f} s ({cpu_s:.1f} s of CPU), peak {peak_mb():,.0f} MB "
            f"({before_mb:,.0f} MB before)"
        )
        reference_s, values = reference(predictions, asked.reference_replicates)
    scaled = reference_s / asked.reference_replicates * asked.replicates
    print(
        f"scikit-learn on resampled rows: {reference_s / asked.reference_replicates:.2f} s a "
        f"replicate, {scaled:,.0f} s for all (from {asked.reference_replicates}); "
        f"ratio {scaled / took_s:.0f}"
    )
    for name, value in values.items():
        assert np.isclose(found.metrics[name]["value"], value), name


def drawn(n_images: int, n_horses: int) -> pd.DataFrame:
    """Predictions of horses that differ, in ten sessions each."""
    rng = np.random.default_rng(0)
    horse, truth = (
        rng.integers(n_horses, size=n_images),
        rng.choice(4, n_images, p=[0.45, 0.3, 0.15, 0.1]),
    )
    logits = rng.normal(size=(n_images, 4))
    logits[np.arange(n_images), truth] += rng.normal(1.2, 1, n_horses)[horse]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    frame = pd.DataFrame(dict.fromkeys(PREDICTIONS.names, ""), index=range(n_images))
    frame["video"] = None
    frame["horse"] = np.char.mod("h%d", horse)
    frame["session"] = np.char.mod("s%d", rng.integers(10, size=n_images))
    frame["truth"] = np.array(CLASSES)[truth]
    frame["predicted"] = np.array(CLASSES)[p.argmax(axis=1)]
    return frame.assign(**{f"p_{label}": p[:, c] for c, label in enumerate(CLASSES)})


def reference(predictions: pd.DataFrame, n_replicates: int) -> tuple[float, dict[str, float]]:
    """Score resampled rows with scikit-learn: seconds, and the figures of all rows."""
    rng = np.random.default_rng(1)
    y = predictions["truth"].map(CLASSES.index).to_numpy()
    said = predictions["predicted"].map(CLASSES.index).to_numpy()
    p = predictions[[f"p_{label}" for label in CLASSES]].to_numpy()
    _, horse = np.unique(predictions["horse"], return_inverse=True)
    rows = [np.flatnonzero(horse == h) for h in range(horse.max() + 1)]
    began = time.perf_counter()
    for _ in range(n_replicates):
        chosen = np.concatenate([rows[h] for h in rng.integers(len(rows), size=len(rows))])
        scored(y[chosen], said[chosen], p[chosen])
    return time.perf_counter() - began, scored(y, said, p)


def scored(y: np.ndarray, said: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Figures of the same names as Equimood's, and those of each class."""
    is_true = np.eye(len(CLASSES))[y]
    sk.precision_recall_fscore_support(y, said)
    return {
        "balanced_accuracy": sk.balanced_accuracy_score(y, said),
        "f1_macro": sk.f1_score(y, said, average="macro"),
        "accuracy": sk.accuracy_score(y, said),
        "matthews_corrcoef": sk.matthews_corrcoef(y, said),
        "auroc": np.mean(sk.roc_auc_score(is_true, p, average=None)),
        "auprc": np.mean(sk.average_precision_score(is_true, p, average=None)),
        "log_loss": sk.log_loss(y, p),
        "brier_score": ((p - is_true) ** 2).sum(axis=1).mean(),
    }


def peak_mb() -> float:
    """Peak of this process's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
