"""Draw what the predictions rest on: regions, contact sheets, and panels image by image."""

from functools import partial
from pathlib import Path

import pandas as pd
from equimood import (
    attribution,
    backbones,
    figures,
    files,
    gallery,
    logs,
    panels,
    region_figures,
    region_statistics,
    tables,
)

logs.start(snakemake.log[0])
params, given, drawn = snakemake.params, snakemake.input, snakemake.output
colormap, classes = params.figures["colormap"], params.classes
catalogue = tables.read(given.images)
predictions = tables.concatenated(given.predictions)
explained = predictions["photo_id"].isin(attribution.explained(given.maps, catalogue))
predictions = predictions[explained]
gather = partial(
    gallery.examples,
    predictions=predictions,
    catalogue=catalogue,
    scores=tables.read(given.regions),
    maps=given.maps,
    structures={Path(card).parent.name: files.read_yaml(card)["structure"] for card in given.cards},
    backbones={b.name: b for b in (backbones.load(Path(c).parent) for c in given.backbones)},
    images_dir=Path(params.images_dir),
)
summary = pd.read_csv(given.summary)
causes = region_statistics.read_causes(given.causes) if given.causes else None
for folder in (drawn.regions, drawn.sheets, drawn.panels):
    Path(folder).mkdir()
for view in summary["view"].unique():
    figure = region_figures.region_figure(summary, classes, view, causes, params.ethogram)
    figures.save(figure, Path(drawn.regions) / view, ["png", *params.figures["formats"]])
for label, name in zip(classes, files.distinct_file_names(classes), strict=True):
    groups = panels.pick(predictions, label, params.figures["sheet_columns"])
    tiles = {kind: [example.tile for example in gather(ids)] for kind, ids in groups.items()}
    sheet = panels.contact_sheet(label, tiles, colormap)
    figures.save(sheet, Path(drawn.sheets) / name, ["png"])
kinds = predictions.assign(truth=predictions["predicted"] + "/" + predictions["truth"])
for example in gather(sorted(attribution.choose(kinds, params.figures["panels"], params.seed))):
    panel = example.panel(classes, params.tolerance, colormap)
    figures.save(panel, Path(drawn.panels) / example.name, ["png"])
