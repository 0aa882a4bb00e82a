"""A cluster with accounting (slurmdbd on MariaDB): jobs are asked after by sacct."""

import pytest
import slurm
from clone import Clone
from equimood import demo


@pytest.fixture(scope="module")
def study(tmp_path_factory, cluster):
    """A study on a cluster of its own, on which an account is needed."""
    with slurm.Cluster(tmp_path_factory.mktemp("accounts"), n_nodes=1, accounting=True) as own:
        own.login.run("sacctmgr", "--immediate", "add", "account", "lab")
        own.login.run("sacctmgr", "--immediate", "add", "user", "root", "account=lab")
        clone = Clone(own.srv / "study")
        demo.draw_study(
            clone.folder / "mydata", n_horses=12, n_sessions=1, images_per_session=8, seed=5
        )
        site = {
            "slurm-status-command": "sacct",
            "default-resources": ["slurm_account=lab", "mem_mb=2000", "runtime=30"],
        }
        clone.edit("tests/cluster/site/config.yaml", lambda own_keys: own_keys.update(site))
        yield slurm.Study(own, clone)


def test_jobs_are_followed_by_sacct_and_counted_to_the_account(study):
    ran = study.snakemake("results/cluster/catalogue/images.parquet")
    assert ran.code == 0, ran.text
    asked = [
        "sacct",
        "--noheader",
        "--allocations",
        "--parsable2",
        "--format=Account,State,Comment",
    ]
    assert study.cluster.login.run(*asked).split() == ["lab|COMPLETED|rule_ingest"]
