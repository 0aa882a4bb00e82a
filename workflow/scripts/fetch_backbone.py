"""Fetch a backbone's weights, check that they fit, and write down what they are."""

from pathlib import Path

from equimood import backbones, logs
from equimood.settings import Backbone

logs.start(snakemake.log[0])
backbones.fetch(
    snakemake.wildcards.backbone,
    Backbone(**snakemake.params.backbone),
    folder=Path(snakemake.output.card).parent,
    seed=snakemake.params.seed,
    hub_cache=Path("resources/hub"),
)
