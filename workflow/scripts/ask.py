"""Say what a study would ask of a cluster, rule by rule, without asking.

    python workflow/scripts/ask.py --profile profiles/slurm --configfile mystudy.yaml

takes Snakemake's own arguments, which decide about resources as they do in a run. Hours are the
time limits of first attempts: what is asked for, not what will be used.
"""

import logging
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from equimood import usage
from snakemake import cli
from snakemake.logging import logger

RULES = Path(__file__).parents[1] / "rules"
MANY = 10_000  # cores, or a dry run would cut what a job asks for to those of this machine
LINE = "{:<15} {:>5} {:>6} {:>6} {:>8} {:>7} {:>11} {:>10}  {}"


class Jobs(logging.Filter):
    """Notes the jobs of a dry run as Snakemake tells them, and hides all but what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[Any]] = defaultdict(list)

    def filter(self, record: logging.LogRecord) -> bool:
        """Note a job; let warnings and errors pass."""
        if hasattr(record, "rule_name") and hasattr(record, "threads"):
            self.seen[record.rule_name].append((record.threads, record.resources))
        return record.levelno >= logging.WARNING


def local_rules() -> set[str]:
    """Rules that run on the login node."""
    found: set[str] = set()
    for file in [RULES.parents[1] / "Snakefile", *RULES.glob("*.smk")]:
        for block in re.findall(r"^localrules:\n((?: +\w+,\n)+)", file.read_text(), re.MULTILINE):
            found.update(re.findall(r"\w+", block))
    return found


def main() -> int:
    """Run Snakemake dry and print a table."""
    jobs = Jobs()
    logger.addFilter(jobs)
    try:
        cli.main(["--dry-run", "--quiet", "all", "--cores", str(MANY), *sys.argv[1:]])
    except SystemExit as end:
        if end.code:
            return int(end.code)
    asked = {rule: of for rule, of in jobs.seen.items() if rule not in local_rules()}
    print(LINE.format("rule", "jobs", "cores", "GPUs", "memory", "time", "core hours", "GPU hours",
                      "partition"))  # fmt: skip
    total = [0, 0.0, 0.0]
    for rule, of_rule in asked.items():
        sums = [len(of_rule), 0.0, 0.0]
        for threads, resources in of_rule:
            nodes, hours = resources.get("nodes", 1), resources.get("runtime", 0) / 60
            gpus = usage.gpus_asked(resources)
            sums[1] += nodes * threads * hours
            sums[2] += gpus * hours
        memory = f"{resources.get('mem_mb', 0) / 1000:.0f} GB"
        print(LINE.format(rule, sums[0], nodes * threads, gpus, memory, f"{hours:.1f} h",
                          f"{sums[1]:.0f}", f"{sums[2]:.0f}",
                          resources.get("slurm_partition", "default")))  # fmt: skip
        total = [a + b for a, b in zip(total, sums, strict=True)]
    print(LINE.format("in all", total[0], "", "", "", "", f"{total[1]:.0f}", f"{total[2]:.0f}", ""))
    print(
        "cores, GPUs, time: of one job; memory: of each of its nodes; hours: if every first "
        "attempt took its whole time"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
