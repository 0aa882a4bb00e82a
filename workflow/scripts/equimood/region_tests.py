"""Tests of ratios whose units are horses, and their correction for how many there are."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]


def p_of_ratio(above: Array, below: Array, images: Array) -> float:
    """Test whether two means over the same images are equal, two-sided; nan where nothing tells.

    Parameters
    ----------
    above, below : (n_horses,) what each horse adds to the sums. To test the mean ``above`` against
        1, ``below`` is ``images``.
    images : (n_horses,) how many images it adds.

    Notes
    -----
    Jackknife over horses of the logarithm of the means' ratio (Efron and Stein 1981), Student's t
    with the degrees of freedom of :func:`equimood.intervals.interval`. Enrichment is skewed: a mean
    that is too low by chance, for want of the rare large values, also looks too certain. So the
    error of the lower mean is stretched by how much longer the logarithm of the ratio r < 1 is than
    1 - r. docs/methods.md has what this gave in simulations, and why signs are not flipped instead.
    """
    n = len(above)
    if n < 2:
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.log(above.sum() / below.sum())
        stretch = abs(distance) / -np.expm1(-abs(distance)) if distance else 1.0
        influence = (stretch if distance < 0 else 1) * _influence(above, images)
        influence -= (stretch if distance > 0 else 1) * _influence(below, images)
        squares = (influence**2).sum()
        freedom = min(n, 3 * squares**2 / (influence**4).sum()) - 1
    if not np.isfinite([distance, freedom]).all() or not squares:
        return np.nan
    return float(2 * stats.t.sf(abs(distance) / np.sqrt((n - 1) / n * squares), freedom))


def _influence(total: Array, images: Array) -> Array:
    """What leaving out each horse (n_horses,) changes in the logarithm of a mean over images."""
    without = np.log((total.sum() - total) / (images.sum() - images))
    return np.asarray(without - without.mean())


def holm(p: pd.Series) -> pd.Series:
    """Adjust p-values for their number (Holm 1979), whatever ties them; nan stays, uncounted."""
    ordered = p.dropna().sort_values()
    steps = np.arange(len(ordered), 0, -1) * ordered
    return steps.cummax().clip(upper=1).reindex(p.index)
