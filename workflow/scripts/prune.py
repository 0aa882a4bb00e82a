"""Remove kept progress that no study in results/ uses, and what kills have left half-written."""

import re
import shutil
import time
from pathlib import Path

from equimood import files

HOUR_S = 3600  # what is younger may be written at this moment

used = {record.name for record in Path("results").glob("*/.state/**/*")}
for folder in sorted(files.STATE.glob("*/*")):
    if f"{folder.parent.name}-{folder.name}" not in used:
        size_mb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        print(f"removing {folder} ({size_mb:.1f} MB)")
        shutil.rmtree(folder)

for folder in (Path("results"), files.STATE, Path("resources")):
    for path in folder.rglob(".*"):
        half_written = path.is_file() and re.search(files.ASIDE, path.name)
        if half_written and path.stat().st_mtime < time.time() - HOUR_S:
            print(f"removing {path} (half-written)")
            path.unlink()
