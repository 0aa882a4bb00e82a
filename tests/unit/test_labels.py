"""What heads learn of several raters."""

import numpy as np
import pandas as pd
import pytest
from equimood import labels

CLASSES = ["alert", "calm"]


def judged(*rows):
    return pd.DataFrame(rows, columns=["photo_id", "rater", "label", "confidence"])


def test_shares_are_those_of_the_raters_weighted_by_confidence_where_all_gave_one():
    nan = np.nan
    found = labels.shares(
        judged(
            ("p3", "a", "alert", 0.0), ("p3", "b", "calm", 0.0),
            ("p1", "a", "alert", 3.0), ("p1", "b", "calm", 1.0),
            ("p2", "a", "alert", 3.0), ("p2", "b", "calm", nan), ("p2", None, "calm", 0.5),
            ("p4", None, "calm", 0.7),
        ),
        CLASSES,
    )  # fmt: skip
    assert found.columns.tolist() == CLASSES
    expected = {"p1": 0.75, "p2": 1 / 3, "p3": 0.5, "p4": 0.0}
    assert found["alert"].to_dict() == pytest.approx(expected)
    assert (found.sum(axis=1) == 1).all()


def test_one_rater_has_the_shares_of_the_label_exactly():
    alone = judged(*((f"p{i}", "anna", CLASSES[i % 2], 0.0) for i in range(7)))
    for confidence in (np.nan, 0.3, 0.0):
        found = labels.shares(alone.assign(confidence=confidence), CLASSES)
        exact = np.eye(2)[alone.set_index("photo_id")["label"].loc[found.index].map(CLASSES.index)]
        np.testing.assert_array_equal(found.to_numpy(), exact)


def test_targets_follow_the_photographs():
    given = judged(("p1", "a", "alert", 1.0), ("p2", "a", "calm", 1.0), ("p2", "b", "alert", 3.0))
    photos = pd.DataFrame({"photo_id": ["p2", "p1"]})
    found = labels.soft_targets(labels.shares(given, CLASSES), photos, ["calm", "alert"])
    np.testing.assert_array_equal(found, [[0.25, 0.75], [0.0, 1.0]])
