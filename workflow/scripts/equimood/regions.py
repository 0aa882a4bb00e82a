"""Ethogram regions: masks in the model's input, and the attribution inside each.

A region is given on the upright photograph as a box, as points or as a mask file, and is carried
into the model's input by the affine that made that input. Masks are shares of each pixel (0-1),
not yes or no: an eye may be three input pixels wide, and rounding its edges would change its area,
and so its enrichment, by a third.

- A roll-up (``tables.ROLLUPS``) is the union of its visible regions.
- Three or more points are the region's outline, in order; one or two are the centres of discs.
- ``background`` is what lies outside every other visible region, unless the user gives its outline
  or mask; a background box only says where there is picture.
- A region that is hidden, not annotated or outside the frame is missing, which is not zero.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from equimood import images
from equimood.errors import UserError
from equimood.tables import BOX, REGION_SCORES, REGIONS, ROLLUPS, read_points

POINT_RADIUS = 0.03
"""Radius of the disc about a point, as a share of the input's side."""
SUPERSAMPLE = 8
"""Subpixels per side in which outlines are filled."""
MEASURES = ["signed", "positive", "area"]


# ----------------------------------------------------------------------------------------- masks


def names(regions: pd.DataFrame) -> list[str]:
    """Regions and roll-ups that a region table can speak of, in the ethogram's order."""
    given = {*regions["region"], "background"}
    singles = [name for name in REGIONS if name in given]
    return singles + [name for name, parts in ROLLUPS.items() if given & set(parts)]


def overlap(low: np.ndarray, high: np.ndarray, n_cells: int) -> np.ndarray:
    """Length of each cell [i, i + 1] that lies in each interval [low, high]: (n, n_cells)."""
    cells = np.arange(n_cells)
    inside = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
    return np.clip(inside, 0, 1)


def rasterise(
    rows: pd.DataFrame,
    affine: np.ndarray,
    side: int,
    picture_px: tuple[int, int],
    images_dir: str | Path,
) -> dict[str, np.ndarray]:
    """Masks of a photograph's visible regions and roll-ups in the model's input.

    Parameters
    ----------
    rows : the photograph's rows of ``tables.read_regions``; several of one region are its union.
    affine : (2, 3) from pixels of the upright photograph to input pixels, without rotation.
    side : of the input, pixels.
    picture_px : height and width of the upright photograph.
    images_dir : the folder in which mask files stand.

    Returns
    -------
    (side, side) float32 shares by name; a region that is not visible in the frame is left out.
    """
    masks: dict[str, np.ndarray] = {}
    ground = None
    shown: Any = rows[rows["visible"]].itertuples(index=False)
    for row in shown:
        mask = _mask(row, affine, side, picture_px, images_dir)
        if row.region == "background" and row.kind == "box":
            ground = mask
        else:
            masks[row.region] = np.maximum(mask, masks.get(row.region, np.float32(0)))
    if masks and "background" not in masks and not _hidden(rows, "background"):
        others = np.maximum.reduce(list(masks.values()))
        masks["background"] = (1 - others) * (1 if ground is None else ground)
    for rollup, parts in ROLLUPS.items():
        if visible := [masks[part] for part in parts if part in masks]:
            masks[rollup] = np.maximum.reduce(visible)
    return {name: mask for name, mask in masks.items() if mask.any()}


def _hidden(rows: pd.DataFrame, region: str) -> bool:
    own = rows["region"] == region
    return bool(own.any() and not rows.loc[own, "visible"].any())


def _mask(
    row: Any,  # of the region table
    affine: np.ndarray,
    side: int,
    picture_px: tuple[int, int],
    images_dir: str | Path,
) -> np.ndarray:
    if row.kind == "box":
        corners = np.array([[getattr(row, name) for name in BOX]], float)
        x0, y0, x1, y1 = images.map_boxes(affine, corners).T
        return (overlap(y0, y1, side).T @ overlap(x0, x1, side)).astype(np.float32)
    if row.kind == "points":
        points = read_points(row.points, row.line)
        return _fill(images.map_boxes(affine, np.tile(points, 2))[:, :2], side)
    return _resample(_read_mask(row, picture_px, images_dir), affine, side)


def _fill(points: np.ndarray, side: int) -> np.ndarray:
    """Share of each pixel inside the outline, or inside discs about one or two points."""
    outlines = [points]
    if len(points) < 3:
        turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        circle = POINT_RADIUS * side * np.column_stack([np.cos(turn), np.sin(turn)])
        outlines = [point + circle for point in points]
    canvas = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for outline in outlines:
        pen.polygon((outline * SUPERSAMPLE - 0.5).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255


def _read_mask(row: Any, picture_px: tuple[int, int], images_dir: str | Path) -> np.ndarray:
    folder = Path(images_dir).resolve()
    path = folder / str(row.mask)
    try:
        path = path.resolve()
        inside = row.mask is not None and path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # links in a circle, a name that no disk takes
        inside = False
    if not inside:
        raise UserError(
            f"data.regions, line {row.line}: mask is {row.mask!r}; write the path of a file inside "
            "the image folder"
        )
    height, width = picture_px
    remedy = f"save it at the size of its upright photograph, {width} x {height}"
    try:
        mask: np.ndarray = images.read(path, max_pixels=height * width).any(dim=0).numpy()
    except images.ImageError as error:
        if not error.reason.startswith("too large"):
            remedy = error.remedy
        raise UserError(
            f"data.regions, line {row.line}: mask {row.mask!r} is {error.reason}; {remedy}"
        ) from None
    if mask.shape != tuple(picture_px):
        found = f"{mask.shape[1]} x {mask.shape[0]}"
        raise UserError(
            f"data.regions, line {row.line}: mask {row.mask!r} has {found} pixels; {remedy}"
        )
    return mask


def _resample(mask: np.ndarray, affine: np.ndarray, side: int) -> np.ndarray:
    """Mean of the photograph's mask (h, w) over what each input pixel covers: (side, side)."""
    (sx, _, tx), (_, sy, ty) = affine
    cells = np.arange(side)
    rows = overlap((cells - ty) / sy, (cells + 1 - ty) / sy, mask.shape[0]) * sy
    columns = overlap((cells - tx) / sx, (cells + 1 - tx) / sx, mask.shape[1]) * sx
    return np.clip(rows @ mask @ columns.T, 0, 1).astype(np.float32)


# ---------------------------------------------------------------------------------------- scores


def measure(
    attribution: Tensor, masks: Mapping[str, np.ndarray], regions: Sequence[str]
) -> np.ndarray:
    """Attribution inside each region, summed at full resolution on the attribution's device.

    Parameters
    ----------
    attribution : (h, w) signed.
    masks : (h, w) by name, from :func:`rasterise`.
    regions : the names wanted.

    Returns
    -------
    (n_regions, 3) signed sum, positive sum and share of the area; NaN where not visible.
    """
    measures = np.full((len(regions), len(MEASURES)), np.nan)
    seen = [i for i, name in enumerate(regions) if name in masks]
    if seen:
        flat = attribution.double().flatten()
        kinds = torch.stack([flat, flat.clamp(min=0), torch.ones_like(flat) / len(flat)])
        stack = torch.from_numpy(np.stack([masks[regions[i]].ravel() for i in seen]))
        measures[seen] = (stack.to(flat) @ kinds.T).cpu().numpy()
    return measures


def table(
    about: pd.DataFrame, measures: np.ndarray, positive: np.ndarray, regions: Sequence[str]
) -> pd.DataFrame:
    """Lay measures out as ``tables.REGION_SCORES``: one row per image and region.

    Parameters
    ----------
    about : (n_images rows) the table's columns that belong to the image.
    measures : (n_images, n_regions, 3) from :func:`measure`.
    positive : (n_images,) the images' whole positive attribution.
    regions : (n_regions) names.
    """
    n_images, n_regions = len(about), len(regions)
    scores = about.loc[about.index.repeat(n_regions)].reset_index(drop=True)
    scores["region"] = np.tile(np.array(regions, object), n_images)
    scores[MEASURES] = measures.reshape(n_images * n_regions, len(MEASURES))
    whole = np.repeat(positive, n_regions)
    scores["share"] = scores["positive"] / np.where(whole > 0, whole, np.nan)
    scores["visible"] = scores["area"].notna()
    scores["enrichment"] = scores["share"] / scores["area"]
    return scores[REGION_SCORES.names]
