"""What stands in the way of a run of Snakemake: what a killed one has left, and wrong profiles."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from equimood.errors import UserError
from equimood.files import write_text
from equimood.logs import DISK, log, of_disk

SNAKEMAKE = Path(".snakemake")
OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm", "/run")
END_S = 120  # jobs that are told to end save themselves first


def hold(folder: Path = SNAKEMAKE) -> IO[str] | None:
    """Remove the locks of runs that are dead; hold the result as long as this one lives.

    Snakemake's locks are files, which outlive a kill and then ask for ``--unlock``. The system's
    own lock ends with its process, on this host or another of a shared disk: whoever is alive
    holds a part of it, and whoever gets the whole is alone, so that all locks are of the dead.
    """
    try:
        folder.mkdir(exist_ok=True)
        (folder / "alive").write_text("held by whoever runs here\n")  # a full disk refuses it
        held = (folder / "alive").open("a+")
    except OSError as error:
        error.filename = error.filename or folder
        raise UserError(of_disk(error)) from None
    try:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            shutil.rmtree(folder / "locks", ignore_errors=True)
        fcntl.lockf(held, fcntl.LOCK_SH)
    except OSError:  # a disk without locks: Snakemake says how to unlock
        held.close()
        return None
    return held


def check_writable(folders: Iterable[str | Path]) -> None:
    """Refuse folders, there or still to be made, in which this user may not write."""
    for folder in map(Path, folders):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            closed = os.statvfs(there).f_flag & os.ST_RDONLY
            number = errno.EROFS if closed else errno.EACCES
            raise UserError(f"{there}: {os.strerror(number)}; {DISK[number]}")


def check_profile(words: Sequence[str], asked: Iterable[str], rules: Iterable[str]) -> None:
    """Refuse what Snakemake passes over in silence, and then runs with other resources.

    Parameters
    ----------
    words : the command line.
    asked : rules of which a profile sets resources or threads.
    rules : the rules that there are.
    """
    for word, value in zip(words, [*words[1:], ""], strict=True):
        flag, _, joined = word.partition("=")
        folder = joined or value
        if flag == "--workflow-profile" and folder != "none" and not Path(folder).is_dir():
            raise UserError(f"--workflow-profile {folder}: no such folder; write your site's own")
    if unknown := sorted({*asked} - {*rules}):
        raise UserError(
            f"set-resources, set-threads: no rule {', '.join(unknown)}; the rules are "
            f"{', '.join(sorted(rules))}"
        )


def check_shared(paths: Iterable[str | Path | None], run: str | None) -> None:
    """Refuse files that only this host has, where a SLURM job is to read them."""
    for path in (Path(), *(Path(path) for path in paths if path)):
        where = str(path.resolve())
        if run and where.startswith(tuple(f"{folder}/" for folder in OF_ONE_HOST)):
            raise UserError(
                f"{where}: compute nodes do not see this folder of the login node; move it to a "
                "shared disk"
            )


def slurm_run(logs: Sequence[str | Path]) -> str | None:
    """Name of this run's SLURM jobs, as the plugin tells it in Snakemake's log; else None."""
    said = "".join(Path(log_file).read_text() for log_file in logs)
    named = re.search(r"SLURM run ID: (\S+)", said)
    return named[1] if named else None


def take_over(record: Path, run: str | None) -> None:
    """Cancel the jobs of this study's last run, which nobody waits for, and note this run's name.

    Called when Snakemake holds its lock, so that the last run is over. Its jobs save what is
    finished, and are submitted again.

    Parameters
    ----------
    record : where the name of a run's SLURM jobs is kept.
    run : this run's name, None on one machine.
    """
    if record.exists() and (jobs := _jobs(record.read_text())):
        log.warning(
            "%d jobs of a run that was killed are cancelled, and submitted again where needed: %s",
            len(jobs), ", ".join(jobs),
        )  # fmt: skip
        subprocess.run(["scancel", *jobs], check=False)
        until = time.monotonic() + END_S
        while _jobs(record.read_text()) and time.monotonic() < until:
            time.sleep(1)
    if run:
        write_text(record, run)


def _jobs(name: str) -> list[str]:
    """Ids of this user's jobs of that name which wait or run; none without SLURM."""
    if not shutil.which("squeue"):
        return []
    asked = ["squeue", "--me", "--noheader", f"--name={name}", "--format=%i"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
