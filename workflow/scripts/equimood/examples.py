"""Gather what is known of explained photographs: for panels, contact sheets and the gallery."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from equimood import abstention, files, images, map_shards, overlays, panels, tables
from equimood.files import as_file_name
from equimood.overlays import Explained


@dataclass(frozen=True)
class Known:
    """Where what is known of a study's explained photographs stands.

    Attributes
    ----------
    predictions, catalogue : tables.PREDICTIONS, tables.IMAGES.
    maps, scores : attributions/{shard}.safetensors and .parquet.
    structures : of each fold's model, for its views and backbone.
    backbones : their cards, by name, for how they frame a picture.
    """

    predictions: pd.DataFrame
    catalogue: pd.DataFrame
    maps: Sequence[str | Path]
    scores: Sequence[str | Path]
    structures: Mapping[str, Mapping[str, Any]]
    backbones: Mapping[str, Mapping[str, Any]]
    images_dir: Path

    def of(self, photo_ids: Iterable[str]) -> "Known":
        """The same of these photographs alone: tables of a million rows are then searched once."""
        own = set(photo_ids)
        predictions = self.predictions[self.predictions["photo_id"].isin(own)]
        catalogue = self.catalogue[self.catalogue["photo_id"].isin(own)]
        return replace(self, predictions=predictions, catalogue=catalogue)


@dataclass(frozen=True)
class Example:
    """An explained photograph: a row of tables.PREDICTIONS (``answer``) and its views.

    The row also has ``answer`` and ``unlike_training``, as in predictions.csv. ``against`` is the
    class whose score is taken off the target's, or None.
    """

    answer: Mapping[Any, Any]
    target: str
    views: list[Explained]
    against: str | None = None

    def panel(
        self,
        classes: Sequence[str],
        tolerance: float,
        colormap: str,
        compared: Mapping[str, Any],
    ) -> Figure:
        """Draw what its prediction rests on."""
        return panels.panel(
            self.views,
            probabilities={name: float(self.answer[f"p_{name}"]) for name in classes},
            truth=self.answer["truth"],
            predicted=self.answer["predicted"],
            answer=self.answer["answer"],
            unlike_training=bool(self.answer["unlike_training"]),
            target=self.target,
            against=self.against,
            horse=self.answer["horse"],
            path=self.answer["path"],
            tolerance=tolerance,
            compared=compared,
            colormap=colormap,
        )

    @property
    def name(self) -> str:
        """What its files are called."""
        answer = self.answer
        return as_file_name(f"{answer['predicted']}-{answer['horse']}-{answer['photo_id'][:8]}")

    @property
    def tile(self) -> tuple[Explained, str]:
        """Its last view and a caption, for a contact sheet."""
        predicted = self.answer["predicted"]
        certainty = float(self.answer[f"p_{predicted}"])
        return self.views[-1], f"{self.answer['horse']}\n{predicted} ({certainty:.0%})"


def read(
    predictions: Iterable[str | Path],
    images: str | Path,
    maps: Sequence[str | Path],
    scores: Sequence[str | Path],
    cards: Iterable[str | Path],
    backbone_cards: Iterable[str | Path],
    images_dir: str | Path,
) -> Known:
    """Read the tables and cards of a study; of its predictions those that were explained."""
    catalogue = tables.read(images)
    answers = tables.concatenated(predictions)
    explained = answers["photo_id"].isin(map_shards.explained(maps, catalogue))
    return Known(
        answers[explained].reset_index(drop=True),
        catalogue,
        maps,
        scores,
        {Path(card).parent.name: files.read_yaml(card)["structure"] for card in cards},
        {card["name"]: card for card in map(files.read_yaml, backbone_cards)},
        Path(images_dir),
    )


def gather(
    photo_ids: Iterable[str], known: Known, longest_px: int = overlays.SHOWN_PX
) -> Iterator[Example]:
    """Gather photographs that have a map, in the order given; one picture in memory at a time.

    The maps and scores of all these photographs are in memory: ask for thousands in blocks.

    Parameters
    ----------
    longest_px : longer side of their pictures, at most.
    """
    wanted = list(photo_ids)
    here = known.predictions[known.predictions["photo_id"].isin(wanted)]
    answers: dict[Any, Any] = here.set_index("photo_id", drop=False).to_dict(orient="index")
    rows = known.catalogue[known.catalogue["photo_id"].isin(wanted)]
    frames = {(row.photo_id, row.view): row for row in rows.itertuples(index=False)}
    found, scores = _explanations(known, wanted, rows["image_id"].tolist())
    own, nothing = dict(iter(scores.groupby("image_id"))), scores.iloc[:0]
    for photo in wanted:
        answer = answers.get(photo)
        if answer is None:
            continue
        structure = known.structures[answer["fold"]]
        shown: list[Any] = [frames[photo, view] for view in structure["views"]]
        if any(row.image_id not in found for row in shown):
            continue
        backbone = known.backbones[structure["backbone"]]
        picture = images.read(known.images_dir / answer["path"])
        views = []
        for row in shown:
            box = (row.x0, row.y0, row.x1, row.y1)
            cut, extent = overlays.frame(
                picture, box, backbone["side"], backbone["fit"], backbone["crop_share"], longest_px
            )
            map_, _, _, gap, steps = found[row.image_id]
            about = own.get(row.image_id, nothing)
            views.append(
                Explained(row.view, cut, extent, map_, float(gap), about, row.image_id, steps)
            )
        predicted = answer["predicted"]
        told = abstention.answer(predicted, answer[f"p_{predicted}"], answer["threshold"])
        answer |= {"answer": told, "unlike_training": answer["novelty"] > 1}
        _, target, against, *_ = found[shown[0].image_id]
        yield Example(answer, target, views, against)


def _explanations(
    known: Known, photo_ids: list[str], image_ids: list[str]
) -> tuple[dict[str, tuple[Any, ...]], pd.DataFrame]:
    """Map, target, against, gap and steps by image_id, and region scores, of these images."""
    found: dict[str, tuple[Any, ...]] = {}
    scores = [pd.DataFrame(columns=tables.REGION_SCORES.names).astype({"visible": bool})]
    for maps, table in zip(known.maps, known.scores, strict=True):
        part = map_shards.read(maps, image_ids)
        if not part.image_ids:
            continue
        facts = zip(
            part.values, part.target, part.against, part.gap, part.steps.tolist(), strict=True
        )
        found |= dict(zip(part.image_ids, facts, strict=True))
        own = [("model", "=", "trained"), ("photo_id", "in", photo_ids)]
        scores.append(tables.read(table, filters=own))
    return found, pd.concat(scores[1:] or scores, ignore_index=True)
