"""New photographs for the final model: calibrated probabilities, and what they rest on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equimood import (
    attribution,
    catalogue,
    embedding,
    files,
    images,
    integrated_gradients,
    overlays,
    references,
    settings,
    tables,
)
from equimood.abstention import answer
from equimood.errors import UserError
from equimood.examples import Example
from equimood.logs import Progress
from equimood.models import EmotionModel
from equimood.quadrature import Chunk
from equimood.references import References
from equimood.tables import BOX


def asked(
    predict: settings.Predict, views: Mapping[str, settings.View]
) -> tuple[pd.DataFrame, pd.DataFrame | None, Path]:
    """Read what to predict, with the boxes that the model's views need.

    Parameters
    ----------
    views : those the model looks at, by name.

    Returns
    -------
    Rows line, image, x0..y1 (NaN where not given); the regions (``tables.read_regions``), or None
    where no view needs them; and the folder that the images' paths start from.

    Raises
    ------
    UserError : there are no images, or the boxes of a view are not given.
    """
    if predict.images is None:
        raise UserError("predict.images: null; write the folder, or the table, of new images")
    rows, folder = tables.read_new_images(predict.images)
    lacking = []
    for name, view in views.items():
        if view.box == "annotations" and rows[BOX].isna().all(axis=None):
            lacking.append(
                f"predict.images: {predict.images} gives no boxes, but the model looks at the view "
                f"{name!r}, a box; write a table of the images with columns image, {', '.join(BOX)}"
            )
        if view.box == "regions" and predict.regions is None:
            lacking.append(
                f"predict.regions: null, but the model looks at the view {name!r}, the box around "
                f"{', '.join(view.regions)}; write a table of these regions in the new images, "
                f"with columns image, region, kind, {', '.join(BOX)}"
            )
    if lacking:
        raise UserError("\n".join(lacking))
    regions = None
    if predict.regions and any(view.box == "regions" for view in views.values()):
        regions = tables.read_regions(predict.regions, {}, with_horse=False)
        if set(regions["image"]).isdisjoint(rows["image"]):
            raise UserError(
                f"predict.regions: none of its images is among the new ones, such as "
                f"{regions['image'][0]!r} against {rows['image'][0]!r}; write the same names"
            )
    return rows, regions, folder


def frame(
    rows: pd.DataFrame,
    regions: pd.DataFrame | None,
    images_dir: Path,
    views: Mapping[str, settings.View],
    ingest: settings.Ingest,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Check the images and frame them; per view the usable ones, and the refused with a reason.

    An image that lacks one of the views is refused. ``rows``, ``regions`` and ``images_dir`` are
    from :func:`asked`.

    Raises
    ------
    UserError : every image is refused; the list is left in the state folder, since Snakemake
        removes the outputs of a job that fails.
    """
    root = images_dir.resolve()
    found = catalogue.located(rows["image"], root, "predict.images")
    facts: list[tuple[str, int, int, str | None, str | None]] = []
    named = found[["image", "path", "reason", "remedy"]].astype(object)
    for name, path, reason, remedy in named.itertuples(index=False):
        if isinstance(reason, str):
            facts.append((name, 0, 0, reason, remedy))
            continue
        try:
            checked = images.inspect(
                Path(path),
                max_pixels=ingest.max_pixels,
                min_side_px=ingest.min_side_px,
                min_contrast=ingest.min_contrast,
            )
            facts.append((checked.sha256, checked.width, checked.height, None, None))
        except images.ImageError as error:
            facts.append((name, 0, 0, error.reason, error.remedy))
    photos = rows.reset_index(drop=True)
    photos[["sha256", "width", "height", "reason", "remedy"]] = pd.DataFrame(facts, dtype=object)
    photos = photos.assign(horse="")  # nobody knows the horse, nor needs to
    if regions is not None:
        n_horses = photos["image"].map(regions.groupby("image")["horse"].nunique())
        several = photos["reason"].isna() & (n_horses > 1)
        photos.loc[several, "reason"] = "contradictory: regions of several horses"
        photos.loc[several, "remedy"] = "keep the regions of the horse to judge"
        regions = regions.assign(horse="")
    usable = photos["reason"].isna()
    framed: dict[str, pd.DataFrame] = {}
    refused = [photos[~usable].assign(view=None)]
    for name, view in views.items():
        framed[name] = catalogue.framed(photos[usable], name, view, regions, ingest)
        refused.append(framed[name][framed[name]["reason"].notna()])
    quarantine = pd.concat(refused)[tables.QUARANTINE].sort_values("line")
    if set(rows["line"]) <= set(quarantine["line"]):
        listed = files.STATE / "predict" / files.digest(str(root)) / "quarantine.csv"
        files.write_text(listed, quarantine.to_csv(index=False))
        first = quarantine.iloc[0]
        raise UserError(
            f"predict.images: not one image could be judged; the first, {first['image']!r}: "
            f"{first['reason']}; {first['remedy']}. {listed} lists them all ({len(rows)})"
        )
    kept = {name: rows[~rows["line"].isin(quarantine["line"])] for name, rows in framed.items()}
    return kept, quarantine


def predict(
    model: EmotionModel,
    framed: Mapping[str, pd.DataFrame],
    images_dir: Path,
    batch_size: int,
    explain: settings.Explain | None = None,
    known: References | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[pd.DataFrame, list[Example]]]:
    """Judge framed images batch by batch; yield their answers, and examples if explained.

    The answers' columns are line, image, predicted, answer (NOT_SURE below the model's threshold),
    confidence, unlike_training (bool), and p_{class}.

    Parameters
    ----------
    framed : per view, from :func:`frame`.
    known : from ``references.gather``; needed by every baseline but ``blur``.
    """
    views = [framed[name] for name in model.views]
    n_images, device = len(views[0]), model.backbone.device
    compared = known.tensors(references.ALL, model) if known else None
    chunk = Chunk(batch_size)
    for start in range(0, n_images, batch_size):
        batch = [rows.iloc[start : start + batch_size] for rows in views]
        squares = [_squares(rows, images_dir, model) for rows in batch]
        pixels = [embedding.pixels(stack, device) for stack in squares]
        with torch.inference_mode():
            X = model.features(*pixels)
            probabilities = model.logits(X).double().softmax(1).cpu().numpy()
            novelty = model.novelty(X).cpu().numpy()
        best, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
        predicted = [model.classes[c] for c in best]
        answers = pd.DataFrame({
            "line": batch[0]["line"].to_numpy(),
            "image": batch[0]["image"].to_numpy(),
            "predicted": predicted,
            "answer": [
                answer(label, p, model.threshold) for label, p in zip(predicted, sure, strict=True)
            ],
            "confidence": sure,
            "unlike_training": novelty > 1,
            **{f"p_{name}": probabilities[:, c] for c, name in enumerate(model.classes)},
        })  # fmt: skip
        examples: list[Example] = []
        if explain:
            target = torch.as_tensor(best, device=device)
            other = attribution.held_against(answers, explain)
            against = None
            if explain.target == "contrast":
                against = torch.tensor([model.classes.index(str(c)) for c in other], device=device)
            found = integrated_gradients.integrate(
                model, pixels, target, explain, compared, against, chunk
            )
            side = explain.map_px or model.backbone.side
            maps = [integrated_gradients.shrink(each, side).cpu().numpy() for each in found.maps]
            for i, row in enumerate(answers.to_dict(orient="records")):
                shown = [
                    _explained(name, rows.iloc[i], images_dir, model, each[i], float(found.gap[i]))
                    for name, rows, each in zip(model.views, batch, maps, strict=True)
                ]
                named = {"path": row["image"], "horse": Path(row["image"]).name}
                about = named | {"truth": None} | row
                examples.append(Example(about, row["predicted"], shown, other[i]))
        if progress:
            progress(min(start + batch_size, n_images), n_images)
        yield answers, examples


def _squares(rows: pd.DataFrame, images_dir: Path, model: EmotionModel) -> Tensor:
    boxes = rows[BOX].astype(int).itertuples(index=False, name=None)
    return torch.stack([
        embedding.square(images_dir / name, box, model.backbone)[0]
        for name, box in zip(rows["image"], boxes, strict=True)
    ])  # fmt: skip


def _explained(
    name: str, row: pd.Series, images_dir: Path, model: EmotionModel, values: np.ndarray, gap: float
) -> overlays.Explained:
    x0, y0, x1, y1 = (int(row[side]) for side in BOX)
    backbone = model.backbone
    cut, extent = overlays.frame(
        images.read(images_dir / row["image"]), (x0, y0, x1, y1), backbone.side, backbone.fit,
        backbone.crop_share,
    )  # fmt: skip
    nothing = pd.DataFrame(columns=tables.REGION_SCORES.names).astype({"visible": bool})
    return overlays.Explained(name, cut, extent, values, gap, nothing)
