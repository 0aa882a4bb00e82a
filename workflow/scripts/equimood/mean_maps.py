"""Mean maps on the face: every map laid on one mean face, then averaged over horses.

A photograph's face is laid on the mean face by the similarity (shift, turn, scale; no mirroring)
that brings the centres of its visible landmarks nearest to those of the mean face in the least
squares sense (Umeyama 1991, doi 10.1109/34.88573). The mean face is that of generalised Procrustes
analysis (Gower 1975, doi 10.1007/BF02291478), each landmark the mean over the photographs that show
it. Left stays left: a horse seen from its left adds to the left half of the mean face alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from torch.nn import functional

from equimood import images, map_shards, overlays, sampling, tables
from equimood.examples import Known
from equimood.figures import GREY, INK, PALE, blank
from equimood.panels import counted
from equimood.tables import BOX, read_points

Array = NDArray[np.float64]

LANDMARKS = ["ear_left", "ear_right", "eye_left", "eye_right", "nostril_left", "nostril_right",
             "mouth_corner"]  # fmt: skip
"""Regions whose centres lay a face on the mean face."""
NAMED = {"mouth_corner": "corner of the mouth"}
FEWEST = 3
"""Visible landmarks that a face needs."""
MOST_FACES = 2000
"""Photographs from which the mean face is made, drawn evenly over the classes."""
MOST_MAPS = 20_000
"""Photographs whose maps are laid on it, drawn evenly over the classes: a million cost no more."""
SIDE = 64
"""Of the mean face's square, in pixels."""
REACH = 1.6
"""Side of the square, in lengths of the mean face: what lies about the face is shown, too."""
MOST_KINDS = 2
"""Mean faces, at most: where a photograph shows one side alone, one of each side."""
APART = SIDE / 16
"""Pixels between left and right from which on both are named."""
BLOCK = 256
"""Maps in memory together."""


@dataclass(frozen=True)
class Face:
    """A mean face in its square (0 to SIDE).

    Attributes
    ----------
    landmarks : (len(LANDMARKS), 2), NaN where nobody shows it.
    regions : mean x, y, width, height of each of LANDMARKS that is shown.
    """

    landmarks: Array
    regions: Mapping[str, Array]


@dataclass
class MeanMaps:
    """Running sums of maps laid on a mean face, per class and horse.

    Attributes
    ----------
    face : the mean face.
    sums, weights : (SIDE, SIDE) of each class and horse: of values, and of how often a pixel was
        inside a map.
    n_images : of each class and horse.
    """

    face: Face
    sums: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    weights: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    n_images: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, target: str, horse: str, laid: np.ndarray, inside: np.ndarray) -> None:
        """Add a map that was laid on the mean face (SIDE, SIDE), and how much of each pixel is."""
        key = (target, horse)
        if key not in self.sums:
            self.sums[key], self.weights[key] = (np.zeros((SIDE, SIDE), np.float32) for _ in "sw")
            self.n_images[key] = 0
        self.sums[key] += laid
        self.weights[key] += inside
        self.n_images[key] += 1

    def mean(self, target: str) -> Array:
        """Mean (SIDE, SIDE) over horses of each horse's mean; NaN where no map reaches."""
        own = [key for key in self.sums if key[0] == target]
        total, n_horses = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
        for key in own:
            seen = self.weights[key] > 0.5
            total[seen] += self.sums[key][seen] / self.weights[key][seen]
            n_horses += seen
        return np.divide(total, n_horses, out=np.full_like(total, np.nan), where=n_horses > 0)

    def counts(self, target: str) -> tuple[int, int]:
        """Numbers of maps and of horses."""
        own = [n for (label, _), n in self.n_images.items() if label == target]
        return sum(own), len(own)


# ----------------------------------------------------------------------------------- alignment


def similarity(source: Array, target: Array) -> Array | None:
    """Similarity (2, 3) from points (n, 2) nearest to others (n, 2); None where they are one point.

    As complex numbers ``target = a source + b``: least squares in closed form, never mirrored.
    """
    shown = ~np.isnan(source + target).any(axis=1)
    z, w = (points[shown] @ (1, 1j) for points in (source, target))
    if len(z) < FEWEST:
        return None
    z0, w0 = z - z.mean(), w - w.mean()
    spread = float((np.abs(z0) ** 2).sum())
    if spread <= 0 or not np.abs(w0).any():
        return None
    a = (z0.conj() * w0).sum() / spread
    if not a:
        return None
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def chained(first: Array, then: Array) -> Array:
    """Affine (2, 3) of one affine after the other."""
    return np.column_stack([then[:, :2] @ first[:, :2], moved(then, first[:, 2])])


def moved(affine: Array, points: Array) -> Array:
    """Move points (…, 2) by an affine (2, 3)."""
    return points @ affine[:, :2].T + affine[:, 2]


def mean_shape(faces: Array, rounds: int = 20) -> Array | None:
    """Mean face (k, 2) of faces (n, k, 2), centred, of size 1, ears up; NaN are missing landmarks.

    Starts from the face with most landmarks; a landmark nobody shows is NaN. None without a face.
    """
    faces = faces[(~np.isnan(faces).any(axis=2)).sum(axis=1) >= FEWEST]
    if not len(faces):
        return None
    mean = _normalised(faces[np.argmax((~np.isnan(faces).any(axis=2)).sum(axis=1))])
    for _ in range(rounds):
        affines = [similarity(face, mean) for face in faces]
        laid = [moved(a, face) for a, face in zip(affines, faces, strict=True) if a is not None]
        if not laid:
            return None
        stack = np.stack(laid)
        n = (~np.isnan(stack).any(axis=2)).sum(axis=0)
        total = np.nansum(stack, axis=0)
        mean = _normalised(np.where(n[:, None] > 0, total / np.maximum(n, 1)[:, None], np.nan))
    return _upright(mean)


def _normalised(face: Array) -> Array:
    centred = face - np.nanmean(face, axis=0)
    return centred / np.sqrt(np.nanmean((centred**2).sum(axis=1)))


def _upright(face: Array) -> Array:
    """Turn a face so that its ears (else its eyes) are above its nostrils and mouth."""
    at = {name: face[i] for i, name in enumerate(LANDMARKS)}

    def middle(*parts: str) -> Array:
        points = [at[name] for name in parts if not np.isnan(at[name]).any()]
        return np.mean(points, axis=0) if points else np.full(2, np.nan)

    ears, eyes = middle("ear_left", "ear_right"), middle("eye_left", "eye_right")
    top = eyes if np.isnan(ears).any() else ears
    down = middle("nostril_left", "nostril_right", "mouth_corner") - top
    if np.isnan(down).any() or not down.any():
        return face
    turn = 1j * abs(complex(*down)) / complex(*down)  # y points down
    turned = (face @ (1, 1j)) * turn
    return np.column_stack([turned.real, turned.imag])


# --------------------------------------------------------------------------------- photographs


def places(regions: pd.DataFrame) -> dict[tuple[str, str], dict[str, Array]]:
    """Mean x, y, width, height of each visible region, by image and horse.

    Parameters
    ----------
    regions : ``tables.GIVEN_REGIONS``. Boxes and points are used; masks are not.
    """
    known = regions["region"].isin(LANDMARKS) & (regions["kind"] != "mask")
    shown = regions[regions["visible"] & known]
    found: dict[tuple[str, str], dict[str, list[Array]]] = {}
    row: Any
    for row in shown.itertuples(index=False):
        if row.kind == "box":
            x0, y0, x1, y1 = (getattr(row, name) for name in BOX)
        else:
            points = np.array(read_points(row.points, row.line))
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        place = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        found.setdefault((row.image, row.horse), {}).setdefault(row.region, []).append(place)
    return {
        key: {name: np.mean(each, axis=0) for name, each in own.items()}
        for key, own in found.items()
    }


def landmarks(own: Mapping[str, Array]) -> Array:
    """Centres (len(LANDMARKS), 2) in a photograph, NaN where not visible."""
    nothing = np.full(2, np.nan)
    return np.array([own[name][:2] if name in own else nothing for name in LANDMARKS])


def mean_faces(places_of: Sequence[Mapping[str, Array]]) -> list[Face]:
    """Mean faces of photographs' places of regions, the one of most photographs first.

    Photographs that share fewer than FEWEST landmarks with the first, such as a horse's other side
    where one side is all that is seen, get one of their own.
    """
    points = np.array([landmarks(own) for own in places_of]).reshape(-1, len(LANDMARKS), 2)
    found: list[Face] = []
    left = list(range(len(points)))
    while left and len(found) < MOST_KINDS:
        mean = mean_shape(points[left])
        if mean is None:
            break
        low, high = np.nanmin(mean, axis=0), np.nanmax(mean, axis=0)
        mean = (mean - (low + high) / 2) * (SIDE / (REACH * (high - low).max())) + SIDE / 2
        laid = {i: affine for i in left if (affine := similarity(points[i], mean)) is not None}
        found.append(Face(mean, _outlines([places_of[i] for i in laid], [*laid.values()])))
        left = [i for i in left if i not in laid]
    return found


def _outlines(
    places_of: Sequence[Mapping[str, Array]], affines: Sequence[Array]
) -> dict[str, Array]:
    laid: dict[str, list[Array]] = {}
    for own, affine in zip(places_of, affines, strict=True):
        scale = np.hypot(*affine[:, 0])
        for name, place in own.items():
            moved_place = np.concatenate([moved(affine, place[:2]), scale * place[2:]])
            laid.setdefault(name, []).append(moved_place)
    return {name: np.mean(laid[name], axis=0) for name in LANDMARKS if name in laid}


def lay(map_: np.ndarray, to_cells: Array) -> tuple[np.ndarray, np.ndarray]:
    """Lay a map (m, m) on the mean face, by the affine (2, 3) from it to cells of the map.

    Returns
    -------
    Values (SIDE, SIDE), 0 outside, and how much of each pixel lies inside the map.
    """
    at = np.arange(SIDE) + 0.5
    cells = moved(to_cells, np.stack(np.meshgrid(at, at), axis=-1))
    places_ = torch.from_numpy(2 * cells / len(map_) - 1).float()[None]
    stack = torch.from_numpy(np.stack([map_, np.ones_like(map_)])).float()[None]
    laid = functional.grid_sample(stack, places_, padding_mode="zeros", align_corners=False)[0]
    return laid[0].numpy(), laid[1].numpy()


def gather(known: Known, regions: str | Path, seed: int) -> dict[str, list[MeanMaps]]:
    """Lay all maps on the mean faces, a block at a time; by view, what lies on each of them.

    A map is in multiples of its own even spread: 1 where the attribution of a cell is as large as
    if all positive attribution were spread evenly over the view.

    Parameters
    ----------
    regions : file of ``tables.GIVEN_REGIONS``.
    """
    known = known.of(sampling.over_classes(known.predictions, MOST_MAPS, seed))
    predictions = known.predictions
    drawn = sampling.over_classes(predictions, MOST_FACES, seed)
    sample = predictions[predictions["photo_id"].isin(drawn)].sort_values("photo_id")
    if sample.empty:
        return {}
    where = places(_read(regions, sample["path"]))
    keys = zip(sample["path"], sample["horse"], strict=True)
    faces = mean_faces([where[key] for key in keys if key in where])
    found: dict[str, list[MeanMaps]] = {}
    if not faces:
        return found
    folds = dict(zip(predictions["photo_id"], predictions["fold"], strict=True))
    rows = known.catalogue.set_index("image_id")
    for path in known.maps:
        here = rows.loc[[name for name in map_shards.image_ids(path) if name in rows.index]]
        if here.empty:  # a shard of whose photographs none was chosen
            continue
        where = places(_read(regions, here["path"]))
        for start in range(0, len(here), BLOCK):
            ids = here.index[start : start + BLOCK].tolist()
            part = map_shards.read(path, ids)
            even = np.clip(part.values, 0, None).mean(axis=(1, 2), keepdims=True)
            values = np.divide(part.values, even, out=np.zeros_like(part.values), where=even > 0)
            n_cells = values.shape[-1]
            row: Any
            for i, row in enumerate(here.loc[part.image_ids].itertuples(index=False)):
                own = landmarks(where.get((row.path, row.horse), {}))
                structure = known.structures[folds[row.photo_id]]
                backbone = known.backbones[structure["backbone"]]
                side = backbone["side"]
                for number, face in enumerate(faces):
                    affine = similarity(face.landmarks, own)
                    if affine is None:
                        continue
                    box = (row.x0, row.y0, row.x1, row.y1)
                    *_, fitted = images.place(box, side, backbone["fit"], backbone["crop_share"])
                    to_cells = chained(affine, fitted) * (n_cells / side)
                    on_faces = found.setdefault(row.view, [MeanMaps(face) for face in faces])
                    on_faces[number].add(part.target[i], row.horse, *lay(values[i], to_cells))
                    break
    return found


def _read(regions: str | Path, paths: pd.Series) -> pd.DataFrame:
    own = [("image", "in", paths.unique().tolist()), ("region", "in", LANDMARKS)]
    return tables.read(regions, filters=own)


# -------------------------------------------------------------------------------------- figure


def draw(
    on_faces: Sequence[MeanMaps], classes: Sequence[str], view: str, colormap: str = "PuOr"
) -> Figure:
    """Draw the mean maps of a view: a column per class, a row per mean face."""
    shown = [maps for maps in on_faces if maps.sums]
    columns, tile_in = len(classes), 2.1
    figure = blank(max(4.6, tile_in * columns), (tile_in + 0.55) * len(shown) + 0.75)
    figure.suptitle(
        f"What the model looks at on the mean face, view {overlays.short(view, 30)}",
        x=0.01, ha="left", fontsize=11.5, fontweight="bold",
    )  # fmt: skip
    grid = figure.add_gridspec(len(shown) + 1, columns, height_ratios=[*([1] * len(shown)), 0.05])
    for row, maps in enumerate(shown):
        for column, label in enumerate(classes):
            axes = figure.add_subplot(grid[row, column])
            peak = _draw_face(axes, maps.mean(label), colormap)
            _outline(axes, maps.face)
            n_images, n_horses = maps.counts(label)
            axes.set_title(overlays.short(label, 22))
            about = f"{counted(n_images, 'photograph')}, {counted(n_horses, 'horse')}"
            about += f"\nfull colour: {peak:.2g} × an even spread" if n_images else ""
            axes.set_xlabel(about, fontsize=7.5, color=GREY)
    overlays.colour_bar(figure, figure.add_subplot(grid[-1, :]), colormap)
    return figure


def _draw_face(axes: Axes, mean: Array, colormap: str) -> float:
    """Draw a mean map; return what has the full colour."""
    known = np.abs(mean[~np.isnan(mean)])
    full = float(np.percentile(known, overlays.FULL_STRENGTH)) if known.size else 0.0
    strength = np.clip(np.nan_to_num(mean) / full, -1, 1) if full else np.zeros_like(mean)
    rgba = overlays.tint(strength, colormap)
    axes.imshow(rgba, extent=(0, SIDE, SIDE, 0), interpolation="bilinear", zorder=1)
    axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color(PALE)
    axes.spines[:].set_visible(True)
    return full


def _outline(axes: Axes, face: Face) -> None:
    """Draw where the parts of the face lie, and name them: apart where left and right are."""
    for x, y, width, height in face.regions.values():
        axes.add_patch(Ellipse((x, y), width, height, fill=False, edgecolor=INK, linewidth=0.7))
    for part in ("ear", "eye", "nostril", "mouth"):
        own = [(name, place) for name, place in face.regions.items() if name.startswith(part)]
        if not own:
            continue
        middle = np.mean([place[:2] for _, place in own], axis=0)
        apart = np.ptp([place[0] for _, place in own]) > APART
        edges = max(place[0] + place[2] / 2 for _, place in own), middle[1]
        named = [(own[0][0] if len(own) == 1 else part, edges, True)]
        if apart:
            named = [
                (name, (x + width / 2 * (1 if x > middle[0] else -1), y), x > middle[0])
                for name, (x, y, width, _) in own
            ]
        for name, at, right in named:
            axes.annotate(
                NAMED.get(name) or " ".join(reversed(name.split("_"))), at,
                xytext=(2 if right else -2, 0), textcoords="offset points",
                ha="left" if right else "right", va="center", fontsize=6.5, color=INK, zorder=3,
            )  # fmt: skip
