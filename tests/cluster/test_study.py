"""A whole study on the cluster, its search on 2 nodes with 2 GPUs each."""

import sys

import pandas as pd
import pytest

SMALL = ["evaluation/metrics.json", "splits/splits.parquet", "search/0/best.yaml"]


@pytest.fixture(scope="module")
def study(new_study):
    return new_study("study")


@pytest.fixture(scope="module")
def ran(study):
    ran = study.snakemake()
    assert ran.code == 0, ran.text
    return ran


def test_the_study_runs_from_photographs_to_the_report(study, ran):
    assert (study.results / "report.zip").stat().st_size > 1e6
    assert ran.embedded == 3 * 12 * 8
    assert ran.jobs["search_fold"] == ran.jobs["train_fold"] == ran.jobs["explain_shard"] == 2


def test_quick_steps_do_not_wait_in_the_queue(ran):
    submitted = ran.text.count("has been submitted with SLURM jobid")
    # ingest, embed, audit, search, train, permute, evaluate, compare, calibration, explain, test,
    # gallery
    assert submitted == 1 + 6 + 1 + 2 + 2 + 1 + 1 + 2 + 1 + 2 + 1 + 1


def test_the_search_used_both_nodes_and_the_log_says_so(study, ran):
    hosts = []
    for fold in ("0", "final"):
        trials, log = study.trials(fold), study.log(f"search_fold/{fold}")
        assert trials["trial"].nunique() == 8
        assert log.count("joined with 2 CPUs, 2 GPUs, 1500 MB") == 2
        assert all(f"Ray: node {host} (" in log for host in trials["host"].unique())
        hosts.append(trials["host"].nunique())
    assert max(hosts) == 2


def test_nothing_is_left_behind_on_any_node(study, ran):
    for node in study.cluster.nodes:
        assert "ray" not in node.run("ps", "axo", "args")
        assert "ray-" not in node.run("ls", "/tmp")
    assert not list((study.clone.folder / "state/ray").iterdir())


def test_the_results_are_those_of_one_machine(study, ran, new_study):
    local = new_study("local")
    assert local.snakemake("evaluate", profile="profiles/local").code == 0
    features = sorted(study.results.glob("features/*/*/*.safetensors"))
    assert len(features) == 6
    for path in [*features, *(study.results / name for name in SMALL)]:
        other = local.results / path.relative_to(study.results)
        assert path.read_bytes() == other.read_bytes(), path.name
    own, other = (s.trials("0").drop(columns=["cost_s", "host"]) for s in (study, local))
    pd.testing.assert_frame_equal(own, other)


def test_the_report_says_what_the_jobs_used_on_all_nodes(study, ran):
    table = pd.read_csv(study.results / "report/efficiency.csv", index_col="rule")
    search = table.loc["search_fold"]
    assert search["core_hours"] == pytest.approx(4 * search["hours"])  # 2 nodes of 2 cores
    assert search["gpu_hours"] == pytest.approx(4 * search["hours"])
    trained = study.trials("0").groupby("trial")["cost_s"].first().sum() / 3600
    assert search["cpu_hours"] > 0.5 * trained  # in Ray's step, of which the driver sees nothing
    # Of the final model's search and training no figure tells.
    assert table.loc["in all", "jobs"] == 1 + 6 + 1 + 1 + 1 + 1 + 1 + 2 + 1 + 2 + 1
    assert (table["memory_share"].dropna() < 1).all()


def test_the_graph_is_drawn_on_the_login_node(study, ran):
    drawn = study.snakemake("--rulegraph", "mermaid-js")
    assert drawn.code == 0 and "search_fold" in drawn.text


def test_an_explanation_setting_explains_again_and_nothing_else(study, ran):
    study.clone.edit("tests/configs/cluster.yaml", lambda c: c["explain"].update(n_steps=6))
    again = study.snakemake("explain")
    assert again.code == 0, again.text
    assert again.jobs == {
        "explain_shard": 2, "summarise": 1, "probe_explanations": 1, "judge_explanations": 1,
        "write_gallery": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--default-resources", "slurm_partition=nowhere"], "nowhere"),
        (["--set-resources", "embed_shard:gpu=3"], "Requested node configuration is not available"),
    ],
)
def test_a_wrong_profile_ends_in_a_message_that_says_so(study, ran, wrong, told):
    failed = study.snakemake("embed", "--forcerun", "embed_shard", "--retries", "0", *wrong)
    assert failed.code != 0
    assert told in failed.text
    assert "Traceback" not in failed.text


def test_what_a_study_asks_for_is_told_before(study, ran):
    told = study.cluster.login.run(
        sys.executable, "workflow/scripts/ask.py", "--profile", "profiles/slurm", "--forceall",
        "--workflow-profile", "tests/cluster/site", "--configfile", "tests/configs/cluster.yaml",
        cwd="/srv/study",
    )  # fmt: skip
    lines = told[told.index("rule  ") :].splitlines()
    table = {words[0]: words[1:] for line in lines if (words := line.split())}
    # jobs, cores, GPUs, memory, time, core hours, GPU hours, partition: 2 searches of 2 nodes
    assert table["search_fold"] == ["2", "4", "4", "3", "GB", "4.0", "h", "32", "32", "default"]
    assert table["embed_shard"] == ["6", "2", "1", "2", "GB", "2.0", "h", "24", "12", "default"]
    assert table["in"][:2] == ["all", "21"]
    assert "split_horses" not in table
