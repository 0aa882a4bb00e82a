"""Ray Tune over structures: views, backbones, poolings, heads and what weighs the same.

A trial is one structure; inside it a population of heads trains over all inner folds at once. What
a trial found is remembered in the state folder, so that a search that was killed, or one whose
space has grown, computes nothing twice and comes to the same result.
"""

import itertools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from torch import Tensor

from equimood import cluster, devices, features, heads, labels, settings, tables, tuning
from equimood.best import SEARCH_VERSION, Best
from equimood.errors import UserError
from equimood.files import digest, read_json, state_folder, write_json, write_yaml
from equimood.heads import HeadConfig, Structure
from equimood.logs import Progress, log
from equimood.metrics import from_confusion
from equimood.tuning import ConcurrencyLimiter, Searcher, TuneConfig

BATCH = 8  # trials that Optuna suggests before it hears of any: the same for every number of slots
Space = dict[str, list[dict[str, Any]]]  # part -> the values it may take
Choice = dict[str, int]  # part -> which of them


@dataclass(frozen=True)
class Result:
    """``trials``: one row per trial and head (tables.TRIALS and score_{inner fold})."""

    trials: pd.DataFrame
    best: Best


@dataclass(frozen=True)
class Task:
    """What all trials of a search share; ``trained`` (F, n) says which rows train in which fold."""

    key: str
    folder: Path
    feature_files: tuple[Path, ...]
    stored: dict[str, str]  # view/backbone -> digest of its images and of what made their features
    photos: pd.DataFrame
    y: np.ndarray  # class indices, by which heads are judged
    targets: np.ndarray  # what they learn: y, or shares of the classes (n, C)
    trained: np.ndarray
    population: tuple[HeadConfig, ...]
    search: settings.Search
    n_classes: int
    seed: int
    memory_mb: int

    def memo(self, structure: Structure) -> Path:
        """File that remembers what this structure scored, named by all that it depends on."""
        stored = [self.stored[f"{view}/{structure.backbone}"] for view in structure.views]
        return self.folder / f"{digest(asdict(structure), stored)}.json"

    def kept(self, structure: Structure) -> Path:
        """File in which a structure that trains for minutes is kept."""
        return self.memo(structure).with_suffix(".safetensors")


def dimensions(search: settings.Search, backbones: Mapping[str, settings.Backbone]) -> Space:
    """The independent choices that make a structure; the default is the first of each."""
    names = search.backbones or list(backbones)
    hidden: dict[str, list[Any]] = {"linear": [None], "mlp": list(search.hidden_units)}
    return {
        "views": [{"views": tuple(views)} for views in search.views],
        "features": [{"backbone": name, "pooling": pooling}
                     for name in names for pooling in backbones[name].poolings],
        "head": [{"head": head, "hidden_units": units}
                 for head in search.heads for units in hidden[head]],
        "weight_by": [{"weight_by": tuple(names)} for names in search.weight_by],
    }  # fmt: skip


def structures(
    search: settings.Search, backbones: Mapping[str, settings.Backbone]
) -> list[Structure]:
    """All structures, the default first."""
    space = dimensions(search, backbones)
    return [_structure(space, choice) for choice in _grid(space)]


def population(search: settings.Search, seed: int) -> list[HeadConfig]:
    """The heads of a trial, the default first: every combination, or a seeded sample of them.

    Each combination comes with all its seeds, so that they can be averaged.
    """
    combinations = sampled(
        [search.learning_rate, search.weight_decay, search.dropout, search.label_smoothing],
        search.n_heads // search.seeds,
        seed,
    )
    seeds = range(1000 * seed, 1000 * seed + search.seeds)
    return [
        HeadConfig(rate, decay, dropout, smoothing, s)
        for rate, decay, dropout, smoothing in combinations
        for s in seeds
    ]


def sampled(values: Sequence[Sequence[Any]], n: int, seed: int) -> list[tuple[Any, ...]]:
    """Every combination of the values, the first of each first; or a seeded sample of ``n``."""
    combinations = list(itertools.product(*values))
    if max(1, n) < len(combinations):
        others = np.random.default_rng(seed).permutation(len(combinations) - 1) + 1
        combinations = [combinations[i] for i in [0, *sorted(others[: max(1, n) - 1])]]
    return combinations


def run(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    backbones: Mapping[str, settings.Backbone],
    search: settings.Search,
    classes: Sequence[str],
    seed: int,
    record: Path,
    nodes: cluster.Nodes = cluster.ONE_CORE,
    progress: Progress | None = None,
    shares: pd.DataFrame | None = None,
) -> Result:
    """Find the best configuration for the training horses of one outer fold.

    Deterministic: the same result with any number of slots, in any order of completion, and after
    any number of kills.

    Parameters
    ----------
    photos : photographs that have every view of the search, as features.photos gives them.
    splits : the fold's rows of tables.SPLITS.
    feature_files : features/{view}/{backbone}/{shard}.safetensors of all views and backbones.
    backbones : the study's, by name, for their poolings.
    record : folder in which the use of the state folder is noted.
    nodes : what Ray is started on; a trial has one CPU of it, and its share of the GPUs.
    shares : as labels.shares gives them, for heads that learn these in place of the labels.
    """
    space = dimensions(search, backbones)
    task = _task(
        photos,
        splits,
        feature_files,
        space,
        search,
        classes,
        seed,
        record,
        nodes.memory_mb // nodes.cpus,
        shares,
    )
    tried = list(_grid(space))
    if len(tried) <= search.n_trials:
        pending = [c for c in tried if not task.memo(_structure(space, c)).exists()]
        log.info("search: %d structures, %d of them new", len(tried), len(pending))
        searcher: Searcher = _Distinct(space, pending, seed)
        n_trials = len(pending)
    else:
        log.info("search: %d of %d structures, by Optuna", search.n_trials, len(tried))
        # Waits for the whole batch: what Optuna knows must not depend on who finished first.
        searcher = ConcurrencyLimiter(_Distinct(space, tried[:1], seed), BATCH, batch=True)
        n_trials = search.n_trials
        tried = []
    if n_trials:
        with tuning.started(nodes, pending=BATCH):
            tuned = _tune(task, space, searcher, n_trials, nodes, progress)
        tried = tried or tuned
    return _result(task, [_structure(space, choice) for choice in tried])


def write(result: Result, folder: Path) -> None:
    """Write ``trials.parquet`` and ``best.yaml``."""
    per_fold = [name for name in map(str, result.trials) if name.startswith("score_")]
    tables.write(result.trials, folder / "trials.parquet", tables.TRIALS, *per_fold)
    write_yaml(folder / "best.yaml", asdict(result.best))


def scores(task: Task, structure: Structure) -> np.ndarray:
    """Train the population on every inner fold and score it; (P, F)."""
    device = devices.choose()
    X = _matrix(task, structure, device)
    frame = task.photos
    weights = np.stack([
        heads.sample_weights(
            frame["label"].to_numpy(), frame["horse"].to_numpy(), frame["session"].to_numpy(),
            structure.weight_by, trained,
        )
        for trained in task.trained
    ])  # fmt: skip
    packed = heads.fit(
        X, task.targets, weights, task.population,
        kind=structure.head, hidden_units=structure.hidden_units,
        epochs=task.search.epochs, batch_size=task.search.batch_size,
        n_classes=task.n_classes, device=device, stream_seed=task.seed,
        memory_mb=task.memory_mb, kept=task.kept(structure),
    )  # fmt: skip
    confusion = packed.confusion(X, task.y, ~task.trained)
    return from_confusion(confusion)[task.search.metric]


_last_matrix: dict[str, Tensor] = {}


def _matrix(task: Task, structure: Structure, device: torch.device) -> Tensor:
    """Features of a structure, (n, d) on the device; kept for the worker's next trial."""
    key = digest(task.key, structure.views, structure.backbone, structure.pooling, str(device))
    if key not in _last_matrix:
        _last_matrix.clear()
        X = features.matrix(task.feature_files, task.photos, *structure.source)
        _last_matrix[key] = torch.from_numpy(X).to(device)
    return _last_matrix[key]


def _trial(choice: Choice, task: Task, space: Space) -> dict[str, float]:
    """Run in a worker: score a structure, or remember what it scored."""
    structure = _structure(space, choice)
    memo = task.memo(structure)
    if not memo.exists():
        devices.use_threads(1)
        devices.deterministic(task.seed)
        began = time.monotonic()
        found = scores(task, structure)
        write_json(memo, {
            "structure": asdict(structure),
            "scores": found.tolist(),
            "cost_s": time.monotonic() - began,
            "host": platform.node(),
        })  # fmt: skip
        task.kept(structure).unlink(missing_ok=True)
    return {"score": float(np.mean(read_json(memo)["scores"], axis=1).max())}


def _task(
    photos: pd.DataFrame,
    splits: pd.DataFrame,
    feature_files: Sequence[Path],
    space: Space,
    search: settings.Search,
    classes: Sequence[str],
    seed: int,
    record: Path,
    memory_mb: int,
    shares: pd.DataFrame | None = None,
) -> Task:
    horses = splits[splits["role"] == "train"].set_index("horse")["inner_fold"]
    photos = photos[photos["horse"].isin(horses.index)].reset_index(drop=True)
    inner = photos["horse"].map(horses).to_numpy(dtype=int)
    folds = np.unique(horses.to_numpy())
    trained = inner != folds[:, None]
    for fold, of_fold in zip(folds, trained, strict=True):
        if of_fold.all() or len(set(photos["label"][of_fold])) < len(classes):
            raise UserError(
                f"search: of inner fold {fold}, too few photographs have all the views of "
                "search.views to judge a head on, or to show each class to it; choose fewer "
                "views, or a smaller split.inner_splits"
            )
    y = pd.Categorical(photos["label"], categories=list(classes)).codes.astype(int)
    targets = y if shares is None else labels.soft_targets(shares, photos, classes)
    everything = [
        SEARCH_VERSION, list(classes), seed, search.metric, search.epochs, search.batch_size,
        [asdict(config) for config in population(search, seed)],
        *(photos[name].tolist() for name in ("photo_id", "label", "horse", "session")),
        inner.tolist(), *([] if shares is None else [targets.tolist()]),
    ]  # fmt: skip
    key = digest(everything)
    pairs = {
        (view, of_features["backbone"])
        for of_views in space["views"] for view in of_views["views"]
        for of_features in space["features"]
    }  # fmt: skip
    return Task(
        key=key,
        folder=state_folder("search", key, record).resolve(),
        feature_files=tuple(Path(path).resolve() for path in feature_files),
        stored=features.digests(feature_files, photos, pairs),
        photos=photos,
        y=y,
        targets=targets,
        trained=trained,
        population=tuple(population(search, seed)),
        search=search,
        n_classes=len(classes),
        seed=seed,
        memory_mb=memory_mb,
    )


def _grid(space: Space) -> Iterator[Choice]:
    places = itertools.product(*(range(len(values)) for values in space.values()))
    return (dict(zip(space, place, strict=True)) for place in places)


def _structure(space: Space, choice: Choice) -> Structure:
    chosen = {name: value for part in space for name, value in space[part][choice[part]].items()}
    return Structure(**chosen)


class _Distinct(Searcher):
    """Suggest structures, each once: first those given, then what Optuna expects most of.

    The tree-structured Parzen estimator, Bergstra et al. 2011 (Algorithms for hyper-parameter
    optimization). What was tried is not saved here: the state folder remembers it.
    """

    def __init__(self, space: Space, first: Sequence[Choice], seed: int):
        super().__init__(metric="score", mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.distributions: dict[str, BaseDistribution] = {
            part: CategoricalDistribution(range(len(values))) for part, values in space.items()
        }
        for choice in first:
            self.study.enqueue_trial(choice)
        self.untried = {tuple(choice.values()): choice for choice in _grid(space)}
        self.asked: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> Choice:
        """Ask again where a structure was suggested before; after 100 times take the next one."""
        for attempt in itertools.count():
            if attempt == 100:
                self.study.enqueue_trial(next(iter(self.untried.values())))
            trial = self.study.ask(self.distributions)
            choice = {part: trial.params[part] for part in self.distributions}
            if self.untried.pop(tuple(choice.values()), None):
                break
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self.asked[trial_id] = trial
        return choice

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna the score."""
        if result and not error:
            self.study.tell(self.asked[trial_id], result["score"])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing that Tune could restore."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a search that goes on starts anew and asks its memory."""


def _tune(
    task: Task,
    space: Space,
    searcher: Searcher,
    n_trials: int,
    nodes: cluster.Nodes,
    progress: Progress | None,
) -> list[Choice]:
    """Let Ray Tune run the trials; their choices, in the order they were suggested."""

    batched, slots = isinstance(searcher, ConcurrencyLimiter), nodes.n * nodes.cpus
    return tuning.run(
        _trial,
        {"task": task, "space": space},
        n_trials,
        {"cpu": 1, "gpu": min(1.0, tuning.gpus() / slots)},
        TuneConfig(
            metric="score",
            mode="max",
            search_alg=searcher,
            num_samples=n_trials,
            max_concurrent_trials=None if batched else slots,
            reuse_actors=True,
        ),
        task.folder if nodes.n > 1 else None,
        progress=progress,
    )


def _result(task: Task, found: Sequence[Structure]) -> Result:
    memos = [read_json(task.memo(structure)) for structure in found]
    per_fold = np.array([memo["scores"] for memo in memos])  # (trials, P, F)
    rows = [
        {
            "trial": trial,
            **asdict(structure),
            "views": "+".join(structure.views),
            "weight_by": "+".join(structure.weight_by),
            **asdict(config),
            "score": float(of_head.mean()),
            **{f"score_{fold}": float(value) for fold, value in enumerate(of_head)},
            "cost_s": memo["cost_s"],
            "host": memo["host"],
        }
        for trial, (structure, memo) in enumerate(zip(found, memos, strict=True))
        for config, of_head in zip(task.population, per_fold[trial], strict=True)
    ]
    n_seeds = task.search.seeds
    over_seeds = per_fold.reshape(len(found), -1, n_seeds, per_fold.shape[2]).mean(axis=2)
    mean = over_seeds.mean(axis=2)
    # Rounding must not decide between equals: of those the first is taken.
    trial, combination = np.argwhere(mean >= mean.max() - 1e-9)[0]
    best = Best(
        structure=found[trial],
        head=task.population[combination * n_seeds],
        metric=task.search.metric,
        score=float(mean[trial, combination]),
        score_per_fold=tuple(float(value) for value in over_seeds[trial, combination]),
        n_trials=len(found),
        n_heads=len(task.population),
    )
    trials = pd.DataFrame(rows).astype({"hidden_units": "Int64"})
    return Result(trials, best)
