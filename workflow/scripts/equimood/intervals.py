"""Intervals from few horses."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import stats

OVER_CLASSES = ("balanced_accuracy", "f1_macro", "auroc", "auprc")


@dataclass(frozen=True)
class Horses:
    """Draws of horses, and the intervals that follow from figures scored on them.

    shows : (n_horses, C) bool, the classes each horse shows.
    draws : (B, n_horses) how often each horse is drawn.
    """

    shows: np.ndarray
    draws: np.ndarray
    confidence: float

    @classmethod
    def of(cls, shows: np.ndarray, n_bootstrap: int, confidence: float, seed: int) -> Self:
        """Draw as many horses as there are; every class shown occurs in every replicate."""
        return cls(shows, resample(shows, n_bootstrap, np.random.default_rng(seed)), confidence)

    @cached_property
    def weights(self) -> np.ndarray:
        """What figures are to be scored on: the study, and each draw, (1 + B, n_horses)."""
        return np.concatenate([np.ones((1, len(self.shows))), self.draws])

    def interval(
        self,
        figure: np.ndarray,
        metric: str,
        *,
        of_class: int | None = None,
        difference: bool = False,
    ) -> dict[str, float | None]:
        """Return value, low and high of a figure (1 + B,) scored on ``weights``.

        of_class : position of the class that the figure is of, if it is of one.
        difference : the figure is a difference between two predictors.
        """
        per_class = self.shows.sum(axis=0)
        n, freedom = float(len(self.shows)), len(self.shows) - 1
        if of_class is not None:
            n, freedom = float(per_class[of_class]), int(per_class[of_class]) - 1
        elif metric in OVER_CLASSES:  # means over classes, each with its horses
            per_class = per_class[per_class > 0]
            n = float(stats.hmean(per_class))
            freedom = min(freedom, int((per_class - 1).sum()))
        found = expanded_percentiles(figure[1:], n, freedom, self.confidence)
        low, high = found or (None, None)
        return {"value": float(figure[0]), "low": low, "high": high}


def resample(shows: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B, n_horses) times each horse is drawn; every class occurs in every replicate."""
    n_horses = len(shows)
    occurring = shows[:, shows.any(axis=0)].astype(float)
    kept, n_kept = [], 0
    while n_kept < n_bootstrap:
        draws = rng.multinomial(n_horses, np.full(n_horses, 1 / n_horses), size=n_bootstrap)
        draws = draws[(draws @ occurring > 0).all(axis=1)]
        kept.append(draws)
        n_kept += len(draws)
    return np.concatenate(kept)[:n_bootstrap]


def expanded_percentiles(
    replicates: Any, n: float, freedom: int, confidence: float
) -> tuple[float, float] | None:
    """Interval of a figure from its bootstrap replicates over horses.

    A bootstrap variance is too small by the factor (n-1)/n, n being the horses behind each mean,
    and has the tails of a normal law where t's are due. Expanded percentile intervals (Hesterberg
    2015, The American Statistician 69:371) take both back by reading further out in the replicates.

    Parameters
    ----------
    replicates : (B,); NaN where a replicate drew none of the horses.
    n : horses behind the figure; a mean of means has the harmonic mean of theirs.
    freedom : degrees of freedom of t.

    Returns
    -------
    low, high; None where one horse alone stands behind the figure, which says nothing of others,
    and where no replicate differs: a perfect score on few horses is not a certain one.
    """
    if n <= 1 or freedom < 1 or np.nanmin(replicates) == np.nanmax(replicates):
        return None
    quantile = stats.t.ppf((1 - confidence) / 2, freedom) * np.sqrt(n / (n - 1))
    tail = stats.norm.cdf(quantile)
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
