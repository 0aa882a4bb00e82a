"""Images embedded per second, against timm's documented inference loop, in the same run.

    PYTHONPATH=workflow/scripts python benchmarks/embedding.py speed [--side 1920x1080] ...
    PYTHONPATH=workflow/scripts python benchmarks/embedding.py memory
    PYTHONPATH=workflow/scripts python benchmarks/embedding.py added

``speed``: the reference is timm.create_model, timm.data.create_transform and a DataLoader of
Pillow images (huggingface.co/docs/timm/quickstart and feature_extraction), with as many workers as
Equimood has threads. Beside both stand two floors of the same images: decoding alone, and the
forward pass alone on pixels in memory. ``memory``: peak memory at 1,000 and at 10,000 images.
``added``: what 100 new images cost in a store of 10,000.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from equimood import backbones, devices, embedding, features, images, settings, tables
from PIL import Image
from torch.utils.data import DataLoader, Dataset

ARCHITECTURE = "mobilenetv2_035"
BATCH = 32
LIBRARY = str(Path(features.__file__).parents[1])
REFERENCE = "timm, Pillow, DataLoader"


def main() -> None:
    """Run one of the measurements in a folder that is removed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "memory", "added", "one"])
    parser.add_argument("--side", default="1920x1080", help="width x height of the pictures")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", default=ARCHITECTURE)
    asked = parser.parse_args()
    if asked.what == "one":
        print(*embed_all(Path.cwd(), asked, asked.images), peak_mb())
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        {"speed": speed, "memory": memory, "added": added}[asked.what](Path(folder), asked)


def draw(folder: Path, n: int, side: tuple[int, int]) -> pd.DataFrame:
    """Save JPEGs with the spectrum of photographs (1/f); rows of tables.SHARD for the whole."""
    width, height = side
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = rng.normal(size=(3, height, width // 2 + 1)) * np.exp(
        2j * np.pi * rng.random((3, height, width // 2 + 1))
    )
    base = np.fft.irfft2(noise / frequency, s=(height, width)).transpose(1, 2, 0)
    base = np.clip(128 + 50 * base / base.std(), 0, 255).astype(np.uint8)
    rows = []
    (folder / "images").mkdir(exist_ok=True)
    for i in range(n):
        path = folder / "images" / f"{i:05d}.jpg"
        if not path.exists():
            shift = (int(rng.integers(height)), int(rng.integers(width)))
            picture = np.roll(base, shift, (0, 1))
            for bit in range(16):  # no two alike
                picture[:8, 8 * bit : 8 * bit + 8] = 255 * (i >> bit & 1)
            Image.fromarray(picture).save(path, quality=90)
        facts = images.measure(path, 10**9)
        box = (0, 0, width, height)
        name = tables.image_id(facts.sha256, box, "whole")
        rows.append((name, "whole", path.name, *box))
    return pd.DataFrame(rows, columns=tables.SHARD.names)


def fetch(folder: Path, architecture: str) -> backbones.Backbone:
    """Load the backbone with random weights: speed does not depend on them."""
    spec = settings.Backbone(architecture=architecture, weights="random", input_px=224)
    if not (folder / "backbone").exists():
        backbones.fetch("measured", spec, folder / "backbone", 0, folder / "hub")
    return backbones.load(folder / "backbone", devices.choose())


def speed(folder: Path, asked: argparse.Namespace) -> None:
    """Images per second of Equimood, the reference and the two floors."""
    side = tuple(map(int, asked.side.split("x")))
    rows = draw(folder, asked.images, side)  # type: ignore[arg-type]
    backbone = fetch(folder, asked.architecture)
    device = backbone.device
    torch.set_num_threads(asked.threads)
    rates = {
        "Equimood": rate(lambda: embed(folder, rows, backbone, asked.threads), asked.images),
        REFERENCE: rate(lambda: reference(folder, rows, asked), asked.images),
        "decoding alone": rate(lambda: decode(folder, rows, backbone, asked.threads), asked.images),
        "forward alone": rate(lambda: forward(backbone, asked.images), asked.images),
    }
    print(f"{asked.images} JPEGs of {asked.side}, {asked.architecture}, 224 px, {device}, "
          f"{asked.threads} threads")  # fmt: skip
    for name, per_second in rates.items():
        print(f"{name:26} {per_second:8.1f} images/s  {per_second / rates['Equimood']:6.2f}")
    floor = 1 / (1 / rates["decoding alone"] + 1 / rates["forward alone"])
    print(f"Equimood / reference {rates['Equimood'] / rates[REFERENCE]:.2f}; share of the floor "
          f"(decoding, then forward) {rates['Equimood'] / floor:.2f}")  # fmt: skip


def embed(folder: Path, rows: pd.DataFrame, backbone: backbones.Backbone, threads: int) -> int:
    """Embed into an empty store."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        os.chdir(empty)
        try:
            done = embedding.embed(
                rows, folder / "images", backbone, ["avg"], "float16", Path("record"),
                batch_size=BATCH, workers=threads,
            )  # fmt: skip
        finally:
            os.chdir(folder)
    return done.embedded_now


class Pictures(Dataset):
    """What timm's examples do to a file."""

    def __init__(self, paths: list[Path], transform: Callable):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        """Count the files."""
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        """Read and transform a file."""
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def reference(folder: Path, rows: pd.DataFrame, asked: argparse.Namespace) -> None:
    """Run timm's inference loop."""
    device = devices.choose()
    model = timm.create_model(asked.architecture, pretrained=False, num_classes=0)
    model = model.eval().to(device)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    loader = DataLoader(
        Pictures([folder / "images" / name for name in rows["path"]], transform),
        batch_size=BATCH, num_workers=asked.threads,
    )  # fmt: skip
    found = []
    with torch.inference_mode():
        for batch in loader:
            found.append(model(batch.to(device)).cpu())
    torch.cat(found)


def decode(folder: Path, rows: pd.DataFrame, backbone: backbones.Backbone, threads: int) -> None:
    """Read and resize in threads, and do nothing else."""
    for _ in embedding.read_squares(rows, folder / "images", backbone, threads, ahead=2 * BATCH):
        pass


def forward(backbone: backbones.Backbone, n: int) -> None:
    """Run the network on pixels in memory."""
    batch = torch.zeros((BATCH, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode(), devices.autocast(backbone.device):
        for _ in range(-(-n // BATCH)):
            found = backbone(embedding.pixels(batch, backbone.device), ["avg"])
        found["avg"].cpu()


def rate(run: Callable[[], object], n: int, repeats: int = 3) -> float:
    """Images per second of the fastest of several runs, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return n / min(seconds[1:])


def peak_mb() -> float:
    """Peak memory of this process [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def embed_all(folder: Path, asked: argparse.Namespace, n: int) -> tuple[int, float]:
    """Embed the first n drawn pictures of a folder into its store: how many, seconds."""
    rows = pd.read_parquet(folder / "rows.parquet").head(n)
    backbone = fetch(folder, asked.architecture)
    began = time.perf_counter()
    done = embedding.embed(
        rows, folder / "images", backbone, ["avg"], "float16", Path("record"),
        batch_size=BATCH, workers=asked.threads,
    )  # fmt: skip
    return done.embedded_now, time.perf_counter() - began


def in_a_process(asked: argparse.Namespace, n: int) -> tuple[int, float, float, float]:
    """Embed in a process: images embedded, seconds, peak [MB], seconds with its start."""
    began = time.perf_counter()
    told = subprocess.run(
        [sys.executable, __file__, "one", "--images", str(n), "--architecture", asked.architecture],
        check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": LIBRARY},
    ).stdout.split()  # fmt: skip
    return int(told[0]), float(told[1]), float(told[2]), time.perf_counter() - began


def memory(folder: Path, asked: argparse.Namespace) -> None:
    """Peak memory at 1,000 and 10,000 pictures of 320 x 240."""
    draw(folder, 10_000, (320, 240)).to_parquet(folder / "rows.parquet")
    fetch(folder, asked.architecture)
    for n in (1_000, 10_000):
        embedded, seconds, peak, _ = in_a_process(asked, n)
        print(f"{embedded:6} embedded: peak {peak:6.0f} MB, {seconds:6.1f} s")


def added(folder: Path, asked: argparse.Namespace) -> None:
    """Embed 10,000 pictures, then 100 more."""
    draw(folder, 10_100, (320, 240)).to_parquet(folder / "rows.parquet")
    fetch(folder, asked.architecture)
    first, *_ = runs = [in_a_process(asked, n) for n in (10_000, 10_000, 10_100)]
    for embedded, seconds, _, whole in runs:
        print(f"{embedded:6} embedded in {seconds:6.1f} s ({seconds / first[1]:.1%}), with the "
              f"start of the process {whole:6.1f} s ({whole / first[3]:.1%})")  # fmt: skip


if __name__ == "__main__":
    main()
