"""The tiny study in a copy of the project."""

import shutil
from pathlib import Path

import pytest
from clone import Clone, Ran
from equimood import demo


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Clone, Ran]:
    """The tiny study, run once: 8 horses, 80 photographs, 2 views, 2 shards."""
    clone = Clone(tmp_path_factory.mktemp("study"))
    demo.draw_study(
        clone.folder / "mydata", n_horses=8, n_sessions=1, images_per_session=10, seed=5
    )
    ran = clone.snakemake()
    assert ran.code == 0, ran.text
    shutil.copytree(clone.folder / "results/tiny", clone.folder.with_name("undisturbed"))
    return clone, ran


@pytest.fixture(scope="session")
def undisturbed(first_run) -> Path:
    """The results of the tiny study as its first run left them."""
    return first_run[0].folder.with_name("undisturbed")
