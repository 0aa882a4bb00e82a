"""The tables that travel between stages: columns, types, checks.

Inner tables are Parquet with a fixed Arrow schema. The user's tables are read here, once, and
every complaint names the file, the line, what was found and what to write instead.
"""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
SHARD = _schema(image_id=_TEXT, view=_TEXT, path=_TEXT, x0=_INT, y0=_INT, x1=_INT, y1=_INT)
QUARANTINE = ["line", "image", "horse", "view", "reason", "remedy"]
NEAR_DUPLICATES = _schema(image_a=_TEXT, image_b=_TEXT, horse_a=_TEXT, horse_b=_TEXT, bits=_INT)
SPLITS = _schema(
    fold=_TEXT,  # "0", "1", …, or "final": every horse trains
    horse=_TEXT,
    role=_TEXT,  # train or test
    inner_fold=_INT,  # -1 for test horses
)
PREDICTIONS = _schema(
    image_id=_TEXT, photo_id=_TEXT, path=_TEXT, horse=_TEXT, session=_TEXT, fold=_TEXT,
    truth=_TEXT, predicted=_TEXT,
)  # and p_{class}, one column a class  # fmt: skip
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
    visible=pa.bool_(),
)


def write(frame: pd.DataFrame, path: str | Path, schema: pa.Schema, *extra: str) -> None:
    """Write the schema's columns (and ``extra`` float columns) as Parquet, whole."""
    fields = [*schema, *(pa.field(name, _REAL) for name in extra)]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    with written_whole(path) as aside:
        pq.write_table(table.replace_schema_metadata(None), aside)


def read(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read an inner table."""
    return pq.read_table(path, columns=columns).to_pandas()


def read_annotations(path: str | Path, classes: list[str], columns: dict[str, str]) -> pd.DataFrame:
    """Read the user's annotations and check them.

    Returns
    -------
    One row per image and rater: ``line`` (of the file, the header is line 1), image, label, horse,
    and session, rater, confidence, fold, x0..y1 (float, NaN where there is no box), null where not
    given; other columns follow unchanged.
    """
    frame = _read_any(Path(path), columns)
    _require(frame, path, ["image", "label", "horse"])
    for name in ("image", "label", "horse", "session", "video", "rater", "fold"):
        frame[name] = _text(frame[name]) if name in frame else None
    for name in ("image", "horse"):
        _refuse(path, frame, frame[name].isna(), name, f"empty; every row needs {name}")
    unknown = ~frame["label"].isin(classes)
    _refuse(path, frame, unknown, "label", f"write one of {', '.join(classes)}, or add it to "
            "data.classes")  # fmt: skip
    for name in ("confidence", *BOX):
        frame[name] = _numbers(path, frame, name) if name in frame else np.nan
    partial = frame[BOX].isna().any(axis=1) & frame[BOX].notna().any(axis=1)
    _refuse(path, frame, partial, "x0", "a box has x0, y0, x1 and y1, or none of them")
    empty = (frame["x1"] <= frame["x0"]) | (frame["y1"] <= frame["y0"])
    _refuse(path, frame, empty, "x0", "empty box; x1 is right of x0 and y1 below y0")
    horses = frame.groupby("label")["horse"].nunique()
    for label in classes:
        if (found := int(horses.get(label, 0))) < 2:
            raise UserError(
                f"{path}: class {label!r} is shown by {found} horse{'s' * (found != 1)}; a class "
                "needs at least 2, so that one can be judged by what was learnt from another"
            )
    return frame


def read_regions(path: str | Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read the user's regions: line, image, horse, region, kind, x0..y1, visible (bool).

    Rows of kind ``box`` have float corners; ``points`` ("x y x y …") and ``mask`` (an image file)
    are kept as text in columns of these names.
    """
    frame = _read_any(Path(path), columns)
    _require(frame, path, ["image", "horse", "region", "kind"])
    for name in ("image", "horse", "region", "kind", "points", "mask"):
        frame[name] = _text(frame[name]) if name in frame else None
    _refuse(path, frame, ~frame["region"].isin(REGIONS), "region",
            f"write one of {', '.join(REGIONS)}")  # fmt: skip
    _refuse(path, frame, ~frame["kind"].isin(["box", "points", "mask"]), "kind",
            "write box, points or mask")  # fmt: skip
    for name in BOX:
        frame[name] = _numbers(path, frame, name) if name in frame else np.nan
    shown = frame["visible"] if "visible" in frame else pd.Series(True, frame.index)
    answers = shown.map(lambda v: str(v).strip().lower())
    frame["visible"] = ~answers.isin(["0", "0.0", "false", "no", "non", "faux"])
    boxless = frame["visible"] & (frame["kind"] == "box") & frame[BOX].isna().any(axis=1)
    _refuse(path, frame, boxless, "x0", "a visible box has x0, y0, x1 and y1")
    return frame


def _read_any(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; write the path of your table in the section data")
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix.lower() in (".xlsx", ".xlsm"):
            frame = pd.read_excel(path)
        else:
            frame = _read_delimited(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable table: {error}") from None
    frame = frame.rename(columns=lambda name: str(name).strip())
    frame = frame.rename(columns={yours: ours for ours, yours in columns.items()})
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    frame.insert(0, "line", np.arange(2, len(frame) + 2))
    return frame


def _read_delimited(path: Path) -> pd.DataFrame:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    header = text.split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    decimal = "," if separator == ";" else "."
    try:
        return pd.read_csv(io.StringIO(text), sep=separator, decimal=decimal)
    except csv.Error as error:
        raise ValueError(error) from None


def _require(frame: pd.DataFrame, path: str | Path, names: list[str]) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(frame.columns[1:])}. Rename "
            f"it, or say which it is in data.columns, as `{missing[0]}: your_name`"
        )


def _text(column: pd.Series) -> pd.Series:
    """Strip; whole numbers read as floats lose their ``.0``; empty becomes None."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    stripped = column.astype("string").str.strip().astype(object)
    return stripped.where(stripped.notna() & (stripped != ""), None)


def _numbers(path: str | Path, frame: pd.DataFrame, name: str) -> pd.Series:
    numbers = pd.to_numeric(frame[name], errors="coerce").astype(float)
    wrong = numbers.isna() & frame[name].notna() | ~np.isfinite(numbers.fillna(0))
    _refuse(path, frame, wrong, name, "write a number, with a point")
    return numbers


def _refuse(
    path: str | Path, frame: pd.DataFrame, wrong: pd.Series, name: str, remedy: str
) -> None:
    if not wrong.any():
        return
    first = frame[wrong].iloc[0]
    more = f" (and {int(wrong.sum()) - 1} more rows)" if wrong.sum() > 1 else ""
    raise UserError(f"{path}, line {first['line']}{more}: {name} is {first[name]!r}; {remedy}")
