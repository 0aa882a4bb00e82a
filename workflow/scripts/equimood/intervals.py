"""Intervals from few horses: bootstrap and jackknife over horses, the wider of both.

Plain bootstrap percentiles are too narrow with tens of horses. Two remedies are known, and each
still fails somewhere: percentiles read further out (Hesterberg 2015, The American Statistician
69:371) miss the horse on which a rare class depends, the jackknife's t (Efron and Stein 1981,
doi 10.1214/aos/1176345462) misses the skewness. docs/methods.md has what each covered in
simulations.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy import stats
from scipy.special import expit, logit

UNIT = (0.0, 1.0)
POSITIVE = (0.0, np.inf)
BOUNDS = {"matthews_corrcoef": (-1.0, 1.0), "log_loss": POSITIVE, "brier_score": POSITIVE}
"""Least and greatest value of a figure; UNIT where it is not named."""


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
        """What a figure is to be scored on: (1 + B + n_horses, n_horses), see stacked."""
        return stacked(self.draws)

    def interval(
        self,
        figure: np.ndarray,
        metric: str,
        *,
        of_class: int | None = None,
        difference: bool = False,
    ) -> dict[str, float | None]:
        """Return value, low and high of a figure scored on ``weights``, (1 + B + n_horses,).

        of_class : position of the class that the figure is of, if it is of one.
        difference : the figure is a difference between two predictors.
        """
        least, greatest = BOUNDS.get(metric, UNIT)
        bounds = (least - greatest, greatest - least) if difference else (least, greatest)
        found = None
        if of_class is None or self.shows[:, of_class].sum() > 1:
            found = interval(figure, len(self.draws), self.confidence, bounds)
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


def draw_horses(n_horses: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """Weights of horses, see :func:`stacked`; as many are drawn as there are."""
    if not n_horses:
        return np.zeros((1 + n_bootstrap, 0))
    rng, even = np.random.default_rng(seed), np.full(n_horses, 1 / n_horses)
    return stacked(rng.multinomial(n_horses, even, n_bootstrap))


def stacked(draws: np.ndarray) -> np.ndarray:
    """Weights of horses: all once, each draw (B, n_horses), and all but one, for each one."""
    n_horses = draws.shape[1]
    return np.concatenate([np.ones((1, n_horses)), draws, 1 - np.eye(n_horses)])


def interval(
    figure: np.ndarray, n_bootstrap: int, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the wider of expanded percentiles and the jackknife's t, bound by bound.

    How many horses a figure rests on is read from their influence on it: n = 3 (Σu²)² / Σu⁴, all
    of them where influences u are normal, few where a few decide, as of a rare class. It gives the
    degrees of freedom n - 1 of both, and the factor n / (n - 1) by which a bootstrap variance is
    too small. The jackknife's interval is symmetric on a scale without ends: the logit between two
    bounds, which is Fisher's z between -1 and 1, and the logarithm above one.

    Parameters
    ----------
    figure : (1 + B + n_horses,) scored on :func:`stacked` weights; NaN where a replicate drew none
        of the horses it needs.
    n_bootstrap : B.
    bounds : least and greatest value the figure can have, infinite where there is none.

    Returns
    -------
    low, high; None where one horse alone stands behind the figure, which says nothing of others,
    and where no replicate differs: a perfect score on few horses is not a certain one.
    """
    value, replicates, without = np.split(np.asarray(figure, float), [1, 1 + n_bootstrap])
    n_horses, value = len(without), value[0]
    if n_horses < 2 or not np.isfinite([value, *without]).all() or not np.ptp(without):
        return None
    if not bounds[0] < value < bounds[1] or np.nanmin(replicates) == np.nanmax(replicates):
        return None
    influence = without - without.mean()
    squares = (influence**2).sum()
    n = min(n_horses, 3 * squares**2 / (influence**4).sum())
    low, high = expanded_percentiles(replicates, n, confidence)
    error = np.sqrt((n_horses - 1) / n_horses * squares)
    spread = _symmetric(value, stats.t.ppf((1 + confidence) / 2, n - 1) * error, bounds)
    return float(min(low, spread[0])), float(max(high, spread[1]))


def expanded_percentiles(
    replicates: np.ndarray, n: float, confidence: float
) -> tuple[float, float]:
    """Percentiles of replicates (B,), read as far out as ``n`` horses ask (Hesterberg 2015)."""
    t = stats.t.ppf((1 + confidence) / 2, n - 1)
    tail = stats.norm.cdf(-t * np.sqrt(n / (n - 1)))
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def _symmetric(value: float, half: float, bounds: tuple[float, float]) -> np.ndarray:
    """Return the ends of an interval with half-width ``half`` at ``value``, kept within bounds."""
    sides = np.array([-1.0, 1.0])
    least, greatest = bounds
    if np.isinf(least):
        return value + sides * half
    if np.isinf(greatest):
        return least + (value - least) * np.exp(sides * half / (value - least))
    share = (value - least) / (greatest - least)
    slope = 1 / ((greatest - least) * share * (1 - share))
    return least + (greatest - least) * expit(logit(share) + sides * half * slope)
