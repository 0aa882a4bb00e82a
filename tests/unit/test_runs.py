"""What a killed Snakemake leaves: stale locks go, living ones stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from equimood import runs
from equimood.errors import UserError

HOLD = """
import sys
from pathlib import Path
from equimood import runs
from equimood.errors import UserError
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
    runs.take_over(tmp_path / "run", runs.slurm_run([log]))
    assert (tmp_path / "run").read_text() == "1a-2b"


def test_a_local_run_notes_nothing(tmp_path):
    log = tmp_path / "snakemake.log"
    log.write_text("Building DAG of jobs...\n")
    runs.take_over(tmp_path / "run", runs.slurm_run([log]))
    assert not (tmp_path / "run").exists()


RULES = ["embed_shard", "search_fold"]


@pytest.mark.parametrize(
    ("words", "asked", "told"),
    [
        ([], ["serach_fold"], "no rule serach_fold; the rules are embed_shard, search_fold"),
        (["--workflow-profile", "profiles/nix"], [], "profiles/nix: no such folder"),
        (["--workflow-profile=profiles/nix"], [], "profiles/nix: no such folder"),
    ],
)
def test_a_profile_that_snakemake_passes_over_is_refused(words, asked, told):
    with pytest.raises(UserError, match=told):
        runs.check_profile(["snakemake", *words], asked, RULES)


def test_a_right_profile_is_let_through(tmp_path):
    runs.check_profile(["snakemake", "--workflow-profile", str(tmp_path)], RULES, RULES)
    runs.check_profile(["snakemake", "--workflow-profile", "none"], [], RULES)
    runs.check_profile(["snakemake", "--workflow-profile=none"], [], RULES)


def test_files_of_the_login_node_are_refused_on_a_cluster_alone(monkeypatch):
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="/tmp/images: compute nodes do not see"):
        runs.check_shared(["srv/images", "/tmp/images", None], "equimood_1a-2b")
    runs.check_shared(["srv/images", "/tmp/images", None], None)
    runs.check_shared(["srv/images", None, []], "equimood_1a-2b")


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, 16 kB."""
    if os.geteuid():
        reason = "mounting a disk needs root"
        pytest.fail(reason) if os.environ.get("EQUIMOOD_NO_SKIP") else pytest.skip(reason)
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_folder_of_snakemake_on_a_closed_or_full_disk_is_told(disk):
    with pytest.raises(OSError, match="No space"):
        (disk / "fill").write_bytes(bytes(100_000))
    with pytest.raises(UserError, match=r"\.snakemake.*: No space left on device; free some room"):
        runs.hold(disk / ".snakemake")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"\.snakemake.*: Read-only file system; move the project"):
        runs.hold(disk / ".snakemake")


def test_folders_that_cannot_be_written_to_are_told_before_any_job(disk):
    runs.check_writable([disk / "results/tiny/logs", disk])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=f"^{disk}: Read-only file system; move the project to a d"):
        runs.check_writable([disk.parent, disk / "results/tiny/logs"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_before_any_job(tmp_path):
    (tmp_path / "state").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"state: Permission denied; allow yourself to write there"):
        runs.check_writable([tmp_path / "state"])
