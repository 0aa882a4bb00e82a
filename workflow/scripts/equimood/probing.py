"""Put the explanations of a sample of photographs to the test; one row per photograph and measure.

The sample is even over classes and horses and as small whatever the size of the study, so that one
job tests all its folds. Each photograph is tested with the model that never saw its horse.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equimood import (
    attribution,
    faithfulness,
    images,
    models,
    regions,
    sampling,
    settings,
    tables,
    training,
)
from equimood.best import read_best
from equimood.faithfulness import change, rank_correlation
from equimood.files import digest, read_yaml
from equimood.integrated_gradients import blur, integrate
from equimood.logs import Progress
from equimood.references import References
from equimood.tables import ROWS

FORWARDS = 4
"""Pictures in a forward pass, for each that is integrated: nothing is kept for a backward one."""
RANDOM_ORDERS = 2
NOISES = 2
LEVELS = 4  # of the cascade: the head, then blocks in three steps

Retrain = Callable[[str, Any], Any]
"""Gives the model of an outer fold with a head trained from other seeds, or None."""


def sample(
    catalogue: pd.DataFrame,
    predictions: pd.DataFrame,
    explain: settings.Explain,
    n: int,
    seed: int,
) -> pd.DataFrame:
    """Choose ``n`` photographs evenly over classes and horses: rows of :func:`attribution.plan`."""
    chosen = predictions["photo_id"].isin(sampling.over_classes_and_horses(predictions, n, seed))
    everything = explain.model_copy(update={"max_images": None, "control_images": 0})
    return attribution.plan(catalogue, predictions[chosen], everything, seed)


@dataclass(frozen=True)
class _Batch:
    """Photographs that one model explains.

    about : photo_id, horse, fold, truth, target, one row per photograph.
    shown : per photograph and view, its row of the plan, affine and the picture's (height, width).
    views, starts : per view (n, 3, side, side), the pictures and what covers them.
    target, against : (n,), as ``integrate`` takes them.
    """

    about: pd.DataFrame
    shown: list[list[tuple[Any, np.ndarray, tuple[int, int]]]]
    views: list[Tensor]
    starts: list[Tensor]
    target: Tensor
    against: Tensor | None

    def rows(self, test: str, of: str, values: Any, at: float = np.nan) -> pd.DataFrame:
        """One row per photograph, with its value."""
        return self.about.assign(test=test, of=of, at=at, value=np.asarray(values, float))


def probe(
    rows: pd.DataFrame,
    load_model: attribution.Loader,
    retrain: Retrain,
    region_table: pd.DataFrame,
    explain: settings.Explain,
    tests: settings.ExplanationTests,
    images_dir: str | Path,
    *,
    device: torch.device,
    seed: int,
    references: References,
    another: tuple[settings.Explain, References],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Test the explanations of a sample.

    Parameters
    ----------
    rows : from :func:`sample`.
    load_model, retrain : called once per fold.
    region_table : from ``tables.read_regions``, or ``regions.stand_in``.
    references : what the study's own baseline needs.
    another : the other baseline, from :func:`references.another`.

    Returns
    -------
    ``tables.EXPLANATION_TESTS``. Pictures are covered with their own blur, whatever baseline the
    study explains against.
    """
    found = [pd.DataFrame(columns=tables.EXPLANATION_TESTS.names)]
    done, total = 0, rows["photo_id"].nunique()
    for fold, of_fold in rows.groupby("fold", sort=True):
        model = load_model(str(fold))
        twin, compared = retrain(str(fold), model), references.tensors(str(fold), model)
        baseline: tuple[settings.Explain, list[Tensor] | None] | None = None
        # with too few neutral photographs a map would be held against itself
        if another[1].enough(str(fold), explain.n_references):
            baseline = another[0], another[1].tensors(str(fold), model)
        for batch in _batches(model, of_fold, explain, Path(images_dir), device):
            own = int(digest(seed, batch.about["photo_id"].tolist(), length=8), 16)
            exact = integrate(
                model, batch.views, batch.target, explain, compared, batch.against
            ).maps
            found += _covering(model, batch, exact, own, explain)
            found += _hiding(model, batch, exact, region_table, Path(images_dir), explain)
            found += _comparing(model, twin, batch, explain, tests, compared, baseline, own)
            done += len(batch.about)
            if progress:
                progress(done, total)
    return pd.concat([part for part in found if len(part)] or found, ignore_index=True)


def retrainer(
    cards: Sequence[Path], bests: Sequence[Path], splits: pd.DataFrame, **of_fold: Any
) -> Retrain:
    """Train heads on frozen features again, from seeds that they did not have.

    None of a fine-tuned model, whose training takes hours.

    Parameters
    ----------
    cards, bests : the models' card.yaml and the searches' best.yaml, of every outer fold.
    of_fold : the other arguments of :class:`training.Fold`.
    """
    tuned = {path.parent.name: "transfer" in read_yaml(path) for path in cards}
    chosen = {path.parent.name: read_best(path) for path in bests}

    def retrain(fold: str, model: models.EmotionModel) -> models.EmotionModel | None:
        if tuned[fold]:
            return None
        head = chosen[fold].head
        best = replace(chosen[fold], head=replace(head, seed=head.seed + of_fold["n_seeds"]))
        trained = training.Fold(splits=splits[splits["fold"] == fold], best=best, **of_fold)
        twin = models.EmotionModel(
            model.backbone, trained.head(), model.structure, model.classes,
            float(model.temperature), model.threshold, model.novelty,
        )  # fmt: skip
        return twin.to(model.backbone.device)

    return retrain


def _batches(
    model: Any,
    rows: pd.DataFrame,
    explain: settings.Explain,
    images_dir: Path,
    device: torch.device,
) -> Iterator[_Batch]:
    backbone, views = model.backbone, list(model.views)
    photos = [own for _, own in rows[rows["view"].isin(views)].groupby("photo_id", sort=True)]
    for start in range(0, len(photos), explain.batch_size):
        squares: list[list[Tensor]] = [[] for _ in views]
        shown, about = [], []
        for photo in photos[start : start + explain.batch_size]:
            by_view = {row.view: row for row in photo.itertuples(index=False)}
            about.append(by_view[views[0]])
            framed = []
            for view, pictures in zip(views, squares, strict=True):
                row: Any = by_view[view]
                picture = images.read(images_dir / row.path)
                box = (int(row.x0), int(row.y0), int(row.x1), int(row.y1))
                square, affine = images.fit(
                    picture, box, backbone.side, backbone.fit, backbone.interpolation,
                    backbone.crop_share,
                )  # fmt: skip
                pictures.append(square)
                framed.append((row, affine, (picture.shape[1], picture.shape[2])))
            shown.append(framed)
        pixels = [torch.stack(pictures).to(device).float() / 255 for pictures in squares]
        known = pd.DataFrame(about)[["photo_id", "horse", "fold", "truth", "target"]]
        index = [model.classes.index(label) for label in known["target"]]
        against = None
        if explain.target == "contrast":
            held = [model.classes.index(row.against) for row in about]
            against = torch.tensor(held, device=device)
        yield _Batch(
            known,
            shown,
            pixels,
            [blur(view, explain.blur * view.shape[-1]) for view in pixels],
            torch.tensor(index, device=device),
            against,
        )


# ------------------------------------------------------------------------------------- the tests


def _covering(
    model: Any, batch: _Batch, maps: Sequence[Tensor], seed: int, explain: settings.Explain
) -> list[pd.DataFrame]:
    """Deletion and insertion curves, in the order of the map, of edges, and at random."""
    marked, drawn = faithfulness.cells(maps), faithfulness.edges(batch.views)
    source = torch.Generator().manual_seed(seed)
    chance = [torch.rand(marked.shape, generator=source).to(marked) for _ in range(RANDOM_ORDERS)]
    curves = faithfulness.covered(
        model, batch.views, batch.starts, batch.target,
        torch.stack([marked, -marked, drawn, -drawn, *chance]), FORWARDS * explain.batch_size,
    ).cpu().numpy()  # fmt: skip
    random = curves[4:].mean(0)
    orders = {
        "map": (curves[0], curves[1]),
        "edges": (curves[2], curves[3]),
        "random": (random, random),  # read backwards a random order is a random order
    }
    found = []
    for of, (forwards, backwards) in orders.items():
        for test, curve in (("deletion", forwards), ("insertion", backwards[:, ::-1])):
            for at, values in zip(faithfulness.FRACTIONS, curve.T, strict=True):
                found.append(batch.rows(test, of, values, at))
    return found


def _hiding(
    model: Any,
    batch: _Batch,
    maps: Sequence[Tensor],
    region_table: pd.DataFrame,
    images_dir: Path,
    explain: settings.Explain,
) -> list[pd.DataFrame]:
    """Rank correlation of a region's attribution, and of its size, with what hiding it does."""
    sides = [view.shape[-1] for view in batch.views]
    whose: list[int] = []
    masks: list[list[Tensor]] = [[] for _ in sides]
    for i, shown in enumerate(batch.shown):
        for part in _parts(shown, sides, region_table, images_dir):
            whose.append(i)
            for stack, mask in zip(masks, part, strict=True):
                stack.append(torch.from_numpy(mask))
    if not whose:
        return []
    of = torch.tensor(whose, device=batch.target.device)
    stacks = [torch.stack(stack).to(batch.views[0]) for stack in masks]
    fell = faithfulness.drops(
        model, batch.views, batch.starts, batch.target, batch.against, of, stacks,
        FORWARDS * explain.batch_size,
    )  # fmt: skip
    signed = sum((m[of] * stack).sum((1, 2)) for m, stack in zip(maps, stacks, strict=True))
    size = sum(stack.sum((1, 2)) for stack in stacks)
    table = pd.DataFrame({
        "i": whose, "fell": fell.cpu(), "map": torch.as_tensor(signed).cpu(),
        "size": torch.as_tensor(size).cpu(),
    })  # fmt: skip
    found = []
    for name in ("map", "size"):
        values = np.full(len(batch.about), np.nan)
        for i in range(len(values)):
            pair = table.loc[table["i"] == i, ["fell", name]].to_numpy().T
            if pair.shape[1] >= faithfulness.MIN_REGIONS:
                values[i] = rank_correlation(pair[:1], pair[1:])[0]
        found.append(batch.rows("occlusion", name, values).dropna(subset="value"))
    return found


def _parts(
    shown: Sequence[tuple[Any, np.ndarray, tuple[int, int]]],
    sides: Sequence[int],
    region_table: pd.DataFrame,
    images_dir: Path,
) -> list[list[np.ndarray]]:
    """Masks of a photograph's regions, each with one (side, side) per view."""
    by_view = []
    for (row, affine, picture_px), side in zip(shown, sides, strict=True):
        own = region_table[
            (region_table["image"] == row.path) & (region_table["horse"] == row.horse)
        ]
        by_view.append(regions.rasterise(own, affine, side, picture_px, images_dir))
    return [
        [
            masks.get(name, np.zeros((side, side), np.float32))
            for masks, side in zip(by_view, sides, strict=True)
        ]
        for name in ROWS
        if any(name in masks for masks in by_view)
    ]


def _comparing(
    model: Any,
    twin: Any,
    batch: _Batch,
    explain: settings.Explain,
    tests: settings.ExplanationTests,
    references: list[Tensor] | None,
    another: tuple[settings.Explain, list[Tensor] | None] | None,
    seed: int,
) -> list[pd.DataFrame]:
    """How like the map is to those of other weights, seeds, baselines and pixels."""
    n_paths = explain.n_references if explain.baseline == "neutral" else 0
    shared = settings.LEAST_POINTS * n_paths
    n_steps = max(tests.n_steps, shared)  # the same points for all: none are added

    def map_of(
        network: Any,
        views: Sequence[Tensor],
        how: settings.Explain = explain,
        compared: list[Tensor] | None = references,
    ) -> np.ndarray:
        quick = how.model_copy(update={"n_steps": n_steps, "max_steps": n_steps})
        maps = integrate(network, views, batch.target, quick, compared, batch.against).maps
        return faithfulness.cells(maps).double().cpu().numpy()

    own = map_of(model, batch.views)
    found = []
    for level, forgetful in models.cascade(model, seed, LEVELS):
        drawn = map_of(forgetful, batch.views)
        found.append(batch.rows("randomisation", "map", rank_correlation(own, drawn), level))
        strength = rank_correlation(np.abs(own), np.abs(drawn))
        found.append(batch.rows("randomisation", "strength", strength, level))
    source = torch.Generator().manual_seed(seed)
    moved = [
        change(own, map_of(model, faithfulness.disturbed(batch.views, tests.noise, source)))
        for _ in range(NOISES)
    ]
    found.append(batch.rows("sensitivity", "map", np.max(moved, axis=0)))
    if twin is not None:
        found.append(batch.rows("seeds", "map", rank_correlation(own, map_of(twin, batch.views))))
    if another is not None:
        likeness = rank_correlation(own, map_of(model, batch.views, *another))
        found.append(batch.rows("baseline", another[0].baseline, likeness))
    return found
