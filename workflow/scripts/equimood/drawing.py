"""Draw a horse in a place, as a photograph with outlines of its regions and landmarks.

Lengths of the horse are in head lengths (poll to lip): x forward, y up, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import ConvexHull

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
Patch = tuple[np.ndarray, Colour]  # outline (n, 2) and what fills it

SUPERSAMPLE = 2
PLACE_TEXTURE, COAT_TEXTURE = 0.24, 0.11
"""Relative brightness deviation of grass, wood and leaves, and of hair."""
N_OCTAVES = 6


@dataclass(frozen=True)
class Cues:
    """What an emotion may change, each from 0 to 1."""

    ear: float  # pricked forward .. flattened on the neck
    eye: float  # closed .. wide open with white
    lips: float  # closed .. upper lip extended, lower lip hanging
    nostril: float  # narrow .. flared
    neck: float  # low .. very high


@dataclass(frozen=True)
class Identity:
    """What stays with a horse: coat, markings and proportions."""

    coat: str
    body: Colour
    points: Colour  # lower legs and muzzle
    mane: Colour
    marking: str
    marking_width: float
    socks: tuple[float, ...]  # height of white on each leg, 0 to 1
    patches: np.ndarray  # (n, 3): x, y, radius of pinto patches on the trunk
    head_depth: float
    neck_depth: float
    leg_length: float
    ear_length: float
    mane_length: float
    trunk_scale: float


@dataclass(frozen=True)
class Session:
    """What stays within one visit: place, light and tack."""

    place: str
    hue: np.ndarray  # (3,) tint of the place
    light: np.ndarray  # (3,) gain of each colour
    light_side: float  # -1 from behind the horse .. 1 from before it
    tack: str
    tack_colour: Colour


@dataclass(frozen=True)
class Pose:
    """How the horse stands before the camera; angles in radians, lengths in picture shares."""

    facing: int  # 1 right, -1 left
    yaw: float  # of the head, towards the camera
    pitch: float  # of the face below the horizontal
    head_length: float  # share of the picture's height
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """A picture with what is known of it, in pixels of the picture."""

    image: Image.Image
    outlines: dict[str, list[np.ndarray]]  # of visible regions, each (n, 2), together the region
    boxes: dict[str, Box]  # of visible regions
    horse_box: Box
    landmarks: dict[str, np.ndarray]  # visible points (2,)


COATS: dict[str, tuple[Colour, Colour, Colour]] = {  # body, points, mane
    "bay": ((128, 76, 42), (38, 28, 24), (30, 24, 22)),
    "dark bay": ((84, 54, 38), (30, 24, 22), (26, 22, 20)),
    "chestnut": ((164, 92, 48), (140, 78, 44), (150, 84, 42)),
    "flaxen chestnut": ((142, 78, 42), (120, 66, 38), (222, 190, 136)),
    "black": ((54, 50, 52), (36, 34, 36), (28, 26, 28)),
    "grey": ((186, 186, 186), (120, 120, 124), (212, 212, 210)),
    "dark grey": ((120, 122, 128), (66, 66, 72), (84, 84, 90)),
    "palomino": ((212, 164, 92), (190, 150, 96), (242, 230, 204)),
    "dun": ((184, 146, 98), (62, 48, 38), (54, 42, 34)),
    "pinto": ((120, 70, 40), (206, 196, 184), (52, 40, 34)),
    "black pinto": ((58, 52, 52), (214, 208, 202), (34, 30, 30)),
}
PLACES = ("paddock", "stable", "arena", "trees")
TACKS = ("none", "halter", "bridle")
HALTER_COLOURS = ((40, 70, 150), (30, 110, 70), (110, 50, 120), (60, 60, 64))
LEATHER = (58, 36, 24)
RED = (216, 30, 38)
WHITE = (238, 234, 228)
HOOF = (52, 46, 42)
GUMS = (168, 100, 102)
MARKINGS = {  # from, to and half breadth along the face
    "star": (0.14, 0.25, 0.075),
    "stripe": (0.14, 0.78, 0.038),
    "blaze": (0.10, 0.90, 0.068),
    "snip": (0.80, 0.93, 0.045),
}
HORSE = ("head", "ear_left", "ear_right", "poll_mane", "neck", "trunk", "legs", "tail")
FAR_NOSTRIL_SHOWS, FAR_EYE_SHOWS = np.radians(18), np.radians(30)


def tint(rng: np.random.Generator, colour: Colour, spread: float = 8) -> Colour:
    """The colour a little lighter or darker and a little off in hue."""
    shifted = np.array(colour) * rng.uniform(0.9, 1.1) + rng.normal(0, spread / 2, 3)
    return as_colour(shifted)


def as_colour(values: np.ndarray) -> Colour:
    """Three numbers as a colour of whole numbers from 0 to 255."""
    r, g, b = np.clip(values, 0, 255).astype(int).tolist()
    return r, g, b


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour `a` with this share of `b`."""
    return as_colour(np.array(a) * (1 - share) + np.array(b) * share)


def darker(colour: Colour, share: float) -> Colour:
    """The colour with this share of black."""
    return mix(colour, (0, 0, 0), share)


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a horse."""
    coat = str(rng.choice(list(COATS)))
    body, points, mane = (tint(rng, colour) for colour in COATS[coat])
    n_patches = int(rng.integers(3, 6)) if "pinto" in coat else 0
    patches = rng.uniform((-1.25, -0.75, 0.16), (0.25, 0.0, 0.34), (n_patches, 3))
    socked = rng.random(4) < 0.35
    return Identity(
        coat=coat,
        body=body,
        points=points,
        mane=mane,
        marking=str(rng.choice(["none", *MARKINGS])),
        marking_width=float(rng.uniform(0.7, 1.2)),
        socks=tuple((socked * rng.uniform(0.25, 0.8, 4)).tolist()),
        patches=patches,
        head_depth=float(rng.uniform(0.93, 1.08)),
        neck_depth=float(rng.uniform(0.88, 1.12)),
        leg_length=float(rng.uniform(0.9, 1.1)),
        ear_length=float(rng.uniform(0.25, 0.31)),
        mane_length=float(rng.uniform(0.6, 1.3)),
        trunk_scale=float(rng.uniform(0.8, 0.9)),
    )


def draw_session(rng: np.random.Generator) -> Session:
    """Draw a visit."""
    tack = str(rng.choice(TACKS, p=(0.45, 0.35, 0.2)))
    halter = HALTER_COLOURS[int(rng.integers(len(HALTER_COLOURS)))]
    warmth = rng.normal(0, 0.05)
    return Session(
        place=str(rng.choice(PLACES)),
        hue=rng.normal(0, 9, 3),
        light=rng.uniform(0.82, 1.15) * np.array((1 + warmth, 1, 1 - warmth)),
        light_side=float(rng.uniform(-1, 1)),
        tack=tack,
        tack_colour=LEATHER if tack == "bridle" else halter,
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw a way to stand."""
    return Pose(
        facing=int(rng.choice((-1, 1))),
        yaw=float(np.radians(rng.uniform(-4, 40))),
        pitch=float(np.radians(rng.uniform(34, 58))),
        head_length=float(rng.uniform(0.38, 0.45)),
        x=float(rng.uniform(-0.04, 0.04)),
        y=float(rng.uniform(-0.03, 0.03)),
    )


# --- shapes ---------------------------------------------------------------------------------------


def points(text: str) -> np.ndarray:
    """Points written as `x y, x y, …`: (n, 2), or (n, 3) with z."""
    return np.array([pair.split() for pair in text.split(",")], float)


def spline(through: np.ndarray, closed: bool = True, steps: int = 6) -> np.ndarray:
    """Catmull-Rom curve, (n, d) -> (n * steps, d); an open one stops short of its last point."""
    before, after = np.roll(through, 1, axis=0), np.roll(through, -1, axis=0)
    beyond = np.roll(through, -2, axis=0)
    if not closed:
        before[0], after[-1], beyond[-2:] = through[0], through[-1], through[-1]
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    cubic = 3 * (through - after) + beyond - before
    square = 2 * before - 5 * through + 4 * after - beyond
    curve = through + 0.5 * t * (after - before + t * (square + t * cubic))
    return curve.swapaxes(0, 1).reshape(-1, through.shape[1])


def disc(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 20) -> np.ndarray:
    """Ellipse (n, 2) about (x, y), turned by radians."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.column_stack([x + u * cos - v * sin, y + u * sin + v * cos])


def hull(inside: np.ndarray) -> np.ndarray:
    """The convex outline of points (n, 2)."""
    return inside[ConvexHull(inside).vertices]


def band(line: np.ndarray, width: float) -> np.ndarray:
    """The outline (2n, 2) of a stroke along a line (n, 2)."""
    along = np.gradient(line, axis=0)
    across = np.column_stack([along[:, 1], -along[:, 0]])
    across *= 0.5 * width / np.linalg.norm(across, axis=1, keepdims=True).clip(1e-9)
    return np.vstack([line + across, (line - across)[::-1]])


def shifted(shape: np.ndarray, dx: float, dy: float = 0.0) -> np.ndarray:
    """Move points (n, 2)."""
    return shape + np.array((dx, dy))


def solid(side_view: np.ndarray, z: float) -> np.ndarray:
    """Points of a side view (n, 2) placed at depth z: (n, 3)."""
    return np.column_stack([side_view, np.full(len(side_view), z)])


def ring(outline: np.ndarray) -> np.ndarray:
    """The outline with its first point repeated at its end."""
    return np.vstack([outline, outline[:1]])


@dataclass(frozen=True)
class Frame:
    """Places a part of the horse on the canvas: pitched in the side view, then turned by yaw."""

    origin: np.ndarray  # (2,) canvas pixels
    unit: float  # canvas pixels of one head length
    facing: int
    pitch: float = 0.0
    yaw: float = 0.0

    def __call__(self, shape: np.ndarray) -> np.ndarray:
        """(n, 2) or (n, 3) head lengths -> (n, 2) canvas pixels."""
        x, y = shape[:, 0], shape[:, 1]
        z = shape[:, 2] if shape.shape[1] == 3 else 0.0
        along = x * np.cos(self.pitch) + y * np.sin(self.pitch)
        up = y * np.cos(self.pitch) - x * np.sin(self.pitch)
        ahead = along * np.cos(self.yaw) - z * np.sin(self.yaw)
        return self.origin + self.unit * np.column_stack([self.facing * ahead, -up])

    def at(self, *point: float) -> np.ndarray:
        """(2,) canvas pixels of one point."""
        return self(np.array([point]))[0]

    def side(self, part: str, near: bool) -> str:
        """The part on the horse's own side: facing right, its right is towards the camera."""
        return f"{part}_right" if near == (self.facing == 1) else f"{part}_left"


@dataclass
class Canvas:
    """Flat colours at SUPERSAMPLE times the picture's size, and their relief at its size."""

    image: Image.Image
    unit: float  # canvas pixels of one head length
    light_side: float  # -1 from the left .. 1 from the right
    relief: np.ndarray  # (height, width): brightness added by shape
    cover: np.ndarray  # (height, width): 1 where the horse is
    regions: dict[str, list[np.ndarray]] = field(default_factory=dict)  # name -> outlines (n, 2)
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)  # name -> x, y

    def __post_init__(self) -> None:
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, outline: np.ndarray, colour: Colour) -> None:
        """Paint the inside of an outline (n, 2)."""
        self.pen.polygon(outline.ravel().tolist(), fill=colour)

    def stroke(self, line: np.ndarray, colour: Colour, width: float) -> None:
        """Paint along a line (n, 2); its width is in head lengths."""
        pixels = max(1, round(width * self.unit))
        self.pen.line(line.ravel().tolist(), fill=colour, width=pixels, joint="curve")

    def mark(self, region: str, outline: np.ndarray) -> None:
        """Add what an outline (n, 2) holds to the region."""
        self.regions.setdefault(region, []).append(outline)

    def part(
        self,
        outlines: list[np.ndarray],
        colour: Colour,
        details: Sequence[Patch] = (),
        *,
        roundness: float,
        shadow: float = 0.0,
    ) -> None:
        """Paint the union of outlines, with details clipped to it, rounded by light from above.

        `roundness` is the length over which light falls off towards the edge; `shadow` is how
        much the part darkens what lies behind it.
        """
        window = self.window(np.vstack(outlines), roundness)
        mask = silhouette(outlines, window)
        layer = Image.new("RGB", mask.size, colour)
        pen = ImageDraw.Draw(layer)
        for outline, detail in details:
            pen.polygon((outline - window[:2]).ravel().tolist(), fill=detail)
        self.image.paste(layer, window[:2].tolist(), mask)

        where, inside, soft, light = self.lit(mask, window, roundness)
        relief, cover = self.relief[where], self.cover[where]
        relief -= shadow * soft * cover
        relief += inside * (light - relief)
        np.maximum(cover, inside, out=cover)

    def bulge(self, outline: np.ndarray, roundness: float, strength: float) -> None:
        """Round what is already there, without painting it."""
        window = self.window(outline, roundness)
        where, _, _, light = self.lit(silhouette([outline], window), window, roundness)
        self.relief[where] += strength * light * self.cover[where]

    def window(self, inside: np.ndarray, roundness: float) -> np.ndarray:
        """Canvas pixels x0, y0, x1, y1 round points and their shade, whole picture pixels."""
        margin = 3 * roundness * self.unit / SUPERSAMPLE + 2
        size = np.array(self.relief.shape[::-1])
        low = np.clip(np.floor(inside.min(0) / SUPERSAMPLE - margin), 0, size - 1)
        high = np.clip(np.ceil(inside.max(0) / SUPERSAMPLE + margin), low + 1, size)
        return SUPERSAMPLE * np.concatenate([low, high]).astype(int)

    def lit(
        self, mask: Image.Image, window: np.ndarray, roundness: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
        """Where the window is in the picture; there: the mask, blurred mask and shading."""
        x0, y0, x1, y1 = (window // SUPERSAMPLE).tolist()
        radius = roundness * self.unit / SUPERSAMPLE
        small = mask.reduce(SUPERSAMPLE)
        inside = np.asarray(small, np.float32) / 255
        soft = np.asarray(small.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
        shift = max(1, round(0.8 * radius))
        padded, centre = np.pad(soft, shift, mode="edge"), slice(shift, -shift)
        light = padded[2 * shift :, centre] - padded[: -2 * shift, centre]
        across = padded[centre, : -2 * shift] - padded[centre, 2 * shift :]
        return (slice(y0, y1), slice(x0, x1)), inside, soft, light + 0.5 * self.light_side * across


def silhouette(outlines: list[np.ndarray], window: np.ndarray) -> Image.Image:
    """Mask of the union of the outlines, of the window's size."""
    mask = Image.new("L", (int(window[2] - window[0]), int(window[3] - window[1])))
    pen = ImageDraw.Draw(mask)
    for outline in outlines:
        pen.polygon((outline - window[:2]).ravel().tolist(), fill=255)
    return mask


# --- the horse ------------------------------------------------------------------------------------

# side views: the trunk from the withers, the head from the poll along the face
TRUNK = points(
    "0 0, -.16 -.06, -.45 -.11, -.75 -.06, -1 .01, -1.22 -.07, -1.37 -.28, -1.38 -.52, -1.22 -.72,"
    "-1 -.76, -.7 -.82, -.35 -.87, 0 -.83, .24 -.74, .36 -.55, .34 -.32, .2 -.1"
)
FORELEG = points(
    ".02 -.55, 0 -.85, .04 -1.18, .05 -1.26, .06 -1.55, .03 -1.68, .22 -1.68, .18 -1.55,"
    ".19 -1.28, .2 -1.18, .25 -.85, .3 -.55"
)
HINDLEG = points(
    "-.92 -.5, -.98 -.8, -1.14 -1.05, -1.13 -1.2, -1.1 -1.55, -1.11 -1.68, -1.3 -1.68,"
    "-1.24 -1.55, -1.27 -1.2, -1.32 -1.04, -1.3 -.8, -1.38 -.5"
)
TAIL = points(
    "-1.24 -.06, -1.42 -.1, -1.55 -.4, -1.6 -.95, -1.52 -1.35, -1.4 -1.12, -1.34 -.85, -1.33 -.4"
)
SKULL = points(
    "-.02 -.06, .01 .02, .11 .045, .24 .045, .36 .02, .52 -.03, .7 -.068, .83 -.085, .93 -.105,"
    ".99 -.15, 1.01 -.205, .985 -.268, .9 -.265, .8 -.26, .72 -.295, .6 -.325, .46 -.365, .33 -.42,"
    ".19 -.44, .07 -.37, .01 -.22"
)
FACE_LINE = SKULL[1:10]  # from poll to nose along the front
LOWER_LIP = points(
    ".68 -.24, .8 -.26, .88 -.268, .95 -.272, .955 -.31, .89 -.345, .79 -.338, .68 -.31"
)
UPPER_LIP_REACH = np.zeros_like(SKULL)
UPPER_LIP_REACH[9:13] = points(".02 0, .075 -.02, .085 -.06, .02 -.01")
LOWER_LIP_DROP = points("0 0, 0 0, 0 -.05, 0 -.135, -.02 -.15, -.03 -.12, -.02 -.05, 0 0")


def half_width(x: np.ndarray | float) -> np.ndarray:
    """Half of the head's width along the face."""
    return np.asarray(
        np.interp(x, (0, 0.3, 0.5, 0.75, 0.93, 1.05), (0.1, 0.14, 0.105, 0.08, 0.09, 0.06))
    )


def sections(outline: np.ndarray) -> list[np.ndarray]:
    """The head as elliptic sections: outlines (n, 3) from its far to its near side."""
    x, y = outline.T
    axis = np.interp(x, (0, 0.2, 0.5, 0.8, 1), (-0.16, -0.19, -0.18, -0.17, -0.2))
    return [
        np.column_stack([x, axis + (y - axis) * np.sqrt(1 - 0.8 * z**2), z * half_width(x)])
        for z in (-1.0, -0.6, 0.0, 0.6, 1.0)
    ]


def draw_body(
    canvas: Canvas, body: Frame, head: Frame, horse: Identity, rng: np.random.Generator
) -> None:
    """Far legs, tail, near legs, then trunk and neck in one, back to front."""
    draw_leg(canvas, body, horse, 0, shifted(FORELEG, 0.10), rng.uniform(-0.1, 0.1))
    draw_leg(canvas, body, horse, 1, shifted(HINDLEG, 0.12), rng.uniform(-0.1, 0.1))
    draw_tail(canvas, body, horse, rng.uniform(-0.12, 0.12))
    draw_leg(canvas, body, horse, 2, FORELEG, rng.uniform(-0.1, 0.1))
    draw_leg(canvas, body, horse, 3, HINDLEG, rng.uniform(-0.1, 0.1))
    trunk, neck = body(spline(TRUNK)), neck_outline(body, head, horse)
    details = [(body(spline(disc(-0.5, -1.0, 1.0, 0.28))), darker(horse.body, 0.1))]
    for x, y, radius in horse.patches:
        ragged = 1 + 0.35 * np.sin(np.arange(9) * (2.1 + 3 * radius) + 9 * x)
        patch = (x, y) + disc(0, 0, radius, 0.9 * radius, n=9) * ragged[:, None]
        details.append((body(spline(patch)), WHITE))
    canvas.part([trunk, neck], horse.body, details, roundness=0.10, shadow=0.25)
    canvas.mark("trunk", trunk)
    canvas.mark("neck", neck)
    canvas.landmarks |= {"withers": body.at(0, 0), "dock": body.at(-1.3, -0.1)}


def draw_leg(
    canvas: Canvas, body: Frame, horse: Identity, leg: int, shape: np.ndarray, sway: float
) -> None:
    """One leg, darker towards the hoof; legs 0 and 1 stand on the far side, in shade."""
    down = np.clip((-0.6 - shape[:, 1]) / 1.1, 0, 1)
    shape = shape + np.column_stack([sway * down, 1.1 * (1 - horse.leg_length) * down])
    ground, left, right = shape[:, 1].min(), shape[:, 0].min() - 0.2, shape[:, 0].max() + 0.2

    def below(height: float) -> np.ndarray:
        bottom, top = ground - 0.1, ground + height
        return body(np.array([(left, bottom), (right, bottom), (right, top), (left, top)]))

    shades = (0.25, 0.5, 0.75, 1.0)
    details = [(below(0.85 - 0.4 * s), mix(horse.body, horse.points, s)) for s in shades]
    details += [(below(0.45 * horse.socks[leg]), WHITE)] if horse.socks[leg] else []
    details += [(below(0.09), HOOF)]
    shade = 0.3 if leg < 2 else 0.0
    details = [(outline, darker(colour, shade)) for outline, colour in details]
    outline = body(spline(shape))
    canvas.part([outline], darker(horse.body, shade), details, roundness=0.033)
    canvas.mark("legs", outline[outline[:, 1] > body.at(0, -0.85)[1]])


def draw_tail(canvas: Canvas, body: Frame, horse: Identity, swing: float) -> None:
    """Tail and its locks."""
    hang = np.clip((-0.3 - TAIL[:, 1:]) / 0.6, 0, 1) * (swing, 0)
    outline = body(spline(TAIL + hang))
    canvas.part([outline], horse.mane, roundness=0.047)
    canvas.mark("tail", outline)
    for offset in (-0.06, 0.0, 0.06):
        lock = points("-1.4 -.15, -1.46 -.5, -1.5 -1.1") + np.outer((0, 1, 1), (offset, 0))
        lock[2, 0] += swing
        canvas.stroke(body(spline(lock, closed=False)), darker(horse.mane, 0.25), 0.01)


def crest_line(body: Frame, head: Frame) -> np.ndarray:
    """Upper edge of the neck from poll to withers, (4, 2) canvas pixels."""
    poll, withers = head.at(0, 0), body.at(-0.12, -0.05)
    arch = points("0 0, .03 -.075, .015 -.05, 0 0") * (head.facing, 1) * head.unit
    return poll + np.outer((0, 0.33, 0.7, 1), withers - poll) + arch


def neck_outline(body: Frame, head: Frame, horse: Identity) -> np.ndarray:
    """Crest, shoulder, breast and throat as one curve, canvas pixels."""
    throat, breast = head.at(0.12, -0.38), body.at(0.36, -0.50)
    full = head.unit * (horse.neck_depth - 0.92) * np.array([head.facing, 0.3])
    under = breast + np.outer((0, 0.3, 0.7, 1), throat - breast) + np.outer((0, 1, 0.6, 0), full)
    shoulder, inside = body.at(-0.1, -0.45), head.at(0.18, -0.2)
    return spline(np.vstack([crest_line(body, head), shoulder, under, inside]))


def draw_mane(
    canvas: Canvas, body: Frame, head: Frame, horse: Identity, rng: np.random.Generator
) -> None:
    """Locks that hang from the crest, longest in its middle."""
    crest = spline(crest_line(body, head), closed=False, steps=8)
    n = len(crest)
    fall = 0.3 * horse.mane_length * (0.75 + 0.25 * np.sin(np.linspace(0.3, 2.8, n)))
    fall *= head.unit * rng.uniform(0.85, 1.15, n)
    tips = crest + np.outer(fall, (0.35 * head.facing, 0.85))
    ragged = np.where(np.arange(n)[:, None] % 3 == 1, tips, crest + 0.72 * (tips - crest))
    edge = crest - np.array((0.012 * head.facing, 0.02)) * head.unit
    mane = np.vstack([edge, ragged[::-1]])
    canvas.part([mane], horse.mane, roundness=0.038, shadow=0.1)
    canvas.mark("poll_mane", mane)
    for root, tip in zip(crest[1:-2:3], tips[1:-2:3], strict=True):
        lock = np.array([root, root + 0.8 * (tip - root)])
        canvas.stroke(lock, darker(horse.mane, 0.22), 0.01)


def draw_forelock(canvas: Canvas, head: Frame, horse: Identity) -> None:
    """Hair that falls from between the ears over the forehead."""
    lock = points(
        "-.01 .01 .06, .02 .06 0, .1 .065 -.05, 1 .045 -.06, .7 .03 0,"
        "1.15 .01 .03, .6 0 .07, .75 -.03 .09"
    )
    lock[3:, 0] *= 0.10 + 0.14 * horse.mane_length
    outline = head(lock)
    canvas.part([outline], horse.mane, roundness=0.019)
    canvas.mark("poll_mane", outline)


def draw_ear(canvas: Canvas, head: Frame, horse: Identity, ear: float, near: bool) -> None:
    """A leaf on the poll: `ear` turns it from forward over upright to flat on the neck."""
    angle, length = np.radians(78 + 148 * ear), horse.ear_length * (1 - 0.1 * ear)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([along[1], -along[0]])  # towards the nose
    width = length * (0.34 - 0.12 * max(0.0, ear - 0.4))
    base, z = np.array([0.045, 0.005]), 0.085 if near else -0.085
    t = np.array([0, 0.25, 0.5, 0.8, 1])
    middle = base + length * (np.outer(t, along) + np.outer(0.1 * t**2, across))
    front = np.array([0.5, 0.85, 0.95, 0.55, 0]) * width
    rear = np.array([-0.5, -0.8, -0.75, -0.35, 0]) * width

    def leaf(front: np.ndarray, rear: np.ndarray) -> np.ndarray:
        edges = middle + np.outer(front, across), middle + np.outer(rear, across)
        return head(solid(spline(np.vstack([edges[0], edges[1][-2::-1]])), z))

    outline = leaf(front, rear)
    seen = min(1.0, 1.15 - 1.6 * ear)  # the hollow faces the camera while the ear points forward
    inner = darker(mix(horse.body, (70, 46, 42), 0.6), 0.15)
    hollow = leaf(0.92 * front, 0.92 * front - 0.62 * seen * (front - rear))
    details = [(hollow, inner)] if seen > 0.1 else []
    canvas.part(
        [outline], darker(horse.body, 0 if near else 0.25), details, roundness=0.024, shadow=0.3
    )
    canvas.stroke(ring(outline), darker(horse.body, 0.45), 0.009)
    name = head.side("ear", near)
    canvas.mark(name, outline)
    canvas.landmarks |= {f"{name}_tip": head.at(*middle[-1], z), f"{name}_base": head.at(*base, z)}


def draw_head(canvas: Canvas, head: Frame, horse: Identity, cues: Cues) -> None:
    """Lower lip, skull with its markings, eyes, nostrils and mouth."""
    muzzle = mix(horse.body, horse.points, 0.75)
    chin = LOWER_LIP + cues.lips * LOWER_LIP_DROP
    skull = SKULL + cues.lips * UPPER_LIP_REACH
    jaw = skull[:, 1] < -0.27
    skull[jaw, 1] = -0.27 + horse.head_depth * (skull[jaw, 1] + 0.27)

    lower_lip = [head(solid(spline(chin), z)) for z in (-0.05, 0.0, 0.05)]
    canvas.part(lower_lip, muzzle, roundness=0.028)
    gap = np.vstack([shifted(chin[1:4], 0, 0.01), shifted(skull[11:14], 0, 0.02)])
    canvas.fill(head(solid(gap, 0.04)), GUMS)
    outlines = [head(spline(section)) for section in sections(skull)]
    details = [
        (head(spline(disc(0.98, -0.2, 0.27, 0.30))), mix(horse.body, muzzle, 0.5)),
        (head(spline(disc(1.02, -0.22, 0.22, 0.26))), muzzle),
        *marking(head, horse),
    ]
    canvas.part(outlines, horse.body, details, roundness=0.066, shadow=0.45)
    cheek = head(solid(spline(disc(0.23, -0.26, 0.16, 0.15)), 0.1))
    canvas.bulge(cheek, 0.038, 0.55)
    canvas.bulge(head(solid(disc(0.50, -0.14, 0.13, 0.022), 0.1)), 0.019, 0.4)
    lips = np.vstack([points(".785 -.25, .84 -.258"), skull[[12, 11]]])
    canvas.stroke(head(solid(spline(lips, closed=False), 0.06)), darker(muzzle, 0.45), 0.012)
    for near in (False, True):
        if near or head.yaw > FAR_NOSTRIL_SHOWS:
            draw_nostril(canvas, head, cues.nostril, muzzle, near)
        if near or head.yaw > FAR_EYE_SHOWS:
            draw_eye(canvas, head, horse, cues.eye, near)
    for lift in (0.0, 0.016):
        wrinkle = shifted(points(".27 -.005, .32 .008, .38 -.01"), 0, lift)
        line = head(solid(spline(wrinkle, closed=False), 0.115))
        canvas.stroke(line, darker(horse.body, 0.4), 0.008)

    canvas.mark("head", hull(np.vstack([*outlines, *lower_lip])))
    canvas.mark("cheek", cheek)
    canvas.mark("forehead", head(points(".1 .04 -.08, .27 .04 -.08, .27 -.02 .11, .12 -.02 .1")))
    canvas.mark("brow", head(solid(disc(0.32, 0.005, 0.09, 0.03), 0.11)))
    below_nostril = (0.86, -0.22, 0.05)
    canvas.mark("upper_lip", hull(head(np.vstack([solid(skull[10:14], 0.03), below_nostril]))))
    opening = skull[11:14]  # what lies between the lips
    canvas.mark("lower_lip_chin", hull(head(np.vstack([chin[1:7], opening]))))
    canvas.mark("mouth_corner", head(solid(disc(0.8, -0.25, 0.04, 0.035), 0.06)))
    canvas.landmarks |= {
        "poll": head.at(0, 0),
        "jowl": head.at(0.19, -0.43, 0.05),
        "facial_crest": head.at(0.52, -0.165, 0.1),
        "upper_lip": head.at(*skull[11]),
        "lower_lip": head.at(*chin[3]),
        "mouth_corner": head.at(0.79, -0.25, 0.06),
    }


def marking(head: Frame, horse: Identity) -> list[Patch]:
    """White on the front of the face."""
    if horse.marking not in MARKINGS:
        return []
    start, end, breadth = MARKINGS[horse.marking]
    x = np.linspace(start, end, 9)
    z = breadth * horse.marking_width * np.sqrt(np.clip(1 - np.linspace(-1, 1, 9) ** 4, 0.02, 1))
    y = np.interp(x, *FACE_LINE.T) - 0.1 * (1 - np.sqrt(1 - 0.5 * (z / half_width(x)) ** 2))
    near, far = np.column_stack([x, y, z]), np.column_stack([x, y + 0.05, -z])
    return [(head(np.vstack([near, far[::-1]])), WHITE)]


def draw_eye(canvas: Canvas, head: Frame, horse: Identity, opening: float, near: bool) -> None:
    """Lids over a dark eye; wide open, white shows round the iris."""
    centre, length, z = ((0.33, -0.085), 0.088, 0.125) if near else ((0.335, -0.06), 0.045, -0.115)

    def place(shape: np.ndarray) -> np.ndarray:
        return head(solid(centre + shape * (length, 0.088), z))

    skin = mix(darker(horse.body, 0.25), (128, 112, 104), 0.25)
    socket = place(spline(disc(0, 0.08, 1.28, 1.0)))
    canvas.fill(socket, skin)
    up, down = -0.18 + 1.02 * opening, 0.22 + 0.34 * opening
    upper = np.array([(-1, -0.08), (-0.5, 0.75 * up), (0.05, up), (0.6, 0.62 * up)])
    lower = np.array([(1, -0.16), (0.5, -0.85 * down), (-0.1, -down), (-0.6, -0.7 * down)])
    lids = spline(np.vstack([upper, lower]))
    white = float(np.clip((opening - 0.6) / 0.25, 0, 1))
    canvas.fill(place(lids), mix((34, 24, 20), (216, 204, 194), white))
    iris = disc(0.02, 0.1 * opening, 0.5, 0.5)
    floor, roof = (np.interp(iris[:, 0], *lid.T) for lid in (lids[:23:-1], lids[:25]))
    iris[:, 1] = np.clip(iris[:, 1], floor, np.maximum(roof, floor))
    canvas.fill(place(iris), (46, 28, 20))
    if opening > 0.3:
        canvas.fill(place(disc(0.2, 0.28 * opening, 0.13, 0.13, n=8)), (196, 198, 200))
    canvas.stroke(place(ring(lids)), darker(skin, 0.6), 0.014)
    crease = np.array([(-0.9, 0.4 * up + 0.25), (0, up + 0.3), (0.95, 0.4 * up + 0.2)])
    canvas.stroke(place(spline(crease, closed=False)), darker(skin, 0.4), 0.01)
    name = head.side("eye", near)
    canvas.mark(name, socket)
    lid_middles = place(np.array([(0.05, up), (-0.1, -down)]))
    canvas.landmarks |= {f"{name}_upper_lid": lid_middles[0], f"{name}_lower_lid": lid_middles[1]}


def draw_nostril(canvas: Canvas, head: Frame, flare: float, muzzle: Colour, near: bool) -> None:
    """A dark drop with a light rim."""
    x, y, z = (0.935, -0.165, 0.085) if near else (0.975, -0.15, -0.05)
    width, height = 0.02 + 0.016 * flare, 0.026 + 0.014 * flare
    rim = head(solid(disc(x, y, width + 0.014, height + 0.014, -0.5), z))
    canvas.fill(rim, mix(muzzle, (255, 255, 255), 0.1))
    canvas.fill(
        head(solid(disc(x, y, width * (1 if near else 0.6), height, -0.5), z)), (30, 20, 20)
    )
    name = head.side("nostril", near)
    canvas.mark(name, rim)
    canvas.landmarks[name] = head.at(x, y, z)


def draw_tack(canvas: Canvas, head: Frame, tack: str, colour: Colour) -> None:
    """Straps of a halter or bridle along the near side of the head."""
    if tack not in STRAPS:
        return
    straps, (x, y, z), width = STRAPS[tack]
    for strap in straps:
        line = head(spline(strap, closed=False))
        canvas.stroke(shifted(line, 0, 0.012 * head.unit), darker(colour, 0.5), width)
        canvas.stroke(line, colour, width)
        canvas.mark("tack", band(line, width * canvas.unit))
    canvas.stroke(ring(head(solid(disc(x, y, 0.028, 0.028), z))), (196, 184, 150), 0.014)


STRAPS: dict[str, tuple[list[np.ndarray], tuple[float, float, float], float]] = {
    "halter": (  # straps, metal ring, width
        [
            points(".6 -.045 -.04, .6 -.045 .04, .6 -.185 .095, .59 -.325 .03"),
            points(".6 -.2 .095, .42 -.2 .11, .16 -.1 .12, .03 0 .1, -.01 .03 .02"),
            points(".6 -.325 .03, .46 -.335 .06, .2 -.36 .09, .16 -.12 .12, .16 -.1 .12"),
        ],
        (0.6, -0.2, 0.095),
        0.045,
    ),
    "bridle": (
        [
            points(".66 -.058 -.04, .66 -.058 .04, .66 -.18 .09, .65 -.31 .03"),
            points(
                ".785 -.25 .07, .62 -.215 .09, .42 -.2 .11, .16 -.1 .12, .03 0 .1, -.01 .03 .02"
            ),
            points(".1 -.05 .12, .13 .02 .09, .15 .045 0, .15 .045 -.06"),
        ],
        (0.785, -0.25, 0.07),
        0.026,
    ),
}
"""Straps as lines on the near side of the head, the metal ring, the straps' width."""

# --- the place ------------------------------------------------------------------------------------


def draw_place(canvas: Canvas, rng: np.random.Generator, session: Session) -> None:
    """Sky or wall, ground and what stands there."""
    width, height = canvas.image.size
    horizon, shift = height * rng.uniform(0.5, 0.64), rng.uniform(0, 1)

    def block(x0: float, y0: float, x1: float, y1: float, *colour: float) -> None:
        box = (x0 * width, y0 * horizon, x1 * width, y1 * horizon)
        canvas.pen.rectangle(box, fill=as_colour(np.array(colour) + session.hue))

    def ground(top: float, *colour: float) -> None:
        block(0, top, 1, 3, *colour)

    def fence(top: float, n_posts: int, *colour: float) -> None:
        for post in range(n_posts + 1):
            x = (post + shift - 0.5) / n_posts
            block(x, top - 0.06, x + 0.018, 1.1, *colour)
        for y in (top, top + 0.16):
            block(0, y, 1, y + 0.028, *colour)

    if session.place == "stable":
        ground(0, 106, 86, 68)
        for plank in np.arange(shift - 1, 9) / 9:
            block(0, plank, 1, plank + 0.1, *(np.array((146, 120, 96)) + rng.normal(0, 5)))
        door = rng.uniform(-0.2, 1.0)
        block(door, 0.15, door + 0.25, 1, 62, 52, 48)
        ground(1, 176, 154, 108)
    elif session.place == "arena":
        ground(0, 190, 204, 216)
        ground(0.62, 120, 140, 104)
        ground(0.86, 206, 186, 150)
        fence(0.74, 5, 228, 228, 222)
    else:
        ground(0, 168, 196, 222)
        ground(0.35, 188, 208, 222)
        wood = session.place == "trees"
        for _ in range(14 if wood else 5):
            x, r = rng.uniform(0, width), height * rng.uniform(0.09, 0.2)
            y = horizon - r * rng.uniform(0.6, 1.8 if wood else 0.8)
            leaves = as_colour(np.array((82, 110, 70)) * rng.uniform(0.75, 1.15) + session.hue)
            block(x / width - 0.01, y / horizon, x / width + 0.01, 1, 88, 72, 60)
            canvas.pen.ellipse((x - r, y - r, x + r, y + r), fill=leaves)
        ground(1, 126, 154, 82)
        if not wood:
            fence(0.86, 4, 120, 98, 76)


OBJECTS: dict[str, list[Patch]] = {
    "bucket": [
        (points("-.5 1, .5 1, .38 0, -.38 0"), (28, 92, 214)),
        (points("-.5 1, -.2 1, -.16 0, -.38 0"), (76, 136, 240)),
        (disc(0, 1, 0.5, 0.14), (14, 48, 128)),
    ],
    "bale": [
        (points("-.8 .7, .8 .7, .8 0, -.8 0"), (198, 168, 88)),
        (points("-.4 .7, -.33 .7, -.33 0, -.4 0"), (150, 120, 60)),
        (points(".4 .7, .33 .7, .33 0, .4 0"), (150, 120, 60)),
    ],
    "cone": [
        (points("-.4 0, .4 0, .06 1, -.06 1"), (226, 120, 50)),
        (points("-.27 .35, .27 .35, .18 .6, -.18 .6"), WHITE),
    ],
}
"""Outlines from the middle of the foot, in shares of the object's height."""


def draw_object(canvas: Canvas, rng: np.random.Generator, kind: str, facing: int) -> None:
    """A thing on the ground before the horse."""
    width, height = canvas.image.size
    foot = (width * (0.5 + facing * rng.uniform(0.3, 0.42)), height * rng.uniform(0.93, 0.99))
    size = height * rng.uniform(0.17, 0.22)
    for outline, colour in OBJECTS[kind]:
        shape = foot + size * outline * (1, -1)
        canvas.fill(shape, colour)
        canvas.mark("object", shape)


def draw_human(canvas: Canvas, rng: np.random.Generator, facing: int) -> None:
    """A person behind the horse, at the picture's edge."""
    width, height = canvas.image.size
    foot = (width * (0.5 - facing * rng.uniform(0.40, 0.48)), height * rng.uniform(0.99, 1.11))
    coat, trousers = as_colour(rng.uniform(30, 200, 3)), as_colour(rng.uniform(30, 90, 3))
    skin = mix((232, 190, 160), (110, 74, 54), rng.random())
    person = [
        (points("-.085 .5, .085 .5, .07 0, -.07 0"), trousers),
        (spline(points("-.045 .86, .045 .86, .11 .76, .095 .47, -.095 .47, -.11 .76")), coat),
        (disc(0, 0.925, 0.053, 0.075), skin),
        (disc(0, 0.955, 0.056, 0.05), (60, 42, 32)),
    ]
    for outline, colour in person:
        shape = foot + 0.85 * height * outline * (1, -1)
        canvas.fill(shape, colour)
        canvas.mark("human", shape)


def draw_horse(
    rng: np.random.Generator,
    horse: Identity,
    session: Session,
    cues: Cues,
    pose: Pose,
    *,
    size: tuple[int, int] = (320, 256),
    thing: str | None = None,
    human: bool = False,
) -> Drawing:
    """Draw one photograph of `size` (width, height in pixels), `thing` one of OBJECTS."""
    width, height = size
    image = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    unit = pose.head_length * image.height
    withers = np.array([(0.5 + pose.x) * image.width, (0.47 + pose.y) * image.height])
    rise = np.radians(34 + 32 * cues.neck)
    poll = withers + 0.92 * unit * np.array([pose.facing * np.cos(rise), -np.sin(rise)])
    poll[1] = max(poll[1], 0.36 * unit)  # keeps the ears in the picture
    body = Frame(withers, unit * horse.trunk_scale, pose.facing)
    head = Frame(poll, unit, pose.facing, pose.pitch, pose.yaw)
    flat = np.zeros((2, height, width), np.float32)
    canvas = Canvas(image, unit, session.light_side * pose.facing, *flat)

    draw_place(canvas, rng, session)
    if human:
        draw_human(canvas, rng, pose.facing)
    soil = np.asarray(image)[-1, 0]
    shadow = disc(-0.5, -1.72, 1.35, 0.15, n=40)
    canvas.fill(body(shadow), darker(as_colour(soil), 0.25))
    draw_body(canvas, body, head, horse, rng)
    draw_mane(canvas, body, head, horse, rng)
    far_ear = float(np.clip(cues.ear + rng.uniform(-0.06, 0.06), 0, 1))
    draw_ear(canvas, head, horse, far_ear, near=False)
    draw_head(canvas, head, horse, cues)
    draw_forelock(canvas, head, horse)
    draw_tack(canvas, head, session.tack, session.tack_colour)
    draw_ear(canvas, head, horse, cues.ear, near=True)
    if thing:
        draw_object(canvas, rng, thing, pose.facing)

    outlines = visible(canvas.regions, size)
    boxes = {name: box_of(parts) for name, parts in outlines.items()}
    corners = np.array([boxes[region] for region in HORSE if region in boxes])
    whole = as_box(corners[:, :2].min(0), corners[:, 2:].max(0))
    places = {name: place / SUPERSAMPLE for name, place in canvas.landmarks.items()}
    seen = {n: p for n, p in places.items() if (p >= 0).all() and (p < size).all()}
    return Drawing(photograph(canvas, rng, session), outlines, boxes, whole, seen)


def photograph(canvas: Canvas, rng: np.random.Generator, session: Session) -> Image.Image:
    """Flat colours and relief to a picture: texture, light, noise and focus."""
    height, width = canvas.relief.shape
    texture = draw_texture(rng, (height, width))
    horse, place = 0.62 * canvas.relief + COAT_TEXTURE * texture, PLACE_TEXTURE * texture
    shade = 1 + place + canvas.cover * (horse - place)
    pixels = np.asarray(canvas.image.reduce(SUPERSAMPLE), np.float32) * shade[..., None]
    pixels *= session.light.astype(np.float32)
    pixels += rng.uniform(1, 5) * rng.standard_normal(pixels.shape, np.float32)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    blur = rng.uniform(0, 0.8)
    return picture.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.3 else picture


def draw_texture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise (height, width) about 0, of deviation 1, with the same power in every octave.

    So is the power of natural scenes spread (Field 1987, doi 10.1364/JOSAA.4.002379); on flat
    colour an attribution could fall on the few edges only.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(N_OCTAVES):
        coarse = -(-height >> octave) + 1, -(-width >> octave) + 1
        noise = Image.fromarray(rng.standard_normal(coarse, np.float32))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    return total / total.std()


def visible(
    regions: Mapping[str, list[np.ndarray]], size: tuple[int, int]
) -> dict[str, list[np.ndarray]]:
    """Outlines in pixels of the picture, cut at its edges; none of what shows 2 pixels or less.

    ``background`` is the whole picture: what another region covers is taken off where it is used.
    """
    width, height = size
    shown = {"background": [np.array([(0, 0), (width, 0), (width, height), (0, height)], float)]}
    for region, outlines in regions.items():
        inside = [np.clip(outline / SUPERSAMPLE, 0, size) for outline in outlines]
        inside = [outline for outline in inside if np.ptp(outline, axis=0).min() > 0]
        if inside and np.ptp(np.vstack(inside), axis=0).min() > 2:
            shown[region] = inside
    return shown


def box_of(outlines: Sequence[np.ndarray]) -> Box:
    """The box of outlines, whole pixels."""
    inside = np.vstack(outlines)
    return as_box(np.floor(inside.min(0)), np.ceil(inside.max(0)))


def as_box(low: np.ndarray, high: np.ndarray) -> Box:
    """Two corners (2,) as a box of plain integers."""
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
