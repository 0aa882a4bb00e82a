"""The same lines in a job's log file and on the terminal, and progress with the time left."""

import errno
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from equimood.errors import UserError

log = logging.getLogger("equimood")
Progress = Callable[[int, int], None]
_SAME = "then give the same command again, finished work is kept"
DISK = {  # what is no fault of the program, and what to do
    errno.ENOSPC: f"free some room, or move the project to a larger disk; {_SAME}",
    errno.EDQUOT: f"your quota is used up: free some room (make prune, resources/hub); {_SAME}",
    errno.EROFS: f"move the project to a disk that can be written to; {_SAME}",
    errno.EACCES: f"allow yourself to write there (chmod u+w); {_SAME}",
}


def start(log_file: str | Path) -> None:
    """Send log lines, warnings and uncaught exceptions to ``log_file`` and to the terminal.

    A :class:`UserError` is shown as its message alone.
    """
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for handler in (logging.FileHandler(log_file, mode="w"), logging.StreamHandler()):
        handler.setFormatter(form)
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = log.handlers

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, UserError):
            log.error("%s", error)
        elif isinstance(error, OSError) and error.errno in DISK:
            log.error("%s", of_disk(error))
        elif issubclass(kind, KeyboardInterrupt):
            log.error("interrupted; finished work is kept")
        else:
            log.critical("the job failed", exc_info=(kind, error, trace))

    sys.excepthook = show


def of_disk(error: OSError) -> str:
    """A full or closed disk in the words of DISK; another fault of a file in the system's own."""
    told = f"{error.filename or 'disk'}: {error.strerror}"
    return f"{told}; {DISK[error.errno]}" if error.errno in DISK else told


def progress(what: str, every_s: float = 10.0) -> Progress:
    """Make a function ``(done, total)`` that logs count, rate and time left, now and then."""
    began = time.monotonic()
    last = began

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < every_s:
            return
        last = now
        rate = done / max(now - began, 1e-9)
        left = f", {_duration((total - done) / rate)} left" if 0 < done < total else ""
        log.info("%s: %d of %d (%.3g/s%s)", what, done, total, rate, left)

    return show


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"
