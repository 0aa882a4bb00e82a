"""What shards of maps hold, and how it is read back."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from equimood import tables

MAP_TENSORS = ["maps", "scale", "image_id", "target", "against", "gap", "steps", "rough"]
NONE = -1
"""Stands for a class where the score is not a difference of two."""


@dataclass(frozen=True)
class Maps:
    """A shard's maps as they are read: ``values`` (n, h, w) float32, attribution of each cell.

    ``gap``, ``steps`` and ``rough`` (n,) as ``explain_shard`` writes them; ``against`` None where
    the score is one logit.
    """

    image_ids: list[str]
    values: np.ndarray
    target: list[str]
    against: list[str | None]
    gap: np.ndarray
    steps: np.ndarray
    rough: np.ndarray


def read(path: str | Path, image_ids: Sequence[str] | None = None) -> Maps:
    """Read a shard's maps, or those of some images, in the shard's order."""
    with safe_open(path, "np") as file:
        ids = tables.unpack_ids(file.get_tensor("image_id"))
        wanted = None if image_ids is None else set(image_ids)
        take = [i for i, image_id in enumerate(ids) if wanted is None or image_id in wanted]
        classes = json.loads(file.metadata()["card"])["classes"]
        stored = file.get_slice("maps")
        values = np.zeros((len(take), *stored.get_shape()[1:]), np.float32)
        for i, at in enumerate(take):
            values[i] = stored[at]
        values *= file.get_tensor("scale")[take, None, None]
        told = {name: file.get_tensor(name)[take] for name in MAP_TENSORS[3:]}
        return Maps(
            [ids[i] for i in take],
            values,
            [classes[i] for i in told["target"]],
            [None if i == NONE else classes[i] for i in told["against"]],
            *(told[name] for name in ("gap", "steps", "rough")),
        )


def gaps(paths: Iterable[str | Path], tolerance: float) -> dict[str, Any]:
    """Say how far the attributions of all images, and of each explained class, miss the score.

    Without a figure (None) where the method's attributions are not meant to add up to its change.
    """
    parts = [pd.DataFrame({"target": [], "gap": [], "steps": []})]
    for path in paths:
        with safe_open(path, "np") as file:
            classes = np.array(json.loads(file.metadata()["card"])["classes"], object)
            told = {name: file.get_tensor(name) for name in ("target", "gap", "steps")}
            parts.append(pd.DataFrame(told).assign(target=classes[told["target"]]))
    found = pd.concat(parts, ignore_index=True)

    def figures(gap: pd.Series) -> dict[str, float | None]:
        known = gap.dropna()
        return {
            "median": float(known.median()) if len(known) else None,
            "p95": float(known.quantile(0.95)) if len(known) else None,
            "share_over_tolerance": float((known > tolerance).mean()) if len(known) else None,
        }

    steps = figures(found["steps"].astype(float))
    return {
        "n_images": len(found),
        "tolerance": tolerance,
        **figures(found["gap"].astype(float)),
        "steps_median": steps["median"],
        "steps_p95": steps["p95"],
        "classes": [
            {"target": target, "n_images": len(gap), **figures(gap)}
            for target, gap in found.groupby("target", sort=True)["gap"]
        ],
    }


def image_ids(path: str | Path) -> list[str]:
    """Ids of the images whose maps a shard has, in its order."""
    with safe_open(path, "np") as file:
        return tables.unpack_ids(file.get_tensor("image_id"))


def explained(paths: Iterable[str | Path], catalogue: pd.DataFrame) -> set[str]:
    """Photographs of the catalogue (tables.IMAGES) with a map in these shards, by photo_id."""
    ids: set[str] = set()
    for path in paths:
        ids.update(image_ids(path))
    return set(catalogue.loc[catalogue["image_id"].isin(ids), "photo_id"])
