"""What a study would ask of a cluster, told before it asks."""

import subprocess
import sys

import numpy as np
import pandas as pd
import yaml

MOST_JOBS = 300
CLASSES = ["neutral", "annoyed", "relaxed", "alarmed"]
BACKBONE = {"input_px": 224, "poolings": ["avg"]}
STUDY = {
    "study": "million",
    "data": {"annotations": "mydata/all.csv", "images": "mydata/images", "classes": CLASSES},
    "views": {"whole": {"box": "picture"}, "again": {"box": "picture"}},
    "ingest": {"shards": 20},  # docs/configuration.md: about one per 50,000 images
    "backbones": {
        name: {"architecture": name, **BACKBONE}
        for name in ("resnet18", "resnet50", "convnext_tiny")
    },
    "search": {"views": [["whole"], ["again"], ["whole", "again"]]},
}  # fmt: skip


def test_a_study_of_a_million_photographs_is_a_few_hundred_jobs(clone):
    rows = np.arange(1_000_000)
    horses = [f"horse{horse:03d}" for horse in rows % 500]
    table = pd.DataFrame({
        "image": [f"{horse}/{row:07d}.jpg" for row, horse in zip(rows, horses, strict=True)],
        "horse": horses,
        "session": [f"session{session}" for session in rows % 5000],
        "label": np.array(CLASSES)[rows % 4],
    })  # fmt: skip
    (clone.folder / "mydata/images").mkdir(parents=True)
    table.to_csv(clone.folder / "mydata/all.csv", index=False)
    (clone.folder / "million.yaml").write_text(yaml.safe_dump(STUDY))
    told = subprocess.run(
        [sys.executable, "workflow/scripts/ask.py", "--profile", "profiles/slurm",
         "--configfile", "million.yaml"],
        cwd=clone.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.startswith("rule ")
    jobs = {line.split()[0]: line.split() for line in told.splitlines()}
    assert jobs["embed_shard"][1] == str(2 * 3 * 20 + 20)  # and a network of random weights
    assert int(jobs["in"][2]) <= MOST_JOBS
