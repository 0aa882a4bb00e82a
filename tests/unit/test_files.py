import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from equimood import files

SCRIPTS = Path(files.__file__).parents[1]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def prune():
    done = run(SCRIPTS / "prune.py")
    assert done.returncode == 0, done.stderr
    return done.stdout


def kept(kind, key, record):
    folder = files.state_folder(kind, key, record)
    (folder / "progress.bin").write_bytes(bytes(1_500_000))
    return folder


# Whole files


@pytest.mark.parametrize("before", [None, "old"])
def test_a_kill_in_the_middle_of_writing_leaves_what_was_there(before):
    if before:
        Path("a.txt").write_text(before)
    code = """
import os, signal
from equimood.files import written_whole
with written_whole("a.txt") as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run("-c", code).returncode == -signal.SIGKILL
    assert (Path("a.txt").read_text() if Path("a.txt").exists() else None) == before
    files.write_text("a.txt", "new")
    assert Path("a.txt").read_text() == "new"


def test_an_error_while_writing_leaves_neither_the_file_nor_its_half():
    with pytest.raises(KeyError), files.written_whole("deep/a.txt") as aside:
        aside.write_text("half")
        raise KeyError
    assert list(Path("deep").iterdir()) == []


def test_the_other_name_is_in_the_same_folder_and_nobody_elses():
    with files.written_whole("a.txt") as one, files.written_whole("a.txt") as other:
        assert one.parent == other.parent == Path() and one != other
        one.write_text("one")
        other.write_text("other")
    assert Path("a.txt").read_text() == "one"  # the last to be finished
    assert [path.name for path in Path().iterdir()] == ["a.txt"]


def test_text_of_a_table_names_a_file_in_the_folder_it_is_meant_for():
    assert files.as_file_name("../a b/ç:d.png") == ".._a_b_ç_d.png"


def test_a_long_name_is_cut_for_the_disk_and_stays_its_own(tmp_path):
    one, other = (files.as_file_name("馬" * 300 + end) for end in "ab")
    assert one != other and one.startswith("馬" * 40)
    for name in (one, other):
        files.write_text(tmp_path / f"{name}.png", "x")
    assert files.as_file_name("x" * 150) == "x" * 150


def test_classes_that_would_share_a_file_have_one_each():
    plain, one, other = files.distinct_file_names(["calm", "a b", "a/b"])
    assert plain == "calm" and one != other and {one[:4], other[:4]} == {"a_b-"}


# Progress that outlives a kill


def test_progress_is_private_to_the_user():
    folder = kept("features", "abc", "results/one/.state/embed_shard/000")
    assert folder == Path("state/features/abc")
    assert stat.S_IMODE(Path("state").stat().st_mode) == 0o700
    assert files.state_folder("features", "abc", "results/one/.state/again") == folder


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 300 kB."""
    if os.geteuid():
        reason = "mounting a small disk needs root"
        pytest.fail(reason) if os.environ.get("EQUIMOOD_NO_SKIP") else pytest.skip(reason)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


WRITERS = {
    "text": "files.write_text(path, 'x' * 1_000_000)",
    "table": "tables.write(pd.DataFrame({'v': np.random.rand(200_000)}), path, pa.schema([]), 'v')",
    "features": "with files.written_whole(path) as aside: "
                "save_file({'v': np.zeros(1_000_000)}, aside)",
    "csv": "with files.written_whole(path) as aside: "
           "pd.DataFrame({'v': np.random.rand(200_000)}).to_csv(aside)",
}  # fmt: skip


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(full_disk, what):
    path = full_disk / "results.bin"
    code = f"""
import numpy as np, pandas as pd, pyarrow as pa
from pathlib import Path
from safetensors.numpy import save_file
from equimood import files, logs, tables
logs.start("job.log")
path = Path({str(path)!r})
{WRITERS[what]}
"""
    done = run("-c", code)
    assert done.returncode == 1
    (line,) = Path("job.log").read_text().splitlines()
    assert f"{path}: No space left on device; free some room" in line
    assert "Traceback" not in done.stderr
    assert not list(full_disk.iterdir())


@pytest.mark.parametrize("what", ["a result", "progress"])
def test_a_disk_that_cannot_be_written_to_is_told_in_one_line(full_disk, what):
    (full_disk / "state").mkdir()
    Path("state").symlink_to(full_disk / "state")
    subprocess.run(["mount", "-o", "remount,ro", full_disk], check=True)
    written = {
        "a result": f"files.write_text({str(full_disk / 'results.csv')!r}, 'x')",
        "progress": "files.state_folder('search', 'abc', 'record')",
    }
    done = run("-c", f"from equimood import files, logs\nlogs.start('job.log')\n{written[what]}")
    assert done.returncode == 1
    (line,) = Path("job.log").read_text().splitlines()
    assert "Read-only file system; move the project to a disk that can be written to" in line
    assert "Traceback" not in done.stderr


def test_prune_keeps_what_any_study_uses_and_removes_the_rest():
    used = [
        kept("features", "abc", "results/one/.state/embed_shard/whole-small-000"),
        kept("ingest", "abc", "results/two/.state/ingest"),
    ]
    left = [
        kept("search", "abc", "results/gone/.state/search_fold/0"),
        kept("features", "abcdef", "elsewhere"),
    ]
    (Path("results/gone/.state/search_fold/0") / "search-abc").unlink()
    told = prune()
    assert all((folder / "progress.bin").exists() for folder in used)
    assert not any(folder.exists() for folder in left)
    assert told.splitlines() == [
        "removing state/features/abcdef (1.5 MB)", "removing state/search/abc (1.5 MB)",
    ]  # fmt: skip
    assert prune() == ""


def test_prune_removes_what_kills_left_half_written_unless_it_may_be_alive():
    folder = Path("results/one")
    folder.mkdir(parents=True)
    old, young, hidden, whole = (
        folder / name for name in (".a.csv.0123abcd", ".b.csv.0123abcd", ".state", "a.csv")
    )
    for path in (old, young, hidden, whole):
        path.write_text("half")
    for path in (old, hidden, whole):
        os.utime(path, (0, 0))
    assert prune() == f"removing {old} (half-written)\n"
    assert not old.exists() and young.exists() and hidden.exists() and whole.exists()


def test_what_a_job_used_before_is_pruned_once_it_uses_something_else():
    record = Path("results/one/.state/embed_shard/whole-small-000")
    before = kept("features", "abc", files.new_record(record))
    shared = kept("features", "shared", files.new_record(record))
    other = kept("features", "shared", files.new_record("results/two/.state/embed_shard/000"))
    now = kept("features", "def", files.new_record(record))
    prune()
    assert (before.exists(), shared.exists(), now.exists()) == (False, True, True)
    assert shared == other


def test_prune_in_a_folder_without_studies_has_nothing_to_do():
    assert prune() == ""
    assert list(Path().iterdir()) == []


# Digests


def test_a_digest_is_the_same_in_every_process_and_for_any_order_of_keys():
    code = "from equimood.files import digest; print(digest({'b': [1, None], 'a': 'é'}, 0.1))"
    assert run("-c", code).stdout.strip() == files.digest({"a": "é", "b": [1, None]}, 0.1)
    assert len(files.digest("a", length=8)) == 8
    assert files.digest("ab", "c") != files.digest("a", "bc")


def test_a_result_says_what_it_was_made_with():
    made = files.provenance()
    assert made["commit"] is None  # this folder is no repository
    assert set(made["packages"]) == set(files.ATTRIBUTED_PACKAGES)
    files.write_yaml("card.yaml", made)
    assert files.read_yaml("card.yaml") == made
