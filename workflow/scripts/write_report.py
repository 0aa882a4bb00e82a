"""Let Snakemake write its report, with the settings of this run, and check what is inside."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from equimood import logs
from equimood.errors import UserError

logs.start(snakemake.log[0])
report = Path(snakemake.output[0])
with tempfile.TemporaryDirectory(prefix=".report-", dir=report.parent) as aside:
    # Snakemake chooses the report's form by the suffix, and its folder's name by the stem.
    archive = Path(aside) / report.name
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *snakemake.params.reported, "--report", archive,
         "--snakefile", snakemake.params.snakefile, "--configfile", snakemake.input.settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    logs.log.info(done.stderr)
    if done.returncode:
        raise UserError(f"snakemake --report ended with {done.returncode}: see the lines above")
    inside = {Path(name).name for name in zipfile.ZipFile(archive).namelist()}
    for reported in map(Path, snakemake.params.reported):
        expected = [reported] if reported.is_file() else list(reported.glob("*.png"))
        # A folder may be empty: a study without regions has no figure of them.
        if missing := {path.name for path in expected} - inside:
            raise UserError(f"the report lacks {sorted(missing)}")
    archive.replace(report)
