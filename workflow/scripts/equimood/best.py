"""What a search found best; apart from it, so that who reads it need not load Ray."""

from dataclasses import dataclass
from pathlib import Path

from equimood import settings
from equimood.files import read_yaml
from equimood.heads import HeadConfig, Structure, structure_from

SEARCH_VERSION = 2  # a golden-value test forces it up when scores change


@dataclass(frozen=True)
class Best:
    """The chosen configuration, with its score averaged over seeds, in each inner fold."""

    structure: Structure
    head: HeadConfig
    metric: settings.Metric
    score: float
    score_per_fold: tuple[float, ...]
    n_trials: int
    n_heads: int


def read_best(path: Path) -> Best:
    """Read ``best.yaml``."""
    content = read_yaml(path)
    return Best(**{
        **content,
        "structure": structure_from(content["structure"]),
        "head": HeadConfig(**content["head"]),
        "score_per_fold": tuple(content["score_per_fold"]),
    })  # fmt: skip
