"""Ray inside a job: apart from every other, closed to others, and gone with the job."""

import os
import sys

import pytest
from clone import Clone
from slurm import wait_for

JOB = """
import sys, time
sys.path.insert(0, "/srv/ray/workflow/scripts")
from pathlib import Path
from equimood import cluster, search
import ray

name = sys.argv[1]
with cluster.ray_across(cluster.Nodes(2, 1, 800)) as address:
    ray.init(address=address, log_to_driver=False)

    @ray.remote(num_cpus=1, num_gpus=1, scheduling_strategy="SPREAD")
    def where():
        import os, platform
        time.sleep(2)
        return platform.node() + " " + os.environ["CUDA_VISIBLE_DEVICES"]

    found = sorted(ray.get([where.remote() for _ in range(2)]))
    Path(name + ".up").write_text("\\n".join([address, str(len(ray.nodes())), *found]))
    while not Path("stop").exists():
        time.sleep(0.3)
    ray.shutdown()
"""
STRANGER = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
os.environ["RAY_gcs_rpc_server_connect_timeout_s"] = "3"
import ray
ray.init(address=sys.argv[1])
print("inside")
"""
PORTS = """
import socket, time
taken = [socket.create_server(("", port)) for port in (6379, 8265, 10001)]
time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder(cluster):
    folder = Clone(cluster.srv / "ray").folder
    (folder / "job.py").write_text(JOB)
    (folder / "stranger.py").write_text(STRANGER)
    stale = cluster.srv / "home/.ray/auth_token"
    stale.parent.mkdir()
    stale.write_text("1" * 64)
    return folder


@pytest.fixture(scope="module")
def two_jobs(cluster, folder):
    """Two jobs at once on the same two nodes, where Ray's usual ports are taken."""
    taken = [node.popen(sys.executable, "-c", PORTS) for node in cluster.nodes]
    for name in ("one", "two"):
        cluster.login.run(
            "sbatch", "--nodes=2", "--nodelist=node1,node2", "--gres=gpu:1", "--ntasks-per-node=1",
            "--mem=1500", f"--output={name}.log",
            f"--wrap=srun -n1 -N1 {sys.executable} job.py {name}",
            cwd="/srv/ray",
        )  # fmt: skip
    up = [folder / f"{name}.up" for name in ("one", "two")]
    try:
        wait_for(lambda: all(path.exists() for path in up), "two Rays", 120)
        yield [path.read_text().split("\n") for path in up]
    finally:
        (folder / "stop").touch()
        wait_for(lambda: not cluster.jobs(), "the jobs to end", 60)
        for process in taken:
            os.killpg(process.pid, 9)
        print((folder / "one.log").read_text(), (folder / "two.log").read_text())


def test_two_jobs_on_the_same_nodes_never_meet(two_jobs):
    (one, n_one, *gpus_one), (two, n_two, *gpus_two) = two_jobs
    assert one != two
    assert n_one == n_two == "2"
    assert len({*gpus_one, *gpus_two}) == 4  # two GPUs of two nodes, each used by one job


def test_another_user_cannot_use_a_jobs_ray(cluster, two_jobs, folder):
    """The interpreter may be the test user's alone: the stranger differs by token, not by id."""
    told = cluster.nodes[2].run(
        "env", "HOME=/tmp", sys.executable, "/srv/ray/stranger.py", two_jobs[0][0],
        check=False, timeout=120,
    )  # fmt: skip
    assert "InvalidAuthToken" in told
    assert "inside" not in told


def test_another_user_cannot_read_the_token(cluster, two_jobs, folder):
    (token, *_) = (folder / "state/ray").glob("*/token")
    path = f"/srv/{token.relative_to(cluster.srv)}"
    assert len(cluster.login.run("cat", path)) == 64
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert "Permission denied" in cluster.login.run(*as_nobody, "cat", path, check=False)
