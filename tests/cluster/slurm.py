"""A real SLURM cluster on one machine: hosts in namespaces, with Debian's slurmctld and slurmd.

A login host, which also runs slurmctld, and compute hosts, each with its own name, network
address, processes, /tmp and /run. Two device nodes of each compute host pass for GPUs. All hosts
share the folder /srv, where the home folder stands too.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from clone import Clone, Ran

NETWORK = "10.77.0"
PROGRAMS = {
    "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge", "ip": "iproute2",
    "slurmdbd": "slurmdbd", "mariadbd": "mariadb-server",
}  # fmt: skip
SLURM_CONF = """
ClusterName=equimood
SlurmctldHost=login({network}.1)
SlurmUser=root
StateSaveLocation=/run/slurm
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-{n_nodes}] NodeAddr={network}.1[1-{n_nodes}] CPUs=4 RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=1440 State=UP PreemptMode=REQUEUE
PartitionName=spare Nodes=ALL MaxTime=1440 State=UP PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=1440 State=UP PriorityTier=9 PreemptMode=OFF
"""
GRES_CONF = "Name=gpu File=/run/gpu[0-1]\n"
NO_ACCOUNTING = "JobAcctGatherType=jobacct_gather/none\n"
ACCOUNTING_CONF = """
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=login
AccountingStoreFlags=job_comment
"""
SLURMDBD_CONF = """
DbdHost=login
SlurmUser=root
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageUser=root
"""
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"  # not used, but else slurmd looks for a mounted one
INIT = """
set -e
mount --make-rprivate /
hostname {name}
mount --bind {base}/srv /srv
mount --bind {base}/srv/slurm /etc/slurm
mount --bind {base}/srv/hosts /etc/hosts
mount -t tmpfs tmpfs /run
{software}
mount --rbind {base}/{name} /tmp
mkdir -p /run/munge /run/slurm /run/slurmd
for gpu in 0 1; do mknod /run/gpu$gpu c 195 $gpu; done
munged --force --key-file=/etc/slurm/munge.key --socket=/run/munge/munge.socket.2 \
    --pid-file=/run/munge/pid --log-file=/run/munge/log --seed-file=/run/munge/seed
{first}
{daemon} -D >/srv/slurm/{name}.log 2>&1 &
wait
"""
START_ACCOUNTING = """
mkdir -p /run/mysqld
{
    mariadb-install-db --no-defaults --user=root --datadir=/tmp/db \\
        --auth-root-authentication-method=normal
    mariadbd --no-defaults --user=root --datadir=/tmp/db --skip-networking \\
        --socket=/run/mysqld/mysqld.sock &
    until mariadb-admin --no-defaults ping; do sleep 0.2; done
    slurmdbd -D &
    until sacctmgr --noheader show cluster; do sleep 0.2; done
} >/srv/slurm/accounting.log 2>&1
"""


class Host:
    """A host: a process tree with namespaces of its own."""

    def __init__(self, name: str, address: str, daemon: str, base: Path, tag: str, first: str = ""):
        self.name, self.address, self.daemon, self.base = name, address, daemon, base
        self.first = first  # commands before the daemon
        self.netns = f"{tag}-{name}"
        self.init: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the host's first process, and its daemon of SLURM."""
        own_tmp, prefix = self.base / self.name, Path(sys.prefix)
        own_tmp.mkdir(mode=0o1777, exist_ok=True)
        own_tmp.chmod(0o1777)
        software = ":"
        if prefix.is_relative_to("/tmp"):  # else the host's own /tmp would hide it
            place = own_tmp / prefix.relative_to("/tmp")
            software = f"mkdir -p {place}; mount --bind {prefix} {place}"
        script = INIT.format(
            name=self.name, base=self.base, daemon=self.daemon, software=software, first=self.first
        )
        self.init = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, "unshare", "--mount", "--uts", "--ipc", "--pid",
             "--fork", "--mount-proc", "bash", "-c", script],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def first_process(self) -> int:
        """Id, outside, of what is process 1 inside."""
        assert self.init is not None
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children")
        wait_for(lambda: children.read_text().split(), f"{self.name} to start", 10)
        return int(children.read_text().split()[0])

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words`` on this host."""
        enter = ["nsenter", "--target", str(self.first_process())]
        return [*enter, "--mount", "--uts", "--ipc", "--net", "--pid", *words]

    def popen(self, *words: str, cwd: str = "/srv", **options: Any) -> subprocess.Popen:
        """Start a command on this host, in a folder of the host."""
        shell = ["bash", "-c", 'cd "$0" && exec "$@"', cwd, *words]
        environment = {
            "PATH": os.environ["PATH"], "HOME": "/srv/home", "LANG": "C.UTF-8", "USER": "root",
        }  # fmt: skip
        return subprocess.Popen(
            self.command(*shell), env=environment | options.pop("env", {}), text=True,
            stdin=subprocess.DEVNULL, start_new_session=True, **options,
        )  # fmt: skip

    def run(self, *words: str, timeout: float = 60, check: bool = True, **options: Any) -> str:
        """Run a command on this host; what it printed."""
        started = self.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        try:
            output, _ = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise
        assert started.returncode == 0 or not check, output
        return output

    def kill(self) -> None:
        """End every process of the host at once, as a power cut does."""
        if self.init is not None:
            os.kill(self.first_process(), signal.SIGKILL)
            self.init.wait()

    def set_network(self, state: str) -> None:
        """Pull the cable (``down``) or put it back (``up``)."""
        _ip("-n", self.netns, "link", "set", "eth0", state)


class Cluster:
    """Login host and compute hosts, from ``with`` to its end."""

    def __init__(self, base: Path, n_nodes: int = 3, accounting: bool = False):
        self.base, self.tag = base, f"eq{uuid.uuid4().hex[:6]}"
        self.srv, self.accounting = base / "srv", accounting
        first = START_ACCOUNTING if accounting else ""
        self.login = Host("login", f"{NETWORK}.1", "slurmctld", base, self.tag, first)
        self.nodes = [
            Host(f"node{i}", f"{NETWORK}.1{i}", "slurmd", base, self.tag)
            for i in range(1, n_nodes + 1)
        ]
        self.hosts = [self.login, *self.nodes]

    def __enter__(self) -> "Cluster":
        """Lay the network, start all hosts and wait until every node is idle."""
        for folder in ("slurm", "home"):
            (self.srv / folder).mkdir(parents=True)
        conf = SLURM_CONF.format(n_nodes=len(self.nodes), network=NETWORK)
        conf = conf.replace(NO_ACCOUNTING, ACCOUNTING_CONF) if self.accounting else conf
        (self.srv / "slurm/slurm.conf").write_text(conf)
        (self.srv / "slurm/slurmdbd.conf").write_text(SLURMDBD_CONF)
        (self.srv / "slurm/slurmdbd.conf").chmod(0o600)
        (self.srv / "slurm/gres.conf").write_text(GRES_CONF)
        (self.srv / "slurm/cgroup.conf").write_text(CGROUP_CONF)
        key = self.srv / "slurm/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        hosts = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        (self.srv / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        try:
            self._lay_network()
            for host in self.hosts:
                host.start()
            wait_for(lambda: self.states() == {"idle"}, "all nodes to be idle", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all hosts and take the network away."""
        for host in reversed(self.hosts):
            if host.init is not None and host.init.poll() is None:
                host.kill()
            _ip("netns", "delete", host.netns, check=False)

    def states(self) -> set[str]:
        """States of all nodes, as sinfo tells them."""
        told = self.login.run("sinfo", "--noheader", "--Node", "--format=%T", check=False)
        return set(told.split())

    def jobs(self, form: str = "%i %T %N %j") -> list[str]:
        """Lines of squeue about jobs that wait or run."""
        return self.login.run("squeue", "--noheader", f"--format={form}").splitlines()

    def _lay_network(self) -> None:
        for host in self.hosts:
            _ip("netns", "add", host.netns)
            _ip("-n", host.netns, "link", "set", "lo", "up")
        switch = self.login.netns
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        for i, node in enumerate(self.nodes):
            _ip("-n", switch, "link", "add", f"port{i}", "type", "veth",
                "peer", "name", "eth0", "netns", node.netns)  # fmt: skip
            _ip("-n", switch, "link", "set", f"port{i}", "master", "br0", "up")
        for host in self.hosts:
            device = "br0" if host is self.login else "eth0"
            _ip("-n", host.netns, "address", "add", f"{host.address}/24", "dev", device)
            _ip("-n", host.netns, "link", "set", device, "up")


def missing() -> str | None:
    """What this machine lacks for a cluster, or None."""
    packages = sorted({package for name, package in PROGRAMS.items() if not shutil.which(name)})
    if packages:
        return f"not installed: {', '.join(packages)}"
    return None if os.geteuid() == 0 else "network namespaces need root"


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=not check)


class Study:
    """A copy of the project on the shared disk, run from the login host."""

    def __init__(self, cluster: Cluster, clone: Clone):
        self.cluster, self.clone = cluster, clone
        self.results = clone.folder / "results/cluster"

    def start(self, *words: str, profile: str = "profiles/slurm") -> subprocess.Popen:
        """Start Snakemake on the login host."""
        site = ["--workflow-profile", "tests/cluster/site"] if profile.endswith("slurm") else []
        return self.cluster.login.popen(
            sys.executable, "-m", "snakemake", *words, "--profile", profile, *site,
            "--configfile", "tests/configs/cluster.yaml",
            cwd=f"/srv/{self.clone.folder.name}", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def snakemake(self, *words: str, profile: str = "profiles/slurm") -> Ran:
        """Run Snakemake on the login host to its end; count what it did."""
        before = self.clone.jobs()
        started = self.start(*words, profile=profile)
        text, _ = started.communicate(timeout=900)
        return self.clone.since(before, started.returncode, text)

    def log(self, job: str) -> str:
        """What a job logged, such as ``search_fold/0``; nothing if it has not begun."""
        path = self.results / f"logs/{job}.log"
        return path.read_text() if path.exists() else ""

    def trials(self, fold: str) -> pd.DataFrame:
        """What the search of a fold tried."""
        return pd.read_parquet(self.results / f"search/{fold}/trials.parquet")
