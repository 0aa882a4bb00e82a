"""What heads learn in place of the labels: the raters' shares of the classes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from equimood import tables


def shares(ratings: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Shares of the classes among the ratings of each photograph: what heads learn from.

    A rating weighs its confidence where every rater of the photograph gave one (and one of them
    is above 0), else all weigh the same.

    Returns
    -------
    A row per photo_id, a column per class; a row adds up to 1.
    """
    photo_ids, photo = np.unique(ratings["photo_id"].to_numpy(str), return_inverse=True)
    label = pd.Index(list(classes)).get_indexer(pd.Index(ratings["label"]))
    shape = len(photo_ids), len(classes)
    cell = photo * shape[1] + label
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    weights = np.bincount(cell, ratings["confidence"], shape[0] * shape[1]).reshape(shape)
    given = weights.sum(axis=1) > 0  # and not NaN
    chosen = np.where(given[:, None], weights, counts)
    return pd.DataFrame(
        chosen / chosen.sum(axis=1, keepdims=True), index=photo_ids, columns=list(classes)
    )


def read_shares(path: str, classes: Sequence[str]) -> pd.DataFrame | None:
    """Shares from a file of tables.RATINGS; None without one, where heads learn the labels."""
    return shares(tables.read(path), classes) if path else None


def soft_targets(shares: pd.DataFrame, photos: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """What heads.fit learns of each of ``photos``: shares (n, C), as :func:`shares` has them."""
    return shares.loc[photos["photo_id"], list(classes)].to_numpy(float)
