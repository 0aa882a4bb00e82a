"""A copy of the project in an empty folder, in which real Snakemake runs."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    text: str
    jobs: Counter  # rule -> jobs run
    embedded: int  # images embedded


def run_here(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command in a folder: its exit code, and what it printed."""
    done = subprocess.run(
        command, cwd=folder, text=True, check=False, env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


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

    def snakemake(
        self,
        *arguments: str,
        study: str = "tests/configs/tiny.yaml",
        profile: str = "profiles/local",
        run: Callable[[list[str], Path], tuple[int, str]] = run_here,
    ) -> Ran:
        """Run Snakemake as a user does; count the jobs it ran and the images it embedded."""
        before = self.jobs()
        command = [sys.executable, "-m", "snakemake", *arguments, "--profile", profile]
        code, text = run([*command, "--configfile", study], self.folder)
        return self.since(before, code, text)

    def since(self, before: dict[str, int], code: int = 0, text: str = "") -> Ran:
        """Count what was done since :meth:`jobs` was asked."""
        ran = {job: when for job, when in self.jobs().items() if before.get(job) != when}
        rules = Counter(Path(job).parts[0].removesuffix(".tsv") for job in ran)
        return Ran(code, text, rules, self._embedded(ran))

    def jobs(self) -> dict[str, int]:
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
