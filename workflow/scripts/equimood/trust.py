"""What the tests of explanations come to: passed, doubtful or failed, with intervals over horses.

A test compares the maps with something that knows nothing of the model, or with a threshold of the
settings, and is passed where the interval lies beyond it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from equimood import settings
from equimood.intervals import POSITIVE, interval, stacked
from equimood.region_statistics import MORE_THAN_BOTH
from equimood.tables import CONTAINERS, ROLLUPS, level_of

Verdict = Literal["passed", "doubtful", "failed", "not judged"]
ORDER: tuple[Verdict, ...] = ("failed", "doubtful", "passed", "not judged")
SIGNED, DIFFERENCES = (-1.0, 1.0), (-2.0, 2.0)  # of correlations
BASELINES = {
    "blur": "the blurred photograph",
    "mean": "the mean colour",
    "neutral": "other neutral photographs",
}
AGAINST_CHANCE = {"deletion", "insertion", "occlusion"}
"""Tests that compare with a random order first, and then with what else knows nothing."""
MOST = 0.5
"""Share of the images above which a region outside the horse is named on the first page."""


@dataclass(frozen=True)
class About:
    """A test in words: its title, what is done, what it means if it is passed, and if it is not."""

    title: str
    how: str
    passed: str
    otherwise: str


ABOUT = {
    "deletion": About(
        "Covering what the map marks",
        "The photograph is covered cell by cell, by its own blur, what the map marks most first. "
        "The answer should lose its probability sooner than when cells are covered at random, or "
        "by how many edges they show.",
        "On the whole, covering what the map marks takes more from the answer than covering "
        "anything else.",
        "Covering what the map marks is not shown to take more from the answer than covering "
        "anything that catches the eye: do not read the map as the reason of the answer.",
    ),
    "insertion": About(
        "Showing only what the map marks",
        "A covered photograph is uncovered cell by cell, what the map marks most first. The answer "
        "should gain its probability sooner than at random, or by edges.",
        "On the whole, what the map marks brings the answer back sooner than anything else.",
        "What the map marks is not shown to bring the answer back sooner than anything that "
        "catches the eye: the map may miss what the answer also needs.",
    ),
    "occlusion": About(
        "Hiding whole regions",
        "Each region is hidden, and how far the answer's score falls is compared with the region's "
        "attribution by rank. Larger regions fall further and hold more: the ranks should agree "
        "better than with the regions' size.",
        "Regions with more attribution are those whose hiding changes the answer more.",
        "A region's attribution is not shown to tell, better than its size, what hiding the region "
        "does: compare regions by hiding them, too.",
    ),
    "randomisation": About(
        "Forgetting what was learnt",
        "The network's weights are drawn anew, from the head down to the pixels. The map should "
        "then be another one.",
        "The maps come from what the network learnt, not from the picture alone.",
        "A network that learnt nothing may give much the same map: it shows the picture, not what "
        "was learnt.",
    ),
    "sensitivity": About(
        "Changes that nobody sees",
        "Every pixel is changed at random by less than anybody sees. The map should stay as it is.",
        "Photographs that look the same get nearly the same map.",
        "A photograph that looks the same may get another map: believe regions over many "
        "photographs, not single maps.",
    ),
    "seeds": About(
        "Another training",
        "The head is trained again on the same horses from other random numbers. The map should "
        "stay as it is.",
        "A second training of the head marks the same places.",
        "A second training of the head may mark other places: believe regions over many "
        "photographs, not single maps.",
    ),
    "baseline": About(
        "Another baseline",
        "The photograph is compared with something else: instead of its blur with the mean colour, "
        "instead of a colour with its blur, instead of neutral photographs with other ones. The "
        "map should stay as it is.",
        "The maps do not hang on what the photograph is compared with.",
        "The maps may depend on what the photograph is compared with: believe regions over many "
        "photographs, not single maps, and name the baseline wherever a map is shown. Against "
        "neutral photographs, more of them (explain.n_references) make it steadier.",
    ),
}


@dataclass(frozen=True)
class _Comparison:
    """What a test compares: a value per photograph (index photo_id), and where it should lie."""

    name: str
    values: pd.Series
    side: Literal["above", "below"]
    threshold: float = 0.0
    bounds: tuple[float, float] = SIGNED


def judge(
    probed: pd.DataFrame,
    tests: settings.ExplanationTests,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Judge every test: content of tests.json.

    Parameters
    ----------
    probed : ``tables.EXPLANATION_TESTS``.
    """
    horses = probed.drop_duplicates("photo_id").set_index("photo_id")["horse"]
    over = _Over(horses, n_bootstrap, confidence, seed)
    judged = []
    for test, compared in _comparisons(probed, tests).items():
        figures = [over.figure(each) for each in compared]
        verdict = _verdict(figures, against_chance=test in AGAINST_CHANCE)
        about = ABOUT[test]
        judged.append({
            "test": test,
            "title": about.title,
            "verdict": verdict,
            "how": about.how,
            "means": None if verdict == "not judged"
            else about.passed if verdict == "passed" else about.otherwise,
            "compared": figures,
        })  # fmt: skip
    cascade = probed[probed["test"] == "randomisation"]
    return {
        "n_images": len(horses),
        "n_horses": int(horses.nunique()),
        "n_bootstrap": n_bootstrap,
        "confidence": confidence,
        "tests": judged,
        "curves": _curves(probed),
        "cascade": [
            {"of": of, "at": at, **over.interval(own.set_index("photo_id")["value"], SIGNED)}
            for (of, at), own in cascade.groupby(["of", "at"])
        ],
    }


def _comparisons(
    probed: pd.DataFrame, tests: settings.ExplanationTests
) -> dict[str, list[_Comparison]]:
    of = {key: own.set_index("photo_id")["value"] for key, own in probed.groupby(["test", "of"])}
    none = pd.Series(dtype=float)
    found: dict[str, list[_Comparison]] = {}
    for test, side in (("deletion", -1), ("insertion", 1)):
        curve = probed[probed["test"] == test].pivot_table("value", ["photo_id", "of"], "at")
        under = np.trapezoid(curve.to_numpy(float), curve.columns.to_numpy(float), axis=1)
        area = pd.Series(under, curve.index, float).unstack("of")
        found[test] = [
            _Comparison(
                f"mean probability {'below' if side < 0 else 'above'} that {words}",
                side * (area["map"] - area[rival]) if len(area) else none,
                "above",
            )
            for rival, words in (("random", "at random"), ("edges", "by edges"))
        ]
    hidden, size = (of.get(("occlusion", name), none) for name in ("map", "size"))
    found["occlusion"] = [
        _Comparison("rank correlation of attribution and fall", hidden, "above"),
        _Comparison(
            "how much higher than that of size and fall", hidden - size, "above", bounds=DIFFERENCES
        ),
    ]
    cascade = probed[(probed["test"] == "randomisation") & (probed["at"] == 1)]
    whole = cascade[cascade["of"] == "map"].set_index("photo_id")["value"]
    found["randomisation"] = [
        _Comparison("rank correlation with the map of random weights", whole, "below", tests.unlike)
    ]
    found["sensitivity"] = [
        _Comparison("largest change of the map, as a share of its size",
                    of.get(("sensitivity", "map"), none), "below", tests.max_change, POSITIVE)
    ]  # fmt: skip
    found["seeds"] = [
        _Comparison("rank correlation of the two maps", of.get(("seeds", "map"), none), "above",
                    tests.alike)
    ]  # fmt: skip
    others = [str(name) for test, name in of if test == "baseline"]
    found["baseline"] = [
        _Comparison(f"rank correlation with the map against {BASELINES[other]}",
                    of[("baseline", other)], "above", tests.alike)
        for other in others
    ] or [_Comparison("rank correlation of the two maps", none, "above", tests.alike)]  # fmt: skip
    return found


def _verdict(figures: Sequence[Mapping[str, Any]], *, against_chance: bool) -> Verdict:
    """Judge a test by its comparisons.

    Passed where all intervals lie beyond; failed where one lies on the wrong side, where all
    photographs of several horses give one wrong value, or where the mean is no better than chance;
    else doubtful, as all is that one horse shows.
    """
    if any(figure["value"] is None for figure in figures):
        return "not judged"
    clear, wrong = [], []
    for figure in figures:
        sign = 1 if figure["side"] == "above" else -1
        ends = [figure["low"], figure["high"]]
        if None in ends:
            ends = [figure["value"]] * 2
        beyond = [sign * (end - figure["threshold"]) for end in ends]
        clear.append(figure["low"] is not None and min(beyond) > 0)
        wrong.append(figure["n_horses"] > 1 and max(beyond) < 0)
    if any(wrong) or (against_chance and figures[0]["value"] <= 0):
        return "failed"
    return "passed" if all(clear) else "doubtful"


class _Over:
    """Means over images, with intervals over their horses (n_photos, by photo_id)."""

    def __init__(self, horses: pd.Series, n_bootstrap: int, confidence: float, seed: int):
        self.horses, self.confidence, self.n_bootstrap = horses, confidence, n_bootstrap
        self.seed = seed

    def figure(self, of: _Comparison) -> dict[str, Any]:
        told = {"name": of.name, "side": of.side, "threshold": of.threshold}
        return told | self.interval(of.values, of.bounds)

    def interval(self, values: pd.Series, bounds: tuple[float, float]) -> dict[str, Any]:
        values = values.dropna()
        horses = self.horses.reindex(values.index)
        told = {"n_images": len(values), "n_horses": int(horses.nunique())}
        if not len(values):
            return told | {"value": None, "low": None, "high": None}
        per_horse = values.groupby(horses).agg(["size", "sum"]).to_numpy(float)
        n = len(per_horse)
        rng = np.random.default_rng(self.seed)
        draws = rng.multinomial(n, np.full(n, 1 / n), self.n_bootstrap)
        counts, sums = (stacked(draws) @ per_horse).T
        mean = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        low, high = interval(mean, self.n_bootstrap, self.confidence, bounds) or (None, None)
        return told | {"value": float(mean[0]), "low": low, "high": high}


def _curves(probed: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean curves of deletion and insertion: test, of, at, value, one entry per point."""
    curves = probed[probed["test"].isin(["deletion", "insertion"])]
    mean = curves.groupby(["test", "of", "at"])[["value"]].mean().reset_index()
    return [{str(key): value for key, value in row.items()} for row in mean.to_dict("records")]


# ------------------------------------------------------------------------------- outside the horse


def most_enriched(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Say for each class which region comes first most often, and which outside the horse.

    Parameters
    ----------
    summary : summary.csv of :func:`region_statistics.summarise`.

    Returns
    -------
    Per view and explained class:

    leading : of what on the whole speaks for the class, is seen in most of its images and was told
        from its area and from random weights, the most enriched; with its ``leading_enrichment``.
        The head or the horse only where no part of them is annotated.
    region : that with the largest ``share`` of the class's images in which it comes first.
    outside : of what is no part of the horse (tack, human, object, background), that with the
        largest ``outside_share`` of images in which it comes first on the whole, what speaks
        against the class taken off; ``named``: whether that is the case in most images.
    most_net : what is no part of the horse and has on the whole more of the score (``signed``) than
        the head, the horse or any other region; else None. ``most_signed``: the most, in logits.
    """
    told = (summary["model"] == "trained") & (summary["region"] != "context")
    rows = summary[told & (summary["region"].map(level_of) != "part")]
    found = []
    for (view, target), own in rows.groupby(["view", "target"], sort=True):
        of = own.set_index("region")
        n_images = int(of["n_images"].max())
        seen = of["n_images"] / n_images  # where one is not seen, another comes first
        shown = of["verdict"].astype(str).str.startswith(MORE_THAN_BOTH)
        parts = ~of.index.isin(CONTAINERS) | (not of.index.isin(list(ROLLUPS)).any())
        leads = of[shown & parts & (of["signed"] > 0) & (seen > MOST)]["enrichment"].nlargest(1)
        first, net = ((of[figure] * seen).nlargest(1) for figure in ("top_rate", "signed"))
        context = of.index.isin(ROLLUPS["context"])
        outside = (of["top_net_rate"] * seen)[context & (of["top_net_rate"] > 0)].nlargest(1)
        found.append({
            "view": view,
            "target": target,
            "n_images": n_images,
            "leading": next(iter(leads.index), None),
            "leading_enrichment": next(iter(leads.astype(float)), None),
            "region": first.index[0],
            "share": float(first.iloc[0]),
            "outside": next(iter(outside.index), None),
            "outside_share": float(outside.sum()),
            "named": bool(outside.sum() > MOST),
            "most_net": net.index[0]
            if net.index[0] in ROLLUPS["context"] and net.iloc[0] > 0 else None,
            "most_signed": float(net.iloc[0]),
        })  # fmt: skip
    return found
