"""Say what a study would ask of a cluster, rule by rule, without asking.

    python workflow/scripts/ask.py --profile profiles/slurm --configfile mystudy.yaml

takes Snakemake's own arguments, which decide about resources as they do in a run. Hours are the
time limits of first attempts: what is asked for, not what will be used.
"""

import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from equimood import efficiency
from snakemake import cli
from snakemake.logging import logger

RULES = Path(__file__).parents[1] / "rules"
MANY = 10_000  # cores, or a dry run would cut what a job asks for to those of this machine


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


def main() -> int:
    """Run Snakemake dry and print a table."""
    jobs = Jobs()
    logger.addFilter(jobs)
    try:
        cli.main(["--dry-run", "--quiet", "all", "--cores", str(MANY), *sys.argv[1:]])
    except SystemExit as end:
        if end.code:
            return int(end.code)
    local = efficiency.local_rules([RULES.parents[1] / "Snakefile", *RULES.glob("*.smk")])
    asked = {rule: of for rule, of in jobs.seen.items() if rule not in local}
    print(efficiency.asked(asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
