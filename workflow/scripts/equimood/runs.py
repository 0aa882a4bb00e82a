"""What a Snakemake that was killed leaves behind: locks, and jobs in the queue of SLURM."""

import fcntl
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from equimood.files import write_text
from equimood.logs import log

SNAKEMAKE = Path(".snakemake")
END_S = 120  # jobs that are told to end save themselves first


def hold(folder: Path = SNAKEMAKE) -> IO[str] | None:
    """Remove the locks of runs that are dead; hold the result as long as this one lives.

    Snakemake's locks are files, which outlive a kill and then ask for ``--unlock``. The system's
    own lock ends with its process, on this host or another of a shared disk: whoever is alive
    holds a part of it, and whoever gets the whole is alone, so that all locks are of the dead.
    """
    folder.mkdir(exist_ok=True)
    held = (folder / "alive").open("a+")
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


def take_over(record: Path, logs: Sequence[str | Path]) -> None:
    """Cancel the jobs of this study's last run, which nobody waits for, and note this run's name.

    Called when Snakemake holds its lock, so that the last run is over. Its jobs save what is
    finished, and are submitted again.

    Parameters
    ----------
    record : where the name of a run's SLURM jobs is kept.
    logs : Snakemake's own, in which the SLURM plugin says this run's name.
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
    said = "".join(Path(log_file).read_text() for log_file in logs)
    if named := re.search(r"SLURM run ID: (\S+)", said):
        write_text(record, named[1])


def _jobs(name: str) -> list[str]:
    """Ids of this user's jobs of that name which wait or run; none without SLURM."""
    if not shutil.which("squeue"):
        return []
    asked = ["squeue", "--me", "--noheader", f"--name={name}", "--format=%i"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
