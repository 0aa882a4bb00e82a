"""How often intervals of 95 % cover, and how wide they are: four candidates and the one chosen.

    PYTHONPATH=workflow/scripts:tests/unit python benchmarks/coverage.py [--studies 1000] ...

Studies are drawn as in tests/unit/test_intervals.py: four classes of 45, 30, 15 and 10 %, horses
that differ much, a third of which show one or two classes. The truth is the figure of 20,000
horses. Studies in which one horse alone shows a class are drawn again.
"""

import argparse
from collections import defaultdict

import numpy as np
from equimood import intervals
from equimood.intervals import Horses
from scipy import stats
from scipy.special import expit, logit
from test_intervals import FIGURES, simulated


def main() -> None:
    """Print coverage and mean width of each candidate by number of horses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--horses", type=int, nargs="+", default=[12, 24, 50])
    asked = parser.parse_args()
    truth = simulated(20_000, np.random.default_rng(0))(np.ones((1, 20_000)))
    print(f"{asked.studies} studies, {asked.replicates} replicates: coverage in % (mean width)")
    for n_horses in asked.horses:
        rng = np.random.default_rng(1000 + n_horses)
        told = defaultdict(list)
        for seed in range(asked.studies):
            scorer = simulated(n_horses, rng)
            horses = Horses.of(scorer.shows, asked.replicates, 0.95, seed)
            figures = scorer(horses.weights)
            for name in FIGURES:
                for method, (low, high) in candidates(figures[name], horses, name).items():
                    told[method, name].append((low <= truth[name][0] <= high, high - low))
        for method in dict.fromkeys(method for method, _ in told):
            means = [np.mean(told[method, name], axis=0) for name in FIGURES]
            cells = "  ".join(
                f"{name} {100 * covered:.1f} ({width:.2f})"
                for name, (covered, width) in zip(FIGURES, means, strict=True)
            )
            print(f"{n_horses:3} horses  {method:20} {cells}", flush=True)


def candidates(figure: np.ndarray, horses: Horses, name: str) -> dict[str, np.ndarray]:
    """Return low and high by each method; ``figure`` scored on ``horses.weights``."""
    n_bootstrap, n_horses = len(horses.draws), len(horses.shows)
    value, replicates, without = np.split(figure, [1, 1 + n_bootstrap])
    value = value[0]
    influence = without - without.mean()
    squares = (influence**2).sum()

    per_class, n, freedom = horses.shows.sum(axis=0), float(n_horses), n_horses - 1
    if name != "accuracy":
        n, freedom = stats.hmean(per_class), min(freedom, (per_class - 1).sum())
    tail = stats.norm.cdf(stats.t.ppf(0.025, freedom) * np.sqrt(n / (n - 1)))

    below = (replicates < value).mean() + (replicates == value).mean() / 2
    bias = stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    acceleration = -(influence**3).sum() / (6 * squares**1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    read = stats.norm.cdf(bias + z / (1 - acceleration * z))

    n_effective = min(n_horses, 3 * squares**2 / (influence**4).sum())
    half = stats.t.ppf(0.975, n_effective - 1) * np.sqrt((n_horses - 1) / n_horses * squares)
    step = half / (value * (1 - value)) * np.array([-1, 1])
    chosen = intervals.interval(figure, n_bootstrap, 0.95, intervals.UNIT)
    return {
        "percentiles": np.quantile(replicates, [0.025, 0.975]),
        "expanded percentiles": np.quantile(replicates, [tail, 1 - tail]),
        "BCa": np.quantile(replicates, read),
        "jackknife-t on logit": expit(logit(value) + step),
        "wider of two (chosen)": np.array(chosen),
    }


if __name__ == "__main__":
    main()
