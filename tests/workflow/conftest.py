"""A copy of the project in an empty folder, in which real Snakemake runs."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from equimood import demo

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    text: str
    jobs: Counter  # rule -> jobs run
    embedded: int  # images embedded


class Clone:
    """The project's files in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        for name in listed:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def snakemake(self, *arguments: str, study: str = "tests/configs/tiny.yaml") -> Ran:
        """Run Snakemake as a user does; count the jobs it ran and the images it embedded."""
        before = self._jobs()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments,
             "--profile", "profiles/local", "--configfile", study],
            cwd=self.folder, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
        ran = {job: when for job, when in self._jobs().items() if before.get(job) != when}
        rules = Counter(Path(job).parts[0].removesuffix(".tsv") for job in ran)
        return Ran(done.returncode, done.stdout, rules, self._embedded(ran))

    def _jobs(self) -> dict[str, int]:
        """Jobs by their benchmark file (rule/wildcards), with its time of change."""
        return {
            str(file.relative_to(folder)): file.stat().st_mtime_ns
            for folder in self.folder.glob("results/*/benchmarks")
            for file in folder.rglob("*.tsv")
        }

    def _embedded(self, ran: dict[str, int]) -> int:
        total = 0
        for job in ran:
            if job.startswith("embed_shard/"):
                (log,) = self.folder.glob(f"results/*/logs/{Path(job).with_suffix('.log')}")
                told = re.search(r"(\d+) of \d+ images embedded now", log.read_text())
                assert told, f"{log} does not say how many images were embedded"
                total += int(told[1])
        return total

    def edit(self, name: str, change) -> None:
        """Change a YAML file in place."""
        path = self.folder / name
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))


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
    return clone, ran
