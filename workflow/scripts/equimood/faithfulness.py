"""Measures of whether a map says what its model does: covering, hiding, forgetting, disturbing.

Each is a function of a model, pixels and maps, for a batch of photographs. A photograph has one
picture per view of the model, and the cells of all its views are ranked together.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

CELLS = 20
"""Cells on each side of a picture, in which maps are compared and pictures covered. Single pixels
covered one by one would make pictures of a kind that no model has seen."""
FRACTIONS = (0.0, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Shares of the cells that are covered. They are the same read backwards, so that showing the most
important cells of a covered picture is covering the least important ones of a whole picture."""
MIN_REGIONS = 3  # of which a rank correlation is taken
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


# ---------------------------------------------------------------------------------------- cells


def cells(maps: Sequence[Tensor]) -> Tensor:
    """Sum maps, per view (n, side, side), over their cells: (n, n_views x CELLS²)."""
    sums = []
    for each in maps:
        belongs = _belongs(each.shape[-1]).to(each)
        sums.append((belongs @ each @ belongs.T).flatten(1))
    return torch.cat(sums, 1)


def edges(views: Sequence[Tensor]) -> Tensor:
    """Strength of the edges in each cell (Sobel, of the grey picture): what an edge detector marks.

    Parameters
    ----------
    views : per view (n, 3, side, side).

    Returns
    -------
    (n, n_views x CELLS²), at least 0.
    """
    maps = []
    for view in views:
        kernel = torch.tensor(SOBEL).to(view)
        both = torch.stack([kernel, kernel.T])[:, None]
        grey = functional.pad(view.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        maps.append(functional.conv2d(grey, both).square().sum(1).sqrt())
    return cells(maps)


def _belongs(side: int) -> Tensor:
    """Which cell each row (or column) of pixels belongs to: (CELLS, side) of 0 and 1."""
    return functional.one_hot(torch.arange(side) * CELLS // side, CELLS).T.float()


# ------------------------------------------------------------------------------ covering, hiding


def covered(
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    target: Tensor,
    values: Tensor,
    batch_size: int,
) -> Tensor:
    """Probability of the target while cells are covered, those of the greatest value first.

    The deletion curve of Petsiuk et al. 2018 (RISE, arXiv 1806.07421). Their insertion curve, by
    the same order, is this one of ``-values`` read backwards. Of cells of one value the first goes
    first.

    Parameters
    ----------
    views, starts : per view (n, 3, side, side), the photographs and what covers them.
    target : (n,) index of the class.
    values : (k, n, n_views x CELLS²), in k orders.
    batch_size : pictures in one forward pass.

    Returns
    -------
    (k, n, len(FRACTIONS)).
    """
    k, n, n_cells = values.shape
    place = values.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    inner = [place < round(fraction * n_cells) for fraction in FRACTIONS[1:-1]]
    ends = [torch.zeros_like(place[0]), torch.ones_like(place[0])]  # the same in every order
    hidden = torch.cat([*torch.stack(inner).flatten(0, 1), *ends])
    whose = torch.arange(n, device=target.device).repeat(len(hidden) // n)
    sides = [view.shape[-1] for view in views]

    def masks(rows: Tensor) -> list[Tensor]:
        parts = hidden[rows].to(views[0]).view(len(rows), len(views), CELLS, CELLS)
        belong = [_belongs(side).to(parts) for side in sides]
        return [cell.T @ parts[:, v] @ cell for v, cell in enumerate(belong)]

    logits = _logits(model, views, starts, whose, masks, batch_size)
    p = logits.softmax(-1).gather(-1, target[whose, None])[:, 0]
    middle, first, last = p.split([len(inner) * k * n, n, n])
    curve = middle.view(len(inner), k, n).permute(1, 2, 0)
    return torch.cat([
        first.expand(k, n)[..., None], curve, last.expand(k, n)[..., None]
    ], -1)  # fmt: skip


def drops(
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
    whose: Tensor,
    masks: Sequence[Tensor],
    batch_size: int,
) -> Tensor:
    """How far the score explained falls when a region of a photograph is hidden: (m,).

    Parameters
    ----------
    target, against : (n,) class, and that whose logit is taken off, or None.
    whose : (m,) the photograph of each region, an index into the batch.
    masks : per view (m, side, side), the region's share of each pixel.
    """
    found = _logits(
        model, views, starts, whose, lambda rows: [mask[rows] for mask in masks], batch_size
    )
    nothing = [view.new_zeros(len(view), *view.shape[-2:]) for view in views]
    everyone = torch.arange(len(target), device=target.device)
    whole = _logits(
        model, views, starts, everyone, lambda rows: [mask[rows] for mask in nothing], batch_size
    )
    fallen = whole[whose] - found
    fell = fallen.gather(-1, target[whose, None])[:, 0]
    return fell if against is None else fell - fallen.gather(-1, against[whose, None])[:, 0]


@torch.no_grad()
def _logits(
    model: nn.Module,
    views: Sequence[Tensor],
    starts: Sequence[Tensor],
    whose: Tensor,
    masks: Callable[[Tensor], list[Tensor]],
    batch_size: int,
) -> Tensor:
    """Logits (m, C) of photographs, each covered in its own way: by ``masks`` (b, side, side)."""
    found = []
    for rows in torch.arange(len(whose), device=whose.device).split(batch_size):
        of = whose[rows]
        mixed = [
            torch.lerp(view[of], start[of], mask[:, None].to(view))
            for view, start, mask in zip(views, starts, masks(rows), strict=True)
        ]
        found.append(model(*mixed).float())
    return torch.cat(found)


# -------------------------------------------------------------------------------------- comparing


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of (n, c) with its other; 0 where one is constant."""
    ranks = [rankdata(each, axis=-1) for each in (a, b)]
    one, other = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    norm = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return np.divide((one * other).sum(-1), norm, out=np.zeros(len(norm)), where=norm > 0)


def change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of each row of ``b`` (n, c) from its own of ``a``, as a share of the length of that.

    The greatest over several disturbances ``b`` is the max-sensitivity of Yeh et al. 2019 (arXiv
    1901.09392). As in captum, a map of nothing has the length 1.
    """
    length = np.linalg.norm(a, axis=-1)
    return np.asarray(np.linalg.norm(b - a, axis=-1) / np.where(length > 0, length, 1.0))


def disturbed(views: Sequence[Tensor], noise: float, generator: torch.Generator) -> list[Tensor]:
    """Change every pixel of the views by up to ``noise``, at random; pictures stay in 0-1."""
    moved = []
    for view in views:
        drawn = torch.rand(view.shape, generator=generator) * 2 - 1
        moved.append((view + noise * drawn.to(view)).clamp(0, 1))
    return moved
