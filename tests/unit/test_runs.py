"""What a killed Snakemake leaves: stale locks go, living ones stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from equimood import runs

HOLD = """
import sys
from pathlib import Path
from equimood import runs
held = runs.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    """A Snakemake folder with a lock in it."""
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/report.zip\n")
    return tmp_path / ".snakemake"


@pytest.fixture
def other(folder):
    """Another process that lives and holds the folder, and has locked it since."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {
            "PYTHONPATH": str(Path(runs.__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    (folder / "locks").mkdir()
    (folder / "locks/0.output.lock").write_text("results/report.zip\n")
    yield process
    process.kill()
    process.communicate()


def test_locks_of_the_dead_go(folder):
    with runs.hold(folder):
        assert not (folder / "locks").exists()


def test_locks_of_the_living_stay(folder, other):
    with runs.hold(folder):
        assert (folder / "locks/0.output.lock").exists()


def test_a_kill_makes_a_lock_stale(folder, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with runs.hold(folder):
        assert not (folder / "locks").exists()


def test_the_name_of_a_run_is_noted(tmp_path):
    log = tmp_path / "snakemake.log"
    log.write_text("Building DAG of jobs...\nSLURM run ID: 1a-2b\nJob stats:\n")
    runs.take_over(tmp_path / "run", [log])
    assert (tmp_path / "run").read_text() == "1a-2b"


def test_a_local_run_notes_nothing(tmp_path):
    log = tmp_path / "snakemake.log"
    log.write_text("Building DAG of jobs...\n")
    runs.take_over(tmp_path / "run", [log])
    assert not (tmp_path / "run").exists()
