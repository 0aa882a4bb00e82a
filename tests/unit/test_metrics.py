from typing import get_args

import numpy as np
import pytest
from equimood.metrics import from_confusion
from equimood.settings import Metric
from sklearn import metrics


def drawn(n_rows):
    """True and said classes (40, n_rows) of four; two rows are degenerate on purpose."""
    true, said = np.random.default_rng(n_rows).integers(0, 4, (2, 40, n_rows))
    said[0] = 1
    true[1], said[1] = 2, 2
    return true, said


def counted(true, said):
    return np.stack([
        metrics.confusion_matrix(t, p, labels=range(4)) for t, p in zip(true, said, strict=True)
    ])  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", get_args(Metric))
@pytest.mark.parametrize("n_rows", [3, 8, 60])
def test_figures_equal_scikit_learn_also_where_a_class_is_missing(name, n_rows):
    true, said = drawn(n_rows)
    scorer = metrics.get_scorer(name)
    expected = [scorer._score_func(t, p, **scorer._kwargs) for t, p in zip(true, said, strict=True)]
    found = from_confusion(counted(true, said).reshape(8, 5, 4, 4))[name].reshape(40)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", ["recall", "precision", "f1"])
def test_figures_of_each_class_equal_scikit_learn(name):
    true, said = drawn(8)
    function = getattr(metrics, f"{name}_score")
    expected = [
        function(t, p, labels=range(4), average=None, zero_division=0)
        for t, p in zip(true, said, strict=True)
    ]
    np.testing.assert_allclose(from_confusion(counted(true, said))[name], expected, atol=1e-12)
