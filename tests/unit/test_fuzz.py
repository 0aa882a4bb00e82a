"""Whatever a user writes, the readers take it or tell a mistake; nothing else is raised."""

import tempfile
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from equimood import settings, tables
from equimood.errors import UserError
from hypothesis import event, given
from hypothesis import settings as examples
from hypothesis import strategies as st

STUDIES = [
    yaml.safe_load(Path(name).read_text())
    for name in ("config.yaml", "tests/configs/tiny.yaml", "tests/configs/cluster.yaml")
]
CLASSES = ["neutral", "annoyed"]
TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "neutral",
        "whole",
        "head",
        "picture",
        "regions",
        "avg",
        "grid2",
        "../x",
        "1e400",
        "0x1",
        "=1+1",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(content, at=()):
    """Paths of all values in nested mappings and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inside:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


@st.composite
def mistaken(draw):
    """A study with up to three places changed, removed or added to."""
    study = deepcopy(draw(st.sampled_from(STUDIES)))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(study))))
        parent = study
        for key in way:
            parent = parent[key]
        what = draw(st.sampled_from(["change", "remove", "add"]))
        if what == "remove":
            del parent[last]
        elif what == "add" and isinstance(parent, dict):
            parent[draw(TEXT)] = draw(VALUES)
        else:
            parent[last] = draw(VALUES)
        if not study:
            break
    return study


@examples(max_examples=400, deadline=None)
@given(mistaken())
def test_any_settings_are_taken_or_refused(study):
    try:
        read = settings.load(study, "study.yaml")
    except UserError as error:
        assert "study.yaml" in str(error)
        assert "Traceback" not in str(error)
    else:
        assert settings.load(read.model_dump(mode="json"), "again") == read


@examples(max_examples=200, deadline=None)
@given(VALUES)
def test_a_file_of_something_else_is_refused(content):
    with pytest.raises(UserError):
        settings.load(content, "study.yaml")


CELLS = st.sampled_from([
    "", "a.jpg", "b.jpg", "../c.jpg", "h1", "h2", "h3", "neutral", "annoyed", "NA", "1", "-1",
    "1.5", "1,5", "nan", "inf", "1e400", '"', "x\ny", "é", "box", "points", "mask", "ear_left",
    "1 2 3 4",
]) | st.text(max_size=6)  # fmt: skip
NAMES = st.sampled_from([
    "image", "label", "horse", "session", "rater", "confidence", "fold", "region", "kind", "points",
    "mask", "visible", *tables.BOX,
]) | st.text(max_size=6)  # fmt: skip


HEADER = ["image", "horse", "label", "region", "kind", *tables.BOX, "confidence", "fold"]
ROWS = [
    [f"{i}.jpg", f"h{i // 2}", CLASSES[i % 2], "ear_left", "box", "1", "2", "30", "40", "0.5", "0"]
    for i in range(8)
]


@st.composite
def a_table(draw):
    """A header and rows: good ones with up to three cells changed, or anything."""
    if draw(st.booleans()):
        grid = [list(cells) for cells in [HEADER, *ROWS]]
        for _ in range(draw(st.integers(0, 3))):
            row = draw(st.integers(0, len(ROWS)))
            column = draw(st.integers(0, len(HEADER) - 1))
            grid[row][column] = draw(CELLS if row else NAMES)
        return grid
    header = draw(st.lists(NAMES, min_size=1, max_size=9))
    row = st.lists(CELLS, min_size=0, max_size=len(header) + 1)
    return [header, *draw(st.lists(row, max_size=8))]


@st.composite
def delimited(draw):
    """A table: quoted as it should be or not at all, in any of the usual encodings."""
    separator = draw(st.sampled_from(",;\t"))
    quote = draw(st.booleans())
    text = "\n".join(
        separator.join('"' + cell.replace('"', '""') + '"' if quote else cell for cell in cells)
        for cells in draw(a_table())
    )
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"]))
    return text.encode(encoding, "replace")


READERS = [
    lambda path: tables.read_annotations(path, CLASSES, {}),
    lambda path: tables.read_regions(path, {}),
    tables.read_new_images,
]


@pytest.mark.parametrize("read", READERS, ids=["annotations", "regions", "new_images"])
@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".parquet"])
@examples(max_examples=150, deadline=None)
@given(content=delimited() | st.binary(max_size=200))
def test_any_table_is_taken_or_refused(read, suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"table{suffix}")
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            event("refused")
            assert path.name in str(error)
        else:
            event("taken")
