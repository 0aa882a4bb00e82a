"""A study of a million photographs: seconds and peak memory of the steps that read all its rows.

    PYTHONPATH=workflow/scripts python benchmarks/million.py [--rows 1000000]

The table is real, the pictures are simulated: a million names of one empty file, of which the
looking returns made-up facts. Each step runs in a process of its own, as its job does.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from equimood import catalogue, evaluation, files, images, settings, splits, tables

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["alarmed", "annoyed", "neutral", "relaxed"]
STUDY = {
    "study": "million",
    "data": {"annotations": "mydata/annotations.csv", "images": "mydata/images",
             "classes": CLASSES},
    "views": {"whole": {"box": "picture"}},
    "ingest": {"shards": 20},
    "backbones": {"small": {"architecture": "resnet18", "weights": "random", "input_px": 224}},
    "search": {"views": [["whole"]]},
}  # fmt: skip
STEPS = ["dry_run", "ingest", "split", "evaluate"]


def main() -> None:
    """Draw the study, then measure each step in a process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", nargs="?", choices=STEPS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    if asked.step:
        began = time.perf_counter()
        globals()[asked.step]()
        seconds = time.perf_counter() - began
        who = resource.RUSAGE_CHILDREN if asked.step == "dry_run" else resource.RUSAGE_SELF
        peak = resource.getrusage(who).ru_maxrss / 1e6
        print(f"{asked.step:9} {seconds:7.1f} s, peak {peak:5.2f} GB")
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("Snakefile", "workflow"):
            Path(name).symlink_to(ROOT / name)
        draw(asked.rows)
        for step in STEPS:
            subprocess.run(
                [sys.executable, __file__, step], check=True,
                env=os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")},
            )  # fmt: skip
        os.chdir("/")


def draw(n: int) -> None:
    """Write the table, and a name for every picture."""
    rows = np.arange(n)
    horses = [f"horse{horse:03d}" for horse in rows % 500]
    names = [f"{horse}/{row:07d}.jpg" for row, horse in zip(rows, horses, strict=True)]
    for horse in sorted(set(horses)):
        Path("mydata/images", horse).mkdir(parents=True)
    one = Path("mydata/images/horse000/0000000.jpg")
    one.touch()
    for name in names[1:]:
        if one.stat().st_nlink > 30_000:
            one = Path("mydata/images", name)
            one.touch()
            continue
        Path("mydata/images", name).hardlink_to(one)
    table = pd.DataFrame({
        "image": names, "horse": horses, "session": [f"session{s}" for s in rows % 5000],
        "label": np.array(CLASSES)[rows // 500 % 4],
    })  # fmt: skip
    table.to_csv("mydata/annotations.csv", index=False)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))


def dry_run() -> None:
    """Ask Snakemake what it would do."""
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "2",
         "--configfile", "study.yaml"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def ingest() -> None:
    """Read and check the table, look at made-up pictures, write the catalogue."""

    def facts(path: Path, max_pixels: int) -> images.Facts:
        sha256 = hashlib.sha256(path.name.encode()).hexdigest()
        grey, spread = 120.0, 50.0
        return images.Facts(
            sha256, 1920, 1080, int(sha256[:16], 16), grey, spread, *[grey] * 3, *[spread] * 3
        )

    images.measure = facts  # type: ignore[assignment]
    rows = tables.read_annotations("mydata/annotations.csv", CLASSES, {})
    found = catalogue.build(
        rows, Path("mydata/images"), None, {"whole": settings.View(box="picture")},
        settings.Ingest(shards=20), classes=CLASSES,
        state_dir=files.state_folder("ingest", "million", "record"), workers=1,
    )  # fmt: skip
    catalogue.write(found, Path("catalogue"), 20)


def split() -> None:
    """Split the horses and audit the split."""
    found = tables.read("catalogue/images.parquet")
    near = tables.read("catalogue/near_duplicates.parquet")
    table = splits.split(found, settings.Split(), 0)
    tables.write(table, "splits.parquet", tables.SPLITS)
    splits.audit(found, table, near)


def evaluate() -> None:
    """Judge made-up predictions of every photograph; the baselines are made up, too."""
    found = tables.read("catalogue/images.parquet")
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(CLASSES)), len(found))
    predictions = found[["image_id", "photo_id", "path", "horse", "session", "video"]].assign(
        fold="0",
        truth=found["label"],
        predicted=np.array(CLASSES)[probabilities.argmax(1)],
        **{f"p_{name}": probabilities[:, c] for c, name in enumerate(CLASSES)},
    )
    others = {"majority": np.full(len(found), "neutral", object)}
    evaluation.evaluate(predictions, CLASSES, others, 2000, 0.95, 0)


if __name__ == "__main__":
    main()
