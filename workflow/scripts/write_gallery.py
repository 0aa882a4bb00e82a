"""Write the gallery of explained photographs, to open from the disk."""

from equimood import devices, examples, files, gallery, logs

logs.start(snakemake.log[0])
devices.use_threads(1)  # torch's own: pictures are cut side by side instead
params, given = snakemake.params, snakemake.input
known = examples.read(
    given.predictions, given.images, given.maps, given.scores, given.cards, given.backbones,
    params.images_dir,
)  # fmt: skip
n = gallery.write(
    snakemake.output.gallery,
    known,
    given.page,
    study=params.study,
    classes=params.classes,
    n=params.n,
    tolerance=params.tolerance,
    compared=params.compared,
    tests=files.read_json(given.tests) if given.tests else None,
    drawn=params.drawn,
    colormap=params.colormap,
    seed=params.seed,
    workers=snakemake.threads,
    progress=logs.progress("photographs written"),
)
logs.log.info("%d of %d explained photographs are in the gallery", n, len(known.predictions))
