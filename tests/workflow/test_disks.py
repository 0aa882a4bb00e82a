"""A disk that fills up in the middle of a study, and is given more room."""

import os
import shutil
import subprocess

import pytest
from equimood import demo


def small_disk(clone, name, size):
    """A disk of its own for one of the project's folders."""
    if os.geteuid():
        reason = "mounting a small disk needs root"
        pytest.fail(reason) if os.environ.get("EQUIMOOD_NO_SKIP") else pytest.skip(reason)
    disk = clone.folder.with_name(f"disk-{name}")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    shutil.rmtree(clone.folder / name, ignore_errors=True)  # of the test before
    (clone.folder / name).symlink_to(disk)
    yield disk
    (clone.folder / name).unlink()
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def small_state(clone):
    """A disk of 100 kB for what is remembered: room for ingest, not for the features."""
    yield from small_disk(clone, "state", "100k")


@pytest.fixture
def small_results(clone):
    """A disk of 40 kB for the results: not even room for the catalogue."""
    yield from small_disk(clone, "results", "40k")


def test_a_full_disk_of_results_is_told_once_without_a_traceback(clone, small_results):
    demo.draw_study(
        clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=10, seed=5
    )
    failed = clone.snakemake("split")
    assert failed.code != 0
    assert "No space left on device; free some room" in failed.text
    assert "Traceback" not in failed.text and "Exception ignored" not in failed.text


def test_a_study_on_a_full_disk_says_so_and_goes_on_when_there_is_room(clone, small_state):
    demo.draw_study(
        clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=10, seed=5
    )
    failed = clone.snakemake("embed")
    assert failed.code != 0 and failed.jobs["ingest"] == 1
    assert "No space left on device; free some room" in failed.text
    assert "Traceback" not in failed.text
    assert not list(small_state.rglob(".*.????????"))
    subprocess.run(["mount", "-o", "remount,size=20m", small_state], check=True)
    went_on = clone.snakemake("embed")
    assert went_on.code == 0, went_on.text
    assert "ingest" not in went_on.jobs
    assert failed.embedded + went_on.embedded == 240
