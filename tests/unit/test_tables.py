from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import tables
from equimood.errors import UserError
from equimood.settings import View

CLASSES = ["calm", "alert"]
HEADER = ["image", "label", "horse"]
ROWS = [[f"{i}.jpg", CLASSES[i % 2], f"Bella {i // 2}"] for i in range(6)]


def table(path: Path, rows: list[list], header: list[str] = HEADER, separator: str = ",") -> Path:
    lines = [separator.join(map(str, cells)) for cells in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    return tables.read_annotations(path, CLASSES, columns or {})


def complaint(path: Path, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read(path, columns)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_plain_table_gets_every_column_that_others_rely_on(tmp_path):
    found = read(table(tmp_path / "a.csv", ROWS))
    assert found["line"].tolist() == [2, 3, 4, 5, 6, 7]
    assert found["image"].tolist() == [row[0] for row in ROWS]
    for name in ("session", "video", "rater", "fold", "confidence", *tables.BOX):
        assert found[name].isna().all(), name
    assert (found[["session", "video", "rater", "fold"]].dtypes == "str").all()
    assert (found[tables.BOX].dtypes == "float64").all()


FRENCH_HEADER = ["image", "label", "horse", "x0", "y0", "x1", "y1", "séance"]
FRENCH = [
    [f"été {i}.jpg", CLASSES[i % 2], f"Étoile {i // 2}", "1,5", "2", "30,25", "40,0", "à jeun"]
    for i in range(6)
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_french_spreadsheet_is_read_in_any_encoding(tmp_path, encoding, separator):
    text = "\r\n".join(separator.join(cells) for cells in [FRENCH_HEADER, *FRENCH]) + "\r\n"
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    found = read(path, {"session": "séance"})
    assert found.loc[2, ["image", "horse", "session"]].tolist() == [
        "été 2.jpg",
        "Étoile 1",
        "à jeun",
    ]
    assert found.loc[0, tables.BOX].tolist() == [1.5, 2, 30.25, 40]


def test_a_decimal_comma_where_commas_part_cells_is_refused(tmp_path):
    rows = [[*row, '"1,5"', 2, 30, 40] for row in ROWS]
    message = complaint(table(tmp_path / "a.csv", rows, [*HEADER, *tables.BOX]))
    assert "line 2 (and 5 more rows): x0 is '1,5'; write a number, with a point" in message


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "xlsx"])
def test_every_file_type_gives_the_same_table(tmp_path, kind):
    rows = [[*row, 10, 20.5, 30, 40, "007"] for row in ROWS]
    rows[3][3:7] = [None] * 4
    frame = pd.DataFrame(rows, columns=[*HEADER, *tables.BOX, "session"])
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    found = read(path)
    assert found["session"].tolist() == ["007"] * 6
    assert found.loc[0, tables.BOX].tolist() == [10, 20.5, 30, 40]
    assert found.loc[3, tables.BOX].isna().all()
    assert found["line"].tolist() == [2, 3, 4, 5, 6, 7]


def test_names_that_look_like_numbers_stay_as_they_are_written(tmp_path):
    rows = [[f"{i:03d}", CLASSES[i % 2], f"{i // 2:02d}"] for i in range(6)]
    found = read(table(tmp_path / "a.csv", rows))
    assert found["image"].tolist()[:2] == ["000", "001"]
    assert found["horse"].tolist()[:3] == ["00", "00", "01"]


def test_whole_numbers_of_a_parquet_file_are_names_without_a_point(tmp_path):
    frame = pd.DataFrame({"image": np.arange(6), "label": CLASSES * 3, "horse": [1, 1, 2, 2, 3, 3]})
    frame["session"] = [1.0, 2.0, np.nan, 1.0, 2.0, 1.0]
    frame.to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert found["horse"].tolist() == ["1", "1", "2", "2", "3", "3"]
    assert found["session"].tolist()[:2] == ["1", "2"] and pd.isna(found["session"][2])


@pytest.mark.parametrize("missing", ["", " ", "NA", "NaN", "#N/A", "NULL"])
def test_missing_values_of_other_programs_are_missing(tmp_path, missing):
    rows = [[*row, missing, missing, missing, missing, missing] for row in ROWS]
    found = read(table(tmp_path / "a.csv", rows, [*HEADER, *tables.BOX, "session"]))
    assert found[[*tables.BOX, "session"]].isna().all(axis=None)
    rows[2][2] = missing
    message = complaint(table(tmp_path / "a.csv", rows, [*HEADER, *tables.BOX, "session"]))
    assert "line 4: horse is empty; every row needs horse" in message


def test_a_class_may_be_called_none(tmp_path):
    rows = [[f"{i}.jpg", ["None", "NA"][i % 2], f"h{i // 2}"] for i in range(6)]
    found = tables.read_annotations(table(tmp_path / "a.csv", rows), ["None", "NA"], {})
    assert found["label"].tolist() == ["None", "NA"] * 3


def test_blank_rows_are_skipped_and_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.csv"
    first, *others = [",".join(row) for row in ROWS]
    path.write_text("\n".join(["image,label,horse", "", ",,", first, "", *others]) + "\n\n")
    assert read(path)["line"].tolist() == [4, 6, 7, 8, 9, 10]


def test_lines_are_counted_through_cells_with_line_breaks(tmp_path):
    rows = [[*row, '"two\nlines"'] for row in ROWS]
    found = read(table(tmp_path / "a.csv", rows, [*HEADER, "note"]))
    assert found["line"].tolist() == [2, 4, 6, 8, 10, 12]


def test_other_columns_follow_unchanged_even_one_called_line(tmp_path):
    rows = [[*row, "ridden", "9"] for row in ROWS]
    found = read(table(tmp_path / "a.csv", rows, [*HEADER, "use", "line"]))
    assert found["use"].tolist() == ["ridden"] * 6
    assert found["line"].tolist() == [2, 3, 4, 5, 6, 7]


def test_the_users_column_names_are_mapped_and_may_serve_twice(tmp_path):
    rows = [[image, label, horse, "other"] for image, label, horse in ROWS]
    path = table(tmp_path / "a.csv", rows, ["file", "mood", "name", "horse"])
    columns = {"image": "file", "label": "mood", "horse": "name", "session": "name"}
    found = read(path, columns)
    assert found["horse"].tolist() == found["session"].tolist() == [row[2] for row in ROWS]


def test_a_mapped_column_that_is_not_there_is_named(tmp_path):
    message = complaint(table(tmp_path / "a.csv", ROWS), {"session": "visit"})
    assert "data.columns: session is 'visit'" in message and "image, label, horse" in message


def test_a_missing_column_is_named_with_what_was_found_and_what_to_write(tmp_path):
    message = complaint(table(tmp_path / "a.csv", ROWS, ["file", "label", "horse"]))
    assert "no column image; found file, label, horse" in message
    assert "`image: your_name`" in message


def changed(tmp_path: Path, row: int, column: str, value: object) -> Path:
    header = [*HEADER, *tables.BOX]
    rows = [[*cells, 1, 2, 30, 40] for cells in ROWS]
    rows[row][header.index(column)] = value
    return table(tmp_path / "a.csv", rows, header)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (0, "label", "clam", "line 2: label is 'clam'; write one of calm, alert, or add it"),
        (1, "label", "", "line 3: label is empty; write one of calm, alert"),
        (2, "image", "", "line 4: image is empty; every row needs image"),
        (3, "x0", "left", "line 5: x0 is 'left'; write a number, with a point"),
        (3, "x0", "inf", "line 5: x0 is 'inf'; write a number"),
        (4, "y1", "", "line 6: x0, y0, x1, y1 are 1.0, 2.0, 30.0, empty; a box has"),
        (5, "x1", "1", "line 7: x0, y0, x1, y1 are 1.0, 2.0, 1.0, 40.0; x1 is right of x0"),
        (5, "y1", "-3", "line 7: x0, y0, x1, y1 are 1.0, 2.0, 30.0, -3.0; x1 is right of x0"),
        (5, "horse", "BELLA 1", "line 7: horse is 'Bella 1', elsewhere 'BELLA 1'"),
    ],
)
def test_a_complaint_names_file_line_finding_and_remedy(tmp_path, row, column, value, message):
    found = complaint(changed(tmp_path, row, column, value))
    if column == "horse":  # the line is that of the first row with the second name
        message = "horse is 'Bella 1', elsewhere 'BELLA 1'; write one name"
    assert message in found


def test_every_different_fault_is_told_once(tmp_path):
    rows = [[f"{i}.jpg", "calm", f"h{i}"] for i in range(20)]
    for i, label in {1: "clam", 3: "", 4: "clam ", 6: "", 7: "", 9: "tense"}.items():
        rows[i][1] = label
    message = complaint(table(tmp_path / "a.csv", rows))
    assert message.endswith(
        "a.csv, line 3 (and 1 more row): label is 'clam'; line 5 (and 2 more rows): label is "
        "empty; line 11: label is 'tense'; write one of calm, alert, or add it to data.classes"
    )
    for i, row in enumerate(rows):
        row[1] = f"mood {i}"
    message = complaint(table(tmp_path / "a.csv", rows))
    assert "line 6: label is 'mood 4'; 15 more such; write one of" in message


@pytest.mark.parametrize("other", ["E\u0301toile", "Etoile", "étoile"])
def test_names_that_differ_in_accents_or_case_are_one_horse(tmp_path, other):
    rows = [list(row) for row in ROWS]
    rows[0][2], rows[1][2] = "Étoile", other
    assert "write one name for one horse" in complaint(table(tmp_path / "a.csv", rows))


def test_a_class_that_two_horses_show_is_refused_before_any_job(tmp_path):
    rows = [row for row in ROWS if row[1:] != ["alert", "Bella 2"]]
    message = complaint(table(tmp_path / "a.csv", rows))
    assert "class 'alert' is shown by 2 horses" in message and "at least 3" in message


def test_a_class_that_one_horse_shows_is_refused(tmp_path):
    rows = [[f"{i}.jpg", "calm", f"Bella {i}"] for i in range(4)] + [["x.jpg", "alert", "Bella 1"]]
    told = "class 'alert' is shown by 1 horse; a class needs at least 3: one to learn from"
    assert told in complaint(table(tmp_path / "a.csv", rows))


def test_a_class_that_no_row_has_is_taken_for_a_misspelling(tmp_path):
    path = table(tmp_path / "a.csv", ROWS)
    with pytest.raises(UserError, match=r"no row has the class 'alrt'; check its spelling, or "):
        tables.read_annotations(path, [*CLASSES, "alrt"], {})


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.xlsx"])
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    assert "no such file" in complaint(path)
    path.write_bytes(b"")
    assert f"{path}: the file is empty; save the table again" in complaint(path)
    path.write_bytes(bytes(range(256)) * 4)
    assert complaint(path)


def test_a_table_without_rows_is_refused(tmp_path):
    assert "has no rows" in complaint(table(tmp_path / "a.csv", []))


def test_rows_with_too_many_cells_are_refused(tmp_path):
    one = [*ROWS[:2], [*ROWS[2], "more"], *ROWS[3:]]
    assert "line 4" in complaint(table(tmp_path / "a.csv", one))
    every = [[*row, "more"] for row in ROWS]  # pandas would take the first for an index
    assert "more cells than the header" in complaint(table(tmp_path / "a.csv", every))


@pytest.mark.parametrize("name", ["a.xls", "a.ods"])
def test_a_table_of_another_kind_is_refused_with_what_to_save(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    told = f"a table of kind {Path(name).suffix}; save it as CSV or XLSX"
    assert told in complaint(tmp_path / name)


def test_bars_may_part_cells_and_spaces_may_not(tmp_path):
    assert len(read(table(tmp_path / "a.csv", ROWS, separator="|"))) == 6
    rows = [[cell.replace(" ", "") for cell in row] for row in ROWS]
    told = complaint(table(tmp_path / "b.csv", rows, separator=" "))
    assert "spaces part its cells; save it with commas, semicolons or tabs" in told


def test_excels_line_about_the_separator_is_passed_over_and_counted(tmp_path):
    path = table(tmp_path / "a.csv", ROWS, separator=";")
    path.write_text("sep=;\n" + path.read_text())
    assert read(path)["line"].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("Horses 2026\n", "line 1 names no columns; the header must be line 1"),
        (
            "Horses 2026,,\n,,\n",
            "the names of the columns stand in line 3; the header must be line",
        ),
    ],
)
def test_a_title_above_the_header_is_refused(tmp_path, title, told):
    path = table(tmp_path / "a.csv", ROWS)
    path.write_text(title + path.read_text())
    assert told in complaint(path)


@pytest.mark.parametrize("header", [[*HEADER, "horse"], [*HEADER, "horse "]])
def test_a_column_that_stands_twice_is_refused(tmp_path, header):
    path = table(tmp_path / "a.csv", [[*row, "Comet"] for row in ROWS], header)
    assert "two columns are called horse; keep one, or rename it" in complaint(path)
    path = table(tmp_path / "b.csv", [[*row, "1", "2"] for row in ROWS], [*HEADER, "note", "note"])
    assert len(read(path)) == 6


REGION_HEADER = ["image", "horse", "region", "kind", *tables.BOX, "points", "mask", "visible"]


def regions(tmp_path: Path, *rows: list) -> Path:
    return table(tmp_path / "regions.csv", list(rows), REGION_HEADER)


def test_regions_of_all_kinds_are_read(tmp_path):
    path = regions(
        tmp_path,
        ["a.jpg", "Bella", "ear_left", "box", 1, 2, 3.5, 4, "", "", 1],
        ["a.jpg", "Bella", "eye_left", "points", "", "", "", "", "1 2 3 4.5", "", "yes"],
        ["a.jpg", "Bella", "neck", "mask", "", "", "", "", "", "m.png", "TRUE"],
        ["a.jpg", "Bella", "ear_right", "box", "", "", "", "", "", "", "non"],
    )
    found = tables.read_regions(path, {})
    assert found["visible"].tolist() == [True, True, True, False]
    assert found.loc[0, tables.BOX].tolist() == [1, 2, 3.5, 4]
    assert tables.read_points(found.loc[1, "points"], 3).tolist() == [[1, 2], [3, 4.5]]
    assert found.loc[2, "mask"] == "m.png"
    tables.write(found, tmp_path / "r.parquet", tables.GIVEN_REGIONS)
    again = tables.read(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(again, found[tables.GIVEN_REGIONS.names], check_dtype=False)


def test_a_point_of_a_french_table_is_no_decimal_number(tmp_path):
    row = ["a.jpg", "Bella", "eye_left", "points", "", "", "", "", "30,20", "", ""]
    path = table(tmp_path / "regions.csv", [row], REGION_HEADER, separator=";")
    found = tables.read_regions(path, {})
    assert tables.read_points(found.loc[0, "points"], 2).tolist() == [[30, 20]]


@pytest.mark.parametrize("answer", ["0", "False", "no", "non", "FAUX"])
def test_a_region_is_visible_unless_the_table_says_no(tmp_path, answer):
    box = ["a.jpg", "Bella", "ear_left", "box", 1, 2, 3, 4, "", ""]
    found = tables.read_regions(regions(tmp_path, [*box, answer], [*box, ""]), {})
    assert found["visible"].tolist() == [False, True]


def test_a_word_that_is_neither_yes_nor_no_is_refused(tmp_path):
    box = ["a.jpg", "Bella", "ear_left", "box", 1, 2, 3, 4, "", ""]
    path = regions(tmp_path, [*box, "Oui"], [*box, "hidden"])
    with pytest.raises(UserError, match="line 3: visible is 'hidden'; write yes or no"):
        tables.read_regions(path, {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ["Bella", "neck", "box", 3, 2, 3, 4, "", ""],
            "x0, y0, x1, y1 are 3.0, 2.0, 3.0, 4.0; x1 is",
        ),
        (["Bella", "ear", "box", 1, 2, 3, 4, "", ""], "region is 'ear'; write one of ear_left"),
        (["Bella", "neck", "circle", 1, 2, 3, 4, "", ""], "kind is 'circle'; write one of box"),
        (["", "neck", "box", 1, 2, 3, 4, "", ""], "horse is empty; every row needs horse"),
        (["Bella", "neck", "box", 1, 2, "", 4, "", ""], "a visible box has x0, y0, x1 and y1"),
        (["Bella", "neck", "box", 5, 2, 3, 4, "", ""], "x1 is right of x0"),
        (
            ["Bella", "neck", "points", "", "", "", "", "1 2 3", ""],
            "points is '1 2 3'; write pairs",
        ),
        (["Bella", "neck", "points", "", "", "", "", "", ""], "points is empty; write pairs"),
        (["Bella", "neck", "mask", "", "", "", "", "", ""], "mask is empty; a visible mask names"),
    ],
)
def test_a_complaint_about_regions_names_file_line_finding_and_remedy(tmp_path, row, message):
    good = ["a.jpg", "Bella", "neck", "box", 1, 2, 3, 4, "", "", ""]
    path = regions(tmp_path, good, ["a.jpg", *row, ""])
    with pytest.raises(UserError) as caught:
        tables.read_regions(path, {})
    assert f"{path}, line 3" in str(caught.value) and message in str(caught.value)


def test_a_view_around_a_region_that_the_table_never_shows_is_refused(tmp_path):
    path = regions(
        tmp_path,
        ["a.jpg", "Bella", "ear_left", "box", 1, 2, 3, 4, "", "", 1],
        ["a.jpg", "Bella", "eye_left", "points", "", "", "", "", "1 2", "", 1],
        ["a.jpg", "Bella", "neck", "mask", "", "", "", "", "", "m.png", 1],
        ["a.jpg", "Bella", "ear_right", "box", 1, 2, 3, 4, "", "", 0],
    )

    def around(*names):
        return {"whole": View(), "near": View(box="regions", regions=names)}

    tables.check_regions(str(path), around("eye_left", "ear_left"))
    for absent in ("neck", "ear_right", "head", "haed"):  # a mask has no box
        with pytest.raises(UserError) as refused:
            tables.check_regions(str(path), around("ear_left", absent))
        assert str(refused.value).startswith(f"views.near.regions: {absent!r} is nowhere visible")
        assert str(refused.value).endswith(f"in {path}; write some of ear_left, eye_left")
    tables.check_regions(None, around("neck", "head"))  # a demo draws every region
    with pytest.raises(UserError, match=r"'haed' is nowhere visible.* in the demo; write some"):
        tables.check_regions(None, around("haed"))


def test_a_table_is_written_whole_with_its_schema(tmp_path):
    rows = pd.DataFrame({name: ["0"] for name in ("fold", "horse", "role")})
    rows = rows.assign(inner_fold=1, more=0.5, unknown="x")
    tables.write(rows, tmp_path / "a.parquet", tables.SPLITS, "more")
    assert list(tables.read(tmp_path / "a.parquet")) == [*tables.SPLITS.names, "more"]
    with pytest.raises(KeyError):
        tables.write(rows.drop(columns="horse"), tmp_path / "b.parquet", tables.SPLITS)
    assert not (tmp_path / "b.parquet").exists()


def test_tables_are_concatenated_without_the_types_of_empty_ones(tmp_path):
    full = pd.DataFrame({"fold": ["0"], "horse": ["h"], "role": ["test"], "inner_fold": [-1]})
    for name, rows in (("a", full.head(0)), ("b", full), ("c", full)):
        tables.write(rows, tmp_path / f"{name}.parquet", tables.SPLITS)
    found = tables.concatenated(tmp_path / f"{name}.parquet" for name in "abc")
    assert len(found) == 2 and found["inner_fold"].dtype == "int32"
    assert len(tables.concatenated([tmp_path / "a.parquet"])) == 0


def test_a_confidence_below_0_is_refused(tmp_path):
    rows = [[*row, i] for i, row in enumerate(ROWS)]
    path = table(tmp_path / "a.csv", rows, [*HEADER, "confidence"])
    assert read(path)["confidence"].tolist() == list(range(len(ROWS)))
    rows[3][-1] = -0.5
    message = complaint(table(tmp_path / "b.csv", rows, [*HEADER, "confidence"]))
    assert "line 5: confidence is '-0.5'; write 0 or more" in message


def test_expected_regions_that_the_table_does_not_show_are_refused_by_name(tmp_path):
    table = tmp_path / "regions.csv"
    table.write_text(
        "image,horse,region,kind,x0,y0,x1,y1,visible\na.png,h,ear_left,box,0,0,5,5,1\n"
        "a.png,h,neck,box,,,,,0\n"
    )
    tables.check_ethogram(str(table), {"alarmed": ["ears", "ear_left"]}, drawn=False)
    tables.check_ethogram(None, {"alarmed": ["mouth"]}, drawn=True)
    tables.check_ethogram(None, {}, drawn=False)
    for name in ("neck", "ear", "eyes"):
        told = f"ethogram.alarmed: '{name}' is nowhere visible.*ear_left, background, ears, context"
        with pytest.raises(UserError, match=told):
            tables.check_ethogram(str(table), {"alarmed": ["ears", name]}, drawn=False)
    with pytest.raises(UserError, match=r"data\.regions is null"):
        tables.check_ethogram(None, {"alarmed": ["ears"]}, drawn=False)


def test_tables_are_written_one_below_the_other_without_reading_all(tmp_path):
    parts = []
    for i, n in enumerate((2, 0, 3)):
        rows = pd.DataFrame({"image_a": [f"{i}{j}" for j in range(n)], "bits": range(n)})
        rows = rows.reindex(columns=tables.NEAR_DUPLICATES.names)
        tables.write(rows, tmp_path / f"{i}.parquet", tables.NEAR_DUPLICATES)
        parts.append(tmp_path / f"{i}.parquet")
    tables.concatenate(parts, tmp_path / "all.parquet", tables.NEAR_DUPLICATES)
    found = tables.read(tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(found, tables.concatenated(parts))
    assert found["image_a"].tolist() == ["00", "01", "20", "21", "22"]
