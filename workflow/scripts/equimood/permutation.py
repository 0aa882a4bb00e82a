"""Would labels that say nothing of the picture have done as well? A test that respects horses.

Photographs of one horse are alike and so are its labels, so that labels shuffled over all
photographs break more than the question asks and find "significance" where there is none (Winkler
et al. 2015, doi 10.1016/j.neuroimage.2015.05.092, on exchangeability blocks). Here labels change
places only where nothing but the labels would tell: within a horse that shows several classes, and,
as a whole, between horses that show one class each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from equimood import devices, features
from equimood.best import SEARCH_VERSION, Best
from equimood.files import digest, read_json, state_folder, write_json
from equimood.heads import fit, sample_weights
from equimood.logs import Progress
from equimood.metrics import from_confusion
from equimood.scoring import codes

PERMUTE_VERSION = 1
"""Raised when the same settings give other counts: what is kept is then stale."""
FIGURES = ("f1_macro", "balanced_accuracy", "accuracy", "matthews_corrcoef")
UNITS = ("session", "video", "photograph")  # of a horse that shows several classes, coarsest first
CHUNK_FLOATS = 1 << 26  # of what is trained together


def units(photos: pd.DataFrame) -> pd.DataFrame:
    """Say what carries one label, and with what it may change it.

    A horse that shows one class is one unit. In another, the unit is the session if all its
    sessions are given and each has one label; else the video, if that holds of its videos; else
    the photograph.

    Parameters
    ----------
    photos : label, horse, session, video.

    Returns
    -------
    kind ("horse" or one of UNITS), unit and stratum (numbers) of each row: labels change places
    between the units of a stratum, which is a horse, or all horses of one class.
    """
    rows = photos[["label", "horse", "session", "video"]].reset_index(drop=True)
    rows["photograph"] = rows.index.astype(str)
    horse = rows.groupby("horse", sort=True)
    kind = pd.Series("photograph", index=rows.index)
    for name in reversed(UNITS[:-1]):
        given = horse[name].transform("count") == horse[name].transform("size")
        n_labels = rows.groupby(["horse", name], dropna=False)["label"].transform("nunique")
        pure = n_labels.groupby(rows["horse"]).transform("max") == 1
        kind = kind.mask(given & pure, name)
    kind = kind.mask(horse["label"].transform("nunique") == 1, "horse")
    name = pd.Series(np.select([kind == k for k in UNITS], [rows[k] for k in UNITS], ""))
    return pd.DataFrame({
        "kind": kind,
        "unit": rows.assign(name=name.fillna("")).groupby(["horse", "name"], sort=True).ngroup(),
        "stratum": horse.ngroup().where(kind != "horse", -1),
    })  # fmt: skip


def permuted(
    labels: np.ndarray, of_unit: pd.DataFrame, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Permute labels (n_photos,) between units, as :func:`units` has them: (n, n_photos)."""
    unit = of_unit["unit"].to_numpy()
    _, first = np.unique(unit, return_index=True)
    carried, stratum = labels[first], of_unit["stratum"].to_numpy()[first]
    places = np.argsort(stratum, kind="stable")
    found = np.empty((n, len(labels)), labels.dtype)
    moved = np.empty_like(carried)
    for row in found:
        moved[places] = carried[np.lexsort((rng.random(len(carried)), stratum))]
        row[:] = moved[unit]
    return found


def fold_confusions(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    best: Best,
    classes: Sequence[str],
    *,
    n_permutations: int,
    epochs: int,
    batch_size: int,
    seed: int,
    record: Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """Train a fold's chosen head on the labels and on permuted ones; judge its test horses.

    Nothing is searched again; the head has one seed. All folds of a study permute alike, so that
    their counts can be added.

    Parameters
    ----------
    photos : all of the study, as features.photos gives them.
    splits : the fold's rows of tables.SPLITS.
    record : folder in which the use of the state folder is noted.

    Returns
    -------
    (1 + n_permutations, C, C) photographs of the test horses by label, true or permuted, in rows,
    and answer; first those of the true labels.
    """
    device, chosen = devices.choose(), best.structure
    pairs = [(view, chosen.backbone) for view in chosen.views]
    key = digest(
        PERMUTE_VERSION, SEARCH_VERSION, asdict(chosen), asdict(best.head), n_permutations,
        epochs, batch_size, seed, list(classes), features.digests(feature_files, photos, pairs),
        *(photos[name].fillna("").tolist()
          for name in ("photo_id", "label", "horse", "session", "video")),
        splits[["horse", "role"]].to_numpy().tolist(), device.type,
    )  # fmt: skip
    kept = state_folder("permute", key, record) / "confusions.json"
    counts: list[Any] = read_json(kept) if kept.exists() else []

    role = photos["horse"].map(splits.set_index("horse")["role"]).to_numpy()
    train, test = np.flatnonzero(role == "train"), np.flatnonzero(role == "test")
    if not len(test):
        return np.zeros((1 + n_permutations, len(classes), len(classes)), int)

    def matrix(rows: np.ndarray) -> torch.Tensor:
        about = photos.iloc[rows].reset_index(drop=True)
        return torch.from_numpy(features.matrix(feature_files, about, *chosen.source)).to(device)

    X, X_test = matrix(train), matrix(test)
    y = codes(photos["label"], classes)
    rng = np.random.default_rng(seed)
    labels = np.concatenate([y[None], permuted(y, units(photos), n_permutations, rng)])
    horses, sessions = (photos[name].to_numpy(str)[train] for name in ("horse", "session"))
    everything = np.ones(len(train), bool)
    for chunk in _chunks(len(labels), len(counts), X, len(test), batch_size, len(classes)):
        weights = np.stack([
            sample_weights(row, horses, sessions, chosen.weight_by, everything)
            for row in labels[chunk][:, train]
        ])  # fmt: skip
        packed = fit(
            X, labels[chunk][:, train], weights, [best.head], kind=chosen.head,
            hidden_units=chosen.hidden_units, epochs=epochs, batch_size=batch_size,
            n_classes=len(classes), device=device, stream_seed=seed,
        )  # fmt: skip
        answers = packed.logits(X_test)[0].argmax(-1).cpu().numpy()  # (F, n_test)
        counts += confusions(labels[chunk][:, test], answers, len(classes)).tolist()
        write_json(kept, counts)
        if progress:
            progress(len(counts), len(labels))
    return np.array(counts)


def confusions(truth: np.ndarray, answers: np.ndarray, n_classes: int) -> np.ndarray:
    """Count rows of ``truth`` and ``answers`` (k, n) by class and answer: (k, C, C)."""
    cell = (np.arange(len(truth))[:, None] * n_classes + truth) * n_classes + answers
    counts = np.bincount(cell.ravel(), minlength=len(truth) * n_classes**2)
    return counts.reshape(len(truth), n_classes, n_classes)


def null(folds: Sequence[Any]) -> pd.DataFrame:
    """Score the counts of all outer folds together: a row per training, first the true labels'.

    folds : (1 + n_permutations, C, C) of each fold.
    """
    figures = from_confusion(np.sum([np.asarray(fold) for fold in folds], axis=0))
    return pd.DataFrame({name: figures[name] for name in FIGURES})


def p_value(figure: np.ndarray) -> float:
    """Share of trainings that do as well as the first, itself among them, so that it is never 0.

    Phipson and Smyth 2010, doi 10.2202/1544-6115.1585.
    """
    return float(np.mean(figure >= figure[0] - 1e-12))


def tested(scores: pd.DataFrame, photos: pd.DataFrame) -> dict[str, Any]:
    """Summarise :func:`null` for metrics.json.

    Returns
    -------
    n_permutations; ``units``, how many of each kind changed places; and per figure ``observed``,
    ``mean`` of the permuted, and ``p``.
    """
    of_unit = units(photos).drop_duplicates("unit")
    summary: Mapping[str, Any] = {
        name: {
            "observed": float(scores[name].iloc[0]),
            "mean": float(scores[name].iloc[1:].mean()),
            "p": p_value(scores[name].to_numpy()),
        }
        for name in FIGURES
    }
    counted = of_unit["kind"].value_counts()
    return {
        "n_permutations": len(scores) - 1,
        "units": {kind: int(counted.get(kind, 0)) for kind in ("horse", *UNITS)},
        **summary,
    }


def _chunks(
    n: int, done: int, X: torch.Tensor, n_test: int, batch_size: int, n_classes: int
) -> Iterator[slice]:
    """Cut what is left of ``n`` trainings into parts that fit in memory, the same at every run."""
    each = 4 * min(batch_size, len(X)) * X.shape[1] + (len(X) + n_test) * (n_classes + 3)
    size = max(1, CHUNK_FLOATS // each)
    for start in range(done, n, size):
        yield slice(start, min(start + size, n))
