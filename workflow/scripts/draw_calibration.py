"""Draw reliability, and accuracy against coverage."""

from pathlib import Path

from equimood import calibration_figures, figures, files, logs

logs.start(snakemake.log[0])
folder = Path(snakemake.output.shown[0]).parent
drawn = calibration_figures.drawn(files.read_json(snakemake.input.found))
for name, figure in drawn.items():
    figures.save(figure, folder / name, ["png", *snakemake.params.formats])
