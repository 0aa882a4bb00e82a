import numpy as np
import pytest
from equimood import settings
from equimood.abstention import MIN_HORSES, abstention, answer, answered, choose_threshold
from equimood.errors import UserError
from equimood.reference import DEMO
from scipy.special import log_softmax


def horses(n_horses, n_images, skill, spread, rng):
    """Confidence, whether right, and horse of answers by a model better on some horses."""
    horse = np.repeat(np.arange(n_horses), n_images)
    y = rng.integers(4, size=len(horse))
    logits = rng.normal(size=(len(horse), 4)) + 0.5 * rng.normal(size=(n_horses, 4))[horse]
    logits[np.arange(len(horse)), y] += rng.normal(skill, spread, n_horses)[horse]
    p = np.exp(log_softmax(1.7 * logits, axis=1))
    return p.max(axis=1), p.argmax(axis=1) == y, horse


def careful(right, horse):
    """Accuracy with one wrong answer of a further horse, less a standard error over horses."""
    names = np.unique(horse)
    k = np.array([0, *(right[horse == name].sum() for name in names)])
    n = np.array([1, *((horse == name).sum() for name in names)])
    share = k.sum() / n.sum()
    variance = ((k - share * n) ** 2).sum() / n.sum() ** 2 * len(n) / (len(n) - 1)
    return share - np.sqrt(variance)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_smallest_that_reaches_the_target_with_a_standard_error_to_spare(seed):
    rng = np.random.default_rng(seed)
    sure, right, horse = horses(12, 15, 2, 0.5, rng)
    sure = sure.round(2)  # many are equal
    reaching = [
        limit for limit in np.unique(sure)
        if len(np.unique(horse[sure >= limit])) >= MIN_HORSES
        and careful(right[sure >= limit], horse[sure >= limit]) >= 0.85
    ]  # fmt: skip
    shuffled = rng.permutation(len(sure))
    found = choose_threshold(sure[shuffled], right[shuffled], horse[shuffled], 0.85)
    assert found.threshold == min(reaching)
    assert found.coverage == np.mean(sure >= found.threshold)
    assert found.accuracy == pytest.approx(right[sure >= found.threshold].mean())
    assert f"{found.coverage:.0%} of the photographs had it" in found.in_words


def test_new_horses_reach_the_target_more_often_than_by_the_luckiest_threshold():
    rng = np.random.default_rng(0)
    new_sure, new_right, _ = horses(3000, 10, 2, 0.7, rng)
    missed, lucky = [], []
    for _ in range(120):
        sure, right, horse = horses(12, 30, 2, 0.7, rng)
        found = choose_threshold(sure, right, horse, 0.9)
        missed.append(found.threshold and new_right[new_sure >= found.threshold].mean() < 0.9)
        order = np.argsort(-sure)
        reached = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, 361) >= 0.9)[-1]
        lucky.append(new_right[new_sure >= sure[order][reached]].mean() < 0.9)
    assert np.mean([bool(each) for each in missed]) < 0.3 < 0.4 < np.mean(lucky)


def test_a_target_out_of_reach_answers_nothing_and_says_what_is_best():
    rng = np.random.default_rng(1)
    sure, _, horse = horses(20, 30, 1, 0.2, rng)
    found = choose_threshold(sure, rng.random(600) < 0.6, horse, 0.9)
    assert found.threshold is None
    assert found.accuracy < 0.9
    assert (
        "no confidence is high enough" in found.in_words
        and f"{found.accuracy:.1%}" in found.in_words
    )
    assert not answered(sure, found.threshold).any()
    assert answer("tense", 0.99, found.threshold) == settings.NOT_SURE


@pytest.mark.parametrize(("n_images", "threshold"), [(3, None), (20, 0.0)])
def test_a_perfect_score_counts_from_enough_photographs_on(n_images, threshold):
    sure, _, horse = horses(6, n_images, 2, 0.1, np.random.default_rng(1))
    assert choose_threshold(sure, np.ones(len(sure), bool), horse, 0.9).threshold == threshold


def test_few_horses_tell_nothing_but_a_target_of_nothing_is_reached_by_all():
    sure, right, horse = horses(MIN_HORSES - 1, 50, 6, 0.1, np.random.default_rng(1))
    found = choose_threshold(sure, right, horse, 0.5)
    assert (found.threshold, found.coverage, found.accuracy) == (None, None, None)
    assert "fewer than 5 horses" in found.in_words
    assert choose_threshold(sure, right, horse, 0).threshold == 0


def test_logits_are_divided_by_the_temperature():
    rng = np.random.default_rng(2)
    y = rng.integers(3, size=400)
    logits = (3 * rng.normal(size=(400, 3)) + 6 * np.eye(3)[y]).astype(np.float32)
    horse = np.arange(400) // 20
    p = np.exp(log_softmax(logits.astype(float) / 2.5, axis=1))
    expected = choose_threshold(p.max(axis=1), p.argmax(axis=1) == y, horse, 0.95)
    assert abstention(logits, y, horse, 2.5, 0.95).threshold == pytest.approx(expected.threshold)
    assert abstention(logits, y, horse, 1.0, 0.95).threshold > expected.threshold + 0.05 > 0.05


def test_no_class_may_be_called_as_the_answer_that_is_none():
    data = DEMO["data"] | {"classes": ["calm", settings.NOT_SURE]}
    with pytest.raises(UserError, match=r"data: a class is called 'not sure'.*another name"):
        settings.load(DEMO | {"data": data})
