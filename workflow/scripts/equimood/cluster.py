"""A Ray cluster inside one SLURM allocation, and an end before the allocation's own.

On one node Ray needs no daemons: :mod:`equimood.tuning` starts it in its own process. On several
nodes one background step of the job runs this module on each of them
(``python -m equimood.cluster``): the first starts Ray's head, the others join it. The step ends
with the block that started it, and SLURM ends it with the job, however that ends.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from equimood import usage
from equimood.errors import UserError
from equimood.files import STATE, read_json, write_json
from equimood.logs import log

OBJECT_STORE_MB = 200  # of each node: the features are read from disk, not sent
START_S = 300  # nodes that start Ray from a shared disk may be slow
END_S = 5
BEFORE_WALLTIME_S = 60
SLURM_CLIENT = ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_CLUSTERS")


@dataclass(frozen=True)
class Nodes:
    """What a job has for Ray: ``n`` nodes, on each of them ``cpus`` and ``memory_mb``."""

    n: int
    cpus: int
    memory_mb: int


ONE_CORE = Nodes(n=1, cpus=1, memory_mb=2000)


class TimeIsUp(KeyboardInterrupt):
    """The job must end now; not an Exception, so that nothing takes it for one picture's fault."""


def end_in_time(margin_s: float = BEFORE_WALLTIME_S) -> None:
    """Raise :class:`TimeIsUp` in the main thread before the job's walltime, or when SLURM says so.

    SLURM's own signal reaches the shell around a job and kills what it should warn. What is
    finished is kept at any time; this leaves time to end Ray and remove what is half-written.
    """

    def stop(number: int, _: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        why = "walltime is near" if number == signal.SIGALRM else "asked to end"
        log.warning("%s: finished work is kept, the next attempt goes on from it", why)
        raise TimeIsUp(why)

    signal.signal(signal.SIGTERM, stop)
    if job := os.environ.get("SLURM_JOB_ID"):
        left_s = _left_s(_ask("squeue", "--noheader", f"--jobs={job}", "--format=%L"))
        if left_s is not None:
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, max(left_s - margin_s, 1))
            log.info("walltime: %.0f min left, an end %.0f s before", left_s / 60, margin_s)


def _left_s(told: str) -> int | None:
    """Read squeue's ``days-hours:minutes:seconds``; None without a limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", told.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


@contextmanager
def ray_folder() -> Iterator[str]:
    """Give Ray a folder of its own, and remove it.

    It is node-local and short, since Ray's sockets live in it and their paths may have 107
    characters; and in a private one, since Ray opens its own to everybody.
    """
    temp = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray-", dir=temp if len(temp) < 25 else "/tmp")
    try:
        yield f"{folder}/r"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_across(nodes: Nodes) -> Iterator[str]:
    """Start Ray on all nodes of this job, give the head's address, and end it.

    The nodes find one another in a private folder on the shared disk, which holds the token too;
    every port is chosen by the system. Two jobs on one node have nothing in common.

    Raises
    ------
    UserError : a node did not join.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise UserError(
            f"this rule asks for {nodes.n} nodes outside a SLURM job; write nodes=1, or run it "
            "with --profile profiles/slurm"
        )
    (STATE / "ray").mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in (STATE / "ray").iterdir():  # of jobs that were killed
        if not _ask("squeue", "--noheader", f"--jobs={left.name.split('-')[0]}").strip():
            shutil.rmtree(left, ignore_errors=True)
    meeting = Path(tempfile.mkdtemp(prefix=f"{job}-", dir=STATE / "ray")).resolve()
    (meeting / "token").touch(0o600)
    (meeting / "token").write_text(os.environ["RAY_AUTH_TOKEN"])
    # What the job's first step was given must not decide about this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in SLURM_CLIENT or not name.startswith(("SLURM", "SRUN_", "SBATCH_", "RAY_"))
    }
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    with (meeting / "log").open("w") as told:
        step = subprocess.Popen(
            ["srun", "--overlap", f"--jobid={job}", f"--nodes={nodes.n}", f"--ntasks={nodes.n}",
             "--ntasks-per-node=1", f"--cpus-per-task={nodes.cpus}", "--mem=0",
             "--kill-on-bad-exit=1", sys.executable, "-m", "equimood.cluster", str(meeting),
             str(nodes.cpus), str(nodes.memory_mb)],
            env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told,
        )  # fmt: skip
    try:
        for node in _wait(lambda: _joined(meeting, nodes.n), meeting, step):
            log.info(
                "Ray: node %s (%s) joined with %d CPUs, %d GPUs, %d MB", node["name"],
                node["address"], node["cpus"], node["gpus"], node["memory_mb"],
            )  # fmt: skip
        yield str(read_json(meeting / "head.json")["ray"])
    finally:
        (meeting / "end").touch()  # a signal to srun would kill Ray before it has cleaned up
        with suppress(subprocess.TimeoutExpired):
            step.wait(2 * END_S)
        step.terminate()
        for used in meeting.glob("used-*.json"):
            usage.add(usage.Used(**read_json(used)), here=used.stem == "used-0000")
        shutil.rmtree(meeting, ignore_errors=True)


def _joined(meeting: Path, n_nodes: int) -> list[dict[str, Any]] | None:
    cards = sorted(meeting.glob("node-*.json"))
    return [read_json(card) for card in cards] if len(cards) == n_nodes else None


def _wait(
    condition: Callable[[], Any], meeting: Path, process: subprocess.Popen | None = None
) -> Any:
    until = time.monotonic() + START_S
    while not (found := condition()):
        if (process and process.poll() is not None) or time.monotonic() > until:
            told = (meeting / "log").read_text(errors="replace")[-2000:]
            raise UserError(f"Ray did not start on all nodes of the job:\n{told}")
        time.sleep(0.2)
    return found


def run_node(meeting: Path, cpus: int, memory_mb: int) -> None:
    """Run Ray on this node of the step until the step ends; called by srun on every node."""
    rank, name = int(os.environ["SLURM_PROCID"]), os.environ["SLURMD_NODENAME"]
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE", 0))
    address = socket.gethostbyname(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    environment = os.environ | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(meeting / "token"),
    }  # fmt: skip
    head = meeting / "head.json"
    meter = usage.Meter()
    with ray_folder() as folder:
        role = ["--head", "--port=0", "--include-dashboard=false"]
        if rank:
            _wait(head.exists, meeting)
            role = [f"--address={read_json(head)['ray']}"]
        ray = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role,
             f"--temp-dir={folder}", f"--node-ip-address={address}", f"--node-name={name}",
             f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--memory={memory_mb << 20}",
             f"--object-store-memory={OBJECT_STORE_MB << 20}", "--disable-usage-stats",
             "--min-worker-port=0", "--max-worker-port=0"],
            env=environment,
        )  # fmt: skip
        try:
            current = Path(folder) / "ray_current_cluster"  # Ray writes it when it has started
            _wait(current.exists, meeting, ray)
            if not rank:
                write_json(head, {"ray": current.read_text().strip()})
            write_json(meeting / f"node-{rank:04d}.json", {
                "name": name, "address": address, "cpus": cpus, "gpus": gpus,
                "memory_mb": memory_mb,
            })  # fmt: skip
            while ray.poll() is None and not (meeting / "end").exists():
                time.sleep(0.2)
        finally:
            ray.terminate()
            with suppress(subprocess.TimeoutExpired):
                ray.wait(END_S)
            write_json(meeting / f"used-{rank:04d}.json", asdict(meter.read()))


if __name__ == "__main__":
    run_node(Path(sys.argv[1]), *map(int, sys.argv[2:]))
