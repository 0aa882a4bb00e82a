"""Remove kept progress (features, searches, explanations) that no study in results/ uses."""

import shutil
from pathlib import Path

from equimood import files

used = {record.name for record in Path("results").glob("*/.state/**/*")}
for folder in sorted(files.STATE.glob("*/*")):
    if f"{folder.parent.name}-{folder.name}" not in used:
        size_mb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        print(f"removing {folder} ({size_mb:.1f} MB)")
        shutil.rmtree(folder)
