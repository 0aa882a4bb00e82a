"""What goes wrong on a cluster, one at a time: the study finishes, and nothing is done twice.

Minutes each: `make test-cluster` runs them.
"""

import os
import signal
import time

import pandas as pd
import pytest
from slurm import wait_for

pytestmark = pytest.mark.faults
N_TRIALS = 8


@pytest.fixture
def study(new_study, request):
    """A study whose structures take seconds each."""
    study = new_study(request.node.name.replace("[", "-").rstrip("]"))
    study.clone.edit("tests/configs/cluster.yaml", lambda c: c["search"].update(epochs=4000))
    return study


def finished(study):
    """Structures searched so far, in any fold, with the time each was finished."""
    memos = (study.clone.folder / "state/search").glob("*/*.json")
    return {memo: memo.stat().st_mtime_ns for memo in memos}


def searching(study):
    """Start the search; wait until some structures are finished and others are not."""
    snakemake = study.start("search")
    wait_for(lambda: len(finished(study)) >= 2, "two finished structures", 240)
    before = finished(study)
    assert len(before) < 2 * N_TRIALS
    return snakemake, before


def ends_well(study, snakemake, before):
    text, _ = snakemake.communicate(timeout=600)
    assert snakemake.returncode == 0, text
    for fold in ("0", "final"):
        assert study.trials(fold)["trial"].nunique() == N_TRIALS
    after = finished(study)
    assert len(after) == 2 * N_TRIALS
    assert {memo: after[memo] for memo in before} == before
    return text


def job_of(study, rule):
    """Id of a running job of a rule, and its nodes."""
    lines = study.cluster.login.run("squeue", "--noheader", "--format=%i %N %T %k").splitlines()
    running = [line.split() for line in lines if f"rule_{rule}" in line and "RUNNING" in line]
    return running[0][0], running[0][1]


def test_a_job_that_is_cancelled_goes_on_in_the_next_attempt(study):
    snakemake, before = searching(study)
    study.cluster.login.run("scancel", job_of(study, "search_fold")[0])
    ends_well(study, snakemake, before)


def test_a_job_that_is_requeued_goes_on(study):
    snakemake, before = searching(study)
    study.cluster.login.run("scontrol", "requeue", job_of(study, "search_fold")[0])
    ends_well(study, snakemake, before)


def preempt(study, seen):
    """Take all nodes for a moment, as somebody with more rights does; wait until SLURM says so."""
    login, job = study.cluster.login, job_of(study, "search_fold")[0]
    login.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--wrap=srun sleep 10")
    wait_for(lambda: seen in login.run("scontrol", "show", "job", job), f"{seen} of job {job}", 60)


def test_a_job_that_is_preempted_is_requeued_and_goes_on(study):
    snakemake, before = searching(study)
    preempt(study, "Restarts=1")
    ends_well(study, snakemake, before)


def test_a_job_that_is_preempted_for_good_goes_on_by_the_command_of_the_docs(study):
    study.clone.edit(
        "tests/cluster/site/config.yaml",
        lambda site: site.update({"default-resources": ["slurm_partition=spare", "mem_mb=2000"]}),
    )
    snakemake, before = searching(study)
    preempt(study, "JobState=PREEMPTED")
    docs = (study.clone.folder / "docs/cluster.md").read_text()
    command = next(
        line.strip() for line in docs.splitlines() if "PREEMPTED" in line and "|" in line
    )
    study.cluster.login.run("bash", "-c", command)
    ends_well(study, snakemake, before)


def test_a_search_out_of_time_saves_itself_and_goes_on(study):
    study.clone.edit(
        "tests/cluster/site/config.yaml",
        lambda site: site["set-resources"].append("search_fold:runtime=2"),
    )
    study.clone.edit("tests/configs/cluster.yaml", lambda c: c["search"].update(epochs=9000))
    snakemake = study.start("search", "--jobs", "1")
    wait_for(lambda: len(finished(study)) >= 2, "two finished structures", 240)
    text = ends_well(study, snakemake, finished(study))
    assert "walltime is near: finished work is kept" in text


@pytest.mark.parametrize("how", ["power", "network"])
def test_a_node_that_dies_in_the_search_costs_what_was_not_finished(study, how):
    snakemake, before = searching(study)
    last = job_of(study, "search_fold")[1]
    node = next(n for n in study.cluster.nodes if n.name[-1] == last.rstrip("]")[-1])
    try:
        node.kill() if how == "power" else node.set_network("down")
        ends_well(study, snakemake, before)
    finally:
        if how == "network":
            node.set_network("up")
            node.kill()
        node.start()
        wait_for(lambda: study.cluster.states() == {"idle"}, "the node to be back", 60)


def test_a_node_that_dies_in_the_explanation_costs_a_batch(study):
    slow = {"max_images": None, "n_steps": 64, "batch_size": 4}
    study.clone.edit("tests/configs/cluster.yaml", lambda c: c["explain"].update(slow))
    study.clone.edit("tests/configs/cluster.yaml", lambda c: c["search"].update(epochs=5))
    snakemake = study.start("explain")
    parts = study.clone.folder / "state/explain"
    wait_for(lambda: len(list(parts.glob("*/*.safetensors"))) >= 3, "three explained batches", 400)
    before = {part: part.stat().st_mtime_ns for part in parts.glob("*/*.safetensors")}
    name = job_of(study, "explain_shard")[1]
    node = next(node for node in study.cluster.nodes if node.name == name)
    node.kill()
    text, _ = snakemake.communicate(timeout=600)
    node.start()
    assert snakemake.returncode == 0, text
    judged = pd.read_parquet(study.results / "model/0/predictions.parquet")
    maps = pd.concat(pd.read_parquet(path) for path in study.results.glob("attributions/*.parquet"))
    assert maps.loc[maps["model"] == "trained", "photo_id"].nunique() == len(judged)
    assert {part: part.stat().st_mtime_ns for part in before} == before


def test_a_killed_snakemake_is_started_again_by_the_same_command(study):
    snakemake, before = searching(study)
    os.killpg(snakemake.pid, signal.SIGKILL)
    study.cluster.login.run("pkill", "-KILL", "-f", "snakemake", check=False)
    snakemake.wait()
    time.sleep(1)
    again = study.start("search")
    text = ends_well(study, again, before)
    assert "of a run that was killed are cancelled" in text
