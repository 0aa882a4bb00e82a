import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clone import ROOT
from equimood import cluster
from equimood.errors import UserError


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("5:03\n", 303), ("1:00:00", 3600), ("2-03:00:09", 183609), ("UNLIMITED", None), ("", None)],
)
def test_the_time_left_is_read_as_squeue_writes_it(told, seconds):
    assert cluster._left_s(told) == seconds


def job(tmp_path, left: str, body: str) -> subprocess.Popen:
    """A job to which a pretend squeue says how long it has left."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {left}\n")
    squeue.chmod(0o755)
    program = f"""
import time
from equimood import cluster, logs
logs.start("log")
cluster.end_in_time()
{body}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
            "PYTHONPATH": str(ROOT / "workflow/scripts"),
        },
    )  # fmt: skip


SWALLOWS = """
while True:
    try:
        time.sleep(60)
    except Exception:
        pass
"""


def test_a_job_ends_a_minute_before_its_walltime(tmp_path):
    ended = job(tmp_path, "1:01", SWALLOWS)
    _, told = ended.communicate(timeout=30)
    assert ended.returncode != 0
    assert "walltime is near: finished work is kept" in told
    assert "Traceback" not in told


def test_a_job_asked_to_end_says_so_and_cleans_up(tmp_path):
    body = "with cluster.ray_folder() as folder: logs.log.info(folder); time.sleep(60)"
    ended = job(tmp_path, "UNLIMITED", body)
    folder = Path(ended.stderr.readline().split()[-1])
    folder.mkdir(parents=True)
    ended.send_signal(signal.SIGTERM)
    _, told = ended.communicate(timeout=30)
    assert "asked to end: finished work is kept" in told
    assert not folder.parent.exists()


def test_several_nodes_outside_a_job_are_refused_with_a_remedy(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with (
        pytest.raises(UserError, match="profiles/slurm"),
        cluster.ray_across(cluster.Nodes(2, 1, 100)),
    ):
        pass
