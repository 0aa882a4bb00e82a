"""Write regions.csv of the Weizmann horses: each horse by its mask, its head and neck by a box.

    .venv/bin/python docs/studies/weizmann_regions.py resources/weizmann_horse

The collection's masks are not of their photographs' sizes; copies that are go to masks/.
"""

import csv
import sys
from pathlib import Path

from PIL import Image

folder = Path(sys.argv[1])
(folder / "masks").mkdir(exist_ok=True)
with (folder / "labels.csv").open() as table, (folder / "regions.csv").open("w") as written:
    regions = csv.writer(written)
    regions.writerow(["image", "horse", "region", "kind", "x0", "y0", "x1", "y1", "mask"])
    for row in csv.DictReader(table):
        about = [row["image"], row["group"]]
        size = int(row["width"]), int(row["height"])
        mask = Image.open(folder / row["mask"]).convert("L").resize(size, Image.Resampling.BILINEAR)
        name = f"masks/{Path(row['mask']).stem}.png"
        mask.point(lambda grey: 255 * (grey > 127)).save(folder / name)
        regions.writerow([*about, "horse", "mask", "", "", "", "", name])
        if box := row["head_neck_box"].split():
            regions.writerow([*about, "neck", "box", *box, ""])
