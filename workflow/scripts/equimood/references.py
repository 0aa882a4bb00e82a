"""What photographs are compared with, where that is not themselves blurred.

One colour, or photographs of a neutral class: of horses that the explaining model was trained on,
so that they are never of the explained horse, nor of any other that the model has not seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equimood import embedding, images, integrated_gradients, settings, tables
from equimood.errors import UserError
from equimood.files import digest

MEAN_OF = 256
"""Photographs from which the mean colour is taken."""
ALL = "final"
"""The fold of the model trained on all horses."""


@dataclass(frozen=True)
class References:
    """The references of a study: a colour, or photographs by fold, or neither (blur)."""

    colour: tuple[float, ...] | None = None
    photographs: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    images_dir: Path = Path()

    def enough(self, fold: str, n: int) -> bool:
        """Whether a fold has ``n`` photographs, where photographs are what is needed."""
        return not self.photographs or self.photographs[fold]["photo_id"].nunique() == n

    def tensors(self, fold: str, model: Any) -> list[Tensor] | None:
        """As ``integrate`` takes them, for the model of a fold: one tensor per view, or None."""
        if self.colour is not None:
            return integrated_gradients.colour(self.colour, len(model.views))
        if not self.photographs:
            return None
        backbone, found = model.backbone, []
        for view in model.views:
            rows = self.photographs[fold]
            own: Any = rows[rows["view"] == view].itertuples(index=False)
            squares = []
            for row in own:
                box = (int(row.x0), int(row.y0), int(row.x1), int(row.y1))
                squares.append(embedding.square(self.images_dir / row.path, box, backbone)[0])
            found.append(embedding.pixels(torch.stack(squares), backbone.device))
        return found

    def key(self, fold: str) -> str:
        """Digest of the references of a fold."""
        rows = self.photographs.get(fold)
        return digest(self.colour, None if rows is None else rows["image_id"].tolist())


def gather(
    catalogue: pd.DataFrame,
    splits: pd.DataFrame | None,
    explain: settings.Explain,
    images_dir: str | Path,
    seed: int,
    *,
    skip: int = 0,
) -> References:
    """Gather what the baseline of the settings needs.

    Parameters
    ----------
    catalogue : ``tables.IMAGES``.
    splits : ``tables.SPLITS``; None: for the model trained on all horses.
    skip : photographs left out of those that come first.
    """
    if explain.baseline == "mean":
        return References(tuple(mean_colour(catalogue, images_dir, seed).tolist()))
    if explain.baseline == "constant":
        return References(explain.constant)
    if explain.baseline == "blur":
        return References()
    photographs = {}
    if splits is None:
        horses = {ALL: set(catalogue["horse"])}
    else:
        trained = splits[splits["role"] == "train"].groupby("fold")["horse"]
        horses = {str(fold): set(own) for fold, own in trained}
    for fold, own in horses.items():
        shown = catalogue[catalogue["horse"].isin(own)]
        photographs[fold] = choose(shown, str(explain.neutral), explain.n_references, seed, skip)
        if photographs[fold].empty and not skip:
            raise UserError(
                f"explain.neutral: no photograph of {explain.neutral!r} among the horses that the "
                f"model of fold {fold} was trained on; write another class, or another baseline"
            )
    return References(None, photographs, Path(images_dir))


def another(
    catalogue: pd.DataFrame,
    splits: pd.DataFrame,
    explain: settings.Explain,
    images_dir: str | Path,
    seed: int,
) -> tuple[settings.Explain, References]:
    """Give another baseline for the same question, and what it needs.

    Of a blur the mean colour, of a colour the blur. Of neutral photographs other ones, as many as
    are left: against anything else, something else would be asked.
    """
    kind = {"blur": "mean", "neutral": "neutral"}.get(explain.baseline, "blur")
    other = explain.model_copy(update={"baseline": kind})
    return other, gather(catalogue, splits, other, images_dir, seed, skip=explain.n_references)


def of_final(
    catalogue: str | Path, explain: settings.Explain, images_dir: str | Path, seed: int
) -> References:
    """Gather for the model trained on all horses; ``catalogue`` is read where it is needed."""
    table = tables.read(catalogue) if explain.baseline in ("mean", "neutral") else pd.DataFrame()
    return gather(table, None, explain, images_dir, seed)


def choose(catalogue: pd.DataFrame, label: str, n: int, seed: int, skip: int = 0) -> pd.DataFrame:
    """Choose n photographs of a class that have all views, other horses first: all their rows."""
    own = catalogue[catalogue["label"] == label]
    n_views = own.groupby("photo_id")["view"].transform("nunique")
    own = own[n_views == catalogue["view"].nunique()]
    photos = own.drop_duplicates("photo_id")[["photo_id", "horse"]]
    photos = photos.assign(order=[digest(seed, photo) for photo in photos["photo_id"]])
    photos = photos.sort_values("order")
    photos["turn"] = photos.groupby("horse").cumcount()
    ranked = photos.sort_values(["turn", "order"])["photo_id"]
    chosen = ranked.iloc[skip : skip + n]
    return own[own["photo_id"].isin(chosen)].sort_values(["view", "photo_id"], ignore_index=True)


def mean_colour(catalogue: pd.DataFrame, images_dir: str | Path, seed: int) -> np.ndarray:
    """Mean (3,) of the pixels (0-1) of a seeded sample of the catalogue's photographs."""
    photos = catalogue.drop_duplicates("photo_id")
    order = photos["photo_id"].map(lambda photo: digest(seed, photo)).sort_values().index[:MEAN_OF]
    sample = photos.loc[order, "path"]
    means = [images.read(Path(images_dir) / path).double().mean((1, 2)) for path in sample]
    return (torch.stack(means).mean(0) / 255).numpy()
