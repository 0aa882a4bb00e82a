"""What a job asked for and used, on all its nodes.

Snakemake's own benchmark files sample the processes of one node every half minute; here those of
all nodes of a job are measured every second.
"""

import atexit
import os
import platform
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from equimood.files import write_json
from equimood.logs import log, of_disk

EVERY_S = 1.0
_elsewhere: list[tuple["Used", bool]] = []
_noted: dict[str, Any] = {}


@dataclass(frozen=True)
class Used:
    """Time since a process began [s], CPU time [s] and peak memory [MB] of it and its children."""

    wall_s: float
    cpu_s: float
    peak_mb: float


class Meter:
    """Measures this process and its descendants until it is read."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._cpu_s: dict[psutil.Process, float] = {}  # the last known of each process
        self._peak_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def read(self) -> Used:
        """Stop, and say what was used."""
        self._ended.set()
        self._thread.join()
        self._sample()
        wall_s = time.time() - self._root.create_time()
        return Used(wall_s, sum(self._cpu_s.values()), self._peak_mb)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        memory = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._cpu_s[process] = times.user + times.system
                memory += process.memory_full_info().pss  # shared pages count once
            except psutil.Error:  # it has just ended
                continue
        self._peak_mb = max(self._peak_mb, memory / 1e6)


def record(path: str | Path, threads: int, resources: Mapping[str, Any]) -> None:
    """Measure this job from now on; when it ends write what it asked for and what it used.

    Parameters
    ----------
    path : JSON file.
    threads, resources : as Snakemake gave them, on each node.
    """
    meter, gpus = Meter(), gpus_asked(resources)
    if gpus and "SLURM_JOB_ID" not in os.environ:  # a rule asks for a GPU, and a laptop has none
        gpus = min(gpus, _gpus_here())

    def write() -> None:
        used = meter.read()
        nodes = [used.peak_mb]
        for other, here in _elsewhere:
            nodes = [nodes[0] + other.peak_mb, *nodes[1:]] if here else [*nodes, other.peak_mb]
        found = {
            "host": platform.node(),
            "wall_s": used.wall_s,
            "cpu_s": used.cpu_s + sum(other.cpu_s for other, _ in _elsewhere),
            "peak_mb": max(nodes),
            "cores": threads * resources.get("nodes", 1),
            "memory_mb": resources.get("mem_mb", 0),
            "gpus": gpus,
            **_noted,
        }
        try:
            write_json(path, found)
        except OSError as error:  # Python tells an error at exit by its traceback
            log.error("%s", of_disk(error))

    atexit.register(write)


def note(**facts: Any) -> None:
    """Tell more of this job, to stand beside what it used."""
    _noted.update(facts)


def add(used: Used, here: bool) -> None:
    """Count what this job used in a step of its own, on this node (``here``) or another."""
    _elsewhere.append((used, here))


def gpus_asked(resources: Mapping[str, Any]) -> int:
    """GPUs of a job: ``gpu`` counts for the whole, ``gres`` for each node."""
    of_node = re.search(r"gpu\D*(\d+)", str(resources.get("gres", "")))
    if of_node:
        return int(resources.get("nodes", 1)) * int(of_node[1])
    return int(resources.get("gpu", 0))


def _gpus_here() -> int:
    import torch  # not every job needs it

    return torch.cuda.device_count()
