"""How fast a gallery opens, scrolls and filters, and how large explanations are.

    PYTHONPATH=workflow/scripts python benchmarks/gallery.py page [--photographs 10000] ...
    PYTHONPATH=workflow/scripts python benchmarks/gallery.py write [--photographs 500 5000] ...
    PYTHONPATH=workflow/scripts python benchmarks/gallery.py maps [--images 1000]

``page``: a gallery of made-up photographs of two views, in headless Chromium, opened from the disk.
Pictures are 32 different files under all names (links), each 320 x 256 px. ``write``: photographs
written per second, and peak memory, from 1920 x 1080 px, two views each, in processes of their own.
``maps``: the bytes of a
real shard of maps, as Equimood writes it, and what a million images take.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from equimood import attribution, examples, gallery, map_shards, overlays, panels, tables
from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = Path("workflow/report/gallery").resolve()
CLASSES = ["neutral", "annoyed", "relaxed", "alarmed"]
STUDY: dict[str, Any] = {
    "tolerance": 0.05, "compared": {"baseline": "blur"}, "tests": None, "drawn": False,
    "colormap": "PuOr",
}  # fmt: skip
GIB = 2**30
LIBRARY = str(Path(gallery.__file__).parents[1])
SCROLL = """async () => {
    const grid = document.getElementById("grid"), times = [];
    for (let step = 0; step < 120; step += 1) {
        const began = performance.now();
        grid.scrollTop += 400;
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - began);
    }
    return times;
}"""
CHANGE = """([id, value]) => {
    const part = document.getElementById(id), began = performance.now();
    part.value = value;
    part.dispatchEvent(new Event("input"));
    document.getElementById("grid").getBoundingClientRect();  // laid out
    return performance.now() - began;
}"""


def main() -> None:
    """Run one of the measurements in a folder that is removed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["page", "write", "one", "maps"])
    parser.add_argument("--photographs", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--images", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if asked.what == "maps":
            maps(Path(folder), asked.images)
            return
        for n in asked.photographs:
            if asked.what == "page":
                page(Path(folder, str(n)), n)
            elif asked.what == "one":
                write(Path(folder), n)
            else:
                command = [sys.executable, __file__, "one", "--photographs", str(n)]
                subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": LIBRARY})


def page(folder: Path, n: int) -> None:
    """Print times of a gallery of ``n`` photographs in Chromium at 1280 x 720."""
    draw(folder, n)
    size = (folder / "data.js").stat().st_size / 1e6
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 720})
        opened, painted, shown = [], [], []
        for _ in range(5):
            began = time.perf_counter()
            window.goto((folder / "index.html").as_uri())
            opened.append(1000 * (time.perf_counter() - began))
            at = window.evaluate("performance.getEntriesByType('paint').map(e => e.startTime)")
            painted.append(max(at))
            shown.append(
                window.evaluate("performance.getEntriesByName('gallery-shown')[0].startTime")
            )
        frames = window.evaluate(SCROLL)
        steps = [["predicted", "1"], ["text", "horse 01"], ["sort", "error"], ["text", ""]]
        changes = [window.evaluate(CHANGE, step) for step in steps]
        nodes = window.evaluate("document.getElementsByTagName('*').length")
        heap = window.evaluate("performance.memory.usedJSHeapSize") / 1e6
        browser.close()
    opening = " / ".join(f"{statistics.median(ms):.0f}" for ms in (painted, shown, opened))
    scrolling = f"{statistics.median(frames):.0f} / {np.percentile(frames, 95):.0f}"
    changing = " / ".join(f"{change:.0f}" for change in changes)
    print(
        f"{n:6} photographs: data {size:.1f} MB, {nodes} nodes, heap {heap:.0f} MB; ms: first "
        f"paint / tiles / loaded {opening}; scroll step median / 95 % {scrolling}; filter by "
        f"emotion / text, sort, all {changing}",
        flush=True,
    )


def draw(folder: Path, n: int) -> None:
    """Write a gallery of made-up photographs."""
    rng = np.random.default_rng(1)
    pictures, maps_ = folder / "pictures", folder / "maps"
    for name in (pictures, maps_):
        name.mkdir(parents=True)
    palette = gallery._palette("PuOr")
    for i in range(32):
        noise = rng.integers(0, 255, (16, 20, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(noise).save(pictures / f"{i}.jpg", quality=gallery.QUALITY)
        levels = np.rint(127 * (1 + overlays.strength(rng.normal(size=(56, 56))))).astype(np.uint8)
        drawn = Image.frombytes("P", (56, 56), levels.tobytes())
        drawn.putpalette(palette["colours"])
        drawn.save(maps_ / f"{i}.png", transparency=palette["opacity"])

    def entry(i: int) -> dict:
        p = rng.dirichlet(np.ones(len(CLASSES)))
        views = []
        for view in ("whole", "head"):
            image = f"{i:08x}{view}"
            (pictures / f"{image}.jpg").symlink_to(f"{i % 32}.jpg")
            (maps_ / f"{image}.png").symlink_to(f"{i % 32}.png")
            scores = [
                [name, *(gallery._rounded(x) for x in rng.gamma(1, 1, 3))] for name in panels.ROWS
            ]
            views.append({
                "view": view, "image": image, "size": [320, 256], "place": [0, 0, 1, 1],
                "regions": scores,
            })  # fmt: skip
        return {
            "id": f"{i:032x}", "path": f"horse{i % 200:03d}/session{i % 7}/{i:06d}.jpg",
            "horse": f"Horse {i % 200:03d}", "session": f"session{i % 7}",
            "truth": int(rng.integers(4)), "predicted": int(p.argmax()), "target": int(p.argmax()),
            "against": None, "sure": bool(p.max() > 0.5), "unlike": i % 50 == 0,
            "p": [gallery._rounded(x) for x in p], "gap": gallery._rounded(rng.gamma(1, 0.02)),
            "steps": 32, "views": views,
        }  # fmt: skip

    about = gallery.about("benchmark", CLASSES, n_explained=n, **STUDY)
    gallery.write_data(folder / "data.js", about, map(entry, range(n)))
    for part in PAGE.iterdir():
        (folder / part.name).write_bytes(part.read_bytes())


def write(folder: Path, n: int) -> None:
    """Print photographs per second and peak memory of writing a gallery of ``n``."""
    rng = np.random.default_rng(1)
    for i in range(32):
        noise = rng.integers(0, 255, (27, 48, 3), np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(noise).save(folder / f"{i}.jpg", quality=90)
    photos = [f"{i:032x}" for i in range(n)]
    views = {"whole": (0, 0, 1920, 1080), "head": (400, 200, 1000, 900)}
    catalogue = pd.DataFrame([
        {"image_id": f"{i:024x}{k:08x}", "photo_id": photo, "view": view}
        | dict(zip(tables.BOX, box, strict=True))
        for i, photo in enumerate(photos)
        for k, (view, box) in enumerate(views.items())
    ])  # fmt: skip
    predictions = pd.DataFrame({
        "photo_id": photos, "path": [f"{i % 32}.jpg" for i in range(n)], "session": None,
        "horse": [f"horse{i % 50}" for i in range(n)], "fold": "0", "threshold": 0.5,
        "truth": [CLASSES[i % 4] for i in range(n)], "predicted": CLASSES[0], "novelty": 0.5,
        **dict.fromkeys([f"p_{name}" for name in CLASSES], 0.25),
    })  # fmt: skip
    part = {
        "maps": rng.uniform(-1, 1, (2 * n, 56, 56)).astype(np.float16),
        "scale": np.ones(2 * n, np.float32), "image_id": tables.pack_ids(catalogue["image_id"]),
        "target": np.zeros(2 * n, np.int64), "gap": np.zeros(2 * n, np.float32),
    }  # fmt: skip
    part |= {name: np.zeros(2 * n, np.int32) for name in map_shards.MAP_TENSORS if name not in part}
    attribution._write_maps([part], folder / "maps.safetensors", {"classes": CLASSES})
    scores = pd.DataFrame(columns=tables.REGION_SCORES.names)
    tables.write(scores, folder / "scores.parquet", tables.REGION_SCORES)
    del part
    backbone = {"side": 224, "fit": "squash", "crop_share": 1.0}
    known = examples.Known(
        predictions, catalogue, [folder / "maps.safetensors"], [folder / "scores.parquet"],
        {"0": {"views": list(views), "backbone": "b"}}, {"b": backbone}, folder,
    )  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, time.perf_counter()
    gallery.write(
        folder / "gallery", known, [], study="benchmark", classes=CLASSES, n=None, **STUDY,
        seed=1, workers=2,
    )  # fmt: skip
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{n:6} photographs: {n / took:.1f}/s with 2 threads; peak memory {peak:.0f} MB "
        f"({before:.0f} MB before)",
        flush=True,
    )


def maps(folder: Path, n: int) -> None:
    """Print bytes of a shard of ``n`` random maps (which do not compress) at 56 and 224 px."""
    rng = np.random.default_rng(1)
    for side in (56, 224):
        part = {
            "maps": rng.uniform(-1, 1, (n, side, side)).astype(np.float16),
            "scale": np.ones(n, np.float32),
            "image_id": tables.pack_ids(f"{i:032x}" for i in range(n)),
            "target": np.zeros(n, np.int64),
            "gap": np.zeros(n, np.float32),
        }
        part |= {name: np.zeros(n, np.int32) for name in map_shards.MAP_TENSORS if name not in part}
        path = folder / f"{side}.safetensors"
        attribution._write_maps([part], path, {"classes": CLASSES})
        size = path.stat().st_size
        print(
            f"{side} px: {n} images {size / 1e6:.2f} MB, {size / n:.0f} bytes an image, a million "
            f"{size / n * 1e6 / GIB:.2f} GiB"
        )


if __name__ == "__main__":
    main()
