"""Images pooled: what the model says of a session, and of a horse, in one annotated emotion.

A unit is a horse in one annotated emotion, in one session (video, where the annotations give one)
or altogether. Its probabilities are the means of its images', its answer the most probable class. A
predictor that gives labels alone has the class that it gives most often. Of equals the first
class in the study's order is taken.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from equimood.scoring import codes

LEVELS = {  # and what a unit is
    "image": "an image",
    "session": "a horse in one annotated emotion, in one session (video where given)",
    "horse": "a horse in one annotated emotion",
}


def given(predictions: pd.DataFrame) -> list[str]:
    """Name the levels that the annotations tell apart: without sessions or videos, no session's."""
    named = predictions[["session", "video"]].replace("", np.nan).notna().any(axis=None)
    return [level for level in LEVELS if level != "session" or named]


def pooled(
    predictions: pd.DataFrame,
    level: str,
    classes: Sequence[str],
    labels: Mapping[str, ArrayLike],
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Pool out-of-fold predictions to units of a level.

    Parameters
    ----------
    predictions : tables.PREDICTIONS with a column ``p_{class}`` per class.
    level : one of LEVELS.
    labels : of other predictors, for the rows of ``predictions``, (n_images,).

    Returns
    -------
    horse, truth, predicted and ``p_{class}``, a row per unit; and the labels of the others,
    (n_units,). Images whose session is not known are one session of their horse.
    """
    columns = [f"p_{label}" for label in classes]
    if level == "image":
        others = {name: np.asarray(given, dtype=object) for name, given in labels.items()}
        return predictions[["horse", "truth", "predicted", *columns]], others
    keys = predictions[["horse", "truth"]]
    if level == "session":
        of = predictions["video"].fillna(predictions["session"]).fillna("")
        by_video = predictions["video"].notna()  # a video may bear a session's name
        keys = keys.assign(session=of, video=by_video)
    group = keys.groupby(list(keys.columns), sort=True)
    unit = group.ngroup().to_numpy()
    n_images = np.bincount(unit)
    found = keys.iloc[np.unique(unit, return_index=True)[1]][["horse", "truth"]]
    found = found.reset_index(drop=True)
    names = np.array(classes, dtype=object)
    p = np.stack([np.bincount(unit, predictions[name]) / n_images for name in columns], axis=1)
    found["predicted"] = names[p.argmax(axis=1)]
    found[columns] = p
    others = {}
    for name, answers in labels.items():
        votes = np.zeros((len(found), len(classes)))
        np.add.at(votes, (unit, codes(answers, classes)), 1)
        others[name] = names[votes.argmax(axis=1)]
    return found, others
