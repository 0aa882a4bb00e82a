"""Draw what the predictions rest on: regions, contact sheets, and panels image by image."""

from functools import partial
from pathlib import Path

import pandas as pd
from equimood import attribution, backbones, figures, files, logs, panels, tables

logs.start(snakemake.log[0])
params, given, drawn = snakemake.params, snakemake.input, snakemake.output
formats = ["png", *params.figures["formats"]]
colormap = params.figures["colormap"]
scores = tables.read(given.regions)
predictions = tables.concatenated(given.predictions)
catalogue = tables.read(given.images)
explained = attribution.explained(given.maps, catalogue)
predictions = predictions[predictions["photo_id"].isin(explained)]
gather = partial(
    panels.examples,
    predictions=predictions,
    catalogue=catalogue,
    scores=scores,
    maps=given.maps,
    structures={Path(card).parent.name: files.read_yaml(card)["structure"] for card in given.cards},
    backbones={b.name: b for b in (backbones.load(Path(c).parent) for c in given.backbones)},
    images_dir=Path(params.images_dir),
    classes=params.classes,
)
figure = panels.region_figure(pd.read_csv(given.summary), params.classes)
figures.save(figure, Path(drawn.shown).with_suffix(""), formats)
for label in params.classes:
    kinds = panels.chosen_by_rule(predictions, label)
    sheet = panels.contact_sheet(
        label, {k: list(gather(ids)) for k, ids in kinds.items()}, colormap
    )
    figures.save(sheet, Path(drawn.sheets) / label, ["png"])
groups = predictions.assign(truth=predictions["predicted"] + "/" + predictions["truth"])
chosen = attribution.choose(groups, params.figures["panels"], params.seed)
Path(drawn.panels).mkdir(exist_ok=True)
for example in gather(sorted(chosen)):
    name = f"{example.predicted}-{example.horse}-{example.photo_id[:8]}"
    panel = panels.panel(example, colormap, params.explain["tolerance"])
    figures.save(panel, Path(drawn.panels) / files.as_file_name(name), ["png"])
