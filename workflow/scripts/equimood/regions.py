"""Ethogram regions: masks in the model's input, and the attribution inside each.

A region is given on the upright photograph as a box, as points or as a mask file, and is carried
into the model's input by the affine that made that input. Masks are shares of each pixel (0-1),
not yes or no: an eye may be three input pixels wide, and rounding its edges would change its area,
and so its enrichment, by a third.

- A roll-up (``tables.ROLLUPS``) is the union of its visible regions.
- Three or more points are the region's outline, in order; one or two are the centres of discs.
- ``background`` is what lies outside every other visible region, unless the user gives its outline
  or mask; a background box only says where there is picture. Less than RIM of the input is none:
  around a box that is the frame, a rim of half pixels is left.
- A region that is hidden, not annotated or not in the frame is missing, which is not zero; the
  scores say why it is (``missing``).
- Regions may overlap: each is measured as if alone, and the scores say how far (``overlap``).
- A study without regions gets :func:`stand_in`: thirds of the input, and the horse's box against
  the background where a view has one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from scipy.stats import rankdata
from torch import Tensor

from equimood import images
from equimood.errors import UserError
from equimood.tables import (
    BOX,
    CELLS,
    CONTAINERS,
    GIVEN_REGIONS,
    NOT_SEEN,
    REGION_SCORES,
    ROLLUPS,
    WHOLE,
    level_of,
    read_points,
    region_names,
)

POINT_RADIUS = 0.03
"""Radius of the disc about a point, as a share of the input's side."""
SUPERSAMPLE = 8
"""Subpixels per side in which outlines are filled."""
RIM = 0.01
"""Share of the input below which what no region covers is no background."""
MEASURES = ["signed", "positive", "area", "overlap", "missing"]
"""``missing`` is 0 where a region has a score, else 1 more than the place of the reason in
``tables.NOT_SEEN``; the last of them: it lies outside, or its mask or outline is empty."""


# ----------------------------------------------------------------------------------------- masks


def names(regions: pd.DataFrame) -> list[str]:
    """Regions and roll-ups that a region table can speak of, in the ethogram's order."""
    given = {*regions["region"]}
    if given & {*CELLS}:
        return [*CELLS, *([WHOLE, "background"] if WHOLE in given else [])]
    return region_names(given)


def stand_in(rows: pd.DataFrame, horse_view: str | None) -> pd.DataFrame:
    """Regions of a study that gives none: CELLS of the model's input, and the horse's box.

    Parameters
    ----------
    rows : path, horse, view and x0..y1 of each photograph and view.
    horse_view : the view whose frame is the box of the horse; None where there is none.

    Returns
    -------
    As ``tables.GIVEN_REGIONS``. Cells have the kind ``cell`` and corners in shares of the input.
    """
    photos = rows[["path", "horse"]].drop_duplicates()
    thirds = [
        {"region": name, "kind": "cell"}
        | dict(zip(BOX, (x / 3, y / 3, (x + 1) / 3, (y + 1) / 3), strict=True))
        for name, (y, x) in zip(CELLS, np.ndindex(3, 3), strict=True)
    ]
    cells = photos.merge(pd.DataFrame(thirds), how="cross")
    boxes = rows.loc[rows["view"] == horse_view, ["path", "horse", *BOX]]
    given = pd.concat(
        [cells, boxes.astype(dict.fromkeys(BOX, float)).assign(region=WHOLE, kind="box")]
    )
    given = given.rename(columns={"path": "image"}).assign(points=None, mask=None, visible=True)
    return given.assign(line=0)[GIVEN_REGIONS.names].reset_index(drop=True)


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
    seen = [mask for name, mask in masks.items() if name not in CELLS]
    if seen and "background" not in masks and not _hidden(rows, "background"):
        left = (1 - np.maximum.reduce(seen)) * (1 if ground is None else ground)
        if left.mean() >= RIM:
            masks["background"] = left
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
    if row.kind == "cell":
        x0, y0, x1, y1 = (np.array([side * getattr(row, name)]) for name in BOX)
        return (overlap(y0, y1, side).T @ overlap(x0, x1, side)).astype(np.float32)
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
    elif np.linalg.matrix_rank(points - points.mean(axis=0)) < 2:  # in a line: it has no inside
        outlines = []
    filled = np.zeros((side, side), np.float32)
    for outline in outlines:  # in a window of its own: it is mostly far smaller than the input
        low = np.clip(np.floor(outline.min(axis=0)), 0, side).astype(int)
        high = np.clip(np.ceil(outline.max(axis=0)), 0, side).astype(int)
        if (high <= low).any():
            continue
        canvas = Image.new("L", tuple((SUPERSAMPLE * (high - low)).tolist()))
        inside = (outline - low) * SUPERSAMPLE - 0.5
        ImageDraw.Draw(canvas).polygon(inside.ravel().tolist(), fill=255)
        window = filled[low[1] : high[1], low[0] : high[0]]
        np.maximum(window, np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255, out=window)
    return filled


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


def of_image(
    attribution: Tensor,
    rows: pd.DataFrame,
    affine: np.ndarray,
    picture_px: tuple[int, int],
    images_dir: str | Path,
    regions: Sequence[str],
) -> np.ndarray:
    """Measure each region of an image: :func:`rasterise`, :func:`measure`, and why some miss.

    Parameters
    ----------
    attribution : (side, side) signed.
    regions : the names wanted.

    Returns
    -------
    (n_regions, 5) MEASURES.
    """
    masks = rasterise(rows, affine, attribution.shape[-1], picture_px, images_dir)
    measures = measure(attribution, masks, regions)
    measures[:, MEASURES.index("missing")] = _missing(rows, masks, regions)
    return measures


def _missing(
    rows: pd.DataFrame, masks: Mapping[str, np.ndarray], regions: Sequence[str]
) -> list[int]:
    """Return 0 where there is a mask, else 1 more than the place of the reason in NOT_SEEN."""
    shown = {*rows.loc[rows["visible"], "region"]}
    given = {*rows["region"]}
    if masks and "background" not in given:  # it is there wherever something else is
        shown.add("background")
    why = []
    for name in regions:
        parts = {*ROLLUPS.get(name, [name])}
        why.append(0 if name in masks else 3 if shown & parts else 2 if given & parts else 1)
    return why


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
    (n_regions, 5) MEASURES: signed sum, positive sum, share of the area, largest share of the
    region that one other of its level covers; NaN where not visible, and why is left open.
    """
    measures = np.full((len(regions), len(MEASURES)), np.nan)
    seen = [i for i, name in enumerate(regions) if name in masks]
    if seen:
        flat = attribution.double().flatten()
        kinds = torch.stack([flat, flat.clamp(min=0), torch.ones_like(flat) / len(flat)])
        stack = torch.from_numpy(np.stack([masks[regions[i]].ravel() for i in seen])).to(flat)
        measures[seen, :3] = (stack @ kinds.T).cpu().numpy()
        common = (stack @ stack.T).cpu().numpy() / len(flat)
        level = np.array([level_of(regions[i]) for i in seen])
        compared = (level[:, None] == level) & ~np.eye(len(seen), dtype=bool)
        compared[:, [regions[i] in CONTAINERS for i in seen]] = False
        covered = np.where(compared, common, 0).max(axis=1)
        measures[seen, 3] = covered / measures[seen, 2]
    return measures


def table(
    about: pd.DataFrame, measures: np.ndarray, positive: np.ndarray, regions: Sequence[str]
) -> pd.DataFrame:
    """Lay measures out as ``tables.REGION_SCORES``: one row per image and region.

    Parameters
    ----------
    about : (n_images rows) the table's columns that belong to the image.
    measures : (n_images, n_regions, 5) from :func:`of_image`; NaN throughout without any row.
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
    for rank, figure in (
        ("rank", scores["enrichment"]),
        ("net_rank", scores["signed"] / scores["area"]),
    ):
        scores[rank] = _ranks(figure.to_numpy().reshape(-1, max(1, n_regions)), regions)
    why = scores["missing"].fillna(1).astype(int)
    scores["missing"] = np.array([None, *NOT_SEEN], object)[why]
    return scores[REGION_SCORES.names]


def _ranks(figure: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """Rank (n_images, n_regions) by row within each level: 1 the highest, equal ones alike."""
    ranks = np.full(figure.shape, np.nan)
    level = np.array([level_of(name) for name in regions])
    for own in (level == each for each in np.unique(level)):
        ranks[:, own] = rankdata(-figure[:, own], "min", axis=1, nan_policy="omit")
    return ranks.ravel()
