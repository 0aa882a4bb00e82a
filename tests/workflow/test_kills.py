"""Kills at random moments of every long stage: nothing is lost, done twice, or taken for whole."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from clone import Clone
from equimood import demo

KILLS = 6  # of each stage
FIRST_S = 8.0  # a stage's job imports its libraries before it logs
WINDOW_S = 2.0
STAGES = {  # rule -> the target that runs it
    "ingest": "results/tiny/catalogue/images.parquet",
    "embed_shard": "embed",
    "search_fold": "search",
    "train_fold": "train",
    "evaluate_folds": "evaluate",
    "explain_shard": "explain",
    "draw_explanation": "report",
}
HOW = {
    "power cut": lambda process: os.killpg(process.pid, signal.SIGKILL),
    "Ctrl-C": lambda process: os.killpg(process.pid, signal.SIGINT),
    "asked to end": lambda process: os.kill(process.pid, signal.SIGTERM),
    "killed alone": lambda process: os.kill(process.pid, signal.SIGKILL),  # its jobs go on
}
SAME = [
    "splits/*.parquet", "catalogue/**/*.parquet", "features/**/*.safetensors", "search/*/best.yaml",
    "model/*/weights.safetensors", "model/*/predictions.parquet", "evaluation/*.[jcp]*",
    "attributions/*", "explanation/*.[jcp]*", "comparison/[0-9]*", "comparison/candidates.*",
]  # fmt: skip


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in (1, 2, 3))]


@pytest.fixture(scope="module", params=SEEDS)
def seed(request):
    """What the moments are drawn with; `make test-kills` draws more of them."""
    return request.param


@pytest.fixture(scope="module")
def study(tmp_path_factory, seed):
    clone = Clone(tmp_path_factory.mktemp("killed"))
    demo.draw_study(
        clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=10, seed=5
    )
    return clone


def start(study, target):
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", target, "--profile", "profiles/local",
         "--configfile", "tests/configs/tiny.yaml"],
        cwd=study.folder, text=True, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def kept(study):
    """Finished pieces of work, which nothing may touch again: name -> time of change."""
    pieces = [
        *study.folder.glob("state/search/*/*.json"),
        *study.folder.glob("state/features/*/*.safetensors"),
        *study.folder.glob("state/explain/*/*.safetensors"),
    ]
    return {piece: piece.stat().st_mtime_ns for piece in pieces}


def planned(text):
    """Jobs that a run was to do."""
    told = re.search(r"^total +(\d+)", text, re.MULTILINE)
    return int(told[1]) if told else 0


def wait_for_log(study, rule, since):
    """Wait until a job of the rule logs, or for as long as its imports take."""
    until = time.monotonic() + FIRST_S
    logs = Path(study.folder, "results/tiny/logs")
    while time.monotonic() < until:
        found = [*logs.glob(f"{rule}.log"), *logs.glob(f"{rule}/*.log")]
        if any(log.stat().st_mtime > since for log in found):
            return
        time.sleep(0.02)


@pytest.mark.parametrize("rule", STAGES)
def test_a_stage_that_is_killed_is_finished_by_the_same_command(study, seed, rule):
    rng = random.Random(f"{seed} {rule}")
    moments = []
    left = None
    for number in range(KILLS):
        how = list(HOW)[number % len(HOW)]
        since = time.time()
        process = start(study, STAGES[rule])
        if rng.random() < 0.75:
            wait_for_log(study, rule, since)
            time.sleep(rng.uniform(0, WINDOW_S))
        else:
            time.sleep(rng.uniform(0, FIRST_S))
        before, over = kept(study), process.poll() is not None
        HOW[how](process) if not over else None
        text, _ = process.communicate(timeout=60)
        moments.append(f"{how} after {time.time() - since:.1f} s")
        assert "cannot be locked" not in text, (moments, text)
        if left is not None and planned(text):
            assert planned(text) <= left, (moments, text)
        if planned(text):
            left = planned(text) - text.count("Finished jobid")
        after = kept(study)
        assert {piece: after.get(piece) for piece in before} == before, moments
    process = start(study, STAGES[rule])
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, (moments, text)
    assert planned(text) <= (left if left is not None else planned(text)), (moments, text)


def test_what_was_killed_comes_to_the_same_results(study, undisturbed):
    own = study.folder / "results/tiny"
    names = {path.relative_to(undisturbed) for form in SAME for path in undisturbed.glob(form)}
    assert len(names) > 30
    for name in sorted(names):
        assert (own / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for fold in ("0", "1", "final"):
        trials = (
            pd.read_parquet(at / f"search/{fold}/trials.parquet") for at in (own, undisturbed)
        )
        one, other = (frame.drop(columns=["cost_s", "host"]) for frame in trials)
        pd.testing.assert_frame_equal(one, other)
