"""A model whose backbone learns, too: from the pixels, epoch by epoch, and kept after each.

Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): the head starts as it was
trained on frozen features, so that its first gradients do not spoil what the backbone knows. Blocks
nearer to the pixels learn more slowly (Clark et al. 2020, ELECTRA, arXiv 2003.10555; Bao et al.
2022, BEiT, arXiv 2106.08254).
"""

import copy
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from equimood import backbones, devices, embedding, heads, images, settings
from equimood.best import Best
from equimood.errors import UserError
from equimood.files import digest, read_json, write_json, written_whole
from equimood.heads import Head
from equimood.logs import Progress
from equimood.metrics import from_confusion
from equimood.tuned import JUDGED_AT_ONCE, Method

TRANSFER_VERSION = 1
"""Raised when the same settings give other models: what is kept is then stale."""
LAST_BLOCKS_FIRST = 1 / 3  # of the epochs, where all blocks learn
MAX_NORM = 1.0  # of a step's gradient


@dataclass(frozen=True)
class Tuning:
    """How a model is fine-tuned: what a trial tries."""

    method: Method
    learning_rate: float
    layer_decay: float
    blocks: int
    augmentation: float
    weight_decay: float


@dataclass(frozen=True)
class Task:
    """What all trials of a fold share.

    ``squares`` one file per view (N, 3, side, side) uint8, ``rows`` (n,) of the training
    photographs in it, ``y`` (n,) classes, ``targets`` (n, C) what is learnt of them, ``horse`` and
    ``inner`` (n,) horse and inner fold, ``weights`` (F + 1, n) in the loss of each inner fold
    and, last, of all horses; ``starts`` the probe's head of each of them.
    """

    folder: Path
    backbone: Path
    squares: tuple[Path, ...]
    rows: np.ndarray
    y: np.ndarray
    targets: np.ndarray
    horse: np.ndarray
    inner: np.ndarray
    weights: np.ndarray
    starts: tuple[dict[str, Tensor], ...]
    best: Best
    options: settings.Transfer
    classes: tuple[str, ...]
    seed: int

    def memo(self, tried: Tuning) -> Path:
        """File with the score of every inner fold after every epoch of a trial."""
        return self.folder / f"{digest(asdict(tried))}.json"

    def unseen(self, tried: Tuning) -> Path:
        """File with the logits (n, C) of each photograph by the model that never saw its horse."""
        return self.memo(tried).with_suffix(".npy")

    def kept(self, tried: Tuning, fold: int) -> Path:
        """File in which a model is kept after every epoch."""
        return self.folder / f"{digest(asdict(tried))}-{fold}.safetensors"


# ------------------------------------------------------------------------------------ a model


class Learner(nn.Module):
    """Backbone and head that learn together."""

    def __init__(self, backbone: backbones.Backbone, head: Head, pooling: str):
        super().__init__()
        self.backbone, self.head, self.pooling = backbone, head, pooling
        self.requires_grad_(True)

    def forward(self, *views: Tensor) -> Tensor:
        """Map pixels, per view (b, 3, side, side) in 0-1, to logits (b, C)."""
        return self.head(self.features(*views))

    def features(self, *views: Tensor) -> Tensor:
        """Map pixels, per view (b, 3, side, side) in 0-1, to features (b, d)."""
        vectors = [self.backbone(pixels, [self.pooling])[self.pooling] for pixels in views]
        return torch.cat(vectors, dim=1)


def parameter_groups(model: Learner, tried: Tuning) -> list[dict[str, Any]]:
    """Group all parameters by learning rate and weight decay, as timm does; the head with the last.

    ``full_rate`` is a group's learning rate before its cosine.
    """
    network = model.backbone.network
    exempt: set[str] = getattr(network, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        network, tried.weight_decay, exempt, layer_decay=tried.layer_decay
    )
    for ending, decay in (("weight", tried.weight_decay), ("bias", 0.0)):
        own = [value for name, value in model.head.named_parameters() if name.endswith(ending)]
        groups.append({"params": own, "weight_decay": decay, "lr_scale": 1.0})
    return [
        {
            "params": group["params"],
            "weight_decay": group["weight_decay"],
            "full_rate": tried.learning_rate * group["lr_scale"],
        }
        for group in groups
    ]


def layers(network: Any) -> dict[str, int]:
    """Block of every parameter, counted from the pixels, as timm groups them."""
    found = backbones.blocks(network)
    if not found:
        raise UserError(
            "transfer.enabled: timm does not say what the blocks of this architecture are; choose "
            "another backbone, or write false"
        )
    return found


class Augmentation(nn.Module):
    """Random crop that keeps most of a square, small rotation and colour jitter.

    Hue stays, since it is the coat's; left stays left unless ``flip``.
    """

    def __init__(self, side: int, strength: float, flip: bool):
        super().__init__()
        steps: list[nn.Module] = [v2.RandomHorizontalFlip()] if flip else []
        if strength:
            jitter = 0.3 * strength
            steps += [
                v2.RandomRotation(
                    10 * strength, InterpolationMode.BILINEAR, fill=float(images.PAD_GREY)
                ),
                v2.RandomResizedCrop(
                    side,
                    scale=(1 - 0.4 * strength, 1.0),
                    ratio=(1 - 0.15 * strength, 1 / (1 - 0.15 * strength)),
                    antialias=True,
                ),
                v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
            ]
        self.steps = nn.Sequential(*steps)

    def forward(self, squares: Tensor) -> Tensor:
        """Change each of the squares, uint8 (b, 3, side, side), in its own way."""
        return torch.stack([self.steps(square) for square in squares])


class Run:
    """A model that learns on the photographs of one fold, kept after every epoch.

    ``fold`` of the task's weights: an inner fold, or all horses. ``scores`` after each epoch, of
    the photographs that it does not learn from; empty where there are none. ``unseen`` their
    logits. The epoch's number seeds order and augmentation: a model that goes on after a kill is
    the one that it would have been.
    """

    def __init__(self, task: Task, tried: Tuning, fold: int, backbone: backbones.Backbone):
        self.task, self.tried, self.fold = task, tried, fold
        self.device = backbone.device
        structure = task.best.structure
        head = Head.from_state(task.starts[fold])
        if tried.method == "scratch":
            backbone = backbones.randomised(backbone, task.seed)
            head = heads.untrained(
                len(head.mean), len(task.classes), structure.head, structure.hidden_units,
                task.best.head,
            )  # fmt: skip
        self.model = Learner(copy.deepcopy(backbone), head, structure.pooling).to(self.device)
        self.layers = layers(self.model.backbone.network)
        self.optimiser = torch.optim.AdamW(parameter_groups(self.model, tried), lr=0.0)
        self.augment = Augmentation(backbone.side, tried.augmentation, task.options.flip)
        self.squares = [np.load(path, mmap_mode="r") for path in task.squares]
        weights = task.weights[fold]
        self.learnt, self.judged = np.flatnonzero(weights > 0), np.flatnonzero(weights == 0)
        self.loss_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)
        self.targets = torch.tensor(task.targets, dtype=torch.float32, device=self.device)
        self.scores: list[float] = []
        self.done = 0
        self.unseen = np.zeros((len(self.judged), len(task.classes)), np.float32)
        if (path := task.kept(tried, fold)).exists():
            self._read(path)

    def up_to(self, epochs: int, progress: Progress | None = None) -> None:
        """Learn until so many epochs are done."""
        while self.done < epochs:
            self._epoch(self.done)
            self.done += 1
            if len(self.judged):
                self.unseen = self.logits(self.judged)
                self.scores.append(self._score())
            self._write(self.task.kept(self.tried, self.fold))
            if progress:
                progress(self.done, epochs)

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Logits (m, C) float32 of photographs, in full precision."""
        return self._each(self.model, rows).numpy()

    def features(self) -> Tensor:
        """Features (n, d) float32 of all photographs, in full precision."""
        return self._each(self.model.features, np.arange(len(self.task.rows)))

    @torch.inference_mode()
    def _each(self, function: Callable[..., Tensor], rows: np.ndarray) -> Tensor:
        self.model.backbone.network.eval()
        cut = np.array_split(rows, max(1, -(-len(rows) // JUDGED_AT_ONCE)))
        found = [function(*self._pixels(part, augment=False)).float().cpu() for part in cut]
        return torch.cat(found)

    def _epoch(self, number: int) -> None:
        own = int(digest(self.task.seed, self.fold, number, length=8), 16)
        torch.manual_seed(own)
        self._thaw(number)
        # Statistics of batches stay those of the pretraining: of small batches they would be worse.
        self.model.backbone.network.train(self.tried.method == "scratch")
        order = self.learnt[torch.randperm(len(self.learnt)).numpy()]
        epochs, size = self.task.options.epochs, self.task.options.batch_size
        batches = np.array_split(order, max(1, -(-len(order) // size)))
        smoothing = self.task.best.head.label_smoothing
        for i, rows in enumerate(batches):
            step = number * len(batches) + i + 1
            warmth = min(1.0, step / len(batches))
            cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / (epochs * len(batches)))
            for group in self.optimiser.param_groups:
                group["lr"] = group["full_rate"] * warmth * cosine
            here = torch.as_tensor(rows, device=self.device)
            pixels = self._pixels(rows, augment=True)
            with devices.autocast(self.device):
                logits = self.model(*pixels)
            log_p = logits.float().log_softmax(1)
            target = (1 - smoothing) * self.targets[here] + smoothing / len(self.task.classes)
            loss = -((log_p * target).sum(1) * self.loss_weights[here]).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
            self.optimiser.step()

    def _thaw(self, epoch: int) -> None:
        """Choose what learns in this epoch."""
        partly = self.tried.method == "last_blocks" or (
            self.tried.method == "all_blocks"
            and epoch < LAST_BLOCKS_FIRST * self.task.options.epochs
        )
        first = max(self.layers.values()) + 1 - self.tried.blocks if partly else 0
        for name, value in self.model.backbone.network.named_parameters():
            value.requires_grad_(self.layers[name] >= first)

    def _pixels(self, rows: np.ndarray, *, augment: bool) -> list[Tensor]:
        views = [torch.from_numpy(stored[self.task.rows[rows]]) for stored in self.squares]
        moved = [view.to(self.device) for view in views]
        if augment:
            moved = [self.augment(view) for view in moved]
        return [embedding.pixels(view, self.device) for view in moved]

    def _score(self) -> float:
        n_classes = len(self.task.classes)
        counts = np.zeros((n_classes, n_classes))
        np.add.at(counts, (self.task.y[self.judged], self.unseen.argmax(1)), 1)
        return float(from_confusion(counts)[self.task.best.metric])

    def _write(self, path: Path) -> None:
        moments = {
            f"optimiser/{i}/{name}": value
            for i, of_parameter in self.optimiser.state_dict()["state"].items()
            for name, value in of_parameter.items()
        }
        weights = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors = {**weights, **moments, "unseen": torch.from_numpy(self.unseen)}
        told = {"done": self.done, "scores": self.scores}
        with written_whole(path) as aside:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                aside,
                metadata={"run": json.dumps(told)},
            )

    def _read(self, path: Path) -> None:
        with safe_open(path, framework="pt") as opened:
            told = json.loads(opened.metadata()["run"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        self.done, self.scores = told["done"], told["scores"]
        self.unseen = tensors.pop("unseen").numpy()
        state: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, value in tensors.items():
            kind, rest = name.split("/", 1)
            if kind == "model":
                weights[rest] = value
            else:
                place, moment = rest.split("/")
                state.setdefault(int(place), {})[moment] = value
        self.model.load_state_dict(weights)
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


# ------------------------------------------------------------------------------- one trial


def cross_validate(
    task: Task, tried: Tuning, report: Callable[[int, float], None] | None = None
) -> list[list[float]]:
    """Train on every inner fold, epoch by epoch; scores (epochs, F).

    ``report`` hears of the epochs done and their mean score, also of those that were kept.
    """
    memo = task.memo(tried)
    told: dict[str, Any] = {"scores": [], "cost_s": 0.0}
    if memo.exists():
        told = read_json(memo)
    scores: list[list[float]] = told["scores"]
    if len(scores) == task.options.epochs:
        for number, of_epoch in enumerate(scores):
            if report:
                report(number + 1, float(np.mean(of_epoch)))
        return scores
    backbone = backbones.load(task.backbone, devices.choose())
    folds = range(len(task.weights) - 1)
    runs = [Run(task, tried, fold, backbone) for fold in folds]
    scores, before = [], time.monotonic()
    for number in range(task.options.epochs):
        for run in runs:
            run.up_to(number + 1)
        scores.append([run.scores[number] for run in runs])
        if number + 1 == task.options.epochs:
            unseen = np.zeros((len(task.y), len(task.classes)), np.float32)
            for run in runs:
                unseen[run.judged] = run.unseen
            with written_whole(task.unseen(tried)) as aside, aside.open("wb") as file:
                np.save(file, unseen)
        cost_s = told["cost_s"] + time.monotonic() - before
        write_json(memo, {
            "tuning": asdict(tried), "scores": scores, "cost_s": cost_s, "host": platform.node(),
        })  # fmt: skip
        if number + 1 == task.options.epochs:
            forget(task, tried)
        if report:
            report(number + 1, float(np.mean(scores[-1])))
    return scores


def forget(task: Task, tried: Tuning) -> None:
    """Remove the models of a trial's inner folds: only what they scored is needed any more."""
    for fold in range(len(task.weights) - 1):
        task.kept(tried, fold).unlink(missing_ok=True)
