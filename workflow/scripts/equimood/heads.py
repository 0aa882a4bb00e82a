"""Classifiers on features: many trained at once as one batched tensor program.

A population of P heads, each with its own learning rate, weight decay, dropout, label smoothing
and seed, is trained over F folds together: every parameter is a tensor (F, inputs, P, outputs), a
step is one batched matrix product per layer, and the heads never meet in the loss. DINOv2 (Oquab
et al. 2023, arXiv 2304.07193) trains its linear evaluation in the same spirit.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from equimood.errors import UserError
from equimood.files import written_whole
from equimood.logs import Progress

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MIN_COLUMNS = 16  # of a matrix product in training
MAX_DEVIATIONS = 8.0
"""Largest standardised feature. One that is zero on nearly all training rows, as those behind a
ReLU often are, has a tiny standard deviation: an unseen row may be thousands of them away, and that
one feature would decide."""
FULL_RATE_INPUTS = 256
"""Inputs up to which a layer's weights learn at the full rate; beyond, at one that falls with their
number. Adam moves every weight by about the rate, so that the output of a layer with n inputs moves
by n times it: thousands of logits within an epoch where n is ten thousand. Yang et al. 2022 (arXiv
2203.03466) scale Adam's rate by 1 / n for that reason."""
KEEP_EVERY_S = 60.0
CHUNK_FLOATS = 1 << 24  # largest intermediate tensor of a prediction

Kind = Literal["linear", "mlp"]


@dataclass(frozen=True)
class HeadConfig:
    """How one head of a population is trained (AdamW, cosine decay)."""

    learning_rate: float
    weight_decay: float
    dropout: float
    label_smoothing: float
    seed: int


@dataclass(frozen=True)
class Structure:
    """What a population of heads shares: its features, its form and its weights in the loss."""

    views: tuple[str, ...]
    backbone: str
    pooling: str
    head: Kind
    hidden_units: int | None
    weight_by: tuple[str, ...]

    @property
    def source(self) -> tuple[list[str], str, str]:
        """Where its features come from, as features.matrix takes it: views, backbone, pooling."""
        return list(self.views), self.backbone, self.pooling


def structure_from(content: Mapping[str, Any]) -> Structure:
    """Rebuild a structure from what YAML kept of it."""
    lists = {name: tuple(content[name]) for name in ("views", "weight_by")}
    return Structure(**{**content, **lists})


class Head(nn.Module):
    """Standardise features, classify, average the logits of S seeds; frozen.

    Parameters
    ----------
    mean, inverse_std : (d,) statistics of the training features; a constant feature has an
        ``inverse_std`` of 0 and is ignored, and no feature counts for more than MAX_DEVIATIONS.
    parameters : ``weight`` (1, d, S, C) and ``bias`` (1, 1, S, C) of a linear head; of an MLP also
        ``hidden_weight`` (1, d, S, h) and ``hidden_bias`` (1, 1, S, h), ``weight`` (1, h, S, C).
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Tensor, inverse_std: Tensor, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("inverse_std", inverse_std)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Rebuild a head from its ``state_dict()``."""
        rest = {name: value for name, value in state.items() if name not in ("mean", "inverse_std")}
        return cls(state["mean"], state["inverse_std"], rest)

    def forward(self, X: Tensor) -> Tensor:
        """Map features (n, d) to logits (n, C)."""
        z = _standardised(X, self.mean, self.inverse_std)
        return _logits(dict(self.named_parameters()), z[None])[0].mean(dim=1)


@dataclass(frozen=True)
class PackedHeads:
    """A trained population: ``parameters`` (F, inputs, P, outputs), ``mean`` (F, d)."""

    configs: tuple[HeadConfig, ...]
    parameters: dict[str, Tensor]
    mean: Tensor
    inverse_std: Tensor

    def head(self, fold: int, heads: Sequence[int]) -> Head:
        """The heads with these indices as one module that averages their logits."""
        chosen = {name: value[fold : fold + 1, :, list(heads)].clone()
                  for name, value in self.parameters.items()}  # fmt: skip
        return Head(self.mean[fold].clone(), self.inverse_std[fold].clone(), chosen)

    @torch.inference_mode()
    def logits(self, X: np.ndarray | Tensor) -> Tensor:
        """Map features (n, d) to logits (P, F, n, C)."""
        X = torch.as_tensor(X, device=self.mean.device)
        rows = torch.arange(len(X), device=X.device)
        folds = [torch.cat([part for _, part in self._by_chunk(X, rows, fold)], dim=0)
                 for fold in range(len(self.mean))]  # fmt: skip
        return torch.stack(folds).permute(2, 0, 1, 3)

    @torch.inference_mode()
    def confusion(self, X: np.ndarray | Tensor, y: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Count what each head says of the rows it is judged on.

        Parameters
        ----------
        X, y : (n, d) features and (n,) class indices.
        judged : (F, n) bool, the rows on which the heads of a fold are judged.

        Returns
        -------
        (P, F, C, C) counts, true classes along the second last axis, predicted along the last.
        """
        X = torch.as_tensor(X, device=self.mean.device)
        true = torch.tensor(y, device=X.device, dtype=torch.long)
        n_classes = self.parameters["bias"].shape[-1]
        counts = torch.zeros(
            len(self.mean), len(self.configs) * n_classes * n_classes, dtype=torch.long
        )
        offset = torch.arange(len(self.configs), device=X.device) * n_classes
        for fold, of_fold in enumerate(judged):
            rows = torch.as_tensor(np.flatnonzero(of_fold), device=X.device)
            for chunk, logits in self._by_chunk(X, rows, fold):
                cell = (offset + true[chunk, None]) * n_classes + logits.argmax(-1)
                counts[fold] += torch.bincount(cell.flatten(), minlength=counts.shape[1]).cpu()
        shape = (len(self.mean), len(self.configs), n_classes, n_classes)
        return counts.reshape(shape).transpose(0, 1).numpy()

    def _by_chunk(self, X: Tensor, rows: Tensor, fold: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows and the fold's logits (rows, P, C), few enough at a time to bound memory."""
        parameters = {name: value[fold : fold + 1] for name, value in self.parameters.items()}
        widest = max(value[0, 0].numel() for value in self.parameters.values())
        for chunk in rows.split(max(1, CHUNK_FLOATS // max(widest, X.shape[1]))):
            z = _standardised(X[chunk], self.mean[fold], self.inverse_std[fold])
            yield chunk, _logits(parameters, z[None])[0]


def fit(
    X: np.ndarray | Tensor,
    y: np.ndarray,
    train_weights: np.ndarray,
    configs: Sequence[HeadConfig],
    *,
    kind: Kind,
    hidden_units: int | None = None,
    epochs: int,
    batch_size: int,
    n_classes: int,
    device: torch.device | str = "cpu",
    stream_seed: int = 0,
    memory_mb: int = 1024,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> PackedHeads:
    """Train every configuration on every fold; a head is the same whatever it is packed with.

    Features are standardised with each fold's own training rows. The order of the rows comes from
    one stream, the same for all heads. Initial weights and dropout come from a head's own seed:
    heads of one seed share their dropout noise, which makes the comparison of their settings
    a paired one, and lets those of one rate share the masked input and so the matrix product.

    Parameters
    ----------
    X : (n, d) float32 features, kept in one copy; moved once if ``device`` is a GPU.
    y : (n,) class indices; (F, n) where each fold has its own; or, of floats, (n, C) or (F, n, C)
        shares of the classes: the labels of several raters.
    train_weights : (F, n) weight of each row in each fold's loss; 0 where it is not trained on.
    configs : the population, P heads.
    kind, hidden_units : ``linear``, or ``mlp`` with one hidden layer of rectified units.
    epochs, batch_size : passes over the rows; an epoch is cut into equal batches of at most this.
    stream_seed : seed of the order of rows.
    memory_mb : heads that would need more together are trained in several rounds.
    kept : file, named by the caller after all that the training depends on, in which one that takes
        longer than a minute keeps itself; from there it goes on to the same heads.
    """
    X = torch.as_tensor(X, device=device)
    targets = _targets(y, len(train_weights), n_classes).to(device)
    weights = torch.tensor(train_weights, device=device, dtype=torch.float32)
    trained = weights > 0
    mean, inverse_std = _statistics(X, trained)
    shapes = _shapes(X.shape[1], n_classes, kind, hidden_units)

    units = n_classes + (hidden_units or 0)
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    floats = len(weights) * (6 * n_parameters + 4 * batch_size * units)  # weights, moments, …
    at_once = max(1, (memory_mb << 20) // (4 * floats))
    order = sorted(range(len(configs)), key=lambda p: _noise(configs[p]))
    training = _Training(kept, X.device)
    alike = bool((trained == trained[:1]).all())
    own = torch.arange(len(weights), device=X.device)[:, None]
    left = [p for p in order if p not in {*training.done, *training.begun}]
    rounds = [left[start : start + at_once] for start in range(0, len(left), at_once)]
    rounds = [training.begun, *rounds] if training.begun else rounds

    for number, of_round in enumerate(rounds):
        packs = [
            _Pack([configs[p] for p in pack], shapes, len(weights), X.device)
            for _, pack in itertools.groupby(of_round, key=lambda p: _noise(configs[p]))
        ]
        first = training.begin(of_round, packs)
        for step, n_steps, rows, valid in _batches(trained, batch_size, epochs, stream_seed):
            if step < first:
                continue
            # Folds that train on the same rows, of permuted labels, see the same features.
            seen = slice(0, 1) if alike else slice(None)
            z = _standardised(X[rows[seen]], mean[seen, None], inverse_std[seen, None])
            z = z.expand(len(rows), -1, -1)
            share = weights.gather(1, rows) * valid / valid.sum(1, keepdim=True).clamp(min=1)
            for pack in packs:
                pack.step(z, targets[own, rows], share, step / n_steps)
            training.keep(packs, step + 1)
            if progress:
                progress(number * n_steps + step + 1, len(rounds) * n_steps)
        training.end(packs)

    back = torch.as_tensor(np.argsort(training.done), device=device)
    parameters = {name: value[:, :, back].to(device) for name, value in training.trained.items()}
    return PackedHeads(tuple(configs), parameters, mean, inverse_std)


def untrained(
    n_features: int, n_classes: int, kind: Kind, hidden_units: int | None, config: HeadConfig
) -> Head:
    """Give the head of a configuration before its first step, which takes features as they are."""
    drawn = _initial([config], _shapes(n_features, n_classes, kind, hidden_units))
    return Head(torch.zeros(n_features), torch.ones(n_features), drawn)


def sample_weights(
    labels: np.ndarray,
    horses: np.ndarray,
    sessions: np.ndarray,
    weight_by: Sequence[str],
    mask: np.ndarray,
) -> np.ndarray:
    """Weigh rows so that every class, horse or session counts the same; several multiply.

    A session is one of its horse: equal names under two horses are two sessions.

    Returns
    -------
    (n,) float32, mean 1 over the rows of ``mask`` (n, bool), 0 elsewhere.
    """
    groups = {"class": [labels], "horse": [horses], "session": [horses, sessions]}
    weights = np.ones(int(mask.sum()))
    for name in weight_by:
        codes = np.zeros(len(weights), dtype=np.int64)
        for column in groups[name]:
            values, inverse = np.unique(np.asarray(column, dtype=str)[mask], return_inverse=True)
            codes = codes * len(values) + inverse
        _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        weights /= counts[inverse]
    spread = np.zeros(len(mask), dtype=np.float32)
    spread[mask] = weights / weights.mean()
    return spread


def _targets(y: np.ndarray | Tensor, n_folds: int, n_classes: int) -> Tensor:
    """Shares of the classes (F, n, C), one memory for all folds where they have the same."""
    y = torch.tensor(np.asarray(y))
    if not y.is_floating_point():
        y = functional.one_hot(y.long(), n_classes)
    return y.float().expand(n_folds, -1, -1)


def _logits(parameters: Mapping[str, Tensor], z: Tensor, keep: Tensor | None = None) -> Tensor:
    """Map standardised features (F, b, d) to logits (F, b, P, C).

    ``keep`` (b, d of a linear head or h of an MLP) are the dropout factors, 0 or 1 / (1 - rate).
    """
    if "hidden_weight" not in parameters:
        z = z if keep is None else z * keep
        return _dense(z, parameters["weight"], parameters["bias"])
    hidden = _dense(z, parameters["hidden_weight"], parameters["hidden_bias"]).relu()
    hidden = hidden if keep is None else hidden * keep[:, None]
    return torch.einsum("fbph,fhpc->fbpc", hidden, parameters["weight"]) + parameters["bias"]


def _dense(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply P layers to the same input: (F, b, d) with weights (F, d, P, o) gives (F, b, P, o)."""
    flat = torch.baddbmm(bias.flatten(2), z, weight.flatten(2))
    return flat.unflatten(2, weight.shape[2:])


def _standardised(X: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """Features in standard deviations of the training rows, at most MAX_DEVIATIONS of them."""
    return ((X - mean) * inverse_std).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)


def _shapes(d: int, n_classes: int, kind: Kind, hidden: int | None) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each parameter of one head."""
    if kind == "linear":
        return {"weight": (d, n_classes), "bias": (1, n_classes)}
    assert hidden, "an MLP has hidden units"
    return {
        "hidden_weight": (d, hidden),
        "hidden_bias": (1, hidden),
        "weight": (hidden, n_classes),
        "bias": (1, n_classes),
    }


def _noise(config: HeadConfig) -> tuple[float, int]:
    """What the dropout noise of a head depends on."""
    return (config.dropout, config.seed if config.dropout else 0)


def _statistics(X: Tensor, trained: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation (F, d) of the rows ``trained`` (F, n)."""
    total = X.new_zeros((len(trained), X.shape[1]), dtype=torch.float64)
    squares = total.clone()
    for rows in torch.arange(len(X), device=X.device).split(CHUNK_FLOATS // 4 // X.shape[1] + 1):
        x, of_fold = X[rows].double(), trained[:, rows].double()
        total += of_fold @ x
        squares += of_fold @ x**2
    n_rows = trained.sum(1, keepdim=True)
    mean = total / n_rows
    variance = squares / n_rows - mean**2
    if not bool(torch.isfinite(variance).all()):
        raise UserError(
            "the features hold numbers that are not finite: in the settings write "
            "`features: {dtype: float32}`, and check the backbone's mean, std and weights"
        )
    # A feature that is constant over the training rows says nothing: its inverse is 0, so that
    # rounding noise does not become a gradient, which Adam would blow up to full steps.
    varies = variance > 1e-10 * mean**2 + 1e-20
    inverse = torch.where(varies, variance.clamp(min=1e-20).rsqrt(), 0.0)
    return mean.float(), inverse.float()


def _batches(
    trained: Tensor, batch_size: int, epochs: int, seed: int
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield step, number of steps, rows (F, b) and which of them count (F, b).

    Each epoch is one permutation of all rows, of which every fold keeps its own and cuts them into
    the same number of batches, equal to within one row: no fold computes rows it does not train on.
    """
    device, per_fold = trained.device, trained.sum(1).cpu()
    n_batches = math.ceil(int(per_fold.max()) / batch_size)
    edges = torch.arange(n_batches + 1)[None] * per_fold[:, None] // n_batches  # (F, batches + 1)
    width = int((edges[:, 1:] - edges[:, :-1]).max())
    places = edges[:, :-1, None] + torch.arange(width)
    valid = (places < edges[:, 1:, None]).to(device)
    places = places.clamp(max=int(per_fold.max()) - 1).to(device)
    stream = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(trained.shape[1], generator=stream).to(device)
        # A stable sort of "is not trained on" moves each fold's own rows to the front, in order.
        own_first = order[torch.argsort((~trained[:, order]).byte(), dim=1, stable=True)]
        for batch in range(n_batches):
            rows = own_first.gather(1, places[:, batch])
            yield epoch * n_batches + batch, epochs * n_batches, rows, valid[:, batch]


class _Pack:
    """Heads of one dropout noise, and their AdamW (Loshchilov and Hutter 2019) in one batch.

    ``torch.optim`` has one learning rate per tensor, here it is one per head.
    """

    def __init__(
        self,
        configs: Sequence[HeadConfig],
        shapes: Mapping[str, tuple[int, int]],
        n_folds: int,
        device: torch.device,
    ):
        # A matrix product of few columns is summed in another order, which 30 epochs of Adam make
        # visible: heads that are dropped again fill it up, so that a head alone is the head it is
        # in a large pack.
        self.n_heads = len(configs)
        n_columns = next(iter(shapes.values()))[1]
        fillers = -(-MIN_COLUMNS // n_columns) - len(configs)
        configs = [*configs, *itertools.repeat(configs[0], fillers)]

        def per_head(field: str) -> Tensor:
            values = [getattr(config, field) for config in configs]
            return torch.tensor(values, device=device, dtype=torch.float32)

        self.learning_rate = per_head("learning_rate")[:, None]
        self.weight_decay = per_head("weight_decay")[:, None]
        self.smoothing = per_head("label_smoothing")
        self.dropout = configs[0].dropout
        self.n_steps = 0
        self.noise = torch.Generator(device).manual_seed((1 << 32) + configs[0].seed)
        self.parameters = {
            name: value.expand(n_folds, -1, -1, -1).contiguous().to(device).requires_grad_()
            for name, value in _initial(configs, shapes).items()
        }
        self.moments = {
            name: (torch.zeros_like(value), torch.zeros_like(value))
            for name, value in self.parameters.items()
        }

    def step(self, z: Tensor, target: Tensor, share: Tensor, progress: float) -> None:
        """Take one step, with ``progress`` in [0, 1) of all.

        z (F, b, d), target (F, b, C) shares of the classes, share (F, b) of the loss.
        """
        log_p = _logits(self.parameters, z, self._keep(z)).log_softmax(-1)
        of_target = (log_p * target[:, :, None]).sum(-1)
        loss = -(1 - self.smoothing) * of_target - self.smoothing * log_p.mean(-1)
        gradients = torch.autograd.grad(
            (loss * share[..., None]).sum(), [*self.parameters.values()]
        )
        self.n_steps += 1
        rate = self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * progress))
        for (name, value), gradient in zip(self.parameters.items(), gradients, strict=True):
            is_weight = name.endswith("weight")
            decay = self.weight_decay if is_weight else None
            slower = min(1.0, FULL_RATE_INPUTS / value.shape[1]) if is_weight else 1.0
            _adamw(value.data, gradient, *self.moments[name], self.n_steps, slower * rate, decay)

    def trained(self) -> dict[str, Tensor]:
        """Hand out the parameters (F, inputs, heads, outputs)."""
        return {
            name: value.detach()[:, :, : self.n_heads] for name, value in self.parameters.items()
        }

    def state(self) -> dict[str, Tensor]:
        """All tensors that a step changes, by name."""
        moments = {
            f"{which} of {name}": moment
            for name, pair in self.moments.items()
            for which, moment in zip(("first", "second"), pair, strict=True)
        }
        return {**{name: value.detach() for name, value in self.parameters.items()}, **moments}

    def _keep(self, z: Tensor) -> Tensor | None:
        if not self.dropout:
            return None
        hidden = self.parameters.get("hidden_bias")
        units = z.shape[-1] if hidden is None else hidden.shape[-1]
        noise = torch.rand((z.shape[1], units), generator=self.noise, device=z.device)
        return (noise >= self.dropout) / (1 - self.dropout)


class _Training:
    """Which heads are trained and which are begun; kept in a file while that takes long."""

    def __init__(self, path: Path | None, device: torch.device):
        self.path, self.device = path, device
        self.done: list[int] = []
        self.begun: list[int] = []
        self.trained: dict[str, Tensor] = {}
        self._begun_state: dict[str, Tensor] = {}
        self._begun_steps = 0
        self._next_s = time.monotonic() + KEEP_EVERY_S
        if path and path.exists():
            with safe_open(path, framework="pt") as opened:
                told = json.loads(opened.metadata()["training"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if told["device"] != device.type:  # whose dropout noise is another
                return
            self.done, self.begun, self._begun_steps = told["done"], told["begun"], told["steps"]
            self.trained = _named(tensors, "done")
            self._begun_state = _named(tensors, "begun")

    def begin(self, heads: list[int], packs: Sequence[_Pack]) -> int:
        """Take up a round of heads, from where it was kept if it was; its number of steps done."""
        steps, self.begun, self._begun_steps = self._begun_steps, heads, 0
        if steps:
            for i, pack in enumerate(packs):
                for name, value in pack.state().items():
                    value.copy_(self._begun_state[f"{i}/{name}"])
                pack.noise.set_state(self._begun_state[f"{i}/noise"])
                pack.n_steps = steps
            self._begun_state = {}
        return steps

    def keep(self, packs: Sequence[_Pack], steps: int) -> None:
        """Write, if it is time to: once a minute, for at most a twentieth of the time."""
        if not self.path or (began := time.monotonic()) < self._next_s:
            return
        states = {
            f"{i}/{name}": value
            for i, pack in enumerate(packs)
            for name, value in {**pack.state(), "noise": pack.noise.get_state()}.items()
        }
        self._write(states, steps)
        took_s = time.monotonic() - began
        self._next_s = time.monotonic() + max(KEEP_EVERY_S, 20 * took_s)

    def end(self, packs: Sequence[_Pack]) -> None:
        """Count the round's heads among the trained."""
        for name in packs[0].parameters:
            before = [self.trained[name]] if self.done else []
            values = [*before, *(pack.trained()[name] for pack in packs)]
            self.trained[name] = torch.cat([value.to(self.device) for value in values], dim=2)
        self.done, self.begun = self.done + self.begun, []
        if self.path and self.path.exists():
            self._write({}, 0)

    def _write(self, states: Mapping[str, Tensor], steps: int) -> None:
        assert self.path
        told = {
            "done": self.done, "begun": self.begun, "steps": steps, "device": self.device.type,
        }  # fmt: skip
        tensors = {
            **{f"done/{name}": value for name, value in self.trained.items()},
            **{f"begun/{name}": value for name, value in states.items()},
        }
        with written_whole(self.path) as aside:
            save_file(
                {name: value.contiguous().cpu() for name, value in tensors.items()},
                aside,
                metadata={"training": json.dumps(told)},
            )


def _named(tensors: Mapping[str, Tensor], folder: str) -> dict[str, Tensor]:
    inside = f"{folder}/"
    return {n.removeprefix(inside): value for n, value in tensors.items() if n.startswith(inside)}


def _initial(
    configs: Sequence[HeadConfig], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Tensor]:
    """Draw (1, inputs, P, outputs) uniformly within 1 / sqrt(fan in), as torch.nn.Linear does."""
    heads: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for config in configs:
        stream = torch.Generator().manual_seed(config.seed)
        for name, (inputs, outputs) in shapes.items():
            fan_in = shapes[name.replace("bias", "weight")][0]
            drawn = torch.rand((inputs, outputs), generator=stream)
            heads[name].append((2 * drawn - 1) / math.sqrt(fan_in))
    return {name: torch.stack(drawn, dim=1)[None] for name, drawn in heads.items()}


def _adamw(
    value: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    n_steps: int,
    rate: Tensor,
    decay: Tensor | None,
) -> None:
    """Update ``value`` (F, inputs, P, outputs) in place, with rate and decay (P, 1)."""
    if decay is not None:
        value.mul_(1 - rate * decay)
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    # The gradient has served: its memory takes the root.
    root = torch.sqrt(second, out=gradient).div_(math.sqrt(1 - BETAS[1] ** n_steps)).add_(EPSILON)
    value.addcdiv_(first * rate, root, value=-1 / (1 - BETAS[0] ** n_steps))
