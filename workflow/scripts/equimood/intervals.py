"""Intervals from few horses."""

from typing import Any

import numpy as np
from scipy import stats


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
