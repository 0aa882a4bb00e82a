"""Integrals of gradients along straight paths, with more nodes where an image needs them.

The first nodes are those of Gauss and Lobatto, both ends among them: of high order, which pays for
smooth networks. For a network with kinks (ReLU), or one that saturates along the path, no rule of
high order does, and few of its intervals hold nearly all of the error. Which ones is known for
nothing: a forward pass gives the score at every node, so that the score's change over each interval
can be held against what the gradients at its two ends make of it (the trapezoid). An image whose
gap is above the tolerance has its worst intervals halved until it is not; every evaluation made is
used. Paths from several starts meet in the image, and those of one class in their start: there the
network is evaluated once for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from equimood import devices
from equimood.logs import log

SMALLEST_CHANGE = 0.5
"""Logit change below which a completeness gap is taken relative to this: a ratio to nearly nothing
would refine, and flag, images whose explanation is exact enough. A twentieth of it changes a
probability by less than one percent."""
SHARE_HALVED = 0.5
"""Of an image's error, the share held by the intervals that a round halves."""


@dataclass
class Chunk:
    """Rows in one forward and backward pass; halved, for good, when the device's memory is short.

    Every pass has the same shape, filled up with rows that are then dropped: kernels are chosen by
    shape, so that an image gets the same bits whatever it is explained with.
    """

    rows: int

    def halve(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the rows, or say that one row is too much."""
        if self.rows == 1:
            raise error
        self.rows //= 2
        log.warning("The device's memory is short: %d images in one pass from now on", self.rows)


@dataclass(frozen=True)
class Rule:
    """Nodes ``t`` (n,) in [0, 1] of the path from one start, sorted, and their weights (n,)."""

    t: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Integral:
    """The integrals of one image.

    Attributes
    ----------
    maps : per view (h, w), summed over channels, mean over starts.
    change : the score of the image less the starts' mean.
    gap : |sum of all maps - change| / max(|change|, SMALLEST_CHANGE).
    rules : one per start.
    """

    maps: tuple[Tensor, ...]
    change: float
    gap: float
    rules: tuple[Rule, ...]

    @property
    def steps(self) -> int:
        """Nodes of all paths."""
        return sum(len(rule.t) for rule in self.rules)


@dataclass
class _Path:
    """The straight path from one start to one image, and what is known at its nodes."""

    image: int
    start: int
    t: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    slope: list[float] = field(default_factory=list)  # of the score along the path
    maps: list[tuple[Tensor, ...]] = field(default_factory=list)

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Order of the nodes, and t, score and slope in it."""
        order = np.argsort(self.t)
        t, score, slope = (np.array(each)[order] for each in (self.t, self.score, self.slope))
        return order, t, score, slope


@dataclass(frozen=True)
class _Node:
    """A point of the network's input, ``t`` of the way along each of the paths that meet there."""

    t: float
    paths: list[_Path]


def score(
    model: nn.Module, views: Sequence[Tensor], target: Tensor, against: Tensor | None
) -> Tensor:
    """Logit (n,) of the target class, less that of the class it is held against, in float32."""
    logits = model(*views).float()
    own = logits.gather(1, target[:, None])[:, 0]
    return own if against is None else own - logits.gather(1, against[:, None])[:, 0]


def integrate_paths(
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
    *,
    n_steps: int,
    max_steps: int,
    tolerance: float,
    chunk: Chunk,
    shared: bool = False,
) -> list[Integral]:
    """Integrate each image's gradients from its starts, and refine where the gap is too large.

    Memory: one chunk's pass, and a map of every node of the images that are not finished, at most
    n x max_steps of them.

    Parameters
    ----------
    model : frozen, in evaluation mode.
    views : per view (n, 3, side, side).
    starts : per view (n, 3, side, side), each image's own; or (n_starts, 3, side or 1, side or 1),
        ``shared`` by all images: the mean over them is taken.
    n_steps, max_steps : nodes of an image at first and at most, over all its starts.
    """
    n_images = len(target)
    n_starts = len(starts[0]) if shared else 1
    n_first = max(2, n_steps // n_starts)
    going = {i: [_Path(i, j if shared else i) for j in range(n_starts)] for i in range(n_images)}
    first = [lobatto(n_first)] * n_starts
    nodes = first[0].t.tolist()
    everything = [path for paths in going.values() for path in paths]
    inner = [_Node(t, [path]) for path in everything for t in nodes[1:-1]]
    given = (model, views, starts, target, against, chunk)
    _evaluate(_ends(everything, target, against), *given, exact=True)
    found: dict[int, Integral] = {}
    while True:
        _evaluate(inner, *given)
        inner = []
        for i, paths in list(going.items()):
            n_nodes = sum(len(path.t) for path in paths)
            room = max_steps - n_nodes
            rules = first
            refined = n_nodes > n_first * n_starts
            if refined or (room > 0 and _gap(paths, rules)[1] > tolerance):
                rules = [trapezoid(path.t) for path in paths]
            change, gap = _gap(paths, rules)
            if gap > tolerance and room > 0:
                inner += _halfway(paths, room)
            else:
                found[i] = Integral(_summed(going.pop(i), rules), change, gap, tuple(rules))
        if not inner:
            return [found[i] for i in range(n_images)]


# ------------------------------------------------------------------------------------------ rules


def lobatto(n: int) -> Rule:
    """Gauss-Lobatto on [0, 1]: n nodes, ends included, exact for polynomials of degree 2n - 3.

    Abramowitz and Stegun 1964, 25.4.32.
    """
    last = np.polynomial.legendre.Legendre.basis(n - 1)
    x = np.concatenate([[-1.0], np.sort(last.deriv().roots().real), [1.0]])
    return Rule((x + 1) / 2, 1 / (n * (n - 1) * last(x) ** 2))


def trapezoid(t: Sequence[float]) -> Rule:
    """Each node stands for the half-way to its neighbours."""
    ordered = np.sort(np.asarray(t, float))
    half = np.diff(ordered) / 2
    return Rule(ordered, np.concatenate([half, [0.0]]) + np.concatenate([[0.0], half]))


def _gap(paths: Sequence[_Path], rules: Sequence[Rule]) -> tuple[float, float]:
    """The score's change, mean over starts, and how far the integral misses it."""
    change = total = 0.0
    for path, rule in zip(paths, rules, strict=True):
        _, _, scores, slope = path.sorted()
        change += float(scores[-1] - scores[0]) / len(paths)
        total += float(rule.weights @ slope) / len(paths)
    return change, abs(total - change) / max(abs(change), SMALLEST_CHANGE)


def _ends(paths: Sequence[_Path], target: Tensor, against: Tensor | None) -> list[_Node]:
    """Both ends of all paths: an image is one point, and a start is one for each class asked."""
    classes = [target.tolist(), [None] * len(target) if against is None else against.tolist()]
    asked = list(zip(*classes, strict=True))
    met: dict[tuple[float, int, object], list[_Path]] = {}
    for path in paths:
        met.setdefault((0.0, path.start, asked[path.image]), []).append(path)
        met.setdefault((1.0, path.image, None), []).append(path)
    return [_Node(t, own) for (t, *_), own in met.items()]


def _halfway(paths: Sequence[_Path], room: int) -> list[_Node]:
    """Choose the fewest intervals that hold SHARE_HALVED of an image's error; their middles."""
    errors, middles = [], []
    for path in paths:
        _, t, scores, slope = path.sorted()
        expected = np.diff(t) * (slope[1:] + slope[:-1]) / 2
        errors.append(np.abs(np.diff(scores) - expected))
        middles += [_Node(float(middle), [path]) for middle in (t[1:] + t[:-1]) / 2]
    error = np.concatenate(errors)
    worst = np.argsort(-error, kind="stable")
    n = int(np.searchsorted(np.cumsum(error[worst]), SHARE_HALVED * error.sum())) + 1
    return [middles[at] for at in worst[: min(n, room)]]


def _summed(paths: Sequence[_Path], rules: Sequence[Rule]) -> tuple[Tensor, ...]:
    """Weighted sums of the nodes' maps, in the order of the nodes: the same bits always."""
    totals = tuple(torch.zeros_like(each) for each in paths[0].maps[0])
    for path, rule in zip(paths, rules, strict=True):
        order, *_ = path.sorted()
        for at, weight in zip(order, rule.weights, strict=True):
            for total, each in zip(totals, path.maps[at], strict=True):
                total.add_(each, alpha=float(weight) / len(paths))
    return totals


# ------------------------------------------------------------------------------------- evaluation


def _evaluate(
    nodes: Sequence[_Node],
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
    chunk: Chunk,
    *,
    exact: bool = False,
) -> None:
    """Add score, slope and map at these nodes to their paths; ``exact``: in float32."""
    done = 0
    while done < len(nodes):
        own = list(nodes[done : done + chunk.rows])
        try:
            scores, gradients = _pass(
                own + own[-1:] * (chunk.rows - len(own)),
                model, views, starts, target, against, exact=exact,
            )  # fmt: skip
            told = [
                (
                    path,
                    node.t,
                    scores[row],
                    _along(path, [g[row] for g in gradients], views, starts),
                )
                for row, node in enumerate(own)
                for path in node.paths
            ]
        except torch.OutOfMemoryError as error:
            chunk.halve(error)
            told = []
        if not told:  # the error, and what it held, is gone here
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        slopes = torch.stack([_total(maps) for *_, maps in told]).tolist()
        for (path, t, score, maps), slope in zip(told, slopes, strict=True):
            path.t.append(t)
            path.score.append(score)
            path.slope.append(slope)
            path.maps.append(maps)
        done += len(own)


def _pass(
    nodes: Sequence[_Node],
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
    *,
    exact: bool,
) -> tuple[list[float], list[Tensor]]:
    """One forward and one backward pass: scores, and per view gradients (rows, 3, h, w)."""
    device = target.device
    image = torch.tensor([node.paths[0].image for node in nodes], device=device)
    start = torch.tensor([node.paths[0].start for node in nodes], device=device)
    t = torch.tensor([node.t for node in nodes], dtype=torch.float32, device=device)
    t = t.view(-1, 1, 1, 1)
    points = [
        torch.lerp(begin[start], view[image], t).requires_grad_()
        for view, begin in zip(views, starts, strict=True)
    ]
    with devices.autocast(device) if not exact else torch.autocast(device.type, enabled=False):
        own = None if against is None else against[image]
        scores = score(model, points, target[image], own)
        gradients = torch.autograd.grad(scores.sum(), points)
    return scores.tolist(), [each.float() for each in gradients]


def _along(
    path: _Path, gradients: Sequence[Tensor], views: Sequence[Tensor], starts: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Per view a map (h, w): gradients (3, h, w) times the path's way, summed over channels."""
    return tuple(
        (gradient * (view[path.image] - begin[path.start])).sum(0)
        for gradient, view, begin in zip(gradients, views, starts, strict=True)
    )


def _total(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.double().sum() for each in maps]).sum()
