"""Pre-train the demo study's backbone on drawings of other horses. Run by hand: `make backbone`.

Its tasks are landmarks and the shapes between them, the things and people about, view, pose and
coat; it never sees an emotion. It sees whole pictures and heads, as the study's views are. The
tasks of landmarks and things are dense: each cell of the last map answers for its own place in the
picture, so that features stay local and an explanation can be.
"""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from equimood import drawing
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

ARCHITECTURE = "resnet10t"
MODEL_ARGS: dict[str, Any] = {"stem_width": 12, "channels": [32, 48, 64, 128], "output_stride": 8}
INPUT_PX = 160  # the whole picture or the head, squashed
HEAD_MARGIN = (0.0, 0.4)  # share of the head's box on every side
SEED = (2026, 160)  # two numbers: a study's seed is one, so no study draws these horses
CHUNK = 100  # drawings made by one call of a worker
BATCH = 64
LEARNING_RATE = 3e-3

KINDS = [
    *("ear_tip", "ear_base", "upper_lid", "lower_lid", "nostril", "upper_lip", "lower_lip"),
    *("mouth_corner", "poll", "jowl", "facial_crest", "withers", "dock"),
]
SHAPES = {"ear_along": "ear_tip", "ear_across": "ear_tip", "lids": "upper_lid", "lips": "lower_lip"}
"""Shapes relative to the face, and the landmark at which the map must tell them."""
COATS = list(drawing.COATS)
TACK = [*drawing.TACKS, "red halter"]
THINGS = [*drawing.OBJECTS, "human"]

Drawn = tuple[np.ndarray, ...]
"""Pictures (n, px, px, 3) uint8; landmarks (n, 2, kinds, 2) as x, y in shares of the frame, of the
side near the camera and of the far side, NaN where not seen; shapes (n, 2, shapes) from
:func:`measure_shapes`; boxes of things (n, things, 4) as x0, y0, x1, y1 in shares of the frame, NaN
where there is none; scenes (n, 5): facing, yaw, pitch (radians), indices of coat and tack."""


def draw_chunk(number: int) -> Drawn:
    """Draw horses, each once, and show each twice: the whole picture and the head."""
    pictures = np.empty((CHUNK, 2, INPUT_PX, INPUT_PX, 3), np.uint8)
    landmarks = np.full((CHUNK, 2, 2, len(KINDS), 2), np.nan, np.float32)
    shapes = np.empty((CHUNK, 2, 2, len(SHAPES)), np.float32)
    things = np.full((CHUNK, 2, len(THINGS), 4), np.nan, np.float32)
    scenes = np.empty((CHUNK, 2, 5), np.float32)
    for i in range(CHUNK):
        rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(number, i)))
        horse, session, pose = (
            drawing.draw_identity(rng),
            drawing.draw_session(rng),
            drawing.draw_pose(rng),
        )
        if rng.random() < 0.3:
            session = replace(session, tack="halter", tack_colour=drawing.RED)
        cues = drawing.Cues(*rng.uniform(0, 1, 5).tolist())
        thing = str(rng.choice(list(drawing.OBJECTS))) if rng.random() < 0.4 else None
        human = bool(rng.random() < 0.15)
        picture = drawing.draw_horse(rng, horse, session, cues, pose, thing=thing, human=human)
        size = np.array(picture.image.size)
        at = np.full((2, len(KINDS), 2), np.nan, np.float32)
        for name, place in picture.landmarks.items():
            far = ("left" if pose.facing == 1 else "right") in name
            kind = name.replace("eye_", "").replace("left", "").replace("right", "")
            kind = kind.replace("__", "_").strip("_")
            at[int(far), KINDS.index(kind)] = place
        boxes = np.full((len(THINGS), 2, 2), np.nan)
        for name, kind in (("object", thing), ("human", "human")):
            if name in picture.boxes and kind:
                boxes[THINGS.index(kind)] = np.reshape(picture.boxes[name], (2, 2))
        shapes[i] = measure_shapes((at / size)[None])[0]
        red = session.tack_colour == drawing.RED
        tack = TACK.index("red halter" if red else session.tack)
        scenes[i] = pose.facing, pose.yaw, pose.pitch, COATS.index(horse.coat), tack
        for j, frame in enumerate(((0, 0, *size.tolist()), head_frame(rng, picture))):
            corner, extent = np.array(frame[:2]), np.subtract(frame[2:], frame[:2])
            shown = picture.image.resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC, frame)
            pictures[i, j] = np.asarray(shown)
            inside = (at - corner) / extent
            inside[((inside < 0) | (inside > 1)).any(-1)] = np.nan
            landmarks[i, j] = inside
            things[i, j] = ((boxes - corner) / extent).reshape(-1, 4)
    twice = pictures, landmarks, shapes, things, scenes
    return tuple(each.reshape(2 * CHUNK, *each.shape[2:]) for each in twice)


def head_frame(rng: np.random.Generator, picture: drawing.Drawing) -> tuple[int, int, int, int]:
    """Box of the head with a margin of chance, inside the picture."""
    x0, y0, x1, y1 = picture.boxes["head"]
    margins = rng.uniform(*HEAD_MARGIN, 4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
    low = np.maximum(np.array((x0, y0)) - margins[:2], 0)
    high = np.minimum(np.array((x1, y1)) + margins[2:], picture.image.size)
    return drawing.as_box(low, high)


def draw_pictures(n: int, workers: int) -> list[np.ndarray]:
    """All drawings, the same whatever the number of workers."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        chunks = pool.map(draw_chunk, range(n // CHUNK))
        return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def measure_shapes(landmarks: np.ndarray) -> np.ndarray:
    """Measure ears, lids and lips: (n, 2, kinds, 2) -> (n, 2, shapes), about -1 to 1, NaN unseen.

    Ear along and across the face, opening of the lids, gap of the lips, in shares of the face's
    length (poll to nostril).
    """
    at = dict(zip(KINDS, np.moveaxis(landmarks * (1.25, 1.0), 2, 0), strict=True))
    face = at["nostril"][:, :1] - at["poll"][:, :1]
    length = np.linalg.norm(face, axis=-1)
    ear = (at["ear_tip"] - at["ear_base"]) / length[..., None]
    face = face / length[..., None]
    along = (ear * face).sum(-1)
    across = np.sign(face[..., 0]) * (face[..., 0] * ear[..., 1] - face[..., 1] * ear[..., 0])
    lids = np.linalg.norm(at["upper_lid"] - at["lower_lid"], axis=-1) / length
    lips = np.linalg.norm(at["upper_lip"] - at["lower_lip"], axis=-1) / length
    shapes = np.stack([4 * along, 4 * across + 0.5, 15 * lids - 1, 6 * lips - 1], -1)
    return shapes.astype(np.float32)


def dense_targets(landmarks: Tensor, shapes: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of landmarks (n, kinds, c, c), and of shapes with their weights (n, shapes, c, c)."""
    line = (torch.arange(cells) + 0.5) / cells
    dx = line[None, :] - landmarks[..., 0, None, None]
    dy = line[:, None] - landmarks[..., 1, None, None]
    near = torch.exp(-(dx**2 + dy**2) * cells**2 / (2 * 0.8**2)).nan_to_num(0.0)
    weights = near[:, :, [KINDS.index(kind) for kind in SHAPES.values()]]
    weights = weights * ~shapes.isnan()[..., None, None]
    values = (weights * shapes.nan_to_num(0.0)[..., None, None]).sum(1)
    return near.amax(1), values / weights.sum(1).clamp(min=1e-6), weights.amax(1)


def covered(boxes: Tensor, cells: int) -> Tensor:
    """Share of each cell that a box covers: (n, things, 4) -> (n, things, c, c), 0 without one."""
    edges = torch.arange(cells + 1) / cells
    low, high = boxes[..., :2, None], boxes[..., 2:, None]
    sides = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])
    sides = (sides * cells).clamp(0, 1).nan_to_num(0.0)
    return sides[..., 1, :, None] * sides[..., 0, None, :]


class Tasks(nn.Module):
    """Linear read-outs of the last map and of its average."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(n_features, len(KINDS), 1)
        self.shapes = nn.Conv2d(n_features, len(SHAPES), 1)
        self.scene = nn.Linear(n_features, 3 + len(SHAPES))
        self.things = nn.Conv2d(n_features, len(THINGS), 1)
        self.coat = nn.Linear(n_features, len(COATS))
        self.tack = nn.Linear(n_features, len(TACK))

    def losses(
        self, maps: Tensor, landmarks: Tensor, shapes: Tensor, things: Tensor, scenes: Tensor
    ) -> dict[str, Tensor]:
        """One loss a task, from maps (n, d, c, c)."""
        places, values, weights = dense_targets(landmarks, shapes, maps.shape[-1])
        logits = self.places(maps) - 4  # landmarks are rare
        hard = (logits.detach().sigmoid() - places).abs() ** 1.5  # empty cells are easy and many
        place = hard * F.binary_cross_entropy_with_logits(logits, places, reduction="none")
        shape = F.smooth_l1_loss(self.shapes(maps), values, reduction="none", beta=0.2) * weights
        pooled = maps.mean((2, 3))
        scene = torch.cat([scenes[:, :3], shapes[:, 0]], 1)
        seen = ~scene.isnan()
        there = covered(things, maps.shape[-1])
        thing = F.binary_cross_entropy_with_logits(self.things(maps) - 3, there, reduction="none")
        return {
            "places": place.sum() / len(maps),
            "things": thing.sum() / (10 * len(maps)),
            "shapes": 5 * shape.sum() / weights.sum(),
            "scene": F.mse_loss(self.scene(pooled)[seen], scene[seen]),
            "coat": 0.1 * F.cross_entropy(self.coat(pooled), scenes[:, 3].long()),
            "tack": 0.1 * F.cross_entropy(self.tack(pooled), scenes[:, 4].long()),
        }


def batches(pictures: Tensor, *targets: Tensor, rng: torch.Generator) -> Iterator[list[Tensor]]:
    """Shuffled batches: pixels -1 to 1 (mean = std = 0.5), colours a little varied; targets."""
    for rows in torch.randperm(len(pictures), generator=rng).split(BATCH):
        pixels = pictures[rows].permute(0, 3, 1, 2) / 127.5 - 1
        gain, shift = torch.randn(2, len(rows), 3, 1, 1, generator=rng)
        pixels = (pixels * (1 + 0.12 * gain) + 0.08 * shift).clamp(-1, 1)
        yield [pixels.to(memory_format=torch.channels_last), *(target[rows] for target in targets)]


def pretrain(drawn: list[np.ndarray], epochs: int) -> nn.Module:
    """Train the backbone and its tasks together; the tasks are then thrown away."""
    torch.manual_seed(SEED[0])
    rng = torch.Generator().manual_seed(SEED[1])
    data = [torch.from_numpy(each) for each in drawn]
    n_pictures = len(data[0])
    model: Any = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **MODEL_ARGS)
    model = model.to(memory_format=torch.channels_last)
    tasks = Tasks(model.num_features)
    parameters = [*model.parameters(), *tasks.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.02)
    steps = epochs * -(-n_pictures // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    for epoch in range(epochs):
        start, sums = time.monotonic(), Counter[str]()
        for pixels, *targets in batches(*data, rng=rng):
            losses = tasks.losses(model.forward_features(pixels), *targets)
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            schedule.step()
            for task, loss in losses.items():
                sums[task] += loss.item() * len(pixels) / n_pictures
        figures = ", ".join(f"{task} {value:.3f}" for task, value in sums.items())
        print(f"epoch {epoch + 1}: {figures} ({time.monotonic() - start:.0f} s)", flush=True)
    return model


def main() -> None:
    """Draw or load the pictures, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="safetensors file to write")
    parser.add_argument("--pictures", type=int, default=6000, help="drawings, each shown twice")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help=".npz that keeps the drawings between runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cache and args.cache.exists():
        drawn = list(np.load(args.cache).values())
    else:
        drawn = draw_pictures(args.pictures, args.threads)
        if args.cache:
            np.savez(args.cache, *drawn)
    model = pretrain(drawn, args.epochs)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    about = {"architecture": ARCHITECTURE, "model_args": json.dumps(MODEL_ARGS)}
    save_file(state, args.weights, metadata=about | {"input_px": str(INPUT_PX)})


if __name__ == "__main__":
    main()
