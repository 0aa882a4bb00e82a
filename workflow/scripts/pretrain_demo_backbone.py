"""Pre-train the demo study's backbone on drawings of other horses. Run by hand: `make backbone`.

Its tasks are landmarks and the shapes between them, view, pose and coat; it never sees an emotion.
The landmark tasks are dense: each cell of the last map answers for its own place in the picture,
so that features stay local and an explanation can be.
"""

import argparse
import json
import multiprocessing
import time
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
INPUT_PX = 160  # the whole picture, squashed
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


def draw_chunk(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw horses, each once: pictures (n, px, px, 3), landmarks (n, 2, kinds, 2), scenes (n, 4).

    Landmarks are x, y in shares of the picture, of the side near the camera and of the far side,
    NaN where not seen. A scene is facing, yaw, pitch (radians) and the coat's index.
    """
    pictures = np.empty((CHUNK, INPUT_PX, INPUT_PX, 3), np.uint8)
    landmarks = np.full((CHUNK, 2, len(KINDS), 2), np.nan, np.float32)
    scenes = np.empty((CHUNK, 4), np.float32)
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
        squashed = picture.image.resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)
        pictures[i] = np.asarray(squashed)
        for name, place in picture.landmarks.items():
            far = ("left" if pose.facing == 1 else "right") in name
            kind = name.replace("eye_", "").replace("left", "").replace("right", "")
            kind = kind.replace("__", "_").strip("_")
            landmarks[i, int(far), KINDS.index(kind)] = place / picture.image.size
        scenes[i] = pose.facing, pose.yaw, pose.pitch, COATS.index(horse.coat)
    return pictures, landmarks, scenes


def draw_pictures(n: int, workers: int) -> list[np.ndarray]:
    """All drawings, the same whatever the number of workers: pictures, landmarks, scenes."""
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


class Tasks(nn.Module):
    """Linear read-outs of the last map and of its average."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(n_features, len(KINDS), 1)
        self.shapes = nn.Conv2d(n_features, len(SHAPES), 1)
        self.scene = nn.Linear(n_features, 3 + len(SHAPES))
        self.coat = nn.Linear(n_features, len(COATS))

    def losses(
        self, maps: Tensor, landmarks: Tensor, shapes: Tensor, scenes: Tensor
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
        return {
            "places": place.sum() / len(maps),
            "shapes": 5 * shape.sum() / weights.sum(),
            "scene": F.mse_loss(self.scene(pooled)[seen], scene[seen]),
            "coat": 0.1 * F.cross_entropy(self.coat(pooled), scenes[:, 3].long()),
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
    pictures, landmarks, scenes = drawn
    data = [torch.from_numpy(a) for a in (pictures, landmarks, measure_shapes(landmarks), scenes)]
    model: Any = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **MODEL_ARGS)
    model = model.to(memory_format=torch.channels_last)
    tasks = Tasks(model.num_features)
    parameters = [*model.parameters(), *tasks.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.02)
    steps = epochs * -(-len(pictures) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    for epoch in range(epochs):
        start, sums = time.monotonic(), dict.fromkeys(("places", "shapes", "scene", "coat"), 0.0)
        for pixels, *targets in batches(*data, rng=rng):
            losses = tasks.losses(model.forward_features(pixels), *targets)
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            schedule.step()
            for task, loss in losses.items():
                sums[task] += loss.item() * len(pixels) / len(pictures)
        figures = ", ".join(f"{task} {value:.3f}" for task, value in sums.items())
        print(f"epoch {epoch + 1}: {figures} ({time.monotonic() - start:.0f} s)", flush=True)
    return model


def main() -> None:
    """Draw or load the pictures, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="safetensors file to write")
    parser.add_argument("--pictures", type=int, default=6000, help="drawings to learn from")
    parser.add_argument("--epochs", type=int, default=24)
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
