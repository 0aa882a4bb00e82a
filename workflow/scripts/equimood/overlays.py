"""A photograph and, over it, the signed map of what a prediction rests on.

The photograph is shown in its own proportions; the map is laid where the model saw it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure, SubFigure
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from equimood import images

SHOWN_PX = 640
"""Longer side at which a photograph is drawn in a panel."""
SMOOTH_CELLS = 0.8
"""Standard deviation, in cells of the map, of the blur that joins speckles; for the eye alone."""
FULL_STRENGTH = 99.5
"""Percentile of a map's strength that gets the full colour: no single cell sets the scale."""


@dataclass(frozen=True)
class Explained:
    """One view of a photograph with its map.

    Attributes
    ----------
    view : the view's name.
    picture : (h, w, 3) uint8, the frame in its own proportions.
    extent : left, right, bottom, top of the model's input, in pixels of ``picture``.
    map : (m, m) signed attribution of each cell of the input.
    gap : completeness gap.
    scores : the image's ``tables.REGION_SCORES``; empty without regions.
    image_id : None of a new image.
    steps : gradients that its map took; None where that is not known.
    """

    view: str
    picture: np.ndarray
    extent: tuple[float, float, float, float]
    map: np.ndarray
    gap: float
    scores: pd.DataFrame
    image_id: str | None = None
    steps: int | None = None


def frame(
    picture: Tensor,
    box: tuple[int, int, int, int],
    side: int,
    fit: Literal["squash", "pad", "crop"],
    crop_share: float,
    longest_px: int = SHOWN_PX,
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Cut a view out of a photograph and say where the model's input lies on it.

    Parameters
    ----------
    picture : uint8 (3, h, w), upright.
    box : the view's, in pixels.
    side : of the model's input, pixels.
    fit, crop_share : how the frame was fitted into it.
    longest_px : of the picture returned, at most.

    Returns
    -------
    ``picture`` and ``extent`` of an :class:`Explained`.
    """
    *_, affine = images.place(box, side, fit, crop_share)
    x0, y0, x1, y1 = box
    cut = picture[:, y0:y1, x0:x1]
    scale = min(1.0, longest_px / max(x1 - x0, y1 - y0))
    size = [max(1, round(scale * length)) for length in cut.shape[1:]]
    low, high = ((corner - affine[:, 2]) / affine.diagonal() for corner in (0, side))
    (left, top), (right, bottom) = (
        (point - (x0, y0)) * (size[1] / (x1 - x0), size[0] / (y1 - y0)) for point in (low, high)
    )
    shown = resize(cut, size, antialias=True).permute(1, 2, 0).numpy()
    return shown, (float(left), float(right), float(bottom), float(top))


def strength(map_: np.ndarray) -> np.ndarray:
    """How strongly each cell is coloured, -1 to 1: the map smoothed a little, for the eye alone.

    No single cell sets the scale: the strongest 0.5 % get the full colour.
    """
    smooth = gaussian_filter(map_.astype(float), SMOOTH_CELLS)
    full = np.percentile(np.abs(smooth), FULL_STRENGTH)
    return np.clip(smooth / full, -1, 1) if full > 0 else np.zeros_like(smooth)


def tint(strength: np.ndarray, colormap: str) -> np.ndarray:
    """Colour and opacity (…, 4), 0-1, of strengths (…): the weaker, the more transparent."""
    rgba: np.ndarray = colours(colormap)((np.asarray(strength) + 1) / 2)
    rgba[..., 3] = np.clip(1.15 * np.abs(strength), 0, 1) ** 0.8 * 0.95
    return rgba


def photograph(axes: Axes, view: Explained, *, faded: bool = False) -> None:
    """Draw the photograph, for a map over it in pale grey."""
    picture = view.picture
    if faded:
        grey = picture.astype(float) @ (0.299, 0.587, 0.114)
        picture = (255 - 0.55 * (255 - grey))[..., None].repeat(3, 2).astype(np.uint8)
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal", anchor="N")
    axes.spines[:].set_visible(False)


def overlay(axes: Axes, view: Explained, colormap: str) -> None:
    """Draw the signed map over the faded photograph."""
    photograph(axes, view, faded=True)
    height, width = view.picture.shape[:2]
    rgba = tint(strength(view.map), colormap)
    axes.imshow(rgba, extent=view.extent, interpolation="bilinear", zorder=2)
    axes.set(xlim=(0, width), ylim=(height, 0))


def colours(colormap: str) -> Colormap:
    """The diverging map, positive in its warm half: PuOr has orange at its low end."""
    given = mpl.colormaps[colormap]
    low, high = given(0.1), given(0.9)
    return given.reversed() if low[0] - low[2] > high[0] - high[2] else given


def colour_bar(figure: Figure | SubFigure, axes: Axes, colormap: str) -> Colorbar:
    """Say what the colours mean."""
    scale = ScalarMappable(Normalize(-1, 1), colours(colormap))
    bar = figure.colorbar(scale, cax=axes.inset_axes((0.25, 0, 0.5, 1)), orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["speaks against", "neither", "speaks for"], fontsize=7.5)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axes.axis("off")
    return bar


def compared_with(compared: Mapping[str, Any]) -> str:
    """Say what photographs are compared with: ``settings.Explain.compared`` in words, or ""."""
    things = {
        "blur": "the photograph itself, blurred",
        "mean": "the mean colour of the photographs",
        "constant": "one colour",
        "neutral": "{n} photographs of {label}",
    }
    baseline = compared["baseline"]
    return f"Compared with {things[baseline].format(**compared)}" if baseline else ""


def short(text: str, length: int) -> str:
    """Text as it stands, its middle left out where it is longer."""
    text = str(text).replace("\n", " ")
    if len(text) <= length:
        return text
    return f"{text[: (length - 1) // 2]}…{text[len(text) - length // 2 :]}"
