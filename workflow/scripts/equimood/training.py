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
from equimood.best import SEARCH_VERSION, Best
from equimood.files import digest, state_folder
from equimood.heads import Head, PackedHeads, fit, sample_weights
from equimood.logs import Progress
from equimood.novelty import QUANTILE, Novelty

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


class Fold:
    """The training photographs of an outer fold, and heads of a configuration fitted to them.

    Parameters
    ----------
    photos : as features.photos gives them.
    splits : the fold's rows of tables.SPLITS.
    record : folder in which the use of the state folder is noted.
    shares : as labels.shares gives them, for heads that learn these in place of the labels.
    """

    def __init__(
        self,
        photos: pd.DataFrame,
        splits: pd.DataFrame,
        feature_files: Sequence[Path],
        best: Best,
        n_seeds: int,
        classes: Sequence[str],
        *,
        epochs: int,
        batch_size: int,
        seed: int,
        record: Path,
        progress: Progress | None = None,
        shares: pd.DataFrame | None = None,
    ):
        horses = splits[splits["role"] == "train"].set_index("horse")["inner_fold"]
        photos = photos[photos["horse"].isin(horses.index)].reset_index(drop=True)
        self.labels, self.horse, self.session = (
            photos[name].to_numpy() for name in ("label", "horse", "session")
        )
        self.inner = photos["horse"].map(horses).to_numpy(dtype=int)
        self.device, self.best, self.n_seeds, self.n_classes = (
            devices.choose(), best, n_seeds, len(classes)
        )  # fmt: skip
        self.X = torch.from_numpy(
            features.matrix(feature_files, photos, *best.structure.source)
        ).to(self.device)
        self.y = pd.Categorical(photos["label"], categories=list(classes)).codes.astype(int)
        self.targets = self.y if shares is None else labels.soft_targets(shares, photos, classes)
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.progress = progress
        pairs = [(view, best.structure.backbone) for view in best.structure.views]
        key = digest(
            SEARCH_VERSION, asdict(best.structure), asdict(best.head), n_seeds, epochs,
            batch_size, seed, list(classes), features.digests(feature_files, photos, pairs),
            *(photos[name].tolist() for name in ("photo_id", "label", "horse", "session")),
            self.inner.tolist(), *([] if shares is None else [self.targets.tolist()]),
        )  # fmt: skip
        self.kept = state_folder("train", key, record)

    def head(self) -> Head:
        """Train on all horses; of several seeds, logits are averaged."""
        packed = self._fitted(np.ones((1, len(self.y)), dtype=bool), "all")
        return packed.head(0, list(range(self.n_seeds)))

    def unseen(self) -> np.ndarray:
        """Logits (n, C) of each photograph by a head of this making that never saw its horse."""
        found = np.zeros((len(self.y), self.n_classes), dtype=np.float32)
        folds = np.unique(self.inner)
        packed = self._fitted(self.inner != folds[:, None], "inner")
        for f, fold in enumerate(folds):
            rows = np.flatnonzero(self.inner == fold)
            head = packed.head(f, list(range(self.n_seeds)))
            with torch.inference_mode():
                found[rows] = head(self.X[torch.from_numpy(rows).to(self.device)]).cpu()
        return found

    def _fitted(self, trained: np.ndarray, name: str) -> PackedHeads:
        """Fit to the photographs of each row of ``trained`` (F, n, bool)."""
        structure, first = self.best.structure, self.best.head
        weights = np.stack([
            sample_weights(self.labels, self.horse, self.session, structure.weight_by, rows)
            for rows in trained
        ])  # fmt: skip
        return fit(
            self.X, self.targets, weights,
            [replace(first, seed=first.seed + k) for k in range(self.n_seeds)],
            kind=structure.head, hidden_units=structure.hidden_units,
            epochs=self.epochs, batch_size=self.batch_size, n_classes=self.n_classes,
            device=self.device, stream_seed=self.seed, kept=self.kept / f"{name}.safetensors",
            progress=self.progress,
        )  # fmt: skip


def train(fold: Fold, options: settings.Train) -> Trained:
    """Train the head on all training horses of a fold, with the fold's seeds, and calibrate it.

    The temperature is fitted to the labels also where shares are learnt.
    """
    head = fold.head()
    sure = certainty(fold.X, fold.unseen(), fold.y, fold.horse, fold.inner, options, fold.seed)
    facts = {"n_seeds": fold.n_seeds, **sure.facts}
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
        X = torch.from_numpy(features.matrix(feature_files, photos, *best.structure.source))
        with torch.inference_mode():
            probabilities = (trained.head(X) / trained.temperature).double().softmax(1).numpy()
            novelty = trained.novelty(X).double().numpy()
    return answers(photos, probabilities, best.structure.views[0], splits, classes).assign(
        threshold=trained.abstention.threshold, novelty=novelty
    )


def predict_by_head(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    best: Best,
    head: Head,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Judge as :func:`predict` does, but by a head alone, so that nothing is held back."""
    photos = test_photos(photos, splits)
    probabilities = np.zeros((0, len(classes)))
    if len(photos):
        with torch.inference_mode():
            logits = head(
                torch.from_numpy(features.matrix(feature_files, photos, *best.structure.source))
            )
        probabilities = logits.double().softmax(1).numpy()
    return answers(photos, probabilities, best.structure.views[0], splits, classes)


def test_photos(photos: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Photographs of the horses that the fold tests."""
    tested = splits[splits["role"] == "test"]
    return photos[photos["horse"].isin(tested["horse"])].reset_index(drop=True)


def answers(
    photos: pd.DataFrame,
    probabilities: np.ndarray,
    view: str,
    splits: pd.DataFrame,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Tell what a fold's model says, by ``probabilities`` (n, C), of photographs.

    Returns
    -------
    tables.PREDICTIONS and p_{class}, but for threshold and novelty.
    """
    answers = [classes[c] for c in probabilities.argmax(axis=1)]
    frame = photos[["photo_id", "path", "horse", "session", "video"]].assign(
        image_id=photos[f"image_{view}"],
        fold=str(splits["fold"].iloc[0]),
        truth=photos["label"],
        predicted=pd.Series(answers, index=photos.index, dtype=object),
    )
    return frame.assign(**{f"p_{name}": probabilities[:, c] for c, name in enumerate(classes)})


def nll(logits: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """Mean log loss of logits (n, C), divided by the temperature, for classes y (n,)."""
    scaled = torch.from_numpy(logits).double() / temperature
    return float(functional.cross_entropy(scaled, torch.from_numpy(y)))
