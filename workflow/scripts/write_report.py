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
         "--snakefile", snakemake.params.snakefile, "--configfile", snakemake.input.settings,
         "--report-stylesheet", snakemake.input.stylesheet],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    logs.log.info(done.stderr)
    if done.returncode:
        raise UserError(f"snakemake --report ended with {done.returncode}: see the lines above")
    # report/data/raw/<id>/ and the file, or its path in the folder
    inside = {Path(*Path(name).parts[4:]) for name in zipfile.ZipFile(archive).namelist()}
    for reported in map(Path, snakemake.params.reported):
        whole = (reported / "index.html").exists()
        # A folder may be empty: a study without regions has no figure of them.
        found = reported.rglob("[!.]*.*") if whole else reported.glob("*.[pj][np]g")
        expected = {path.relative_to(reported) for path in found}
        if reported.is_file():
            expected = {Path(reported.name)}
        if missing := expected - inside:
            raise UserError(f"the report lacks {sorted(map(str, missing))}")
    archive.replace(report)
