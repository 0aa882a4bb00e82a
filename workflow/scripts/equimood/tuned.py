"""A fold's fine-tuned model, where it is adopted: apart from how it is found, which takes long."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from equimood import embedding, features, training
from equimood.files import read_yaml, written_whole
from equimood.logs import Progress
from equimood.models import EmotionModel

JUDGED_AT_ONCE = 64  # photographs

Method = Literal["last_blocks", "all_blocks", "scratch"]
METHODS: tuple[Method, ...] = ("last_blocks", "all_blocks", "scratch")


def chosen(files: Sequence[str | Path]) -> Path | None:
    """Folder of a fold's fine-tuned model, where it scored better than frozen features.

    ``files``, the first of them ``best.yaml``, are in that folder; none where all was left frozen.
    """
    if not files or read_yaml(files[0])["chosen"] not in METHODS:
        return None
    return Path(files[0]).parent


def adopt(folder: Path, model: Path) -> None:
    """Make the fine-tuned model of a fold the fold's model: its weights and card, as they are."""
    for name in ("weights.safetensors", "card.yaml"):
        with written_whole(model / name) as aside:
            shutil.copyfile(folder / name, aside)


def predict(
    model: EmotionModel,
    catalogue: pd.DataFrame,
    splits: pd.DataFrame,
    images_dir: Path,
    workers: int,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Judge the fold's test horses from their pixels: tables.PREDICTIONS and p_{class}."""
    photos = training.test_photos(features.photos(catalogue, model.views), splits)
    rows = catalogue.assign(hidden=None).set_index("image_id", drop=False)
    ahead = JUDGED_AT_ONCE + workers
    readers = [
        embedding.read_squares(rows.loc[photos[f"image_{view}"]], images_dir, model.backbone,
                              workers, ahead)
        for view in model.views
    ]  # fmt: skip
    found = [torch.zeros((0, len(model.classes)), dtype=torch.float64)]
    novelty = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(photos), JUDGED_AT_ONCE):
        end = min(start + JUDGED_AT_ONCE, len(photos))
        squares = [torch.stack([next(reader) for _ in range(end - start)]) for reader in readers]
        pixels = [embedding.pixels(stack, model.backbone.device) for stack in squares]
        with torch.inference_mode():
            X = model.features(*pixels)
            found.append(model.logits(X).double().softmax(1).cpu())
            novelty.append(model.novelty(X).double().cpu())
        if progress:
            progress(end, len(photos))
    return training.answers(
        photos, torch.cat(found).numpy(), model.views[0], splits, model.classes
    ).assign(threshold=model.threshold, novelty=torch.cat(novelty).numpy())
