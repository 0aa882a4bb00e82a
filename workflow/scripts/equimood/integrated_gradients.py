"""Attribution of one batch of images, from pixels through backbone and head.

Integrated Gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365): the gradient of the score,
integrated along the straight path from a baseline to the image, times their difference. Its sum is
the score's change (completeness). Averaged over several baselines it is called Expected Gradients
(Erion et al. 2021, doi 10.1038/s42256-021-00343-w). Captum's methods stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from equimood import quadrature, regions, settings
from equimood.quadrature import Chunk, Rule


@dataclass(frozen=True)
class Integrated:
    """Attributions of a batch.

    Attributes
    ----------
    maps : per view (n, h, w), signed, summed over channels, at the input's resolution.
    change : (n,) the score less that of the baseline, in float32 whatever the device.
    gap : (n,) |sum of all maps - change| / max(|change|, SMALLEST_CHANGE); NaN where the maps are
        not meant to add up to the change (occlusion, Grad-CAM).
    steps : (n,) points of the integral over all paths; of captum's methods, evaluations.
    rules : of each image, nodes and weights of the path from each baseline; empty for the methods
        of captum.
    """

    maps: tuple[Tensor, ...]
    change: Tensor
    gap: Tensor
    steps: Tensor
    rules: tuple[tuple[Rule, ...], ...] = ()


def integrate(
    model: nn.Module,
    views: Sequence[Tensor],
    target: Tensor,
    explain: settings.Explain,
    references: Sequence[Tensor] | None = None,
    against: Tensor | None = None,
    chunk: Chunk | None = None,
) -> Integrated:
    """Explain each image's score by the settings' method.

    Parameters
    ----------
    model : frozen, in evaluation mode; maps the views to logits (n, n_classes).
    views : per view (n, 3, side, side) in [0, 1], on the model's device.
    target : (n,) index of the class explained.
    references : per view (n_baselines, 3, side or 1, side or 1), for all images; None: each image's
        own, blurred. Needed by every baseline but ``blur``.
    against : (n,) index of the class whose logit is taken off the target's; None: none.
    chunk : rows in one pass; None: explain.batch_size.
    """
    pixels = tuple(views)
    starts = baselines(pixels, explain, references)
    chunk = chunk or Chunk(explain.batch_size)
    if explain.method == "integrated_gradients":
        found = quadrature.integrate_paths(
            model, pixels, starts, target, against,
            n_steps=explain.n_steps, max_steps=explain.max_steps, tolerance=explain.tolerance,
            chunk=chunk, shared=references is not None,
        )  # fmt: skip
        per_view = zip(*(each.maps for each in found), strict=True)
        return Integrated(
            maps=tuple(torch.stack(maps) for maps in per_view),
            change=torch.tensor([each.change for each in found]),
            gap=torch.tensor([each.gap for each in found]),
            steps=torch.tensor([each.steps for each in found]),
            rules=tuple(each.rules for each in found),
        )
    from equimood import comparators  # captum takes half a second to import, which most jobs save

    maps, change, steps = comparators.explain(
        model, pixels, starts, target, against, explain.method, explain.n_steps, chunk,
        shared=references is not None,
    )  # fmt: skip
    gap = torch.full(change.shape, torch.nan)
    if explain.method == "captum":
        total = torch.stack([each.double().sum((1, 2)) for each in maps]).sum(0).cpu()
        gap = ((total - change).abs() / change.abs().clamp(min=quadrature.SMALLEST_CHANGE)).float()
    return Integrated(maps, change, gap, torch.full(gap.shape, steps))


def baselines(
    views: Sequence[Tensor], explain: settings.Explain, references: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Where the paths start, per view: the images blurred (n, 3, side, side), or the references."""
    if explain.baseline == "blur":
        if references is not None:
            raise ValueError("the baseline `blur` is each image's own: it takes no references")
        return tuple(blur(view, explain.blur * view.shape[-1]) for view in views)
    if references is None:
        raise ValueError(f"the baseline `{explain.baseline}` needs references")
    return tuple(each.to(view) for each, view in zip(references, views, strict=True))


def colour(values: np.ndarray | Sequence[float], n_views: int) -> list[Tensor]:
    """Make the one reference of a colour (3,), 0-1."""
    return [torch.as_tensor(values, dtype=torch.float32).view(1, 3, 1, 1)] * n_views


def blur(view: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur (n, c, side, side), reflected at the edges, one axis after the other.

    torchvision's is one two-dimensional kernel: hundreds of times slower at these widths.
    """
    side, channels = view.shape[-1], view.shape[1]
    radius = min(int(np.ceil(3 * sigma_px)), side - 1)
    offsets = torch.arange(-radius, radius + 1, device=view.device, dtype=view.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    for _ in range(2):
        padded = functional.pad(view, (radius, radius, 0, 0), mode="reflect")
        view = functional.conv2d(padded, kernel, groups=channels).transpose(2, 3)
    return view.contiguous()


def shrink(maps: Tensor, side: int) -> Tensor:
    """Sum maps (n, h, w) over the cells of a coarser (or finer) grid (n, side, side).

    A pixel that two cells share is divided between them: the sum stays the image's attribution.
    """
    edges = np.arange(side + 1) * (maps.shape[-1] / side)
    share = torch.from_numpy(regions.overlap(edges[:-1], edges[1:], maps.shape[-1])).to(maps)
    return share @ maps @ share.T
