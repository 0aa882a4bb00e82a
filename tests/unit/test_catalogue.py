import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from equimood import catalogue, images, tables
from equimood.errors import UserError
from equimood.settings import Ingest, View
from PIL import Image

CLASSES = ["alert", "calm"]
LENIENT = Ingest(max_refused=1.0)
BOX = tables.BOX


def draw(path: Path, seed: int, size: tuple[int, int] = (80, 60), **options: object) -> Path:
    """A picture of random blocks: another one, with another hash, for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return path


def boxed_by(*corners: float | None) -> dict:
    return dict(zip(BOX, corners, strict=True))


def annotate(*rows: dict) -> pd.DataFrame:
    """Rows as tables.read_annotations gives them."""
    texts = ["image", "label", "horse", "session", "video", "rater", "fold"]
    frame = pd.DataFrame(list(rows)).reindex(columns=[*texts, "confidence", *BOX])
    frame.insert(0, "line", np.arange(2, len(frame) + 2))
    return frame.astype(dict.fromkeys(texts, "str") | dict.fromkeys(["confidence", *BOX], float))


class Study:
    """Twelve photographs of six horses, and one way to ingest them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder / "images", folder / "state"
        self.state.mkdir()
        self.rows = [
            {"image": f"h{i % 6}/{i}.png", "label": CLASSES[i % 2], "horse": f"h{i % 6}"}
            for i in range(12)
        ]
        for i, row in enumerate(self.rows):
            draw(self.folder / row["image"], seed=i)
        self.looked_at = 0

    def build(
        self,
        annotations: pd.DataFrame | None = None,
        views: dict[str, View] | None = None,
        ingest: Ingest = LENIENT,
        regions: pd.DataFrame | None = None,
        workers: int = 1,
        controls: dict[str, View] | None = None,
    ) -> catalogue.Catalogue:
        self.looked_at = 0

        def count(done: int, total: int) -> None:
            self.looked_at = total

        return catalogue.build(
            annotate(*self.rows) if annotations is None else annotations,
            self.folder,
            regions,
            views or {"whole": View()},
            ingest,
            classes=CLASSES,
            state_dir=self.state,
            workers=workers,
            progress=count,
            controls=controls,
        )

    def with_rows(self, *rows: dict, **options: object) -> catalogue.Catalogue:
        return self.build(annotate(*self.rows, *rows), **options)

    def refusal(self, *rows: dict, **options: object) -> pd.Series:
        """The one row that is refused when these are added."""
        quarantine = self.with_rows(*rows, **options).quarantine
        assert len(quarantine) == 1, quarantine.to_string()
        assert quarantine["remedy"].str.len().all()
        return quarantine.iloc[0]


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_every_photograph_and_view_is_a_row_named_by_its_content(study):
    views = {"whole": View(), "head": View(box="annotations")}
    boxed = annotate(*(row | boxed_by(4, 5, 44, 45) for row in study.rows))
    found = study.build(boxed, views).images
    assert list(found) == tables.IMAGES.names and len(found) == 24
    assert found["image_id"].is_unique and found["image_id"].is_monotonic_increasing
    row = found[(found["path"] == "h3/3.png") & (found["view"] == "head")].iloc[0]
    content = hashlib.sha256((study.folder / "h3/3.png").read_bytes()).hexdigest()
    assert row["image_id"] == hashlib.sha256(f"{content} 4 5 44 45 head".encode()).hexdigest()[:32]
    assert row["photo_id"] == hashlib.sha256(f"{content}h3".encode()).hexdigest()[:32]
    assert (found["photo_id"].value_counts() == 2).all()
    facts = images.inspect(
        study.folder / "h3/3.png", max_pixels=10**6, min_side_px=1, min_contrast=0
    )
    assert (row["width"], row["height"], row["phash"]) == (80, 60, facts.phash)
    assert (row["label"], row["agreement"], row["n_raters"], row["horse"]) == ("calm", 1, 1, "h3")


def test_the_catalogue_does_not_depend_on_the_order_of_the_table_or_on_what_is_known(study):
    rows = [row | {"rater": rater} for rater in ("r1", "r2") for row in study.rows]
    rows += [{"image": "none.png", "label": "calm", "horse": "h1"}]
    frame = annotate(*rows)
    first = study.build(frame)
    assert study.looked_at == 12
    again = study.build(frame.sample(frac=1, random_state=1))
    assert study.looked_at == 0
    pd.testing.assert_frame_equal(first.images, again.images)
    pd.testing.assert_frame_equal(first.quarantine, again.quarantine)


def test_hashes_are_exact_beside_a_missing_file(study):
    """A missing file leaves gaps in the table; floats would garble 64-bit hashes."""
    found = study.with_rows({"image": "none.png", "label": "calm", "horse": "h1"}).images
    for path, phash in zip(found["path"], found["phash"], strict=True):
        limits = {"max_pixels": 10**6, "min_side_px": 1, "min_contrast": 0}
        assert phash == images.inspect(study.folder / path, **limits).phash


def spoil(study: Study, name: str) -> str:
    """Make a file that cannot be used; return its path in the table."""
    path = study.folder / name
    if name == "empty.jpg":
        path.write_bytes(b"")
    elif name == "text.jpg":
        path.write_text("a note")
    elif name == "truncated.jpg":
        draw(path, seed=99, size=(300, 200), quality=95)
        path.write_bytes(path.read_bytes()[:-500])
    elif name == "black.png":
        Image.new("RGB", (80, 60)).save(path)
    elif name == "tiny.png":
        draw(path, seed=99, size=(31, 60))
    elif name == "large.png":
        draw(path, seed=99, size=(400, 300))
    elif name == "folder.jpg":
        path.mkdir()
    elif name == "pipe.jpg":
        os.mkfifo(path)
    return name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "missing"),
        ("mis\0sing.jpg", "missing"),
        ("empty.jpg", "empty"),
        ("text.jpg", "unreadable"),
        ("truncated.jpg", "truncated"),
        ("black.png", "black or blank"),
        ("tiny.png", "tiny"),
        ("large.png", "too large"),
        ("folder.jpg", "unreadable"),
        ("pipe.jpg", "unreadable"),
        ("../outside.png", "outside the image folder"),
    ],
)
def test_a_useless_file_is_quarantined_with_its_line_and_the_others_are_kept(study, name, reason):
    draw(study.folder.parent / "outside.png", seed=99)
    row = {"image": spoil(study, name), "label": "calm", "horse": "h1"}
    ingest = Ingest(max_refused=1.0, max_pixels=100_000)
    for _ in range(2):  # fresh, and from what is known
        found = study.with_rows(row, ingest=ingest)
        assert len(found.images) == 12
        refused = found.quarantine.iloc[0]
        assert refused["reason"].partition(":")[0] == reason and refused["remedy"]
        assert (refused["line"], refused["image"], refused["horse"]) == (14, name, "h1")


def test_absolute_paths_and_links_may_not_leave_the_folder(study):
    outside = draw(study.folder.parent / "outside.png", seed=99)
    (study.folder / "link.png").symlink_to(outside)
    (study.folder / "away").symlink_to(study.folder.parent)
    for name in (str(outside), "link.png", "away/outside.png"):
        refused = study.refusal({"image": name, "label": "calm", "horse": "h1"})
        assert refused["reason"] == "outside the image folder"


def test_links_and_absolute_paths_inside_the_folder_are_followed(study):
    kept = draw(study.folder / "store/a.png", seed=98)
    (study.folder / "link.png").symlink_to(kept)
    other = draw(study.folder / "store/b.png", seed=97)
    names = ["link.png", str(other)]
    found = study.with_rows(*({"image": n, "label": "calm", "horse": "h1"} for n in names))
    assert set(names) <= set(found.images["path"]) and found.quarantine.empty


@pytest.mark.parametrize(
    "name",
    ["a b/été à la mer.png", "it's \"quoted\".png", "-rf.png", "$(touch x);`y`.png", "馬/駒.png",
     "100%.png", "{horse}.png", "<img src=x>.png", "a,b;c\td.png"],
)  # fmt: skip
def test_a_file_may_have_any_name(study, tmp_path, name):
    draw(study.folder / name, seed=99)
    row = {"image": name, "label": CLASSES[0], "horse": "h9"}
    found = study.with_rows(row)
    assert found.quarantine.empty
    assert name in set(found.images["path"])
    catalogue.write(found, tmp_path / "written", 1)
    assert name in set(tables.read(tmp_path / "written/images.parquet")["path"])


def test_a_name_in_another_spelling_is_suggested(study):
    draw(study.folder / "Été/Bella 1.JPG", seed=99)
    wrong = {"label": "calm", "horse": "h1"}
    assert "'Bella 1.JPG'" in study.refusal({"image": "Été/bella 1.jpg"} | wrong)["remedy"]
    assert "write /" in study.refusal({"image": "Été\\Bella 1.JPG"} | wrong)["remedy"]


def rated(*labels: str) -> list[dict]:
    image = {"image": "r.png", "horse": "h1"}
    return [image | {"label": label, "rater": f"r{i}"} for i, label in enumerate(labels)]


def test_the_majority_of_the_raters_decides_and_agreement_is_kept(study):
    draw(study.folder / "r.png", seed=99)
    found = study.with_rows(*rated("calm", "alert", "alert")).images
    row = found[found["path"] == "r.png"].iloc[0]
    assert (row["label"], row["n_raters"]) == ("alert", 3)
    assert row["agreement"] == pytest.approx(2 / 3)


def test_who_said_what_is_kept_of_photographs_that_raters_saw_alike_or_not(study):
    draw(study.folder / "r.png", seed=99)
    draw(study.folder / "tie.png", seed=98)
    torn = [row | {"image": "tie.png"} for row in rated("calm", "alert")]
    sure = [row | {"confidence": i / 2} for i, row in enumerate(rated("calm", "alert", "alert"))]
    lost = [row | {"image": "lost.png"} for row in rated("calm", "alert")]
    (study.folder / "copy.png").write_bytes((study.folder / "r.png").read_bytes())
    copy = [row | {"image": "copy.png"} for row in rated("calm", "alert")]
    views = {"whole": View(), "again": View(margin=0.1)}
    found = study.with_rows(*sure, sure[0], *torn, *lost, *copy, views=views)
    assert list(found.ratings) == tables.RATINGS.names
    others = ~found.ratings["photo_id"].isin(found.images["photo_id"])
    assert list(found.ratings.loc[others, ["horse", "rater", "label"]].itertuples(index=False)) == [
        ("h1", "r0", "calm"), ("h1", "r1", "alert"),
    ]  # fmt: skip
    photo_id = found.images.loc[found.images["path"] == "r.png", "photo_id"].iloc[0]
    kept = found.ratings[found.ratings["photo_id"] == photo_id]
    expected = [("r0", "calm", 0.0), ("r1", "alert", 0.5), ("r2", "alert", 1.0)]
    assert list(kept[["rater", "label", "confidence"]].itertuples(index=False)) == expected
    alone = found.ratings[~others & (found.ratings["photo_id"] != photo_id)]
    assert len(alone) == 12 and alone[["rater", "confidence"]].isna().all(axis=None)


def test_no_majority_and_low_agreement_are_refused(study):
    draw(study.folder / "r.png", seed=99)
    refused = study.refusal(*rated("calm", "alert"))
    assert refused["reason"] == "contradictory: no majority: alert 1, calm 1"
    strict = Ingest(max_refused=1.0, min_agreement=0.7)
    refused = study.refusal(*rated("calm", "alert", "alert"), ingest=strict)
    assert refused["reason"] == "low agreement: alert 2, calm 1"
    kept = study.with_rows(*rated("calm", "calm", "calm", "alert"), ingest=strict)
    assert kept.quarantine.empty


def test_a_row_pasted_twice_is_one_vote_but_nameless_raters_are_several(study):
    draw(study.folder / "r.png", seed=99)
    pasted = [*rated("alert", "calm"), rated("alert")[0]]
    assert "no majority" in study.refusal(*pasted)["reason"]
    nameless = [row | {"rater": None} for row in rated("alert", "calm", "alert")]
    found = study.with_rows(*nameless).images
    assert found.loc[found["path"] == "r.png", "label"].item() == "alert"


def test_a_session_that_is_not_given_is_the_video(study):
    rows = [row | {"video": "v1"} for row in study.rows]
    rows[0]["session"] = "s1"
    found = study.build(annotate(*rows)).images.set_index("path")["session"]
    assert found["h0/0.png"] == "s1" and found["h1/1.png"] == "v1"


def test_of_the_same_bytes_under_two_names_the_first_is_kept(study):
    shutil.copy(study.folder / "h1/1.png", study.folder / "h1/again.png")
    refused = study.refusal({"image": "h1/again.png", "label": "calm", "horse": "h1"})
    assert refused["image"] == "h1/again.png"
    assert refused["reason"] == "duplicate: the same bytes as h1/1.png"
    assert refused["remedy"] == "nothing to do: the first is kept"


@pytest.mark.parametrize(
    ("label", "horse", "what"), [("alert", "h1", "label"), ("calm", "h2", "horse")]
)
def test_the_same_bytes_with_another_label_or_horse_are_all_refused(study, label, horse, what):
    shutil.copy(study.folder / "h1/1.png", study.folder / "again.png")
    found = study.with_rows({"image": "again.png", "label": label, "horse": horse})
    assert found.quarantine["image"].tolist() == ["h1/1.png", "again.png"]
    assert (found.quarantine["reason"].str.startswith(f"contradictory: another {what}")).all()
    assert found.quarantine["reason"].str.contains("again.png").tolist() == [True, False]
    assert (found.quarantine["remedy"] == f"find out which {what} is right and keep one row").all()
    assert len(found.images) == 11


def test_two_horses_in_a_picture_are_two_photographs_where_each_has_its_box(study):
    draw(study.folder / "two.png", seed=99)
    two = [
        {"image": "two.png", "label": "calm", "horse": "h1"} | boxed_by(0, 0, 40, 60),
        {
            "image": "two.png",
            "label": "alert",
            "horse": "h2",
            "x0": 40,
            "y0": 0,
            "x1": 80,
            "y1": 60,
        },
    ]
    rows = [row | boxed_by(0, 0, 70, 60) for row in study.rows]
    views = {"whole": View(), "horse": View(box="annotations")}
    found = study.build(annotate(*rows, *two), views)
    of_two = found.images[found.images["path"] == "two.png"]
    assert of_two["view"].tolist() == ["horse", "horse"]
    assert set(zip(of_two["horse"], of_two["label"], strict=True)) == {
        ("h1", "calm"),
        ("h2", "alert"),
    }
    assert found.quarantine["view"].tolist() == ["whole", "whole"]
    assert found.quarantine["reason"].unique() == [
        "contradictory: the same frame for horses h1 and h2"
    ]


def framed(study: Study, box: tuple[float, ...] | None, **view: object) -> pd.Series:
    """The row (or the refusal) of one boxed photograph of 80 x 60 pixels."""
    rows = [row | boxed_by(0, 0, 80, 60) for row in study.rows]
    rows[1] |= boxed_by(*(box or [None] * 4))
    found = study.build(annotate(*rows), {"head": View(box="annotations", **view)})
    kept = found.images[found.images["path"] == "h1/1.png"]
    return (kept if len(kept) else found.quarantine).iloc[0]


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((10, 10, 50, 50), 0, [10, 10, 50, 50]),
        ((10.4, 10.6, 50.4, 49.6), 0, [10, 11, 50, 50]),
        ((20, 10, 60, 45), 0.1, [16, 6, 64, 49]),  # a tenth of the longer side, on every side
        ((5, 15, 45, 55), 0.5, [0, 0, 65, 60]),  # clipped
        ((-2, -1, 60, 61), 0, [0, 0, 60, 60]),  # raters overshoot the edge
    ],
)
def test_a_box_gets_its_margin_is_clipped_and_rounded(study, box, margin, expected):
    assert framed(study, box, margin=margin)[BOX].tolist() == expected


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (None, "no box"),
        ((200, 10, 300, 50), "box outside the picture: 200, 10, 300, 50 in 80 × 60"),
        ((40, 10, 120, 50.5), "box outside the picture: 40, 10, 120, 50.5 in 80 × 60"),
        ((0.1, 0.1, 0.9, 0.9), "tiny: the box"),  # shares, not pixels
        ((10, 10, 30, 55), "tiny: the box"),
    ],
)
def test_a_box_of_no_use_is_refused_in_its_view(study, box, reason):
    refused = framed(study, box)
    assert (refused["reason"], refused["view"]) == (reason, "head")


def test_boxes_in_two_places_for_one_horse_are_refused_and_similar_ones_are_one(study):
    draw(study.folder / "two.png", seed=99)
    row = {"image": "two.png", "label": "calm", "horse": "h1"}
    rows = [row | boxed_by(0, 0, 70, 60) for row in study.rows]
    views = {"horse": View(box="annotations")}
    apart = [row | boxed_by(0, 0, 40, 60), row | boxed_by(40, 0, 80, 60)]
    (refused,) = study.build(annotate(*rows, *apart), views).quarantine.to_dict("records")
    assert refused["reason"] == "contradictory: boxes of lines 14 and 15"
    assert refused["remedy"] == "keep the right box, or name the other horse"
    similar = [row | boxed_by(0, 0, 40, 60), row | boxed_by(2, 3, 44, 60)]
    found = study.build(annotate(*rows, *similar), views)
    assert found.quarantine.empty
    assert found.images.loc[found.images["path"] == "two.png", BOX].values.tolist() == [
        [0, 0, 40, 60]
    ]
    assert study.build(annotate(*rows, *apart)).quarantine.empty  # no view looks at a box


def test_a_region_outside_its_picture_is_refused_with_the_line_of_its_table(study):
    rows = [
        region(row["image"], "neck", (10, 10, 60, 50), horse=row["horse"]) for row in study.rows
    ]
    rows[1] |= boxed_by(100, 10, 150, 50) | {"line": 17}
    views = {"neck": View(box="regions", regions=["neck"])}
    (refused,) = study.build(views=views, regions=pd.DataFrame(rows)).quarantine.to_dict("records")
    where = "100, 10, 150, 50 in 80 × 60, line 17 of the regions"
    assert refused["reason"] == f"box outside the picture: {where}"


def test_what_no_view_shows_is_said_in_the_log(study, caplog):
    boxed = [row | boxed_by(0, 0, 70, 60) for row in study.rows]
    boxed[3] |= boxed_by(80, 0, 90, 60)
    regions = [
        region("h1/1.png", "neck", (10, 10, 50, 70)),
        region("h1/1.png", "tail", (10, 61, 50, 70), line=7),
        region("h2/2.png", "trunk", kind="points", points="90 10 95 20", line=5),
        region("h2/2.png", "legs", (10, 61, 50, 70), line=3, visible=False),
    ]
    study.build(annotate(*boxed, boxed[0]), regions=pd.DataFrame(regions))
    told = [record.getMessage() for record in caplog.records]
    outside = "lie outside their pictures and are not visible, the first in line"
    pixels = "in 80 × 60 pixels; boxes are in pixels of the upright picture"
    assert f"annotations: 1 boxes {outside} 5: 80, 0, 90, 60 {pixels}" in told
    assert f"regions: 2 boxes {outside} 5: 90, 10, 95, 20 {pixels}" in told
    repeated = "1 rows repeat an earlier one without a rater and count as further raters, the first"
    assert f"{repeated} in line 14; name the raters, or delete the copies" in told


def region(image: str, name: str, box: tuple | None = None, **more: object) -> dict:
    row = {"line": 2, "image": image, "horse": "h1", "region": name, "kind": "box"}
    row |= boxed_by(*(box or [np.nan] * 4))
    return row | {"points": None, "mask": None, "visible": True} | more


def test_a_region_view_is_the_box_around_the_visible_regions_named(study):
    regions = pd.DataFrame(
        [
            region("h1/1.png", "ear_left", (10, 8, 20, 30)),
            region("h1/1.png", "eye_left", kind="points", points="30 20, 44.6 31; 40 41"),
            region("h1/1.png", "mouth_corner", (60, 50, 70, 60), visible=False),
            region("h1/1.png", "tail", (0, 0, 80, 60)),
            region("h1/1.png", "ear_right", kind="mask", mask="m.png"),
            region("h1/7.png", "ear_left", (0, 0, 40, 40), horse="h2"),  # of another horse
        ]
    )
    named = ["ear_left", "ear_right", "eye_left", "mouth_corner"]
    views = {"whole": View(), "face": View(box="regions", regions=named)}
    found = study.build(views=views, regions=regions)
    face = found.images[found.images["view"] == "face"]
    assert face[["path", *BOX]].to_numpy().tolist() == [["h1/1.png", 10, 8, 45, 41]]
    assert (found.quarantine["reason"] == "no box").sum() == 11


def test_regions_of_other_pictures_are_a_mistake(study):
    regions = pd.DataFrame([region("elsewhere.png", "ear_left", (0, 0, 9, 9))])
    with pytest.raises(UserError, match=r"data\.regions.*'elsewhere.png' against 'h0/0.png'"):
        study.build(regions=regions)


def test_too_many_refused_rows_stop_the_study_and_leave_the_list(study):
    (study.folder / "h1/1.png").unlink()
    (study.folder / "h2/2.png").write_text("no picture")
    with pytest.raises(UserError) as caught:
        study.build(ingest=Ingest(max_refused=0.1))
    message = str(caught.value)
    listed = study.state / "quarantine.csv"
    assert "2 of 12" in message and "missing 1" in message and "unreadable 1" in message
    assert str(listed) in message and "ingest.max_refused" in message
    assert pd.read_csv(listed)["image"].tolist() == ["h1/1.png", "h2/2.png"]
    assert len(study.build(ingest=Ingest(max_refused=0.17)).images) == 10


def test_a_photograph_refused_in_one_of_two_views_counts_half(study):
    rows = [row | boxed_by(0, 0, 80, 60) for row in study.rows]
    rows[0] |= boxed_by(None, None, None, None)
    views = {"whole": View(), "horse": View(box="annotations")}
    study.build(annotate(*rows), views, Ingest(max_refused=1 / 24))
    with pytest.raises(UserError, match="1 of 24"):
        study.build(annotate(*rows), views, Ingest(max_refused=0.9 / 24))


def test_a_missing_photograph_counts_in_all_of_its_views(study):
    rows = [row | boxed_by(0, 0, 80, 60) for row in study.rows]
    (study.folder / "h1/1.png").unlink()
    views = {"whole": View(), "horse": View(box="annotations", margin=0.1)}
    with pytest.raises(UserError, match="2 of 24"):
        study.build(annotate(*rows), views, Ingest(max_refused=1.9 / 24))


def test_a_class_without_usable_photographs_is_a_mistake(study):
    for row in study.rows:
        if row["label"] == "calm":
            (study.folder / row["image"]).unlink()
    with pytest.raises(UserError, match=r"'calm'.*missing 6"):
        study.build()


def test_a_missing_image_folder_is_a_mistake(study):
    study.folder = study.folder / "nowhere"
    with pytest.raises(UserError, match=r"data\.images"):
        study.build()


def test_a_second_run_looks_only_at_files_that_changed(study):
    study.build()
    path = study.folder / "h1/1.png"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))  # not a picture, but of the same size and time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(study.build().images) == 12 and study.looked_at == 0
    draw(path, seed=50, size=(96, 64))
    found = study.build().images.set_index("path")
    assert study.looked_at == 1 and found.loc["h1/1.png", "width"] == 96


def test_other_limits_do_not_look_at_files_again(study):
    study.build()
    with pytest.raises(UserError):
        study.build(ingest=Ingest(min_side_px=61, max_refused=0.5))
    assert study.looked_at == 0


def test_a_file_refused_as_too_large_is_looked_at_again_under_another_limit(study):
    with pytest.raises(UserError):
        study.build(ingest=Ingest(max_pixels=100, max_refused=0.5))
    assert len(study.build().images) == 12


def test_a_killed_run_goes_on_where_it_was(study, monkeypatch):
    monkeypatch.setattr(catalogue, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(catalogue, "FILES_PER_TASK", 3)

    def killed(done: int, total: int) -> None:
        if done > 6:
            raise KeyboardInterrupt

    arguments = (annotate(*study.rows), study.folder, None, {"whole": View()}, LENIENT, CLASSES)
    with pytest.raises(KeyboardInterrupt):
        catalogue.build(*arguments, study.state, workers=1, progress=killed)
    study.build()
    assert study.looked_at == 6


def test_many_parts_of_what_is_known_become_one(study):
    for _ in range(25):
        draw(study.folder / "h1/1.png", seed=1, size=(80 + len(list(study.state.iterdir())), 60))
        study.build()
    assert len(list(study.state.iterdir())) < 25
    study.build()
    assert study.looked_at == 0


def test_worker_processes_find_the_same_and_do_not_run_the_callers_script_again(study, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent(f"""
        print("script")
        from pathlib import Path
        import pandas as pd
        from equimood import catalogue
        from equimood.settings import Ingest, View
        catalogue.POOL_FROM_FILES = catalogue.FILES_PER_TASK = 3
        found = catalogue.build(
            pd.read_parquet({str(tmp_path / "rows.parquet")!r}), Path({str(study.folder)!r}), None,
            {{"whole": View()}}, Ingest(), {CLASSES!r}, Path({str(study.state)!r}), workers=2)
        print(*found.images["image_id"])
        """)
    )
    annotate(*study.rows).to_parquet(tmp_path / "rows.parquet")
    library = str(Path(catalogue.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": library},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, ids = run.stdout.strip().split("\n")
    assert first == "script"
    found = study.build()
    assert study.looked_at == 0 and found.images["image_id"].tolist() == ids.split()


def brute_force(hashes: np.ndarray, groups: np.ndarray, bits: int) -> set[tuple[int, int]]:
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    a, b = np.nonzero((apart <= bits) & (groups[:, None] != groups[None, :]))
    return {(int(i), int(j)) for i, j in zip(a, b, strict=True) if i < j}


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 10])
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(bits):
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 20, dtype=np.uint64)[rng.integers(0, 20, 600)]
    for _ in range(6):  # a few bits away from their scene
        hashes ^= np.uint64(1) << rng.integers(0, 64, 600).astype(np.uint64)
    groups = np.sort(rng.integers(0, 5, 600))
    first, second = catalogue._near_pairs(hashes, groups, bits)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(hashes, groups, bits)


def alike(n: int, horses: int, phash: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "photo_id": [f"{i:032x}" for i in range(n)],
            "horse": [f"h{i % horses}" for i in range(n)],
            "phash": np.full(n, phash, np.uint64),
        }
    )


def test_thousands_of_frames_of_one_hash_are_one_pair_of_horses():
    found = catalogue.near_duplicates(alike(20_000, horses=2), 4)
    assert found.to_numpy().tolist() == [[f"{0:032x}", f"{1:032x}", "h0", "h1", 0]]


def test_frames_of_one_horse_are_no_near_duplicates():
    assert catalogue.near_duplicates(alike(20, horses=1), 4).empty


def test_the_list_of_near_duplicates_is_bounded(monkeypatch):
    monkeypatch.setattr(catalogue, "MAX_NEAR_DUPLICATES", 50)
    assert len(catalogue.near_duplicates(alike(40, horses=40), 4)) == 50


def test_a_picture_saved_again_under_another_horse_is_reported(study):
    with Image.open(study.folder / "h1/1.png") as picture:
        picture.save(study.folder / "again.jpg", quality=80)
    found = study.with_rows({"image": "again.jpg", "label": "calm", "horse": "h2"})
    assert found.near_duplicates[["horse_a", "horse_b"]].to_numpy().tolist() == [["h1", "h2"]]
    photos = found.images.set_index("photo_id")["path"]
    pair = found.near_duplicates.loc[0, ["image_a", "image_b"]]
    assert {photos[name] for name in pair} == {"h1/1.png", "again.jpg"}


def written(found: catalogue.Catalogue, folder: Path) -> dict[str, bytes]:
    catalogue.write(found, folder, n_shards=3)
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_shards_are_contiguous_and_hold_every_image_once(study, tmp_path):
    found = study.build(ingest=Ingest(shards=3))
    assert sorted(written(found, tmp_path)) == ["000.parquet", "001.parquet", "002.parquet"]
    shards = [tables.read(tmp_path / f"shards/{shard:03d}.parquet") for shard in range(3)]
    assert list(shards[0]) == tables.SHARD.names
    ids = [shard["image_id"].tolist() for shard in shards]
    assert [name for names in ids for name in names] == found.images["image_id"].tolist()
    limits = [shard * 2**32 // 3 for shard in range(4)]
    for shard, names in enumerate(ids):
        assert all(limits[shard] <= int(name[:8], 16) <= limits[shard + 1] for name in names)
    kept = tables.read(tmp_path / "images.parquet")
    pd.testing.assert_frame_equal(kept, found.images, check_dtype=False)
    assert list(pd.read_csv(tmp_path / "quarantine.csv")) == tables.QUARANTINE


def test_a_corrected_label_changes_no_shard_and_a_new_picture_changes_one(study, tmp_path):
    ingest = Ingest(shards=3, max_refused=1.0)
    before = written(study.build(ingest=ingest), tmp_path / "before")
    study.rows[0]["label"] = "calm"
    assert written(study.build(ingest=ingest), tmp_path / "label") == before
    draw(study.folder / "new.png", seed=99)
    study.rows.append({"image": "new.png", "label": "calm", "horse": "h1"})
    after = written(study.build(ingest=ingest), tmp_path / "new")
    assert sum(after[name] != before[name] for name in before) == 1


def test_a_shard_without_images_is_a_file_without_rows(study, tmp_path):
    found = study.build(ingest=Ingest(shards=40))
    catalogue.write(found, tmp_path, n_shards=40)
    sizes = [len(tables.read(path)) for path in (tmp_path / "shards").iterdir()]
    assert len(sizes) == 40 and sum(sizes) == 12 and 0 in sizes


def background_of(study, box, regions=None, view=None):
    """What the background of the first photograph hides: boxes, and how many photographs it has."""
    view = view or View(box="horse", keep="outside")
    rows = annotate(study.rows[0] | boxed_by(*box), *study.rows[1:])
    found = study.build(rows, regions=regions, controls={"background": view}).controls
    own = found[found["path"] == "h0/0.png"]
    return [set(tables.read_hidden(text)) for text in own["hidden"]], len(found)


def regions_of(*rows):
    frame = pd.DataFrame(
        [("h0/0.png", "h0", name, "box", *box) for name, *box in rows],
        columns=["image", "horse", "region", "kind", *BOX],
    )
    return frame.assign(visible=True, points=None, mask=None, line=2)


def test_the_background_hides_the_horses_box_to_eighths_of_the_picture(study):
    # of 80 x 60 pixels: cells of 10 x 7.5
    assert background_of(study, (21, 16, 48, 44)) == ([{(20, 15, 50, 45)}], 1)
    assert background_of(study, (None, None, None, None)) == ([], 0)
    outside = View(box="annotations", keep="outside", margin=0.5)
    assert background_of(study, (21, 16, 48, 44), view=outside)[0] == [{(0, 0, 70, 60)}]


def test_large_regions_are_hidden_one_by_one_and_a_face_alone_with_the_box(study):
    body = regions_of(("head", 20, 15, 30, 30), ("trunk", 30, 30, 50, 45), ("ear_left", 0, 0, 9, 7))
    parts = {(20, 15, 30, 30), (30, 30, 50, 45)}
    assert background_of(study, (20, 15, 50, 45), body)[0] == [parts]
    assert background_of(study, (20, 15, 80, 60), body)[0] == [parts | {(20, 15, 80, 60)}]
    face = regions_of(("eye_left", 21, 16, 29, 22), ("tack", 60, 0, 80, 7))
    assert background_of(study, (None,) * 4, face)[0] == [{(20, 15, 30, 23)}]


def test_controls_are_embedded_and_no_image_of_the_search(study, tmp_path):
    rows = annotate(*(row | boxed_by(20, 15, 50, 45) for row in study.rows))
    built = study.build(rows, controls={"background": View(box="horse", keep="outside")})
    assert set(built.images["view"]) == {"whole"} and set(built.controls["view"]) == {"background"}
    assert set(built.images["image_id"]).isdisjoint(built.controls["image_id"])
    catalogue.write(built, tmp_path / "out", LENIENT.shards)
    shards = pd.concat([tables.read(p) for p in sorted((tmp_path / "out/shards").iterdir())])
    assert sorted(shards["view"]) == ["background"] * 12 + ["whole"] * 12
    hides = shards.set_index("view")["hidden"]
    assert hides.loc["whole"].isna().all() and set(hides.loc["background"]) == {"20 15 50 45"}
    assert list(shards) == tables.SHARD.names  # no label


def test_colours_and_the_users_own_columns_are_kept_of_each_photograph(study, tmp_path):
    rows = annotate(*study.rows).assign(site=[f"yard{i % 2}" for i in range(12)])
    built = study.build(rows)
    assert list(built.covariates) == ["photo_id", "site"]
    assert built.colours["photo_id"].tolist() == built.covariates["photo_id"].tolist()
    first = built.images[built.images["path"] == "h3/3.png"]["photo_id"].iloc[0]
    assert built.covariates.set_index("photo_id").loc[first, "site"] == "yard1"
    pixels = np.asarray(Image.open(study.folder / "h3/3.png"), float)
    own = built.colours.set_index("photo_id").loc[first]
    assert own[["red", "green", "blue"]].to_numpy(float) == pytest.approx(pixels.mean((0, 1)))
    spread = own[["red_sd", "green_sd", "blue_sd"]].to_numpy(float)
    assert spread == pytest.approx(pixels.std((0, 1)), rel=1e-4)
    assert study.build(rows).colours.equals(built.colours) and study.looked_at == 0
