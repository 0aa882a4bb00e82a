"""What jobs used, measured on processes that use a known amount."""

import json
import os
import subprocess
import sys
from pathlib import Path

from equimood import usage

JOB = """
import sys, time
from equimood import usage
usage.record(sys.argv[1], threads=2, resources={"mem_mb": 1000, "nodes": 1, "gpu": 1})
import subprocess
busy = "import time; b = bytearray(200_000_000); b[::4096] = b'1' * len(b[::4096])\\n" \\
       "while time.process_time() < 2.5: pass"
subprocess.run([sys.executable, "-c", busy], check=True)
usage.note(images=7, device="CPU")
usage.add(usage.Used(1, 10, 5000), here=False)
usage.add(usage.Used(1, 20, 100), here=True)
"""


def job(path: Path, **environment: str) -> dict:
    library = str(Path(usage.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", JOB, str(path)], check=True,
        env=os.environ | {"PYTHONPATH": library} | environment,
    )  # fmt: skip
    return json.loads(path.read_text())


def test_a_job_counts_its_children_and_its_other_nodes(tmp_path):
    told = job(tmp_path / "used.json", SLURM_JOB_ID="1")
    assert told["cores"] == 2 and told["memory_mb"] == 1000 and told["gpus"] == 1
    assert told["wall_s"] > 2.5
    assert told["images"] == 7 and told["device"] == "CPU"
    child = told["cpu_s"] - 30  # a child's last second may be missed
    assert 1.4 < child < told["wall_s"] + 2
    assert told["peak_mb"] == 5000  # of the other node, which is more than here


def test_without_slurm_a_gpu_that_is_not_there_is_not_held(tmp_path):
    assert job(tmp_path / "used.json", CUDA_VISIBLE_DEVICES="")["gpus"] == 0


def test_memory_is_that_of_all_processes_at_once():
    meter = usage.Meter()
    subprocess.run(
        [sys.executable, "-c", "b = bytearray(300_000_000); b[::4096] = b'1' * len(b[::4096])\n"
         "import time; time.sleep(2.5)"], check=True,
    )  # fmt: skip
    assert meter.read().peak_mb > 300


def test_a_disk_that_takes_no_more_is_told_without_a_traceback(tmp_path):
    (tmp_path / "usage").write_text("no folder")
    library = str(Path(usage.__file__).parents[1])
    code = "import sys; from equimood import logs, usage; logs.start(sys.argv[2])\n" \
           "usage.record(sys.argv[1], 1, {})"  # fmt: skip
    command = [sys.executable, "-c", code, tmp_path / "usage/job.json", tmp_path / "job.log"]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": library},
    ).stderr  # fmt: skip
    assert "Traceback" not in told
    assert f"ERROR {tmp_path / 'usage'}: File exists" in told
