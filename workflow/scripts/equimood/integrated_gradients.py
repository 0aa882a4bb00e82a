"""Integrated Gradients of one batch of images, from pixels through backbone and head.

Sundararajan, Taly and Yan 2017 (arXiv 1703.01365): the gradient of the target class's logit,
integrated along the straight path from a baseline to the image, times their difference. Its sum is
the logit's change (completeness).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.nn import functional

from equimood import devices, regions, settings

SMALLEST_CHANGE = 0.1
"""Logit change below which a completeness gap is taken relative to this: a ratio to nearly nothing
would flag images whose explanation is exact to a hundredth of a logit."""


@dataclass(frozen=True)
class Integrated:
    """Integrated Gradients of a batch.

    Attributes
    ----------
    maps : per view (n, h, w), signed, summed over channels, at the input's resolution.
    change : (n,) the target's logit less that of the baseline, in float32 whatever the device.
    gap : (n,) |sum of all maps - change| / max(|change|, SMALLEST_CHANGE).
    """

    maps: tuple[Tensor, ...]
    change: Tensor
    gap: Tensor


def integrate(
    model: nn.Module,
    views: Sequence[Tensor],
    target: Tensor,
    explain: settings.Explain,
    mean: np.ndarray | None = None,
) -> Integrated:
    """Integrate the gradients of each image's target logit.

    Every forward pass holds at most max(n, explain.batch_size) images, whatever ``n_steps``.

    Parameters
    ----------
    model : frozen, in evaluation mode; maps the views to logits (n, n_classes).
    views : per view (n, 3, side, side) in [0, 1], on the model's device.
    target : (n,) index of the class explained.
    mean : (3,) colour of the baseline ``mean``.
    """
    pixels = tuple(views)
    starts = tuple(baseline(view, explain, mean) for view in pixels)
    with devices.autocast(pixels[0].device):
        attributions = IntegratedGradients(model).attribute(
            pixels,
            starts,
            target=target,
            n_steps=explain.n_steps,
            method=explain.quadrature,
            internal_batch_size=max(len(target), explain.batch_size),
        )
    maps = tuple(attribution.detach().float().sum(1) for attribution in attributions)
    with torch.no_grad():
        ends = [
            model(*points).float().gather(1, target[:, None])[:, 0] for points in (pixels, starts)
        ]
    change = ends[0] - ends[1]
    total = torch.stack([each.double().sum((1, 2)) for each in maps]).sum(0)
    gap = (total - change).abs() / change.abs().clamp(min=SMALLEST_CHANGE)
    return Integrated(maps, change, gap.float())


def baseline(view: Tensor, explain: settings.Explain, mean: np.ndarray | None = None) -> Tensor:
    """Where the path starts, (n, 3, side, side): the images blurred, or one mean colour."""
    if explain.baseline == "mean":
        if mean is None:
            raise ValueError("the baseline `mean` needs the mean colour of the photographs")
        return torch.as_tensor(mean).to(view).view(1, 3, 1, 1).expand_as(view).contiguous()
    return blur(view, explain.blur * view.shape[-1])


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
