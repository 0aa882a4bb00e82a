"""Gather what is known of explained photographs, for the panels and contact sheets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from equimood import abstention, attribution, images, panels
from equimood.backbones import Backbone
from equimood.files import as_file_name
from equimood.panels import Explained


@dataclass(frozen=True)
class Example:
    """An explained photograph: a row of tables.PREDICTIONS (``answer``) and its views.

    The row also has ``answer`` and ``unlike_training``, as in predictions.csv.
    """

    answer: Mapping[Any, Any]
    target: str
    views: list[Explained]

    def panel(self, classes: Sequence[str], tolerance: float, colormap: str) -> Figure:
        """Draw what its prediction rests on."""
        return panels.panel(
            self.views,
            probabilities={name: float(self.answer[f"p_{name}"]) for name in classes},
            truth=self.answer["truth"],
            predicted=self.answer["predicted"],
            answer=self.answer["answer"],
            unlike_training=bool(self.answer["unlike_training"]),
            target=self.target,
            horse=self.answer["horse"],
            path=self.answer["path"],
            tolerance=tolerance,
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


def examples(
    photo_ids: Iterable[str],
    predictions: pd.DataFrame,
    catalogue: pd.DataFrame,
    scores: pd.DataFrame,
    maps: Sequence[str | Path],
    structures: Mapping[str, Mapping[str, Any]],
    backbones: Mapping[str, Backbone],
    images_dir: Path,
) -> Iterator[Example]:
    """Gather photographs that have a map, in the order given; one picture in memory at a time.

    Parameters
    ----------
    predictions, catalogue, scores : tables.PREDICTIONS, tables.IMAGES, tables.REGION_SCORES.
    maps : attributions/{shard}.safetensors.
    structures : of each fold's model, for its views and backbone.
    backbones : by name, for how they frame a picture.
    """
    wanted = list(photo_ids)
    here = predictions[predictions["photo_id"].isin(wanted)]
    answers: dict[Any, Any] = here.set_index("photo_id", drop=False).to_dict(orient="index")
    rows = catalogue[catalogue["photo_id"].isin(wanted)]
    frames = {(row.photo_id, row.view): row for row in rows.itertuples(index=False)}
    trained = scores[(scores["model"] == "trained") & scores["photo_id"].isin(wanted)]
    own = dict(iter(trained.groupby("image_id")))
    found: dict[str, list[Any]] = {}
    for path in maps:
        part = attribution.read_maps(path, rows["image_id"].tolist())
        found |= {
            name: facts
            for name, *facts in zip(part.image_ids, part.values, part.target, part.gap, strict=True)
        }
    for photo in wanted:
        answer = answers.get(photo)
        if answer is None:
            continue
        structure = structures[answer["fold"]]
        shown: list[Any] = [frames[photo, view] for view in structure["views"]]
        if any(row.image_id not in found for row in shown):
            continue
        backbone = backbones[structure["backbone"]]
        picture = images.read(images_dir / answer["path"])
        views = []
        for row in shown:
            box = (row.x0, row.y0, row.x1, row.y1)
            cut, extent = panels.frame(
                picture, box, backbone.side, backbone.fit, backbone.crop_share
            )
            values, _, gap = found[row.image_id]
            about = own.get(row.image_id, trained.iloc[:0])
            views.append(Explained(row.view, cut, extent, values, float(gap), about))
        predicted = answer["predicted"]
        told = abstention.answer(predicted, answer[f"p_{predicted}"], answer["threshold"])
        answer |= {"answer": told, "unlike_training": answer["novelty"] > 1}
        yield Example(answer, found[shown[0].image_id][1], views)
