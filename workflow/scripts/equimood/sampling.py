"""Seeded samples of photographs: the same ones on every machine, whatever order they stand in."""

from collections import Counter

import pandas as pd

from equimood.files import digest


def over_classes(photos: pd.DataFrame, n: int | None, seed: int) -> set[str]:
    """Choose ``n`` photographs evenly over the classes; the same ones when others are added.

    Each class is taken in the order of a hash of its photographs' ids, and a place that a small
    class cannot fill goes to the others.

    Parameters
    ----------
    photos : columns photo_id and truth, one row per photograph.
    n : None for all.
    """
    if n is None:
        return set(photos["photo_id"])
    order = photos["photo_id"].map(lambda photo: digest(seed, photo))
    ranked = photos.assign(order=order).sort_values("order")
    ranked["turn"] = ranked.groupby("truth").cumcount()
    return set(ranked.sort_values(["turn", "order"])["photo_id"].head(n))


def over_classes_and_horses(photos: pd.DataFrame, n: int, seed: int) -> set[str]:
    """Choose photographs one by one: the class, and of it the horse, that has the fewest so far.

    Parameters
    ----------
    photos : columns photo_id, truth, horse, one row per photograph.
    """
    order = photos["photo_id"].map(lambda photo: digest(seed, photo)).sort_values().index
    left: dict[str, dict[str, list[str]]] = {}
    for (label, horse), own in photos.loc[order].groupby(["truth", "horse"], sort=True):
        left.setdefault(str(label), {})[str(horse)] = own["photo_id"].tolist()[::-1]
    taken: Counter[str] = Counter()
    of_horse: Counter[str] = Counter()
    chosen: set[str] = set()
    while left and len(chosen) < n:
        label = min(left, key=lambda name: (taken[name], name))
        horse = min(left[label], key=lambda name: (of_horse[name], digest(seed, label, name)))
        chosen.add(left[label][horse].pop())
        taken[label] += 1
        of_horse[horse] += 1
        if not left[label][horse]:
            del left[label][horse]
        if not left[label]:
            del left[label]
    return chosen
