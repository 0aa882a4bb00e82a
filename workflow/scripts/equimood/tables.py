"""The tables that travel between stages: columns, types, checks.

Inner tables are Parquet with a fixed Arrow schema. The user's tables are read here, once, and
every complaint names the file, the line, what was found and what to write instead.
"""

import codecs
import hashlib
import io
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from equimood import settings
from equimood.errors import UserError
from equimood.files import written_whole

BOX = ["x0", "y0", "x1", "y1"]
ROLLUPS = {
    "ears": ["ear_left", "ear_right"],
    "eyes": ["eye_left", "eye_right", "brow"],
    "nostrils": ["nostril_left", "nostril_right"],
    "mouth": ["upper_lip", "lower_lip_chin", "mouth_corner"],
    "face": ["cheek", "forehead"],
    "neck_posture": ["neck", "poll_mane"],
    "body": ["trunk", "legs", "tail"],
    "context": ["tack", "human", "object", "background"],
}
REGIONS = [region for regions in ROLLUPS.values() for region in regions] + ["head"]
WHOLE = "horse"  # all of it: a region that a study may give beside or instead of its parts
HORSE = [*(region for region in REGIONS if region not in ROLLUPS["context"]), WHOLE]
CONTAINERS = {"head", WHOLE, "context"}  # which cover other regions by what they are
NOT_SEEN = ["not annotated", "hidden", "not in the frame"]  # why a region has no score
CELLS = [
    "top_left", "top_middle", "top_right", "middle_left", "centre", "middle_right",
    "bottom_left", "bottom_middle", "bottom_right",
]  # thirds of what the model sees, in a study without regions  # fmt: skip
PARTS = ["head", "neck", "trunk", "legs", "tail"]  # which together are nearly the whole horse
ROWS = [*(name for name in ROLLUPS if name != "context"), *ROLLUPS["context"], WHOLE, *CELLS]
"""Regions of an overview: the horse's roll-ups, what surrounds it one by one, and a stand-in's."""

MISSING = {"", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null"}  # as R, pandas and Excel write it
HIDDEN = {"0", "0.0", "false", "no", "non", "faux"}  # answers in the column `visible`
SHOWN = {"1", "1.0", "true", "yes", "oui", "vrai"}
ANNOTATED = {"line", *settings.COLUMNS}  # any other column of the annotations is a covariate
KNOWN = {*settings.COLUMNS, "region", "kind", "points", "mask", "visible"}
SEPARATORS = ",;\t|"
HEADER_BYTES = 1 << 16  # in which every header ends
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
TOLD = 5  # different faults of one kind that a complaint lists

_TEXT, _INT, _REAL = pa.string(), pa.int32(), pa.float64()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


IMAGES = _schema(
    image_id=_TEXT,  # 32 hex characters: file bytes, box and view
    photo_id=_TEXT,  # 32 hex characters: file bytes and horse; shared by the views of a photograph
    view=_TEXT,
    path=_TEXT,  # as in the user's table, inside the image folder
    label=_TEXT,
    agreement=_REAL,  # share of raters who chose the label
    n_raters=_INT,
    horse=_TEXT,
    session=_TEXT,
    video=_TEXT,
    fold=_TEXT,  # the user's, else null
    width=_INT,  # of the upright picture, pixels
    height=_INT,
    x0=_INT,  # the view's box on the upright picture, pixels
    y0=_INT,
    x1=_INT,
    y1=_INT,
    phash=pa.uint64(),
    shard=_INT,
)
RATINGS = _schema(  # of photographs that are usable, or refused only since raters disagree
    photo_id=_TEXT,
    horse=_TEXT,
    rater=_TEXT,  # null where the table names none
    label=_TEXT,
    confidence=_REAL,  # the rater's own, at least 0; NaN where not given
)
SHARD = _schema(
    image_id=_TEXT, view=_TEXT, path=_TEXT, x0=_INT, y0=_INT, x1=_INT, y1=_INT,
    hidden=_TEXT,  # boxes filled up, x0 y0 x1 y1 x0 …; null where the view shows all it frames
)  # fmt: skip
CONTROLS = pa.schema([*IMAGES, pa.field("hidden", _TEXT)])  # images that no search sees
COLOURS = _schema(  # mean and standard deviation of each channel, 0-255
    photo_id=_TEXT, red=_REAL, green=_REAL, blue=_REAL, red_sd=_REAL, green_sd=_REAL, blue_sd=_REAL
)
QUARANTINE = ["line", "image", "horse", "view", "reason", "remedy"]
GIVEN_REGIONS = _schema(
    line=_INT,  # of the user's file
    image=_TEXT,
    horse=_TEXT,
    region=_TEXT,
    kind=_TEXT,  # box, points or mask
    x0=_REAL,
    y0=_REAL,
    x1=_REAL,
    y1=_REAL,
    points=_TEXT,
    mask=_TEXT,
    visible=pa.bool_(),
)  # the user's regions, checked; empty where there are none
NEAR_DUPLICATES = _schema(  # of two horses; image_a and image_b are photo_ids
    image_a=_TEXT, image_b=_TEXT, horse_a=_TEXT, horse_b=_TEXT, bits=_INT
)  # fmt: skip
SPLITS = _schema(
    fold=_TEXT,  # "0", "1", …, or "final": every horse trains
    horse=_TEXT,
    role=_TEXT,  # train or test
    inner_fold=_INT,  # -1 for test horses
)
TRIALS = _schema(
    trial=_INT,
    views=_TEXT,  # joined by +
    backbone=_TEXT,
    pooling=_TEXT,
    head=_TEXT,
    hidden_units=_INT,  # null where the head is linear
    weight_by=_TEXT,  # joined by +
    learning_rate=_REAL,
    weight_decay=_REAL,
    dropout=_REAL,
    label_smoothing=_REAL,
    seed=_INT,
    score=_REAL,  # mean over inner folds
    cost_s=_REAL,  # of the whole trial
    host=_TEXT,
)  # and score_{inner fold}
TRANSFER = _schema(
    method=_TEXT,
    trial=_INT,
    learning_rate=_REAL,
    layer_decay=_REAL,
    blocks=_INT,  # 0 where all learn from the first epoch
    augmentation=_REAL,
    weight_decay=_REAL,
    epochs=_INT,  # before it was stopped, or all
    score=_REAL,  # of the last epoch, mean over inner folds
    cost_s=_REAL,
    host=_TEXT,
)  # and score_{inner fold}
PREDICTIONS = _schema(
    image_id=_TEXT, photo_id=_TEXT, path=_TEXT, horse=_TEXT, session=_TEXT, video=_TEXT,
    fold=_TEXT, truth=_TEXT, predicted=_TEXT,
    threshold=_REAL,  # confidence from which on the fold's model answers; null: it never does
    novelty=_REAL,  # above 1 the image is unlike those the fold's model was trained on
)  # and p_{class}, one column a class  # fmt: skip
COMPARED = pa.schema([
    ("backbone", _TEXT),
    ("views", _TEXT),
    *(field for field in PREDICTIONS if field.name not in ("threshold", "novelty")),
])  # and p_{class}; by the head alone: neither calibrated nor held back  # fmt: skip
REGION_SCORES = _schema(
    image_id=_TEXT,
    photo_id=_TEXT,
    view=_TEXT,
    horse=_TEXT,
    fold=_TEXT,
    truth=_TEXT,
    target=_TEXT,  # the class whose score is explained
    correct=pa.bool_(),
    model=_TEXT,  # trained, or random: the control
    region=_TEXT,  # a region or a roll-up
    signed=_REAL,  # sum of attributions inside
    positive=_REAL,  # sum of positive attributions inside
    share=_REAL,  # of the image's positive attribution
    area=_REAL,  # share of the image's pixels
    enrichment=_REAL,  # share over area; null where the region is not visible
    rank=_INT,  # by enrichment within its level, 1 the highest; null where that is missing
    net_rank=_INT,  # the same by signed over area: by what is left of it on the whole
    overlap=_REAL,  # largest share of its area that one other region of its level covers
    visible=pa.bool_(),
    missing=_TEXT,  # why it is not visible, of NOT_SEEN
)

EXPLANATION_TESTS = _schema(
    photo_id=_TEXT,
    horse=_TEXT,
    fold=_TEXT,
    truth=_TEXT,
    target=_TEXT,  # the class whose score is explained
    test=_TEXT,
    of=_TEXT,  # the map itself, or what it is compared with
    at=_REAL,  # share of the cells covered or shown, or of the blocks randomised; else null
    value=_REAL,
)


def level_of(region: str) -> str:
    """Say what kind a region is of, `grid`, `part` or `overview`; only those of one compare.

    A part is of a roll-up of the horse. The overview has the roll-ups, and what surrounds the
    horse: a halter is held against the ears, not against one ear.
    """
    if region in HORSE and region not in CONTAINERS:
        return "part"
    return "grid" if region in CELLS else "overview"


def image_id(sha256: str, box: Iterable[int], view: str, hidden: str | None = None) -> str:
    """Name an image: 32 hexadecimal characters over its file's sha256, box, view, hidden boxes."""
    named = " ".join([sha256, *(str(int(edge)) for edge in box), view])
    if isinstance(hidden, str):  # null may be NaN
        named += f" hides {hidden}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def write_hidden(boxes: Iterable[Iterable[int]]) -> str:
    """Write hidden boxes as tables.SHARD has them, in one order."""
    return " ".join(str(int(edge)) for box in sorted(map(tuple, boxes)) for edge in box)


def read_hidden(hidden: str) -> list[tuple[int, int, int, int]]:
    """Read hidden boxes of tables.SHARD: x0, y0, x1, y1 each."""
    edges = [int(edge) for edge in hidden.split()]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in zip(*[iter(edges)] * 4, strict=True)]


def pack_ids(ids: Iterable[str]) -> np.ndarray:
    """Write ids of 32 hexadecimal characters (n,) as bytes: uint8 (n, 16)."""
    return np.frombuffer(bytes.fromhex("".join(ids)), np.uint8).reshape(-1, 16)


def unpack_ids(packed: np.ndarray) -> list[str]:
    """Read ids of 32 hexadecimal characters (n,) from uint8 (n, 16)."""
    text = packed.tobytes().hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def write(frame: pd.DataFrame, path: str | Path, schema: pa.Schema, *extra: str) -> None:
    """Write the schema's columns (and ``extra`` float columns) as Parquet, whole."""
    fields = [*schema, *(pa.field(name, _REAL) for name in extra)]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    with written_whole(path) as aside:
        pq.write_table(table.replace_schema_metadata(None), aside)


def read(
    path: str | Path,
    columns: list[str] | None = None,
    filters: list[tuple[str, str, Any]] | None = None,
) -> pd.DataFrame:
    """Read an inner table, or of it the rows for which all ``filters`` (pyarrow's) hold."""
    return pq.read_table(path, columns=columns, filters=filters).to_pandas()


def concatenated(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read inner tables of one schema, one below the other; empty ones decide about no type."""
    parts = [read(path) for path in paths]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def concatenate(paths: Iterable[str | Path], path: str | Path, schema: pa.Schema) -> None:
    """Write inner tables of one schema one below the other, one in memory at a time."""
    with written_whole(path) as aside, pq.ParquetWriter(aside, schema) as writer:
        for part in paths:
            writer.write_table(pq.read_table(part, schema=schema))


def read_annotations(path: str | Path, classes: list[str], columns: dict[str, str]) -> pd.DataFrame:
    """Read the user's annotations and check them.

    Returns
    -------
    One row per image and rater: ``line`` (of the file, the header is line 1), image, label, horse,
    and session, video, rater, confidence, fold, x0..y1 (float, NaN where there is no box), null
    where not given; other columns follow as text, those that ``columns`` renames left out.
    """
    frame = _read_any(Path(path), columns)
    _require(frame, path, ["image", "label", "horse"], or_map=True)
    for name in ("image", "label", "horse", "session", "video", "rater", "fold"):
        # The classes are the user's, and one may well be called None or NA.
        frame[name] = _text(frame, name, missing={""} if name == "label" else MISSING)
    for name in ("image", "horse"):
        _refuse(path, frame, frame[name].isna(), [name], f"every row needs {name}")
    unknown = ~frame["label"].isin(classes)
    remedy = f"write one of {', '.join(classes)}, or add it to data.classes"
    _refuse(path, frame, unknown, ["label"], remedy)
    frame["confidence"] = _numbers(path, frame, "confidence")
    remedy = "write 0 or more: how much the rating weighs beside others of its photograph"
    _refuse(path, frame, frame["confidence"] < 0, ["confidence"], remedy)
    frame[BOX] = _boxes(path, frame)
    frame = frame.drop(
        columns=[name for name in columns.values() if name not in ANNOTATED | {*columns}]
    )
    for name in frame.columns.difference([*ANNOTATED]):
        frame[name] = _text(frame, name)
    _check_horses(path, frame, classes)
    return frame


def read_regions(
    path: str | Path, columns: dict[str, str], *, with_horse: bool = True
) -> pd.DataFrame:
    """Read the user's regions: line, image, horse, region, kind, x0..y1, visible (bool).

    Rows of kind ``box`` have float corners; ``points`` ("x y x y …") and ``mask`` (an image file)
    are kept as text in columns of these names. Unless ``with_horse``, horse may be null.
    """
    frame = _read_any(Path(path), columns)
    named = ["image", "horse"] if with_horse else ["image"]
    _require(frame, path, [*named, "region", "kind"])
    for name in ("image", "horse", "region", "kind", "points", "mask"):
        frame[name] = _text(frame, name)
    for name in named:
        _refuse(path, frame, frame[name].isna(), [name], f"every row needs {name}")
    for name, known in (("region", [*REGIONS, WHOLE]), ("kind", ["box", "points", "mask"])):
        _refuse(path, frame, ~frame[name].isin(known), [name], f"write one of {', '.join(known)}")
    for name in BOX:
        frame[name] = _numbers(path, frame, name)
    answer = _text(frame, "visible").str.lower()
    unclear = answer.notna() & ~answer.isin(HIDDEN | SHOWN)
    _refuse(path, frame, unclear, ["visible"], "write yes or no")
    frame["visible"] = ~answer.isin(HIDDEN)
    shown = frame["visible"]
    boxless = shown & (frame["kind"] == "box") & frame[BOX].isna().any(axis=1)
    _refuse(path, frame, boxless, BOX, "a visible box has x0, y0, x1 and y1")
    empty = (frame["x1"] <= frame["x0"]) | (frame["y1"] <= frame["y0"])
    _refuse(path, frame, shown & empty, BOX, "x1 is right of x0 and y1 below y0, in pixels")
    unmasked = shown & (frame["kind"] == "mask") & frame["mask"].isna()
    _refuse(path, frame, unmasked, ["mask"], "a visible mask names its image file")
    dotted = frame[shown & (frame["kind"] == "points")]
    for text, line in zip(dotted["points"], dotted["line"], strict=True):
        read_points(text, line, path)
    return frame


def check_regions(path: str | None, views: Mapping[str, settings.View]) -> None:
    """Read the study's regions and refuse a view around one that has no box in the table.

    Without a path nothing is read: a demo draws every region.
    """
    boxed = set(REGIONS)
    if path:
        regions = read_regions(path, {})
        boxed = set(regions.loc[regions["visible"] & (regions["kind"] != "mask"), "region"])
    for view, frame in views.items():
        for region in frame.regions:
            if region not in boxed:
                raise UserError(
                    f"views.{view}.regions: {region!r} is nowhere visible, as a box or points, in "
                    f"{path or 'the demo'}; write some of {', '.join(sorted(boxed)) or 'its rows'}"
                )


def region_names(given: Set[str]) -> list[str]:
    """Regions and roll-ups that a table which names ``given`` can speak of, in one order."""
    known = given | {"background"}
    singles = [name for name in (*REGIONS, WHOLE) if name in known]
    return singles + [name for name, parts in ROLLUPS.items() if known & {*parts}]


def check_ethogram(path: str | None, expected: Mapping[str, list[str]], *, drawn: bool) -> None:
    """Refuse expected regions that the study's table of regions does not show.

    Parameters
    ----------
    path : of the table of regions.
    drawn : the study is a demo, which draws every region.
    """
    if not expected:
        return
    if not path and not drawn:
        raise UserError(
            "ethogram: regions are expected, but data.regions is null; give the table, or write "
            "`ethogram: {}`"
        )
    given = {*REGIONS}
    if path:
        regions = read_regions(path, {})
        given = set(regions.loc[regions["visible"], "region"])
    known = region_names(given)
    for label, names in expected.items():
        for name in names:
            if name not in known:
                raise UserError(
                    f"ethogram.{label}: {name!r} is nowhere visible in {path or 'the demo'}; write "
                    f"some of {', '.join(known)}"
                )


def has_boxes(path: str | Path, columns: dict[str, str]) -> bool:
    """Say whether the user's annotations have columns of a box; reads the header alone."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        if path.suffix.lower() == ".parquet":
            names = pq.read_schema(path).names
        elif path.suffix.lower() in (".xlsx", ".xlsm"):
            names = [str(name) for name in pd.read_excel(path, nrows=0).columns]
        else:
            with path.open("rb") as file:
                start = file.read(HEADER_BYTES)
            start = start[: start.rfind(b"\n") + 1] or start
            _, header, separator, _ = _header(_decoded(start, "ignore"))
            names = [name.strip().strip('"') for name in header.split(separator)]
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, pa.ArrowException):
        return False  # read_annotations tells what is wrong
    return {columns.get(name, name) for name in BOX} <= {name.strip() for name in names}


def read_codes(path: str | Path) -> pd.DataFrame:
    """Read the user's codes: image, horse, and a float column per code, NaN where not visible."""
    frame = _read_any(Path(path), {})
    _require(frame, path, ["image", "horse"])
    for name in ("image", "horse"):
        frame[name] = _text(frame, name)
        _refuse(path, frame, frame[name].isna(), [name], f"every row needs {name}")
    again = frame.duplicated(["image", "horse"])
    _refuse(path, frame, again, ["image", "horse"], "write one row for an image and horse")
    codes = [str(name) for name in frame.columns.difference(["line", "image", "horse"], sort=False)]
    if not codes:
        raise UserError(f"{path}: no column of a code; write one after image and horse")
    for name in codes:
        frame[name] = _numbers(path, frame, name)
    return frame[["image", "horse", *codes]]


def read_new_images(path: str | Path) -> tuple[pd.DataFrame, Path]:
    """List the images of ``predict.images``, a folder or a table.

    Returns
    -------
    Rows line, image, x0..y1 (float, NaN in a row without a box), and the folder that the images'
    paths start from: a table's own.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(f for f in path.rglob("*") if f.suffix.lower() in PICTURES)
        names = [str(file.relative_to(path)) for file in found]
        if not names:
            raise UserError(
                f"predict.images: no images in the folder {path}; write the folder that holds "
                f"them ({', '.join(sorted(PICTURES))})"
            )
        rows = {"line": np.arange(1, len(names) + 1), "image": names}
        return pd.DataFrame(rows | dict.fromkeys(BOX, np.nan)), path
    if not path.is_file():
        raise UserError(
            f"predict.images: no such folder or table {path}; write the folder, or the table, of "
            "new images"
        )
    frame = _read_any(path, {})
    _require(frame, path, ["image"])
    frame["image"] = _text(frame, "image")
    _refuse(path, frame, frame["image"].isna(), ["image"], "every row needs an image")
    frame[BOX] = _boxes(path, frame)
    return frame[["line", "image", *BOX]], path.parent


def read_points(text: str | None, line: int, path: str | Path = "data.regions") -> np.ndarray:
    """Points (n, 2) in pixels from ``x y x y …`` (spaces, commas or semicolons between)."""
    try:
        values = np.array(str(text).replace(",", " ").replace(";", " ").split(), float)
    except ValueError:
        values = np.empty(0)
    if len(values) < 2 or len(values) % 2 or not np.isfinite(values).all():
        found = "empty" if pd.isna(text) else repr(text)
        raise UserError(f"{path}, line {line}: points is {found}; write pairs of numbers, x y x y")
    return values.reshape(-1, 2)


def _check_horses(path: str | Path, frame: pd.DataFrame, classes: list[str]) -> None:
    """Refuse names that may be one horse written twice, and classes that too few horses show."""
    names = pd.Series(frame["horse"].unique())
    plain = names.map(_plain)
    for _, alike in names.groupby(plain[plain.duplicated(keep=False)]):
        one, other = sorted(alike)[:2]
        line = frame.loc[frame["horse"] == other, "line"].iloc[0]
        raise UserError(
            f"{path}, line {line}: horse is {other!r}, elsewhere {one!r}; write one name for one "
            "horse, and names that differ in more than case or accents for two"
        )
    horses = frame.groupby("label")["horse"].nunique()
    for label in classes:
        found = int(horses.get(label, 0))
        if not found:
            raise UserError(
                f"{path}: no row has the class {label!r}; check its spelling, or take it out of "
                "data.classes"
            )
        if found < 3:
            raise UserError(
                f"{path}: class {label!r} is shown by {found} horse{'s' * (found != 1)}; a class "
                "needs at least 3: one to learn from, one to choose by, one to judge by"
            )


def _plain(name: str) -> str:
    """A name without case and accents."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _read_any(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read a table, its cells as text, with its line numbers and Equimood's column names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; write the path of your table")
    if path.suffix.lower() in (".xls", ".ods", ".numbers"):
        raise UserError(f"{path}: a table of kind {path.suffix}; save it as CSV or XLSX")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; save the table again")
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path).reset_index(drop=True)
        elif path.suffix.lower() in (".xlsx", ".xlsm"):
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            frame = _read_delimited(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable table: {error}") from None
    frame.columns = frame.columns.map(lambda name: str(name).strip())
    twice = frame.columns.duplicated() | (
        frame.columns.isin(KNOWN | {*columns.values()}) & (frame.columns + ".1").isin(frame.columns)
    )  # pandas calls the second x `x.1`
    if twice.any():
        raise UserError(
            f"{path}: two columns are called {frame.columns[twice][0]}; keep one, or rename it"
        )
    lines = np.arange(2, len(frame) + 2) + frame.attrs.get("lines_above", 0)
    for name in frame.columns[frame.dtypes == "str"]:  # a quoted cell may hold line breaks
        breaks = frame[name].str.count("\n").fillna(0).to_numpy(int)
        lines[1:] += breaks.cumsum()[:-1]
    for ours, yours in columns.items():
        if yours not in frame:
            raise UserError(
                f"data.columns: {ours} is {yours!r}, which {path} does not have; found "
                f"{', '.join(frame.columns)}"
            )
    written = (frame != "").any(axis=1)
    frame = frame.assign(**{ours: frame[yours] for ours, yours in columns.items()}, line=lines)
    frame = frame[written].reset_index(drop=True)
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    return frame


def _decoded(content: bytes, errors: str = "strict") -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors)


def _header(text: str) -> tuple[int, str, str, list[str]]:
    """Lines above the header, the header, what parts its cells, and some lines below."""
    # Excel is told the separator by a line of its own.
    above = 1 if text[:4].lower() == "sep=" else 0
    header, *below = text.split("\n", 9)[above:9] or [""]
    return above, header, max(SEPARATORS, key=header.count), below


def _read_delimited(path: Path) -> pd.DataFrame:
    text = _decoded(path.read_bytes())
    above, header, separator, below = _header(text)
    if separator not in header and header.strip(' "\r') != "image":
        if any(other in line for line in below for other in SEPARATORS):
            raise ValueError(f"line {1 + above} names no columns; the header must be line 1")
        if len(header.split()) > 1:
            raise ValueError("spaces part its cells; save it with commas, semicolons or tabs")
    # Cells stay text: a horse may be called 007.
    frame = pd.read_csv(
        io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skip_blank_lines=False,
        skiprows=above,
    )  # fmt: skip
    frame.attrs["lines_above"] = above
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("rows have more cells than the header has names")
    if separator != ",":  # 12,5 is a number where commas do not part the cells
        for name in frame.columns.drop("points", errors="ignore"):  # 12,5 there is a point
            if frame[name].str.contains(",", regex=False).any():
                frame[name] = frame[name].str.replace(
                    r"^\s*(-?\d+),(\d+)\s*$", r"\1.\2", regex=True
                )
    return frame


def _require(
    frame: pd.DataFrame, path: str | Path, names: list[str], *, or_map: bool = False
) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        for cells in frame.head(9).astype(str).to_dict("records"):
            if {*missing} <= {*cells.values()}:
                raise UserError(
                    f"{path}: the names of the columns stand in line {cells['line']}; the header "
                    "must be line 1: delete what is above it"
                )
        mapped = f", or say which it is in data.columns, as `{missing[0]}: your_name`"
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found "
            f"{', '.join(frame.columns.drop('line'))}. Rename it{mapped if or_map else ''}"
        )


def _text(frame: pd.DataFrame, name: str, missing: Set[str] = MISSING) -> pd.Series:
    """Strip a column; whole numbers read as floats lose their ``.0``; missing becomes null."""
    if name not in frame:
        return pd.Series(None, index=frame.index, dtype="str")
    column = frame[name]
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    text = column.astype("string").str.strip().astype("str")
    return text.mask(text.isin(missing))


def _numbers(path: str | Path, frame: pd.DataFrame, name: str) -> pd.Series:
    """Float column, NaN where missing."""
    if name not in frame:
        return pd.Series(np.nan, index=frame.index)
    text = _text(frame, name)
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    wrong = text.notna() & ~np.isfinite(numbers)
    _refuse(path, frame, wrong, [name], "write a number, with a point")
    return numbers


def _boxes(path: str | Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Columns x0..y1, float; NaN in a row without a box."""
    boxes = pd.DataFrame({name: _numbers(path, frame, name) for name in BOX})
    frame = frame.assign(**{name: boxes[name] for name in BOX})
    partial = boxes.isna().any(axis=1) & boxes.notna().any(axis=1)
    _refuse(path, frame, partial, BOX, "a box has x0, y0, x1 and y1, or none of them")
    empty = (boxes["x1"] <= boxes["x0"]) | (boxes["y1"] <= boxes["y0"])
    _refuse(path, frame, empty, BOX, "x1 is right of x0 and y1 below y0, in pixels")
    return boxes


def _refuse(
    path: str | Path, frame: pd.DataFrame, wrong: pd.Series, names: list[str], remedy: str
) -> None:
    """Tell the wrong rows, those with the same cells together, and what to write instead."""
    if not wrong.any():
        return
    verb = "is" if len(names) == 1 else "are"
    told = []
    faults = frame[wrong].groupby(names, sort=False, dropna=False)["line"].agg(["first", "size"])
    faults = faults.reset_index().sort_values("first")
    for *row, line, n_rows in faults.head(TOLD).itertuples(index=False):
        cells = ["empty" if pd.isna(cell) else str(cell) for cell in row]
        found = repr(cells[0]) if cells != ["empty"] and len(cells) == 1 else ", ".join(cells)
        more = f" (and {n_rows - 1} more row{'s' * (n_rows > 2)})" if n_rows > 1 else ""
        told.append(f"line {line}{more}: {', '.join(names)} {verb} {found}")
    if len(faults) > TOLD:
        told.append(f"{len(faults) - TOLD} more such")
    raise UserError(f"{path}, {'; '.join(told)}; {remedy}")
