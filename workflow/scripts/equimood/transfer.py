"""Fine-tuning of the chosen backbone, compared with its frozen features on the same inner folds.

Three ways are tried: the last blocks learn, all blocks learn (the last ones first), and, as a
control, everything from random weights. A trial is one choice of settings, trained on all inner
folds; ASHA (Li et al. 2020, arXiv 1810.05934) stops the worse ones early. When it stops them
depends on which trial was quicker: what is chosen may differ between two runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from equimood import (
    backbones,
    cluster,
    devices,
    embedding,
    features,
    finetuning,
    heads,
    labels,
    models,
    search,
    settings,
    tables,
    training,
    tuning,
)
from equimood.best import Best
from equimood.files import (
    digest,
    read_json,
    read_yaml,
    state_folder,
    write_json,
    write_yaml,
    written_whole,
)
from equimood.finetuning import TRANSFER_VERSION, Learner, Run, Task, Tuning
from equimood.logs import Progress, log
from equimood.tuned import METHODS, Method
from equimood.tuning import ASHAScheduler, TuneConfig, tune

FROZEN = {"linear": "frozen_linear", "mlp": "frozen_mlp"}


@dataclass(frozen=True)
class Explored:
    """What was tried, and the best fine-tuned model.

    ``trials`` tables.TRANSFER and score_{inner fold}; ``summary`` the content of ``best.yaml``;
    ``model`` uncalibrated, its backbone fine-tuned from that of the fingerprint ``origin``;
    ``certainty`` and ``facts`` for its card.
    """

    trials: pd.DataFrame
    summary: dict[str, Any]
    model: Learner
    classes: tuple[str, ...]
    origin: str
    certainty: training.Certainty
    facts: dict[str, Any]


def tunings(options: settings.Transfer, method: Method, seed: int) -> list[Tuning]:
    """Settings to try of one way, the default first."""
    scratch = method == "scratch"
    values: list[Sequence[float]] = [
        options.learning_rate,
        [1.0] if scratch else options.layer_decay,
        [0] if scratch else options.blocks,
        options.augmentation,
        options.weight_decay,
    ]
    return [Tuning(method, *found) for found in search.sampled(values, options.n_trials, seed)]


def _trial(choice: dict[str, int], task: Task, tried: list[Tuning], threads: int) -> None:
    devices.use_threads(threads)
    devices.deterministic(task.seed)
    finetuning.cross_validate(
        task,
        tried[choice["trial"]],
        lambda epoch, score: tune.report({"epoch": epoch, "score": score}),
    )


# ----------------------------------------------------------------------------------- a fold


def run(
    catalogue: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    backbone: Path,
    best: Best,
    trials: pd.DataFrame,
    options: settings.Transfer,
    classes: Sequence[str],
    images_dir: Path,
    record: Path,
    *,
    probe_epochs: int,
    probe_batch_size: int,
    train: settings.Train,
    shares: pd.DataFrame | None = None,
    seed: int,
    nodes: cluster.Nodes = cluster.ONE_CORE,
    progress: Callable[[str], Progress] | None = None,
) -> Explored:
    """Explore fine-tuning for the training horses of one outer fold, and fine-tune the best on all.

    The views, backbone, pooling, head and weights of the loss are those of the search's choice.

    Parameters
    ----------
    catalogue : tables.IMAGES.
    splits : the fold's rows of tables.SPLITS.
    backbone : folder of the chosen backbone.
    best, trials : what the search found: the frozen features to compare with.
    record : folder in which the use of the state folder is noted.
    probe_epochs, probe_batch_size : of the head that fine-tuning starts from.
    shares : as labels.shares gives them, where these are learnt in place of the labels.
    nodes : what Ray is started on: a trial has a GPU, or, where there are none, a CPU.
    """
    told = progress or (lambda _: lambda *_: None)
    task = _task(
        catalogue, splits, feature_files, backbone, best, options, classes, images_dir, record,
        probe_epochs, probe_batch_size, shares, seed, nodes.cpus, told("squares"),
    )  # fmt: skip
    tried: dict[str, list[Tuning]] = {method: tunings(options, method, seed) for method in METHODS}
    ended = {
        method: task.folder
        / f"ended-{digest([asdict(each) for each in found], options.min_epochs)}"
        for method, found in tried.items()
    }
    left = {method: found for method, found in tried.items() if not ended[method].exists()}
    if left:
        with tuning.started(nodes, pending=options.n_trials):
            for method, found in left.items():
                log.info("transfer: %s, %d trials of %d epochs", method, len(found), options.epochs)
                _try(task, found, nodes.n * nodes.cpus, told(f"trials, {method}"))
                write_json(ended[method], [asdict(each) for each in found])
    return _explored(task, tried, trials, train, told("epochs on all horses"))


def _try(task: Task, found: list[Tuning], cpus: int, progress: Progress) -> None:
    """Let ASHA run the trials of one way: each on a GPU, or, where there are none, on a CPU."""
    n_gpus = int(tuning.gpus())
    slots = n_gpus or cpus
    threads = max(1, cpus // slots)
    asha = ASHAScheduler(
        time_attr="epoch",
        max_t=task.options.epochs,
        grace_period=task.options.min_epochs,
        reduction_factor=3,
        stop_last_trials=False,
    )
    tuning.run(
        _trial,
        {"task": task, "tried": found, "threads": threads},
        len(found),
        {"cpu": threads, "gpu": 1.0 if n_gpus else 0.0},
        TuneConfig(
            metric="score",
            mode="max",
            max_concurrent_trials=slots,
            reuse_actors=True,
            scheduler=asha,
        ),
        task.folder,
        {"trial": tune.grid_search(list(range(len(found))))},
        progress,
    )
    for each in found:
        finetuning.forget(task, each)


def backbone_folder(cards: Sequence[str | Path], best: Best) -> Path:
    """Folder of the chosen backbone among those of the study, by its card."""
    return next(
        Path(card).parent for card in cards if read_yaml(card)["name"] == best.structure.backbone
    )


def _task(
    catalogue: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    backbone: Path,
    best: Best,
    options: settings.Transfer,
    classes: Sequence[str],
    images_dir: Path,
    record: Path,
    probe_epochs: int,
    probe_batch_size: int,
    shares: pd.DataFrame | None,
    seed: int,
    workers: int,
    progress: Progress,
) -> Task:
    structure = best.structure
    everything = features.photos(catalogue, list(structure.views))
    horses = splits[splits["role"] == "train"].set_index("horse")["inner_fold"]
    rows = np.flatnonzero(everything["horse"].isin(horses.index))
    photos = everything.iloc[rows].reset_index(drop=True)
    inner = photos["horse"].map(horses).to_numpy(dtype=int)
    masks = np.vstack([inner != np.unique(inner)[:, None], np.ones((1, len(photos)), bool)])
    weights = np.stack([
        heads.sample_weights(
            photos["label"].to_numpy(), photos["horse"].to_numpy(), photos["session"].to_numpy(),
            structure.weight_by, mask,
        )
        for mask in masks
    ])  # fmt: skip
    y = pd.Categorical(photos["label"], categories=list(classes)).codes.astype(int)
    targets = np.eye(len(classes))[y]
    if shares is not None:
        targets = labels.soft_targets(shares, photos, classes)
    pairs = [(view, structure.backbone) for view in structure.views]
    epochs = options.model_dump(include={"epochs", "batch_size", "flip"}, mode="json")
    key = digest(
        TRANSFER_VERSION, asdict(structure), asdict(best.head), best.metric, epochs, probe_epochs,
        probe_batch_size, seed, list(classes), features.digests(feature_files, photos, pairs),
        *(photos[name].tolist() for name in ("photo_id", "label", "horse", "session")),
        inner.tolist(), devices.choose().type, *([] if shares is None else [targets.tolist()]),
    )  # fmt: skip
    folder = state_folder("transfer", key, record).resolve()

    X = features.matrix(feature_files, photos, *structure.source)
    probe = heads.fit(
        X, targets, weights, [best.head], kind=structure.head, hidden_units=structure.hidden_units,
        epochs=probe_epochs, batch_size=probe_batch_size, n_classes=len(classes), stream_seed=seed,
        kept=folder / "probe.safetensors",
    )  # fmt: skip
    network = backbones.load(backbone)
    finetuning.layers(network.network)  # refused before any work
    return Task(
        folder=folder,
        backbone=backbone.resolve(),
        squares=tuple(
            store_squares(catalogue, everything[f"image_{view}"], images_dir, network, workers,
                          record, progress).resolve()
            for view in structure.views
        ),
        rows=rows,
        y=y,
        targets=targets,
        horse=photos["horse"].to_numpy(str),
        inner=inner,
        weights=weights,
        starts=tuple(dict(probe.head(fold, [0]).state_dict()) for fold in range(len(masks))),
        best=best,
        options=options,
        classes=tuple(classes),
        seed=seed,
    )  # fmt: skip


def store_squares(
    catalogue: pd.DataFrame,
    image_ids: pd.Series,
    images_dir: Path,
    backbone: backbones.Backbone,
    workers: int,
    record: Path,
    progress: Progress | None = None,
) -> Path:
    """Decode each image once into a file (n, 3, side, side) uint8, in the order of ``image_ids``.

    Every epoch of every trial and fold reads it, mapped into memory: what is held at a time is a
    batch. 150 kB an image at 224 pixels.
    """
    rows = catalogue.assign(hidden=None).set_index("image_id", drop=False).loc[image_ids]
    made_with = {name: backbone.card[name] for name in ("side", "fit", "interpolation",
                                                        "crop_share")}  # fmt: skip
    folder = state_folder("squares", digest(rows["image_id"].tolist(), made_with), record)
    if not (path := folder / "squares.npy").exists():
        side, ahead = backbone.side, 4 * workers
        with written_whole(path) as aside:
            stored = open_memmap(aside, "w+", np.uint8, (len(rows), 3, side, side))
            made = embedding.read_squares(rows, images_dir, backbone, workers, ahead)
            for i, square in enumerate(made):
                stored[i] = square.numpy()
                if progress:
                    progress(i + 1, len(rows))
            stored.flush()
    return path


def _explored(
    task: Task,
    tried: Mapping[str, list[Tuning]],
    trials: pd.DataFrame,
    train: settings.Train,
    progress: Progress,
) -> Explored:
    rows = []
    for of_method in tried.values():
        for trial, each in enumerate(of_method):
            if not task.memo(each).exists():
                continue
            memo = read_json(task.memo(each))
            last = memo["scores"][-1]
            rows.append({
                "trial": trial, **asdict(each), "epochs": len(memo["scores"]),
                "score": float(np.mean(last)),
                **{f"score_{fold}": value for fold, value in enumerate(last)},
                "cost_s": memo["cost_s"], "host": memo["host"],
            })  # fmt: skip
    table = pd.DataFrame(rows)
    ways = _frozen(trials)
    for method in METHODS:
        found = table[table["method"] == method]
        finished = found[found["epochs"] == task.options.epochs]
        first = finished.iloc[int(finished["score"].argmax())]  # of equals the first
        ways[method] = {
            "score": float(first["score"]),
            "score_per_fold": _of_folds(first),
            "n_tried": len(found),
            "trial": int(first["trial"]),
        }
    scores = {way: found["score"] for way, found in ways.items()}
    best_method = _first_best({method: scores[method] for method in METHODS})
    chosen = tried[best_method][ways[best_method]["trial"]]

    origin = backbones.load(task.backbone, devices.choose())
    run = Run(task, chosen, len(task.weights) - 1, origin)
    run.up_to(task.options.epochs, progress)
    run.model.backbone = backbones.tuned(origin, run.model.backbone.network.state_dict())
    unseen = np.load(task.unseen(chosen))
    # Its network has seen all these horses: of unseen ones it finds somewhat more to be new.
    sure = training.certainty(
        run.features(), unseen, task.y, task.horse, task.inner, train, task.seed
    )
    summary = {
        "metric": task.best.metric,
        "ways": ways,
        "chosen": _first_best(scores),  # of equals the simpler
        "tuned": {**asdict(chosen), "epochs": task.options.epochs, "score": scores[best_method]},
    }
    facts = {
        "n_seeds": 1,
        **sure.facts,
        "labels": train.labels,
        "inner_score": scores[best_method],
        "transfer": summary["tuned"],
    }
    return Explored(
        table, summary, run.model, task.classes, origin.fingerprint, sure, facts
    )  # fmt: skip


def _first_best(scores: Mapping[str, float]) -> str:
    """Name the highest score, the first of those that rounding alone tells apart."""
    highest = max(scores.values())
    return next(name for name, score in scores.items() if score >= highest - 1e-9)


def _frozen(trials: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Best linear head and best MLP of the search, over seeds, as ways beside fine-tuning."""
    ways = {}
    per_fold = [name for name in map(str, trials) if name.startswith("score")]
    varied = ["learning_rate", "weight_decay", "dropout", "label_smoothing"]
    for head, own in trials.groupby("head"):
        found = own.groupby(["trial", *varied], sort=False)[per_fold].mean()
        first = found.iloc[int(found["score"].argmax())]
        ways[FROZEN[str(head)]] = {
            "score": float(first["score"]),
            "score_per_fold": _of_folds(first),
            "n_tried": len(found),
        }
    return ways


def _of_folds(row: pd.Series) -> list[float]:
    names = sorted((n for n in map(str, row.index) if n.startswith("score_")),
                   key=lambda n: int(n.removeprefix("score_")))  # fmt: skip
    return [float(row[name]) for name in names if not pd.isna(row[name])]


def write(explored: Explored, folder: Path, best: Best, facts: Mapping[str, Any]) -> None:
    """Write ``trials.parquet``, ``best.yaml`` and the best fine-tuned model."""
    per_fold = [name for name in map(str, explored.trials) if name.startswith("score_")]
    tables.write(explored.trials, folder / "trials.parquet", tables.TRANSFER, *per_fold)
    write_yaml(folder / "best.yaml", explored.summary)
    model = explored.model
    models.save(
        folder, model.head, best.structure, best.head, explored.classes,
        explored.certainty.temperature, explored.certainty.abstention.threshold,
        explored.certainty.novelty, explored.origin, {**explored.facts, **facts},
        tuned=model.backbone,
    )  # fmt: skip
