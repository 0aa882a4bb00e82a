"""Contact sheets: a class at a glance, its photographs chosen by rule and not by hand."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from equimood import examples
from equimood.examples import Known
from equimood.figures import blank
from equimood.overlays import Explained, colour_bar, compared_with, overlay, photograph, short

TILE_IN = 1.75
TILE_PX = 320
"""Longer side of a photograph, at most: as many pixels as a tile gets."""
GROUPS = {
    "confident": "Right, the surest",
    "typical": "Right, of median certainty",
    "doubtful": "The least sure, right or wrong",
    "wrong": "Wrong",
}


def pick(predictions: pd.DataFrame, label: str, n: int) -> dict[str, list[str]]:
    """Choose photographs of a class for its contact sheet: photo_ids by group, other horses first.

    Parameters
    ----------
    predictions : ``tables.PREDICTIONS`` with ``p_{class}``, those that were explained.
    n : photographs per group; none is in two groups.
    """
    columns = [name for name in map(str, predictions.columns) if name.startswith("p_")]
    own = predictions[predictions["truth"] == label]
    ranked = np.sort(own[columns].to_numpy(float), axis=1)
    own = own.assign(margin=ranked[:, -1] - ranked[:, -2], certainty=ranked[:, -1])
    right = own["predicted"] == label
    middle = own.loc[right, "certainty"].median()
    measures = {
        "confident": (right, -own["certainty"]),
        "doubtful": (own["margin"].notna(), own["margin"]),
        "wrong": (~right, -own["certainty"]),
        "typical": (right, (own["certainty"] - middle).abs()),
    }
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()
    for group, (fits, measure) in measures.items():
        free = own.assign(measure=measure)[fits & ~own["photo_id"].isin(taken)]
        free = free.sort_values(["measure", "photo_id"])
        free["turn"] = free.groupby("horse").cumcount()
        chosen[group] = free.sort_values(["turn", "measure"])["photo_id"].head(n).tolist()
        taken.update(chosen[group])
    return {group: chosen[group] for group in GROUPS}


def gather(known: Known, label: str, n: int) -> dict[str, list[tuple[Explained, str]]]:
    """Gather what :func:`draw` shows of a class: ``n`` photographs in each group."""
    groups = pick(known.predictions, label, n)
    every = [photo for group in groups.values() for photo in group]
    found = examples.gather(every, known, TILE_PX)
    tiles = {example.answer["photo_id"]: example.tile for example in found}
    return {name: [tiles[i] for i in group if i in tiles] for name, group in groups.items()}


def draw(
    label: str,
    groups: Mapping[str, Sequence[tuple[Explained, str]]],
    compared: Mapping[str, Any],
    colormap: str = "PuOr",
) -> Figure:
    """Show a class at a glance: rows of photographs above their maps.

    Parameters
    ----------
    groups : in the order of GROUPS, each photograph's view and caption.
    compared : ``settings.Explain.compared``.
    """
    shown = {name: groups[name] for name in GROUPS if groups.get(name)}
    columns = max((len(group) for group in shown.values()), default=1)
    tall = [
        1.85 * TILE_IN * max(v.picture.shape[0] / v.picture.shape[1] for v, _ in group) + 0.6
        for group in shown.values()
    ]
    figure = blank(max(4.0, TILE_IN * columns), sum(tall) + 0.85)
    figure.suptitle(
        f"Photographs of {short(label, 40)}, and what each prediction rests on\n"
        f"{short(compared_with(compared), 70)}",
        x=0.01, ha="left", fontsize=11.5, fontweight="bold",
    )  # fmt: skip
    parts = figure.subfigures(len(shown) + 1, 1, squeeze=False, height_ratios=[*tall, 0.4])[:, 0]
    for part, (name, group) in zip(parts, shown.items(), strict=False):
        part.suptitle(GROUPS[name], x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        for pair, tile in zip_longest(part.subplots(2, columns, squeeze=False).T, group):
            if tile is None:
                pair[0].axis("off")
                pair[1].axis("off")
                continue
            view, caption = tile
            photograph(pair[0], view)
            overlay(pair[1], view, colormap)
            pair[1].set_xlabel(caption, fontsize=7.5)
    colour_bar(parts[-1], parts[-1].subplots(), colormap)
    return figure
