"""Other explanations of the same score, all captum's, to compare Integrated Gradients with.

- ``captum``: its Integrated Gradients, Gauss-Legendre, as many points for every image.
- ``occlusion``: the score's change where a window is replaced by the baseline (Zeiler and Fergus
  2014, arXiv 1311.2901).
- ``gradcam``: the last feature map, weighted by the gradient (Selvaraju et al. 2017, arXiv
  1610.02391); signed, in no unit, and without a baseline.
"""

from collections.abc import Sequence
from typing import Any

import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from torch import Tensor, nn

from equimood import devices
from equimood.errors import UserError
from equimood.quadrature import Chunk, score

WINDOW = 8
"""The occluded window's side is the input's divided by this; it moves by half of its own."""


def explain(
    model: Any,
    views: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    target: Tensor,
    against: Tensor | None,
    method: str,
    n_steps: int,
    chunk: Chunk,
    *,
    shared: bool,
) -> tuple[tuple[Tensor, ...], Tensor, int]:
    """Explain a batch; arguments as of ``quadrature.integrate_paths``.

    Returns
    -------
    Per view (n, h, w); the score's change from the baseline (n,), NaN for Grad-CAM; and the
    evaluations of the model for each image.
    """
    parts: list[tuple[tuple[Tensor, ...], Tensor]] = []
    done = steps = 0
    while done < len(target):
        rows = slice(done, done + chunk.rows)
        of_all = (
            [[s[j : j + 1].expand_as(v[rows]) for v, s in zip(views, starts, strict=True)]
             for j in range(len(starts[0]))]
            if shared else [[each[rows] for each in starts]]
        )  # fmt: skip
        asked = target[rows], None if against is None else against[rows]
        try:
            found = _explained(
                model, tuple(view[rows] for view in views), of_all, *asked, method, n_steps
            )
        except torch.OutOfMemoryError as error:
            chunk.halve(error)
            found = None
        if found:  # else the error, and what it held, is gone here
            parts.append(found[:2])
            steps = found[2]
            done = rows.stop
        elif torch.cuda.is_available():
            torch.cuda.empty_cache()
    maps, changes = zip(*parts, strict=True)
    return tuple(map(torch.cat, zip(*maps, strict=True))), torch.cat(changes), steps


def _explained(
    model: Any,
    views: tuple[Tensor, ...],
    of_all: Sequence[Sequence[Tensor]],
    target: Tensor,
    against: Tensor | None,
    method: str,
    n_steps: int,
) -> tuple[tuple[Tensor, ...], Tensor, int]:
    """Explain what goes through the network together; ``of_all``: each start, per view."""
    if method == "gradcam":
        return grad_cam(model, views, target, against), torch.full((len(target),), torch.nan), 1
    n_points = max(2, n_steps // len(of_all))
    with devices.autocast(target.device):
        parts = [
            integrated(model, views, own, target, against, n_points)
            if method == "captum"
            else occluded(model, views, own, target, against)
            for own in of_all
        ]
    with torch.no_grad():
        whole = score(model, views, target, against)
        begun = torch.stack([score(model, own, target, against) for own in of_all]).mean(0)
    maps = tuple(
        torch.stack(of_view).mean(0) for of_view in zip(*(p for p, _ in parts), strict=True)
    )
    return maps, (whole - begun).cpu(), sum(steps for _, steps in parts)


def integrated(
    model: nn.Module,
    views: tuple[Tensor, ...],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
    n_points: int,
) -> tuple[tuple[Tensor, ...], int]:
    """Captum's Integrated Gradients: per view (n, h, w), and the evaluations for each image."""
    found = IntegratedGradients(_scorer(model, against is not None)).attribute(
        views, tuple(starts), n_steps=n_points, internal_batch_size=len(target),
        additional_forward_args=_asked(target, against),
    )  # fmt: skip
    return tuple(each.detach().float().sum(1) for each in found), n_points


def occluded(
    model: nn.Module,
    views: tuple[Tensor, ...],
    starts: Sequence[Tensor],
    target: Tensor,
    against: Tensor | None,
) -> tuple[tuple[Tensor, ...], int]:
    """Captum's Occlusion of one view at a time: per view (n, h, w) in logits, and evaluations."""
    window = max(2, views[0].shape[-1] // WINDOW)
    with torch.no_grad():
        found = Occlusion(_scorer(model, against is not None)).attribute(
            views,
            sliding_window_shapes=((3, window, window),) * len(views),
            strides=((3, window // 2, window // 2),) * len(views),
            baselines=tuple(starts),
            additional_forward_args=_asked(target, against),
        )
    places = -(-(views[0].shape[-1] - window) // (window // 2)) + 1
    # All channels of a window are replaced at once: each has the whole change.
    return tuple(each.float().mean(1) for each in found), 1 + len(views) * places**2


def grad_cam(
    model: Any, views: tuple[Tensor, ...], target: Tensor, against: Tensor | None
) -> tuple[Tensor, ...]:
    """Captum's Grad-CAM of the last feature map, view by view (n, h, w), the others kept as are."""
    backbone, pooling, side = model.backbone, model.pooling, views[0].shape[-1]
    layer = last_map(backbone, views[0][:1])
    with torch.no_grad():
        kept = [backbone(view, [pooling])[pooling] for view in views]
    maps = []
    for i, view in enumerate(views):

        def logits(pixels: Tensor, i: int = i) -> Tensor:
            own = backbone(pixels, [pooling])[pooling]
            return model.logits(torch.cat([*kept[:i], own, *kept[i + 1 :]], 1))

        pixels = view.detach().requires_grad_()  # frozen weights alone leave nothing to derive
        found = LayerGradCam(_scorer(logits, against is not None), layer).attribute(
            pixels, additional_forward_args=_asked(target, against)
        )
        grown = LayerAttribution.interpolate(found.detach().float(), (side, side), "bilinear")
        maps.append(grown[:, 0])
    return tuple(maps)


def last_map(backbone: Any, pixels: Tensor) -> nn.Module:
    """Find the module that gives the network's last feature map (b, c, h, w)."""
    if "grid2" not in backbone.n_features:
        raise UserError(
            f"explain.method: gradcam needs a feature map, which {backbone.architecture} has not; "
            "write integrated_gradients, captum or occlusion"
        )
    found: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(
            lambda module, _, made: found.append(module) if getattr(made, "ndim", 0) == 4 else None
        )
        for module in backbone.network.modules()
    ]
    with torch.no_grad():
        made = backbone.network.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    if made.shape[1] != backbone.network.num_features:
        raise UserError(
            f"explain.method: gradcam needs a feature map with its channels first, which that of "
            f"{backbone.architecture} has not; write integrated_gradients, captum or occlusion"
        )
    return found[-1]


def _asked(target: Tensor, against: Tensor | None) -> tuple[Tensor, ...]:
    return (target,) if against is None else (target, against)


def _scorer(model: Any, contrast: bool) -> Any:
    """Make the score a function whose arguments captum repeats for the rows that it makes."""

    def scores(*given: Tensor) -> Tensor:
        views = given[: -2 if contrast else -1]
        against = given[-1] if contrast else None
        return score(model, views, given[len(views)], against)

    return scores
