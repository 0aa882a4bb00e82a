"""Features as a study's later stages read them: matrices of photographs, out of shards.

``embedding`` writes the shards. Nothing here imports a backbone or decodes a picture, which makes
the stages that need only features start in half the time.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from equimood import tables
from equimood.errors import UserError
from equimood.files import digest


def read_card(shard: Any) -> dict[str, Any]:
    """Say what an open shard's features are made with: fingerprint of the backbone, version."""
    return dict(json.loads(shard.metadata()["card"]))


def digests(
    feature_files: Sequence[Path], photos: pd.DataFrame, pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Digest, per view/backbone of ``pairs``, of the images and of what made their features."""
    made_with: dict[str, set[str]] = {}
    for path in map(Path, feature_files):
        with safe_open(path, framework="np") as opened:
            card = read_card(opened)
            made_of = [card["fingerprint"], str(card["embed_version"])]
            made_of += sorted({opened.get_slice(name).get_dtype() for name in opened.keys()})  # noqa: SIM118
        pair = f"{path.parent.parent.name}/{path.parent.name}"
        made_with.setdefault(pair, set()).add(" ".join(made_of))
    return {
        f"{view}/{backbone}": digest(
            photos[f"image_{view}"].tolist(), sorted(made_with.get(f"{view}/{backbone}", ()))
        )
        for view, backbone in pairs
    }


def matrix(
    paths: Iterable[str | Path], photos: pd.DataFrame, views: list[str], backbone: str, pooling: str
) -> np.ndarray:
    """Read the features of photographs: float32 (n, sum of d), the views side by side in order.

    ``photos`` as :func:`photos` gives them. Memory: the matrix and one shard.
    """
    paths = list(paths)
    blocks = []
    for view in views:
        wanted = photos[f"image_{view}"].to_numpy(str)
        order = np.argsort(wanted)
        ordered = wanted[order]
        block = np.empty((len(wanted), 0), np.float32)
        found = np.zeros(len(wanted), bool)
        for ids, vectors in _shards(paths, view, backbone, pooling):
            if not block.shape[1]:
                block = np.empty((len(wanted), vectors.shape[1]), np.float32)
            if len(ids):
                low = np.searchsorted(ordered, ids[0], "left")
                high = np.searchsorted(ordered, ids[-1], "right")
                place = ids.get_indexer(pd.Index(ordered[low:high]))
                here = order[low:high][place >= 0]
                block[here] = vectors[place[place >= 0]]
                found[here] = True
        if not found.all():
            raise UserError(
                f"features of {backbone}, view {view}: {int((~found).sum())} of {len(found)} "
                "images are missing; run the target embed again"
            )
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def photos(images: pd.DataFrame, views: list[str]) -> pd.DataFrame:
    """Find the photographs that have every one of the views.

    Parameters
    ----------
    images : ``tables.IMAGES``.

    Returns
    -------
    photo_id, label, horse, session, video, path, and image_id per view as ``image_{view}``; one row
    per photograph, sorted by photo_id.
    """
    shared = ["photo_id", "label", "horse", "session", "video", "path"]
    found = images.loc[images["view"] == views[0], shared]
    for view in views:
        here = images.loc[images["view"] == view, ["photo_id", "image_id"]]
        found = found.merge(
            here.rename(columns={"image_id": f"image_{view}"}), on="photo_id", validate="1:1"
        )
    return found.sort_values("photo_id", ignore_index=True)


def _shards(
    paths: Iterable[str | Path], view: str, backbone: str, pooling: str
) -> Iterator[tuple[pd.Index, np.ndarray]]:
    """Yield image_ids (n,) and features (n, d) of each shard, in the order of their names."""
    chosen = sorted(p for p in map(Path, paths) if p.parts[-3:-1] == (view, backbone))
    if not chosen:
        raise UserError(f"no features of {backbone}, view {view}; run the target embed")
    fingerprints = set()
    for path in chosen:
        with safe_open(path, "numpy") as shard:
            fingerprints.add(read_card(shard)["fingerprint"])
            if len(fingerprints) > 1:
                raise UserError(
                    f"{path}: made by another {backbone} than the shards before it; run the target "
                    "embed again"
                )
            if pooling not in shard.keys():  # noqa: SIM118 (no mapping)
                raise UserError(f"{path}: no pooling {pooling}; run the target embed again")
            ids = pd.Index(tables.unpack_ids(shard.get_tensor("image_id")))
            yield ids, shard.get_tensor(pooling)
