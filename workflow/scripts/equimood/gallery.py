"""Write the gallery: a folder to open in a browser from the disk, with no server and no network.

The page draws bars and figures itself from ``data.js``; of each image the folder has a picture and
its map, which the page lays over it.
"""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image

from equimood import examples, files, integrated_gradients, overlays, panels, sampling
from equimood.examples import Example, Known
from equimood.figures import class_colors
from equimood.logs import Progress
from equimood.overlays import Explained
from equimood.settings import NOT_SURE

LONGEST_PX = 320
"""Longer side of a picture, at most."""
MAP_PX = 56
"""Side of a map, at most: more would not be seen over such a picture."""
QUALITY = 82
"""Of the JPEGs."""
BLOCK = 128
"""Photographs whose maps and scores are in a thread's memory together."""
_LEVELS = np.linspace(-1, 1, 255)  # strengths that a map tells apart; the middle one is 0


def write(
    folder: str | Path,
    known: Known,
    page: Iterable[str | Path],
    *,
    study: str,
    classes: Sequence[str],
    n: int | None,
    tolerance: float,
    compared: Mapping[str, Any],
    tests: Mapping[str, Any] | None,
    drawn: bool,
    colormap: str,
    seed: int,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Write the page, ``data.js``, ``pictures/{image_id}.jpg`` and ``maps/{image_id}.png``.

    Whatever the number of photographs, a thread holds one picture and the maps of BLOCK.

    Parameters
    ----------
    page : index.html, and the scripts and styles that stand beside it.
    n : photographs shown, drawn evenly over the classes; None for all that were explained.
    tolerance : completeness gap above which a map is said to be approximate.
    compared : ``settings.Explain.compared``.
    tests : tests.json; None if nothing was tested.
    drawn : whether the horses are drawn.

    Returns
    -------
    Number of photographs in the gallery.
    """
    folder = Path(folder)
    for name in ("pictures", "maps"):
        (folder / name).mkdir(parents=True)
    n_explained = len(known.predictions)
    chosen = sorted(sampling.over_classes(known.predictions, n, seed))
    known = known.of(chosen)
    blocks = [chosen[i : i + BLOCK] for i in range(0, len(chosen), BLOCK)]
    palette = _palette(colormap)

    def draw(block: list[str]) -> list[dict[str, Any]]:
        found = []
        for example in examples.gather(block, known, LONGEST_PX):
            for view in example.views:
                _draw(view, folder, palette)
            found.append(_entry(example, classes))
        return found

    with ThreadPoolExecutor(workers) as threads:
        found: Iterator[Any] = (e for entries in threads.map(draw, blocks) for e in entries)
        if progress:
            found = _counted(found, len(chosen), progress)
        known_of_study = about(
            study, classes, tolerance=tolerance, compared=compared, tests=tests, drawn=drawn,
            colormap=colormap, n_explained=n_explained,
        )  # fmt: skip
        n_shown = write_data(folder / "data.js", known_of_study, found)
    for part in sorted(map(Path, page), key=lambda path: path.name == "index.html"):
        shutil.copyfile(part, folder / part.name)
    return n_shown


def write_data(path: Path, study: Mapping[str, Any], photos: Iterable[Mapping[str, Any]]) -> int:
    """Write ``data.js``, one photograph after the other; return their number.

    JSON in a script: a page opened from the disk may load no other file.
    """
    n = 0
    with files.written_whole(path) as aside, aside.open("w", encoding="ascii") as file:
        file.write(f'"use strict";\nwindow.gallery = {_json(study)[:-1]},"photos":[')
        for photo in photos:
            file.write(f"{',' if n else ''}\n{_json(photo)}")
            n += 1
        file.write("\n]};\n")
    return n


def _counted(entries: Iterable[Any], total: int, progress: Progress) -> Iterator[Any]:
    for done, entry in enumerate(entries, 1):
        yield entry
        progress(done, total)


def about(
    study: str,
    classes: Sequence[str],
    *,
    tolerance: float,
    compared: Mapping[str, Any],
    tests: Mapping[str, Any] | None,
    drawn: bool,
    colormap: str,
    n_explained: int,
) -> dict[str, Any]:
    """What the page knows of the study; arguments as of :func:`write`."""
    colors = class_colors(classes)
    return {
        "study": study,
        "classes": [{"name": name, "color": colors[name]} for name in classes],
        "tolerance": tolerance,
        "compared": compared,
        "tests": None if tests is None else _verdicts(tests),
        "drawn": drawn,
        "n_explained": n_explained,
        "scale": [to_hex(overlays.colours(colormap)(x)) for x in np.linspace(0, 1, 9)],
    }


def _verdicts(tests: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the tests of the explanations, by verdict."""
    found: dict[str, list[str]] = {}
    for test in tests["tests"]:
        found.setdefault(test["verdict"], []).append(test["test"])
    return found


def _entry(example: Example, classes: Sequence[str]) -> dict[str, Any]:
    """What the page knows of a photograph; classes by their number."""
    answer = example.answer
    at = {name: i for i, name in enumerate(classes)}
    session = answer["session"]
    return {
        "id": answer["photo_id"],
        "path": answer["path"],
        "horse": answer["horse"],
        "session": session if isinstance(session, str) else None,
        "truth": at[answer["truth"]],
        "predicted": at[answer["predicted"]],
        "target": at[example.target],
        "against": None if example.against is None else at[example.against],
        "sure": answer["answer"] != NOT_SURE,
        "unlike": bool(answer["unlike_training"]),
        "p": [_rounded(answer[f"p_{name}"]) for name in classes],
        "gap": _rounded(example.views[0].gap),
        "steps": example.views[0].steps,
        "views": [_view(view) for view in example.views],
    }


def _view(view: Explained) -> dict[str, Any]:
    """Size in pixels; place of the map in shares of the picture; region, enrichment, share, net."""
    height, width = view.picture.shape[:2]
    left, right, bottom, top = view.extent
    place = (left / width, top / height, (right - left) / width, (bottom - top) / height)
    rows = panels.drawn_regions(view.scores)[["enrichment", "share", "signed"]]
    return {
        "view": view.view,
        "image": view.image_id,
        "size": [width, height],
        "place": [_rounded(share) for share in place],
        "regions": [
            [name, *map(_rounded, measures)]
            for name, *measures in rows.itertuples(name=None)
        ],
    }  # fmt: skip


def _draw(view: Explained, folder: Path, palette: Mapping[str, Any]) -> None:
    picture = Image.fromarray(view.picture)
    picture.save(folder / "pictures" / f"{view.image_id}.jpg", quality=QUALITY)
    cells = view.map
    if cells.shape[-1] > MAP_PX:
        whole = torch.from_numpy(np.asarray(cells, np.float32))[None]
        cells = integrated_gradients.shrink(whole, MAP_PX)[0].numpy()
    levels = np.rint((overlays.strength(cells) + 1) / 2 * (len(_LEVELS) - 1)).astype(np.uint8)
    drawn = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    drawn.putpalette(palette["colours"])
    drawn.save(folder / "maps" / f"{view.image_id}.png", transparency=palette["opacity"])


def _palette(colormap: str) -> dict[str, Any]:
    """Colour and opacity depend on a cell's strength alone: a byte a cell tells both."""
    rgba = np.rint(255 * overlays.tint(_LEVELS, colormap)).astype(np.uint8)
    return {"colours": rgba[:, :3].tobytes(), "opacity": rgba[:, 3].tobytes()}


def _rounded(number: Any) -> float | None:
    """Four digits: more is not seen, and a gallery has a million numbers."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
