"""Tests of ratios whose units are horses, and their correction for how many there are."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]


def p_of_ratio(above: Array, below: Array, *, counted: bool = False) -> float:
    """Test whether the ratio of two sums over horses is 1, two-sided; nan where nothing tells.

    Parameters
    ----------
    above, below : (n_horses,) what each horse adds to numerator and denominator.
    counted : the denominator is a number of images, which is known without error.

    Notes
    -----
    Jackknife over horses of the ratio's logarithm (Efron and Stein 1981), Student's t with the
    degrees of freedom of :func:`equimood.intervals.interval`. Enrichment is skewed: a mean that is
    too low by chance, for want of the rare large values, also looks too certain. So the distance
    from 1 of a ratio below it is taken as 1 - ratio, nearer than its logarithm; with a denominator
    that is a mean itself, of one above as 1 - 1 / ratio. docs/methods.md has what this gave in
    simulations, and why signs are not flipped instead.
    """
    n = len(above)
    if n < 2:
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.log(above.sum() / below.sum())
        without = np.log((above.sum() - above) / (below.sum() - below))
        influence = without - without.mean()
        squares = (influence**2).sum()
        freedom = min(n, 3 * squares**2 / (influence**4).sum()) - 1
    if not np.isfinite([distance, freedom]).all() or not squares:
        return np.nan
    if distance < 0:
        distance = np.expm1(distance)
    elif not counted:
        distance = -np.expm1(-distance)
    error = np.sqrt((n - 1) / n * squares)
    return float(2 * stats.t.sf(abs(distance) / error, freedom))


def holm(p: pd.Series) -> pd.Series:
    """Adjust p-values for their number (Holm 1979), whatever ties them; nan stays, uncounted."""
    ordered = p.dropna().sort_values()
    steps = np.arange(len(ordered), 0, -1) * ordered
    return steps.cummax().clip(upper=1).reindex(p.index)
