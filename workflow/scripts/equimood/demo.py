"""Draw a study of horses whose emotion has a known cause.

Each emotion shows in one region of the face and nowhere else, so that a drawn study has a right
answer: the region on which a prediction should rest. All else (coat, pose, light, place, tack and
the other cues) varies independently of the emotion. The cues follow the ethogram: ears flattened,
eye wide with white, upper lip extended over a hanging lower lip.

With a shortcut one class shows no cue of its own: a thing beside or on the horse alone tells it,
and is then the right answer.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from equimood import drawing
from equimood.drawing import Cues, Session
from equimood.settings import DRAWN_SHARES
from equimood.tables import BOX, REGIONS

Shortcut = Literal["bucket", "halter"]
T = TypeVar("T")

SHORTCUTS: dict[Shortcut, str] = {"bucket": "object", "halter": "tack"}
"""The region of each shortcut."""
SHORTCUT_RATE = 0.95
"""Share of images in which the shortcut agrees with the label."""
WEAK_RATE = 0.05
"""Share of emotional images whose cue stays between the resting and the emotional range."""


@dataclass(frozen=True)
class Cause:
    """The one region, as a roll-up of regions, and the one cue by which an emotion shows."""

    region: str
    cue: str
    low: float
    high: float


RESTING = {
    "ear": (0.0, 0.38),
    "eye": (0.36, 0.62),
    "lips": (0.0, 0.3),
    "nostril": (0.0, 1.0),
    "neck": (0.0, 1.0),
}
CAUSES: dict[str, Cause | None] = {
    "neutral": None,
    "alarmed": Cause("eyes", "eye", 0.88, 1.0),
    "annoyed": Cause("ears", "ear", 0.84, 1.0),
    "relaxed": Cause("mouth", "lips", 0.75, 1.0),
}


def draw_cues(rng: np.random.Generator, label: str) -> Cues:
    """Cues of one image: all at rest, then the label's one cue set to its emotional range."""
    cues = Cues(**{cue: float(rng.uniform(*limits)) for cue, limits in RESTING.items()})
    weak, strength = rng.random() < WEAK_RATE, rng.random()
    cause = CAUSES[label]
    if cause is None:
        return cues
    low, high = (RESTING[cause.cue][1], cause.low) if weak else (cause.low, cause.high)
    return replace(cues, **{cause.cue: low + (high - low) * strength})


@dataclass(frozen=True)
class Plan:
    """A study to draw; one horse at a time, each from its own branch of the seed."""

    n_sessions: int
    images_per_session: int
    shares: Mapping[str, float]
    shortcut: Shortcut | None
    shortcut_class: str | None
    seed: int
    image_size: tuple[int, int]

    def rng(self, *branch: int) -> np.random.Generator:
        """Random numbers of one horse, of one of its sessions, or of one picture."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=branch))


def draw_labels(rng: np.random.Generator, shares: Mapping[str, float], n: int) -> list[str]:
    """Labels of one horse's pictures: every class at least once, the rest by its share."""
    labels = list(shares)
    if n < len(labels):
        raise ValueError(
            f"{n} images a horse cannot show {len(labels)} classes; draw more images or sessions"
        )
    weights = np.array([shares[label] for label in labels])
    rest = rng.choice(labels, n - len(labels), p=weights / weights.sum())
    return rng.permutation([*labels, *rest]).tolist()


def with_shortcut(
    shown: bool, plan: Plan, session: Session, thing: str | None
) -> tuple[Session, str | None]:
    """Put the shortcut into the session or among the things on the ground, or take it out."""
    if plan.shortcut == "halter":
        tack = "halter" if shown else "none"
        return replace(session, tack=tack, tack_colour=drawing.RED), thing
    if plan.shortcut == "bucket" and (shown or thing == "bucket"):
        thing = "bucket" if shown else None
    return session, thing


def draw_one_horse(plan: Plan, images: Path, number: int) -> tuple[list[dict], list[dict]]:
    """Write one horse's pictures; rows of the annotations and of the regions."""
    rng = plan.rng(number)
    name, horse = f"horse{number + 1:02d}", drawing.draw_identity(rng)
    labels = iter(draw_labels(rng, plan.shares, plan.n_sessions * plan.images_per_session))
    annotations, regions = [], []
    for visit in range(plan.n_sessions):
        session = drawing.draw_session(plan.rng(number, visit))
        for shot in range(plan.images_per_session):
            rng, label = plan.rng(number, visit, shot), next(labels)
            cues = draw_cues(rng, "neutral" if label == plan.shortcut_class else label)
            pose, human = drawing.draw_pose(rng), bool(rng.random() < 0.12)
            thing = str(rng.choice(list(drawing.OBJECTS))) if rng.random() < 0.2 else None
            shown = (rng.random() < SHORTCUT_RATE) == (label == plan.shortcut_class)
            place, thing = with_shortcut(shown, plan, session, thing)
            picture = drawing.draw_horse(
                rng, horse, place, cues, pose, size=plan.image_size, thing=thing, human=human
            )
            file = f"{name}_s{visit + 1}_{shot + 1:02d}.jpg"
            picture.image.save(images / file, quality=90)
            box = dict(zip(BOX, picture.horse_box, strict=True))
            who = {"horse": name, "session": f"{name}_s{visit + 1}"}
            annotations.append({"image": file, "label": label} | who | box)
            for region in REGIONS:
                regions += [
                    {"image": file, "horse": name, "region": region} | row
                    for row in region_rows(region, picture)
                ]
    return annotations, regions


def region_rows(region: str, picture: drawing.Drawing) -> list[dict]:
    """Rows of one region: its outlines, or the box of the picture in which the background lies."""
    outlines = picture.outlines.get(region, [])
    if region == "background":
        corners = dict(zip(BOX, picture.boxes[region], strict=True))
        return [{"kind": "box", **corners, "points": None, "visible": 1}]
    unboxed = {"kind": "points", **dict.fromkeys(BOX)}
    return [
        unboxed | {"points": " ".join(f"{at:.1f}" for at in outline.ravel()), "visible": 1}
        for outline in outlines
    ] or [unboxed | {"points": None, "visible": 0}]


def draw_study(
    out_dir: Path,
    *,
    classes: Mapping[str, float] | None = None,
    n_horses: int = 24,
    n_sessions: int = 2,
    images_per_session: int = 10,
    shortcut: Shortcut | None = None,
    shortcut_class: str | None = None,
    seed: int = 1,
    image_size: tuple[int, int] = (320, 256),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write images/, annotations.csv, regions.csv and causes.csv into `out_dir`.

    `classes` maps emotions of CAUSES to their shares. In SHORTCUT_RATE of the images the shortcut
    is there if the label is `shortcut_class` and not there otherwise; the horses of that class are
    at rest. `progress` is told horses done and horses in all. The files depend on neither `workers`
    nor, for the other horses, on one horse more.
    """
    shares = dict(classes or DRAWN_SHARES)
    if unknown := sorted({*shares, *([shortcut_class] if shortcut_class else [])} - set(CAUSES)):
        raise ValueError(f"{', '.join(unknown)}: not drawn; choose from {', '.join(CAUSES)}")
    if (shortcut is None) != (shortcut_class is None):
        raise ValueError("shortcut and shortcut_class are given together or not at all")
    images = out_dir / "images"
    images.mkdir(parents=True, exist_ok=True)
    plan = Plan(n_sessions, images_per_session, shares, shortcut, shortcut_class, seed, image_size)
    annotations: list[dict] = []
    regions: list[dict] = []
    for number, rows in enumerate(
        each_horse(partial(draw_one_horse, plan, images), n_horses, workers)
    ):
        annotations += rows[0]
        regions += rows[1]
        if progress:
            progress(number + 1, n_horses)
    pd.DataFrame(annotations).to_csv(out_dir / "annotations.csv", index=False)
    pd.DataFrame(regions).astype(dict.fromkeys(BOX, "Int64")).to_csv(
        out_dir / "regions.csv", index=False
    )
    causes = [
        (label, SHORTCUTS[shortcut], shortcut)
        if shortcut and label == shortcut_class
        else (label, cause.region, cause.cue)
        if (cause := CAUSES[label])
        else (label, "none", "none")
        for label in shares
    ]
    table = pd.DataFrame(causes, columns=["label", "region", "cue"])
    table.to_csv(out_dir / "causes.csv", index=False)


def each_horse(draw: Callable[[int], T], n_horses: int, workers: int) -> Iterator[T]:
    """Draw every horse, in order, in this process or in several."""
    # joblib's workers do not run the main module again, which is Snakemake's script.
    tasks = (delayed(draw)(number) for number in range(n_horses))
    yield from Parallel(n_jobs=workers, return_as="generator")(tasks)
