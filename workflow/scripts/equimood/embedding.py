"""The store of embedded images: each image goes through a backbone once.

A store is a folder of immutable chunks, one store per backbone, pooling and precision. A chunk's
name carries the range of its image_ids, so that a job opens only the chunks that overlap its
shard. It appears whole or not at all, so that a killed job goes on where it was, and several jobs
may write to one store.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from equimood import devices, images, tables
from equimood.backbones import Backbone
from equimood.errors import UserError
from equimood.files import digest, state_folder, written_whole
from equimood.logs import Progress
from equimood.tables import SHARD, image_id

# Raise it whenever an image's stored features change: nothing embedded before is then used.
# `test_features_are_those_of_this_embed_version` says when.
EMBED_VERSION = 1
# A killed job loses at most this many batches, and at most this time.
BATCHES_PER_CHUNK = 16
SAVE_EVERY_S = 30.0
_CHANGED = (
    "It has changed since the catalogue was made: run ingest again (snakemake --forcerun ingest)"
)


@dataclass(frozen=True)
class Embedded:
    """A shard's features.

    ``image_ids`` (n,) sorted, each once; ``features`` pooling -> (n, d) in the same order;
    ``fingerprint`` of the backbone; ``embedded_now``: images that were not in the store, and
    ``seconds`` that they took, decoding included.
    """

    image_ids: list[str]
    features: dict[str, np.ndarray]
    fingerprint: str
    embedded_now: int
    seconds: float = 0.0


def store_key(backbone: Backbone, pooling: str, dtype: str) -> str:
    """Digest of all that an image's features depend on beside its image_id (bytes, box, view).

    The device and its precision are part of it: features of a CPU and of a GPU differ by more
    than features of two batches do, and are not mixed.
    """
    device = backbone.device.type
    with devices.autocast(backbone.device):
        mixed = torch.is_autocast_enabled(device)
    return digest(EMBED_VERSION, backbone.fingerprint, pooling, dtype, device, mixed)


def embed(
    shard: pd.DataFrame,
    images_dir: Path,
    backbone: Backbone,
    poolings: list[str],
    dtype: Literal["float16", "float32"],
    record: Path,
    batch_size: int,
    workers: int,
    progress: Progress | None = None,
) -> Embedded:
    """Embed the images that are not in the store, pooling by pooling, and return the whole shard.

    Memory: the shard's features, two batches of pixels, and ``workers`` decoded pictures.

    Parameters
    ----------
    shard : rows of ``tables.SHARD``.
    images_dir : folder in which their paths start.
    record : folder in which the study notes the stores it uses.
    workers : threads that decode and resize.

    Raises
    ------
    UserError : when an image cannot be read any more, a store is damaged, or features are not
        finite in ``dtype``.
    """
    rows = shard.drop_duplicates("image_id").sort_values("image_id", ignore_index=True)
    ids = pd.Index(rows["image_id"])
    stores = {
        pooling: state_folder("features", store_key(backbone, pooling, dtype), record)
        for pooling in poolings
    }
    missing = pd.DataFrame({pooling: ~_stored(store, ids) for pooling, store in stores.items()})
    wanted = [pooling for pooling in poolings if missing[pooling].any()]
    todo = rows[missing.any(axis=1)]
    squares = read_squares(todo, images_dir, backbone, workers, ahead=2 * batch_size)
    batches: list[dict[str, np.ndarray]] = []
    start = 0
    began = saved = time.monotonic()
    for done in range(0, len(todo), batch_size):
        batch = list(islice(squares, batch_size))
        batches.append(_forward(backbone, batch, wanted, batch_size))
        end = done + len(batch)
        if progress:
            progress(end, len(todo))
        late = time.monotonic() - saved > SAVE_EVERY_S
        if end == len(todo) or len(batches) == BATCHES_PER_CHUNK or late:
            part = todo.iloc[start:end]
            for pooling in wanted:
                new = missing.loc[part.index, pooling].to_numpy()
                vectors = np.concatenate([vectors[pooling] for vectors in batches])[new]
                _append(stores[pooling], part["image_id"][new].tolist(), _cast(vectors, dtype))
            batches, start, saved = [], end, time.monotonic()
    seconds = time.monotonic() - began
    features = {
        pooling: _collect(store, ids, backbone.n_features[pooling], dtype)
        for pooling, store in stores.items()
    }
    return Embedded(ids.tolist(), features, backbone.fingerprint, len(todo), seconds)


def square(
    path: Path, box: tuple[int, int, int, int], backbone: Backbone, hidden: str | None = None
) -> tuple[Tensor, np.ndarray]:
    """Make what a backbone sees of a frame in a picture: uint8 (3, side, side), and the affine.

    ``hidden`` as in tables.SHARD: boxes that are filled up before the frame is cut out.
    """
    picture = images.read(path)
    if isinstance(hidden, str):  # null may be NaN
        picture = images.hide(picture, tables.read_hidden(hidden))
    return images.fit(
        picture,
        box,
        backbone.side,
        backbone.fit,
        backbone.interpolation,
        backbone.crop_share,
    )


def pixels(squares: Tensor, device: torch.device | str) -> Tensor:
    """Turn squares, uint8 (b, 3, side, side), into what a backbone takes: float32 in 0-1."""
    return squares.to(device).float() / 255


def read_squares(
    rows: pd.DataFrame, images_dir: Path, backbone: Backbone, workers: int, ahead: int
) -> Iterator[Tensor]:
    """Yield the squares of rows of ``tables.SHARD`` in order, and refuse other pictures than these.

    Threads work ``ahead`` of the reader and no further.
    """

    def make(row: Any) -> Tensor:
        path, box = images_dir / row.path, (int(row.x0), int(row.y0), int(row.x1), int(row.y1))
        try:
            made, _ = square(path, box, backbone, row.hidden)
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except (images.ImageError, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, images.ImageError) else error
            raise UserError(f"{path}: {reason}. {_CHANGED}") from error
        # Else the store would keep one picture's features under another's name for ever.
        if image_id(content, box, row.view, row.hidden) != row.image_id:
            raise UserError(f"{path}: another picture than in the catalogue. {_CHANGED}")
        return made

    # Decoders release the interpreter, and extra torch threads make small programs much slower.
    pool = ThreadPoolExecutor(max(1, workers), initializer=devices.use_threads, initargs=(1,))
    waiting: deque[Future[Tensor]] = deque()
    try:
        for row in rows[SHARD.names].itertuples():
            waiting.append(pool.submit(make, row))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _forward(
    backbone: Backbone, squares: list[Tensor], poolings: list[str], batch_size: int
) -> dict[str, np.ndarray]:
    """Compute pooling -> (n, d) float32.

    Every batch has the same shape, filled up with black: kernels are chosen by shape, so that an
    image gets bitwise the same features whatever it is embedded with.
    """
    batch = torch.zeros((batch_size, 3, backbone.side, backbone.side), dtype=torch.uint8)
    torch.stack(squares, out=batch[: len(squares)])
    with torch.inference_mode(), devices.autocast(backbone.device):
        pooled = backbone(pixels(batch, backbone.device), poolings)
    return {
        pooling: vectors[: len(squares)].float().cpu().numpy()
        for pooling, vectors in pooled.items()
    }


def _cast(vectors: np.ndarray, dtype: str) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise UserError("the backbone gives features that are not finite; check its weights, mean "
                        "and std")  # fmt: skip
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype)
    if not np.isfinite(stored).all():
        raise UserError(
            f"features.dtype: a feature of {np.abs(vectors).max():.3g} does not fit {dtype}; write "
            "float32"
        )
    return stored


# The store


def _append(store: Path, ids: list[str], vectors: np.ndarray) -> None:
    """Add a chunk; ``ids`` sorted. The same images give the same name, and the same content."""
    if ids:
        name = f"{ids[0]}-{ids[-1]}-{digest(ids, length=8)}.safetensors"
        with written_whole(store / name) as aside:
            save_file({"image_id": tables.pack_ids(ids), "features": vectors}, aside)


def _chunks(store: Path, ids: pd.Index) -> Iterator[tuple[pd.Index, Any]]:
    """Yield image_ids and open file of every chunk whose range overlaps that of ``ids``, sorted."""
    for path in sorted(store.glob("*.safetensors")):
        first, last, _ = path.name.split("-")
        if len(ids) and first <= ids[-1] and ids[0] <= last:
            try:
                with safe_open(path, "numpy") as chunk:
                    yield pd.Index(tables.unpack_ids(chunk.get_tensor("image_id"))), chunk
            except SafetensorError as error:
                raise UserError(
                    f"{path}: damaged ({error}); delete it, its images are then embedded again"
                ) from None


def _stored(store: Path, ids: pd.Index) -> np.ndarray:
    """Say which of ``ids`` (n,) the store has: bool (n,)."""
    found = np.zeros(len(ids), bool)
    for stored, _ in _chunks(store, ids):
        found |= ids.isin(stored)
    return found


def _collect(store: Path, ids: pd.Index, n_features: int, dtype: str) -> np.ndarray:
    """Read the features of ``ids`` (n,): (n, n_features)."""
    features = np.empty((len(ids), n_features), dtype)
    found = np.zeros(len(ids), bool)
    for stored, chunk in _chunks(store, ids):
        place = ids.get_indexer(stored)
        here = place >= 0
        if here.any():
            features[place[here]] = chunk.get_tensor("features")[here]
            found[place[here]] = True
    if not found.all():
        raise UserError(f"{store}: lost images while this job ran; run it again")
    return features


# The study's files, features/{view}/{backbone}/{shard}.safetensors


def write_shard(path: Path, embedded: Embedded) -> None:
    """Write a shard: one tensor per pooling (n, d), ``image_id`` uint8 (n, 16), in one order.

    The same features give the same bytes, whether they were embedded now or before.
    """
    made_with = {"fingerprint": embedded.fingerprint, "embed_version": EMBED_VERSION}
    tensors = {"image_id": tables.pack_ids(embedded.image_ids), **embedded.features}
    with written_whole(path) as aside:
        # one entry: safetensors writes several in an order that changes from run to run
        save_file(tensors, aside, {"card": json.dumps(made_with)})
