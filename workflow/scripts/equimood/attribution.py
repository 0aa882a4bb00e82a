"""Explain a shard's photographs, each by the model that never saw its horse, and keep the maps."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from equimood import images, models, regions, sampling, settings, tables
from equimood.files import digest, state_folder, written_whole
from equimood.integrated_gradients import integrate, shrink
from equimood.logs import Progress
from equimood.map_shards import MAP_TENSORS, NONE
from equimood.quadrature import Chunk
from equimood.references import References
from equimood.tables import BOX

EXPLAIN_VERSION = 4
"""Raised when the same model and image give other maps or scores: kept progress is then stale."""

PASSES_TOGETHER = 4
"""Photographs explained together, in passes: their last points, few each, then share passes."""

Loader = Callable[[str], Any]
"""Gives the trained ``models.EmotionModel`` of an outer fold."""


# ------------------------------------------------------------------------- what is explained


def plan(
    catalogue: pd.DataFrame,
    predictions: pd.DataFrame,
    explain: settings.Explain,
    seed: int,
    shard: int = 0,
    n_shards: int = 1,
) -> pd.DataFrame:
    """Choose what one shard explains: one row per photograph and view.

    A shard is a contiguous range of photo_id, so that all views of a photograph are in one.

    Parameters
    ----------
    catalogue : ``tables.IMAGES``.
    predictions : ``tables.PREDICTIONS``; each photograph's fold is the one that held out its horse.

    Returns
    -------
    photo_id, image_id, view, path, x0..y1, horse, fold, truth, target, against (the class whose
    logit is taken off, or None), correct, control (explained again with random weights), by fold
    and photo_id.
    """
    explained = sampling.over_classes(predictions, explain.max_images, seed)
    control = sampling.over_classes(
        predictions[predictions["photo_id"].isin(explained)], explain.control_images, seed
    )
    place = predictions["photo_id"].map(lambda photo: int(photo[:8], 16) * n_shards >> 32)
    photos = predictions[predictions["photo_id"].isin(explained) & (place == shard)]
    photos = pd.DataFrame(
        {
            "photo_id": photos["photo_id"],
            "fold": photos["fold"],
            "truth": photos["truth"],
            "target": photos["truth" if explain.target == "true" else "predicted"],
            "against": held_against(photos, explain),
            "correct": photos["predicted"] == photos["truth"],
            "control": photos["photo_id"].isin(control),
        }
    )
    views = catalogue[["photo_id", "image_id", "view", "path", *BOX, "horse"]]
    rows = views.merge(photos, on="photo_id")
    return rows.sort_values(["fold", "photo_id", "view"], ignore_index=True)


def held_against(answers: pd.DataFrame, explain: settings.Explain) -> list[str | None]:
    """Name the class whose logit is taken off that of the answer; None unless asked.

    The class of the settings, or where none is named, or it is the answer, the second likeliest.

    Parameters
    ----------
    answers : columns predicted and p_{class}.
    """
    if explain.target != "contrast":
        return [None] * len(answers)
    shares = answers[[name for name in answers.columns if str(name).startswith("p_")]]
    names = np.array([str(name).removeprefix("p_") for name in shares.columns], object)
    own = names[None] == answers["predicted"].to_numpy(object)[:, None]
    second = names[np.where(own, -1.0, shares.to_numpy(float)).argmax(axis=1)]
    return [
        explain.contrast if explain.contrast not in (None, answer) else other
        for answer, other in zip(answers["predicted"], second, strict=True)
    ]


# ------------------------------------------------------------------------------------- a shard

Photo = dict[str, Any]
"""Rows of :func:`plan` of one photograph, by view."""
Part = dict[str, np.ndarray]
"""What is found of some photographs: one entry per photograph and view, in MAP_TENSORS, ``item``
(n, 16) uint8, ``measures`` (n, n_regions, 5) and ``positive`` (n,)."""
GIVEN = ["region", "kind", *BOX, "points", "mask", "visible"]
"""What of a region row its score comes from."""


@dataclass(frozen=True)
class _Job:
    """What all batches of a shard share."""

    explain: settings.Explain
    images_dir: Path
    regions: dict[tuple[str, str], pd.DataFrame]  # of a photograph, by path and horse
    names: list[str]  # of regions and roll-ups
    device: torch.device
    references: References
    readers: ThreadPoolExecutor

    def regions_of(self, row: Any) -> pd.DataFrame | None:
        return self.regions.get((row.path, row.horse))


def explain_shard(
    rows: pd.DataFrame,
    load_model: Loader,
    region_table: pd.DataFrame | None,
    explain: settings.Explain,
    images_dir: str | Path,
    maps_path: str | Path,
    scores_path: str | Path,
    record: str | Path,
    *,
    device: torch.device,
    seed: int,
    references: References | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Explain a shard's photographs and write maps and region scores.

    Each photograph is explained by the model of its own outer fold, which was trained without its
    horse; one model is in memory at a time (two while the control is made). Finished batches are
    kept in ``state/explain``, so that a killed job goes on where it was.

    Parameters
    ----------
    rows : from :func:`plan`.
    load_model : called once per fold.
    region_table : from ``tables.read_regions`` or ``regions.stand_in``; None: no scores.
    maps_path : gets ``maps`` (n, h, w) float16 signed in [-1, 1], ``scale`` (n,): maps x scale is
        the attribution of each cell, in logits; ``image_id`` (n, 16) uint8, ``target`` (n,) index
        of the class, ``against`` (n,) that of the class held against it, or -1; ``gap`` (n,),
        ``steps`` (n,) points used, ``rough`` (n,) whether the gap stayed above the tolerance.
        One entry per photograph and view, sorted by image_id; the metadata's ``card`` is JSON:
        version, classes, models (fingerprint of each fold's).
    scores_path : gets ``tables.REGION_SCORES``; rows of the control have model = random.
    record : folder in which the study notes which progress it uses.
    references : from ``references.gather``; needed by every baseline but ``blur``.
    workers : threads that read the next batch's pictures while one is integrated.

    Returns
    -------
    Number of photographs integrated now; others were kept from an earlier run.
    """
    names = [] if region_table is None else regions.names(region_table)
    control = rows["control"].astype(bool)
    total = sum(int(rows.loc[own, "photo_id"].nunique()) for own in (rows.index, control))
    maps: list[Part] = []
    scores = [pd.DataFrame(columns=tables.REGION_SCORES.names)]
    used: dict[str, str] = {}
    classes: list[str] = []
    done = new = 0
    with ThreadPoolExecutor(max(1, workers)) as readers:
        job = _Job(
            explain, Path(images_dir), _by_photo(region_table, rows), names, device,
            references or References(), readers,
        )  # fmt: skip
        for fold, of_fold in rows.groupby("fold", sort=True):
            model = _frozen(load_model(str(fold)))
            classes, used[str(fold)] = list(model.classes), models.fingerprint(model)
            for kind, own in (("trained", of_fold), ("random", of_fold[control[of_fold.index]])):
                own_seed = None
                if kind == "random" and not own.empty:
                    own_seed = int(digest(seed, fold, length=8), 16)
                    model = _frozen(models.randomised(model, own_seed))
                key = _key(job, used[str(fold)], str(fold), own_seed)
                state = state_folder("explain", key, record)
                for part, fresh in _parts(job, model, str(fold), own, state):
                    scores.append(_scores(part, own.assign(model=kind), names))
                    if kind == "trained":
                        maps.append({name: part[name] for name in MAP_TENSORS})
                    n_photos = len(part["item"]) // len(model.views)
                    done, new = done + n_photos, new + fresh * n_photos
                    if progress:
                        progress(done, total)
            del model
    described = {"version": EXPLAIN_VERSION, "classes": classes, "models": used}
    _write_maps(maps, maps_path, described)
    whole = pd.concat(scores, ignore_index=True) if len(scores) > 1 else scores[0]
    whole = whole.sort_values(["model", "image_id"], kind="stable", ignore_index=True)
    tables.write(whole, scores_path, tables.REGION_SCORES)
    return new


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def _key(job: _Job, model: str, fold: str, seed: int | None) -> str:
    """Digest of all that would make a model's kept batches stale, beside each photograph's own."""
    elsewhere = {"max_images", "target", "contrast", "control_images", "batch_size"}
    asked = job.explain.model_dump(exclude=elsewhere, mode="json")
    return digest(EXPLAIN_VERSION, model, seed, asked, job.references.key(fold), job.names)


def _by_photo(
    region_table: pd.DataFrame | None, rows: pd.DataFrame
) -> dict[tuple[str, str], pd.DataFrame]:
    if region_table is None:
        return {}
    here = region_table[region_table["image"].isin(set(rows["path"]))]
    return {(str(path), str(horse)): own for (path, horse), own in here.groupby(["image", "horse"])}


def _parts(
    job: _Job, model: Any, fold: str, rows: pd.DataFrame, state: Path
) -> Iterator[tuple[Part, bool]]:
    """Yield what earlier runs kept, then new batches (True) as they are made.

    Batches are cut from all photographs, not from those left: a job that was killed makes the very
    batches, and bits, that it would have made.
    """
    by_photo = rows[rows["view"].isin(model.views)].groupby("photo_id", sort=True)
    photos: list[Photo] = [_photo(own) for _, own in by_photo]
    if not photos:
        return
    items = [_item(job, [photo[view] for view in model.views]) for photo in photos]
    kept: set[str] = set()
    for part in _kept(state, set(items), _photo_id(photos[0]), _photo_id(photos[-1])):
        kept.update(tables.unpack_ids(part["item"]))
        yield part, False
    chunk = Chunk(job.explain.batch_size)
    size = PASSES_TOGETHER * job.explain.batch_size
    cut = [range(start, min(start + size, len(photos))) for start in range(0, len(photos), size)]
    left = [[i for i in batch if items[i] not in kept] for batch in cut]
    batches = [batch for batch in left if batch]

    def begin(batch: list[int]) -> list[Any]:
        shown = [photos[i][view] for i in batch for view in model.views]
        return [job.readers.submit(_read, row, model.backbone, job.images_dir) for row in shown]

    coming = begin(batches[0]) if batches else []
    references = None
    if batches:
        references = job.references.tensors(fold, model)
    for batch, following in pairwise([*batches, []]):
        pictures = [future.result() for future in coming]
        coming = begin(following)
        part = _explain_batch(job, model, references, [photos[i] for i in batch], pictures, chunk)
        part["item"] = tables.pack_ids(items[i] for i in batch for _ in model.views)
        first, last = _photo_id(photos[batch[0]]), _photo_id(photos[batch[-1]])
        name = f"{first}-{last}-{digest([items[i] for i in batch], length=8)}.safetensors"
        with written_whole(state / name) as aside:
            save_file(part, aside)
        yield part, True


def _photo(rows: Any) -> Photo:
    return {row.view: row for row in rows.itertuples(index=False)}


def _photo_id(photo: Photo) -> str:
    return str(next(iter(photo.values())).photo_id)


def _item(job: _Job, views: list[Any]) -> str:
    """Digest of a photograph's images (bytes, box, view), target and regions."""
    own = job.regions_of(views[0])
    given = []
    if own is not None:
        given = own[GIVEN].astype(str).to_numpy().tolist()
        for name in own.loc[own["kind"] == "mask", "mask"].dropna():
            path = job.images_dir / name
            given.append([path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else [])
    return digest([row.image_id for row in views], views[0].target, views[0].against, given)


def _kept(folder: Path, items: set[str], first: str, last: str) -> Iterator[Part]:
    """Yield the wanted entries of finished parts, each item once; open only parts in the range."""
    missing = set(items)
    for path in sorted(folder.glob("[0-9a-f]*.safetensors")):
        low, high, _ = path.stem.split("-")
        if not missing or high < first or low > last:
            continue
        part = load_file(path)
        here = tables.unpack_ids(part["item"])
        mine = np.array([item in missing for item in here], bool)
        if mine.any():
            missing.difference_update(here)
            yield {name: value[mine] for name, value in part.items()}


def _read(row: Any, backbone: Any, images_dir: Path) -> tuple[Tensor, np.ndarray, tuple[int, int]]:
    """Read the model's input (3, side, side) uint8, its affine, and the photograph's (h, w)."""
    picture = images.read(images_dir / row.path)
    box = (int(row.x0), int(row.y0), int(row.x1), int(row.y1))
    square, affine = images.fit(
        picture, box, backbone.side, backbone.fit, backbone.interpolation, backbone.crop_share
    )
    return square, affine, (picture.shape[1], picture.shape[2])


def _explain_batch(
    job: _Job,
    model: Any,
    references: list[Tensor] | None,
    photos: list[Photo],
    pictures: list[tuple[Tensor, np.ndarray, tuple[int, int]]],
    chunk: Chunk,
) -> Part:
    """Explain a batch: one entry per photograph and view, in that order."""
    views, side = list(model.views), model.backbone.side
    shown = [photo[view] for photo in photos for view in views]
    squares = torch.stack([square for square, _, _ in pictures]).to(job.device).float() / 255
    index = torch.tensor([model.classes.index(row.target) for row in shown], device=job.device)
    other = torch.full_like(index, NONE)
    if job.explain.target == "contrast":
        other = torch.tensor([model.classes.index(row.against) for row in shown], device=job.device)
    pixels = [squares[v :: len(views)] for v in range(len(views))]
    against = None if job.explain.target != "contrast" else other[:: len(views)]
    found = integrate(model, pixels, index[:: len(views)], job.explain, references, against, chunk)
    maps = torch.stack(found.maps, 1).flatten(0, 1)
    cells = shrink(maps, job.explain.map_px or side)
    scale = cells.abs().amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    measures = np.full((len(maps), len(job.names), len(regions.MEASURES)), np.nan)
    for i, (row, (_, affine, picture_px)) in enumerate(zip(shown, pictures, strict=True)):
        if (own := job.regions_of(row)) is not None:
            measures[i] = regions.of_image(
                maps[i], own, affine, picture_px, job.images_dir, job.names
            )
    return {
        "maps": (cells / scale[:, None, None]).half().cpu().numpy(),
        "scale": scale.cpu().numpy(),
        "image_id": tables.pack_ids(row.image_id for row in shown),
        "target": index.cpu().numpy(),
        "against": other.cpu().numpy(),
        "gap": found.gap.repeat_interleave(len(views)).numpy(),
        "steps": found.steps.repeat_interleave(len(views)).numpy(),
        "rough": (found.gap > job.explain.tolerance).repeat_interleave(len(views)).numpy(),
        "measures": measures,
        "positive": maps.double().clamp(min=0).sum((1, 2)).cpu().numpy(),
    }


def _scores(part: Part, rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    about = rows.set_index("image_id").loc[tables.unpack_ids(part["image_id"])].reset_index()
    return regions.table(about, part["measures"], part["positive"], names)


def _write_maps(parts: list[Part], path: str | Path, described: dict[str, Any]) -> None:
    """Write maps sorted by image_id, at the largest side found: models may see different inputs."""
    side = max((part["maps"].shape[-1] for part in parts), default=1)
    nothing = {
        "maps": np.zeros((0, side, side), np.float16),
        "scale": np.zeros(0, np.float32),
        "image_id": np.zeros((0, 16), np.uint8),
        "target": np.zeros(0, np.int64),
        "against": np.zeros(0, np.int64),
        "gap": np.zeros(0, np.float32),
        "steps": np.zeros(0, np.int64),
        "rough": np.zeros(0, bool),
    }
    parts = [nothing, *(_at_side(part, side) for part in parts)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in MAP_TENSORS}
    order = np.lexsort(whole["image_id"].T[::-1])
    for name in whole:
        whole[name] = np.ascontiguousarray(whole[name][order])
    with written_whole(path) as aside:
        # one entry: safetensors writes several in an order that changes from run to run
        save_file(whole, aside, {"card": json.dumps(described)})


def _at_side(part: Part, side: int) -> Part:
    if part["maps"].shape[-1] == side:
        return part
    cells = shrink(torch.from_numpy(part["maps"]).float(), side).numpy()
    peak = np.abs(cells).max((1, 2)).clip(np.finfo(np.float32).tiny)
    maps = (cells / peak[:, None, None]).astype(np.float16)
    return part | {"maps": maps, "scale": part["scale"] * peak}
