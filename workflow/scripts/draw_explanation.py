"""Draw what the predictions rest on: regions, mean maps, contact sheets, and panels."""

from pathlib import Path

from equimood import (
    contact_sheets,
    examples,
    figures,
    files,
    logs,
    mean_maps,
    region_figures,
    region_statistics,
    sampling,
)

logs.start(snakemake.log[0])
params, given, drawn = snakemake.params, snakemake.input, snakemake.output
colormap, formats = params.figures["colormap"], ["png", *params.figures["formats"]]
classes, summary = params.classes, region_statistics.read_summary(given.summary)
known = examples.read(
    given.predictions, given.images, given.maps, given.scores, given.cards, given.backbones,
    params.images_dir,
)  # fmt: skip
for folder in map(Path, (drawn.regions, drawn.mean_maps, drawn.sheets, drawn.panels)):
    folder.mkdir()
causes = region_statistics.read_causes(given.causes) if given.causes else None
for view in summary["view"].unique():
    figure = region_figures.region_figure(
        summary, classes, view, causes, params.ethogram, params.compared.get("label")
    )
    figures.save(figure, Path(drawn.regions) / view, formats)
on_faces = mean_maps.gather(known, given.regions, params.seed)
for view, maps in on_faces.items():
    figure = mean_maps.draw(maps, classes, view, colormap)
    figures.save(figure, Path(drawn.mean_maps) / view, formats)
if not on_faces:
    logs.log.info("no mean maps: no photograph shows %d parts of the face", mean_maps.FEWEST)
n_columns = params.figures["sheet_columns"]
for label, name in zip(classes, files.distinct_file_names(classes), strict=True):
    groups = contact_sheets.gather(known, label, n_columns)
    sheet = contact_sheets.draw(label, groups, params.compared, colormap)
    figures.save(sheet, Path(drawn.sheets) / name, ["jpg"])
kinds = known.predictions.assign(truth=lambda rows: rows["predicted"] + "/" + rows["truth"])
chosen = sampling.over_classes(kinds, params.figures["panels"], params.seed)
for example in examples.gather(sorted(chosen), known):
    panel = example.panel(classes, params.tolerance, colormap, params.compared)
    figures.save(panel, Path(drawn.panels) / example.name, ["png"])
