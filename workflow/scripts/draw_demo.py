"""Draw the demo study's photographs: horses whose emotion has a known cause."""

from pathlib import Path

from equimood import demo, logs
from equimood.settings import DRAWN_SHARES, Demo

logs.start(snakemake.log[0])
drawn = Demo(**snakemake.params.demo)
demo.draw_study(
    Path(snakemake.output.annotations).parent,
    classes={label: DRAWN_SHARES[label] for label in snakemake.params.classes},
    n_horses=drawn.horses,
    n_sessions=drawn.sessions,
    images_per_session=drawn.images_per_session,
    shortcut=drawn.shortcut,
    shortcut_class=drawn.shortcut_class,
    seed=snakemake.params.seed,
    workers=snakemake.threads,
    progress=logs.progress("horses drawn"),
)
