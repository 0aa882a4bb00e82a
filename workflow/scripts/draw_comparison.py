"""Draw every combination of backbone and views: score, distance from the best, cost."""

from pathlib import Path

import pandas as pd
from equimood import figures, files, logs

logs.start(snakemake.log[0])
figure = figures.candidates(
    pd.read_csv(snakemake.input.candidates), files.read_json(snakemake.input.found)
)
stem = Path(snakemake.output.shown).with_suffix("")
figures.save(figure, stem, ["png", *snakemake.params.formats])
