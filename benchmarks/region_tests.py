"""How often regions without effect are told from chance: the test used, and flipped signs.

    PYTHONPATH=workflow/scripts:tests/unit python benchmarks/region_tests.py [--studies 4000] ...

Horses differ log-normally, and so do the images of each, with mean enrichment 1 and unequal numbers
of images. ``area`` tests the mean against 1, ``random`` against that of a control. ``any of 32`` is
how often a study of 32 such regions has a finding after Holm's correction.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd
from equimood.region_tests import holm, p_of_ratio
from test_region_tests import drawn

STUDIES = [(0.2, 0.5), (0.5, 0.5), (0.5, 1.0), (0.2, 1.2)]  # spread of horses, of their images
CONTROLS = [((0.3, 0.5), (0.1, 0.2)), ((0.5, 1.0), (0.1, 0.3)), ((0.5, 1.0), (0.5, 1.0)),
            ((0.1, 0.3), (0.5, 1.0))]  # of the model, of random weights  # fmt: skip
N_FLIPS = 1999


def main() -> None:
    """Print how often each test errs, by number of horses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--horses", type=int, nargs="+", default=[12, 24])
    asked = parser.parse_args()
    for n_horses in asked.horses:
        rng = np.random.default_rng(n_horses)
        for most in (2, 20):
            for spread, noise in STUDIES:
                pairs = [drawn(rng, n_horses, spread, noise, most) for _ in range(asked.studies)]
                p = np.array([p_of_ratio(above, counts, counts) for above, counts in pairs])
                flipped = np.array(list(_flipped(pairs, rng)))
                whole = p[: len(p) // 32 * 32].reshape(-1, 32)
                found = [holm(pd.Series(own)).min() <= 0.05 for own in whole]
                print(
                    f"{n_horses} horses, up to {most} images, spread {spread} and {noise}, area: "
                    f"{_rate(p, 0.05)} at 5 %, {_rate(p, 0.002)} at 0.2 %; "
                    f"any of 32 {100 * np.mean(found):.1f} %; "
                    f"signs flipped {_rate(flipped, 0.05)}", flush=True,
                )  # fmt: skip
            for (spread, noise), control in CONTROLS:
                p = []
                for _ in range(asked.studies):
                    counts = rng.integers(1, most + 1, n_horses)
                    above, below = (
                        drawn(rng, n_horses, *own, most, counts=counts)[0]
                        for own in ((spread, noise), control)
                    )
                    p.append(p_of_ratio(above, below, counts))
                print(
                    f"{n_horses} horses, up to {most} images, spread {spread} and {noise}, random "
                    f"{control}: {_rate(p, 0.05)} at 5 %, {_rate(p, 0.002)} at 0.2 %", flush=True,
                )  # fmt: skip


def _flipped(
    pairs: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> Iterator[float]:
    """P-values of the mean logarithm of the horses' means when their signs are flipped."""
    signs = rng.choice([-1.0, 1.0], (N_FLIPS, len(pairs[0][0])))
    for above, counts in pairs:
        logarithms = np.log(above / counts)
        beyond = np.abs(signs @ logarithms) >= abs(logarithms.sum()) - 1e-12
        yield (1 + beyond.sum()) / (1 + N_FLIPS)


def _rate(p: np.ndarray | list[float], level: float) -> str:
    return f"{100 * np.mean(np.asarray(p) <= level):.2f} %"


if __name__ == "__main__":
    main()
