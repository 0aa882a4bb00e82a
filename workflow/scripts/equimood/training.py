"""The chosen configuration, trained on all horses of a fold and calibrated on unseen ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from equimood import devices, features, labels, settings
from equimood.abstention import Abstention, abstention
from equimood.files import digest, state_folder
from equimood.heads import Head, PackedHeads, fit, sample_weights
from equimood.logs import Progress
from equimood.novelty import QUANTILE, Novelty
from equimood.search import SEARCH_VERSION, Best

LOG_TEMPERATURE = (-5.0, 15.0)
"""Wide: the logits of a head that overfits may be thousands, and the temperature must undo it."""


@dataclass(frozen=True)
class Certainty:
    """How sure a model may be: its temperature, when it does not answer, and what is new to it.

    ``facts`` for its card: numbers of images and horses, log loss on unseen ones, and how the
    threshold of the confidence and the limit of the novelty were found.
    """

    temperature: float
    abstention: Abstention
    novelty: Novelty
    facts: dict[str, Any]


@dataclass(frozen=True)
class Trained(Certainty):
    """A head, and how sure it may be."""

    head: Head


def train(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    best: Best,
    options: settings.Train,
    classes: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    record: Path,
    progress: Progress | None = None,
    shares: pd.DataFrame | None = None,
) -> Trained:
    """Train the chosen head on all training horses of a fold, with several seeds, and calibrate it.

    Parameters
    ----------
    photos : as features.photos gives them.
    splits : the fold's rows of tables.SPLITS.
    record : folder in which the use of the state folder is noted.
    shares : as labels.shares gives them, for a head that learns these in place of the labels; the
        temperature is fitted to the labels all the same.
    """
    device = devices.choose()
    horses = splits[splits["role"] == "train"].set_index("horse")["inner_fold"]
    photos = photos[photos["horse"].isin(horses.index)].reset_index(drop=True)
    inner = photos["horse"].map(horses).to_numpy(dtype=int)
    everything = np.ones((1, len(photos)), dtype=bool)
    X = torch.from_numpy(_matrix(feature_files, photos, best)).to(device)
    y = pd.Categorical(photos["label"], categories=list(classes)).codes.astype(int)
    targets = y if shares is None else labels.soft_targets(shares, photos, classes)

    pairs = [(view, best.structure.backbone) for view in best.structure.views]
    key = digest(
        SEARCH_VERSION, asdict(best.structure), asdict(best.head), options.seeds, epochs,
        batch_size, seed, list(classes), features.digests(feature_files, photos, pairs),
        *(photos[name].tolist() for name in ("photo_id", "label", "horse", "session")),
        inner.tolist(), *([] if shares is None else [targets.tolist()]),
    )  # fmt: skip
    kept = state_folder("train", key, record)

    def packed(trained: np.ndarray, name: str) -> PackedHeads:
        weights = np.stack([
            sample_weights(
                photos["label"].to_numpy(), photos["horse"].to_numpy(),
                photos["session"].to_numpy(), best.structure.weight_by, rows,
            )
            for rows in trained
        ])  # fmt: skip
        first = best.head.seed
        return fit(
            X, targets, weights,
            [replace(best.head, seed=first + k) for k in range(options.seeds)],
            kind=best.structure.head, hidden_units=best.structure.hidden_units,
            epochs=epochs, batch_size=batch_size, n_classes=len(classes),
            device=device, stream_seed=seed, kept=kept / f"{name}.safetensors", progress=progress,
        )  # fmt: skip

    seeds = list(range(options.seeds))
    head = packed(everything, "all").head(0, seeds)
    unseen = np.zeros((len(photos), len(classes)), dtype=np.float32)
    folds = np.unique(inner)
    by_fold = packed(inner != folds[:, None], "inner")
    for f, fold in enumerate(folds):
        rows = np.flatnonzero(inner == fold)
        with torch.inference_mode():
            unseen[rows] = by_fold.head(f, seeds)(X[torch.from_numpy(rows).to(device)]).cpu()
    sure = certainty(X, unseen, y, photos["horse"].to_numpy(), inner, options, seed)
    facts = {"n_seeds": options.seeds, **sure.facts}
    return Trained(sure.temperature, sure.abstention, sure.novelty, facts, head.cpu())


def certainty(
    X: Tensor,
    unseen: np.ndarray,
    y: np.ndarray,
    horse: np.ndarray,
    inner: np.ndarray,
    options: settings.Train,
    seed: int,
) -> Certainty:
    """Find how sure a model may be, from its training images.

    Parameters
    ----------
    X : (n, d) features.
    unseen : (n, C) logits of each image by a model of the same making that never saw its horse.
    y, horse, inner : (n,) class, horse, and the horse's inner fold.
    """
    temperature = fit_temperature(unseen, y) if options.calibrate else 1.0
    judged = abstention(unseen, y, horse, temperature, options.target_accuracy)
    novelty = Novelty.fitted(X, horse, inner, seed).cpu()
    facts = {
        "n_images": len(y),
        "n_horses": len(np.unique(horse)),
        "log_loss_before_calibration": nll(unseen, y, 1.0),
        "log_loss": nll(unseen, y, temperature),
        "abstention": judged.card(),
        "novelty": {
            "n_components": novelty.variances.shape[1],
            "quantile": QUANTILE,
            "limit": float(novelty.limit),
        },
    }
    return Certainty(temperature, judged, novelty, facts)


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Find the temperature at which logits (n, C) of unseen images are most likely for y (n,).

    Guo et al. 2017, arXiv 1706.04599.
    """
    found = minimize_scalar(
        lambda log_t: nll(logits, y, float(np.exp(log_t))),
        bounds=LOG_TEMPERATURE,
        method="bounded",
    )
    return float(np.exp(found.x))


def predict(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    best: Best,
    trained: Trained,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Judge the fold's test horses from cached features: tables.PREDICTIONS and p_{class}."""
    photos = test_photos(photos, splits)
    probabilities, novelty = np.zeros((0, len(classes))), np.zeros(0)
    if len(photos):
        X = torch.from_numpy(_matrix(feature_files, photos, best))
        with torch.inference_mode():
            probabilities = (trained.head(X) / trained.temperature).double().softmax(1).numpy()
            novelty = trained.novelty(X).double().numpy()
    view, threshold = best.structure.views[0], trained.abstention.threshold
    return answers(photos, probabilities, threshold, novelty, view, splits, classes)


def test_photos(photos: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Photographs of the horses that the fold tests."""
    tested = splits[splits["role"] == "test"]
    return photos[photos["horse"].isin(tested["horse"])].reset_index(drop=True)


def answers(
    photos: pd.DataFrame,
    probabilities: np.ndarray,
    threshold: float | None,
    novelty: np.ndarray,
    view: str,
    splits: pd.DataFrame,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Tell what a fold's model says of photographs as tables.PREDICTIONS and p_{class}.

    ``probabilities`` (n, C), ``novelty`` (n,), and the confidence from which on it answers.
    """
    answers = [classes[c] for c in probabilities.argmax(axis=1)]
    frame = photos[["photo_id", "path", "horse", "session", "video"]].assign(
        image_id=photos[f"image_{view}"],
        fold=str(splits["fold"].iloc[0]),
        truth=photos["label"],
        predicted=pd.Series(answers, index=photos.index, dtype=object),
        threshold=threshold,
        novelty=novelty,
    )
    return frame.assign(**{f"p_{name}": probabilities[:, c] for c, name in enumerate(classes)})


def _matrix(feature_files: Sequence[Path], photos: pd.DataFrame, best: Best) -> np.ndarray:
    chosen = best.structure
    return features.matrix(
        feature_files, photos, list(chosen.views), chosen.backbone, chosen.pooling
    )


def nll(logits: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """Mean log loss of logits (n, C), divided by the temperature, for classes y (n,)."""
    scaled = torch.from_numpy(logits).double() / temperature
    return float(functional.cross_entropy(scaled, torch.from_numpy(y)))
