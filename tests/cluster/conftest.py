"""The cluster, and a study on it."""

import os

import pytest
import slurm
from clone import Clone
from equimood import demo


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three compute hosts with two pretend GPUs each, and a login host."""
    if reason := slurm.missing():
        pytest.fail(reason) if os.environ.get("EQUIMOOD_NO_SKIP") else pytest.skip(reason)
    with slurm.Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def new_study(cluster):
    """Make a copy of the project with 12 drawn horses on the shared disk."""

    def make(name: str) -> slurm.Study:
        clone = Clone(cluster.srv / name)
        demo.draw_study(
            clone.folder / "mydata", n_horses=12, n_sessions=1, images_per_session=8, seed=5
        )
        return slurm.Study(cluster, clone)

    return make
