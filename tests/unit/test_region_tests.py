import numpy as np
import pandas as pd
import pytest
from equimood import region_tests

N_STUDIES = 1500


def drawn(rng, n_horses, spread, noise, most, mean=1.0, counts=None):
    """Each horse's summed enrichment and number of images: log-normal, with the given mean."""
    counts = rng.integers(1, most + 1, n_horses) if counts is None else counts
    own = mean * rng.lognormal(-(spread**2) / 2, spread, n_horses)
    images = rng.lognormal(-(noise**2) / 2, noise, (n_horses, most))
    images *= np.arange(most) < counts[:, None]
    return own * images.sum(1), counts


def rates(p, level=0.05):
    return float((np.array(p) <= level).mean())


@pytest.mark.parametrize("n_horses", [12, 24])
@pytest.mark.parametrize(
    ("spread", "noise", "most"), [(0.2, 0.5, 2), (0.5, 1.0, 20), (0.5, 1.0, 2)]
)
def test_horses_at_chance_are_seldom_told_from_it(n_horses, spread, noise, most):
    """A two-sided test at 5 %, with unequal numbers of images, and of a mean against a mean."""
    rng = np.random.default_rng(n_horses)
    area, random, skewed = [], [], []
    for _ in range(N_STUDIES):
        above, counts = drawn(rng, n_horses, spread, noise, most)
        area.append(region_tests.p_of_ratio(above, counts, counts))
        control, _ = drawn(rng, n_horses, 0.1, 0.3, most, counts=counts)
        random.append(region_tests.p_of_ratio(above, control, counts))
        skewed.append(region_tests.p_of_ratio(control, above, counts))
    assert rates(area) < 0.075  # 0.05, and the chance of so many studies
    assert rates(random) < 0.075
    assert rates(skewed) < 0.075  # the control is the more uncertain of both
    assert rates(area, 0.005) < 0.015


def test_of_many_regions_at_chance_hardly_one_is_told_from_it_after_correction():
    """8 regions x 4 classes of 12 horses: any false finding in a study counts."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        p = []
        for _ in range(32):
            above, counts = drawn(rng, 12, 0.4, 0.7, 6)
            p.append(region_tests.p_of_ratio(above, counts, counts))
        wrong += region_tests.holm(pd.Series(p)).min() <= 0.05
    assert wrong / 200 < 0.1


def test_what_is_twice_its_area_is_found_with_24_horses():
    rng = np.random.default_rng(1)
    p = [
        region_tests.p_of_ratio(above, counts, counts)
        for above, counts in (drawn(rng, 24, 0.5, 1.0, 6, mean=2.0) for _ in range(300))
    ]
    assert rates(p) > 0.8


def test_ten_images_of_a_horse_are_no_more_evidence_than_one():
    above, counts = np.array([2.0, 1.5, 1.8, 0.9, 1.2, 2.2]), np.ones(6)
    one = region_tests.p_of_ratio(above, counts, counts)
    assert one == pytest.approx(region_tests.p_of_ratio(10 * above, 10 * counts, 10 * counts))
    assert 0.001 < one < 0.1


def test_a_test_without_evidence_gives_no_p():
    for above in ([3.0], [0.0, 0.0, 0.0], [1.0, 1.0], [0.0, 0.0, 2.0]):
        p = region_tests.p_of_ratio(np.array(above), np.ones(len(above)), np.ones(len(above)))
        assert np.isnan(p)
    assert np.isnan(region_tests.p_of_ratio(*[np.array([])] * 3))


def test_holm_is_as_published_and_leaves_out_what_was_not_tested():
    p = pd.Series([0.01, np.nan, 0.04, 0.03, 0.005])
    found = region_tests.holm(p)
    assert found.dropna().tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(found[1])
    assert region_tests.holm(pd.Series([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert region_tests.holm(pd.Series([], dtype=float)).empty


def test_either_of_two_means_may_stand_first():
    rng = np.random.default_rng(1)
    above, counts = drawn(rng, 12, 0.3, 0.5, 6)
    below, _ = drawn(rng, 12, 0.3, 0.5, 6, counts=counts)
    p = region_tests.p_of_ratio(above, below, counts)
    assert p == pytest.approx(region_tests.p_of_ratio(below, above, counts))
