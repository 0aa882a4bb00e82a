import numpy as np
import pandas as pd
import pytest
import torch
from equimood import images, regions, tables
from equimood.errors import UserError
from PIL import Image

SIDE = 20
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def region(name, box=None, *, kind="box", visible=True, points=None, mask=None):
    corners = dict(zip(tables.BOX, box or [np.nan] * 4, strict=True))
    return {
        "line": 2, "image": "a.png", "horse": "Comet", "region": name, "kind": kind,
        "points": points, "mask": mask, "visible": visible, **corners,
    }  # fmt: skip


def masks(*rows, affine=IDENTITY, side=SIDE, picture_px=(SIDE, SIDE), images_dir="."):
    return regions.rasterise(pd.DataFrame(list(rows)), affine, side, picture_px, images_dir)


def test_a_box_covers_edge_pixels_by_the_share_that_lies_inside():
    mask = masks(region("cheek", [2.25, 3, 5.5, 4.5]))["cheek"]
    assert mask[3, 2] == pytest.approx(0.75)
    assert mask[4, 5] == pytest.approx(0.25)
    assert mask[3, 3] == 1
    assert mask.sum() == pytest.approx(3.25 * 1.5)


def test_the_mask_lies_where_fit_put_the_region_in_the_models_input():
    """Paint the box white: the fitted picture and the mask are the same picture."""
    picture = torch.zeros(3, 120, 200, dtype=torch.uint8)
    picture[:, 40:72, 90:140] = 255
    for how, crop_share in (("squash", 1.0), ("pad", 1.0), ("crop", 0.9)):
        square, affine = images.fit(picture, (30, 10, 190, 110), 40, how, "bilinear", crop_share)
        row = region("eye_left", [90, 40, 140, 72])
        mask = masks(row, affine=affine, side=40, picture_px=(120, 200))["eye_left"]
        painted = torch.from_numpy(mask)
        seen = torch.where(square[0] == images.PAD_GREY, 0, square[0]).float() / 255
        inside, outside = painted > 0.99, painted == 0
        assert mask.sum() > 90
        assert seen[inside].mean() > 0.97
        assert seen[outside].mean() < 0.02


def test_a_roll_up_is_the_union_of_its_visible_regions():
    found = masks(
        region("ear_left", [2, 2, 6, 6]),
        region("ear_right", [4, 2, 8, 6]),
        region("eye_left", [2, 10, 4, 12]),
        region("eye_right", [6, 10, 8, 12], visible=False),
    )
    assert found["ears"].sum() == 6 * 4
    assert np.array_equal(found["eyes"], found["eye_left"])
    assert "eye_right" not in found
    assert "mouth" not in found


def test_background_is_what_no_other_region_covers_within_its_box():
    horse, bucket = region("head", [0, 0, 10, 10]), region("object", [15, 15, 20, 20])
    derived = masks(horse, bucket)["background"]
    assert derived.sum() == SIDE * SIDE - 100 - 25
    boxed = masks(horse, bucket, region("background", [0, 0, 20, 10]))["background"]
    assert boxed.sum() == 100
    outlined = region("background", kind="points", points="0 0 20 0 20 5 0 5")
    assert masks(horse, bucket, outlined)["background"].sum() == pytest.approx(100, rel=0.02)
    assert "background" not in masks(horse, region("background", visible=False))
    assert "background" not in masks(region("head", [0.05, 0, 19.95, 20]))  # half pixels at the rim


def test_a_region_outside_the_frame_is_not_visible():
    found = masks(region("tail", [30, 30, 40, 40]), region("neck", [0, 0, 5, 5]))
    assert "tail" not in found
    assert "body" not in found


def test_an_outline_is_filled_and_single_points_become_discs():
    triangle = region("neck", kind="points", points="0 0 10 0 0 10")
    assert masks(triangle)["neck"].sum() == pytest.approx(50, rel=0.03)
    eye = masks(region("eye_left", kind="points", points="50,50"), side=100)["eye_left"]
    assert eye.sum() == pytest.approx(np.pi * (regions.POINT_RADIUS * 100) ** 2, rel=0.05)
    centre = [(eye.sum(axis) * (np.arange(100) + 0.5)).sum() / eye.sum() for axis in (0, 1)]
    assert centre == pytest.approx([50, 50], abs=0.1)


def test_a_mask_file_covers_what_its_box_would(tmp_path):
    drawn = np.zeros((120, 200), np.uint8)
    drawn[40:72, 90:140] = 1
    Image.fromarray(drawn).save(tmp_path / "eye.png")
    affine = np.array([[40 / 160, 0, -30 * 40 / 160], [0, 40 / 100, -10 * 40 / 100]])
    given = {"affine": affine, "side": 40, "picture_px": (120, 200), "images_dir": tmp_path}
    from_file = masks(region("eye_left", kind="mask", mask="eye.png"), **given)["eye_left"]
    from_box = masks(region("eye_left", [90, 40, 140, 72]), **given)["eye_left"]
    assert np.allclose(from_file, from_box, atol=1e-6)


def test_a_mask_outside_the_image_folder_or_of_another_size_is_refused(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (20, 20), 255).save(tmp_path / "secret.png")
    Image.new("L", (10, 20), 255).save(folder / "small.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    outside = ("../secret.png", "link.png", str(tmp_path / "secret.png"))
    for name in (*outside, "missing.png", None, "loop.png", "a\0.png", "x" * 300):
        with pytest.raises(UserError, match="inside the image folder"):
            masks(region("neck", kind="mask", mask=name), images_dir=folder)
    with pytest.raises(UserError, match=r"10 x 20 pixels.* 20 x 20"):
        masks(region("neck", kind="mask", mask="small.png"), images_dir=folder)


def test_a_mask_far_larger_than_its_photograph_is_refused_before_it_is_decoded(tmp_path):
    big = tmp_path / "big.png"
    Image.new("1", (6000, 6000)).save(big)
    big.write_bytes(big.read_bytes()[:200])  # decoding would find it truncated
    told = r"line 2: mask 'big.png' is too large: 6000 × 6000 pixels; save it at the size.* 20 x 20"
    with pytest.raises(UserError, match=told):
        masks(region("neck", kind="mask", mask="big.png"), images_dir=tmp_path)


def test_scores_are_sums_at_full_resolution_and_enrichment_is_share_over_area():
    attribution = torch.full((SIDE, SIDE), -1.0)
    attribution[0:5, 0:5] = 3
    attribution[10:12, 10:12] = 1
    found = masks(region("eye_left", [0, 0, 10, 5]), region("tail", [0, 0, 5, 5], visible=False))
    names = ["eye_left", "tail", "background"]
    rows = pd.DataFrame([region("eye_left", [0, 0, 10, 5]), region("tail", visible=False)])
    measures = regions.of_image(attribution, rows, IDENTITY, (SIDE, SIDE), ".", names)[None]
    assert np.array_equal(
        measures[0, :, :4], regions.measure(attribution, found, names)[:, :4], equal_nan=True
    )
    about = {"image_id": "i", "photo_id": "p", "view": "whole", "horse": "Comet", "fold": "0"}
    frame = pd.DataFrame([about | dict.fromkeys(["truth", "target", "model"]) | {"correct": True}])
    table = regions.table(frame, measures, np.array([79.0]), names).set_index("region")
    eye = table.loc["eye_left"]
    assert (eye.signed, eye.positive) == (75 - 25, 75)
    assert eye.area == pytest.approx(50 / 400)
    assert eye.share == pytest.approx(75 / 79)
    assert eye.enrichment == pytest.approx(75 / 79 / (50 / 400))
    assert table.loc["background"].positive == 4
    assert not table.loc["tail"].visible
    assert table.loc["tail", ["signed", "share", "area", "enrichment", "rank"]].isna().all()
    assert table["missing"].fillna("").tolist() == ["", "hidden", ""]
    assert table["rank"].dropna().to_dict() == {"eye_left": 1, "background": 1}  # two levels


def test_a_map_without_positive_attribution_has_no_enrichment():
    found = masks(region("eye_left", [0, 0, 10, 5]))
    measures = regions.measure(-torch.ones(SIDE, SIDE), found, ["eye_left"])[None]
    frame = pd.DataFrame([dict.fromkeys(tables.REGION_SCORES.names[:9])])
    table = regions.table(frame, measures, np.array([0.0]), ["eye_left"])
    assert table["share"].isna().all()
    assert table["enrichment"].isna().all()
    assert table["rank"].isna().all()


def scored(rows, names, attribution=None, **options):
    """Scores of one image, by region."""
    attribution = torch.ones(SIDE, SIDE) if attribution is None else attribution
    given = {"affine": IDENTITY, "picture_px": (SIDE, SIDE), "images_dir": "."} | options
    measures = regions.of_image(attribution, pd.DataFrame(rows), regions=names, **given)[None]
    frame = pd.DataFrame([dict.fromkeys(tables.REGION_SCORES.names[:9])])
    positive = np.array([float(attribution.clamp(min=0).sum())])
    return regions.table(frame, measures, positive, names).set_index("region")


def test_ranks_are_by_enrichment_within_a_level_and_equal_ones_are_alike():
    attribution = torch.zeros(SIDE, SIDE)
    attribution[0:5, 0:5], attribution[10:15, 0:5] = 4, 1
    rows = [
        region("ear_left", [0, 0, 5, 5]), region("ear_right", [0, 0, 5, 5]),
        region("eye_left", [0, 10, 5, 15]), region("trunk", [10, 10, 20, 20]),
        region("tail", visible=False), region("tack", [0, 5, 5, 15]),
    ]  # fmt: skip
    names = ["ear_left", "ear_right", "eye_left", "trunk", "tail", "ears", "eyes", "body", "tack"]
    found = scored(rows, names, attribution)["rank"]
    assert found.drop("tail").to_dict() == {
        "ear_left": 1, "ear_right": 1, "eye_left": 3, "trunk": 4,
        "ears": 1, "eyes": 2, "tack": 3, "body": 4,
    }  # fmt: skip
    assert np.isnan(found["tail"])


def test_the_net_rank_is_of_what_is_left_where_much_speaks_for_and_against():
    attribution = torch.zeros(SIDE, SIDE)
    attribution[0:4, 0:5], attribution[4, 0:5] = 4, -20  # the ears: most for it, more against it
    attribution[10:15, 0:5], attribution[10:12, 10:12] = 1, -1
    rows = [
        region("ear_left", [0, 0, 5, 5]), region("eye_left", [0, 10, 5, 15]),
        region("neck", [10, 10, 20, 20]),
    ]  # fmt: skip
    found = scored(rows, ["ears", "eyes", "neck_posture"], attribution)
    assert found["enrichment"].idxmax() == "ears"
    assert found["rank"].to_dict() == {"ears": 1, "eyes": 2, "neck_posture": 3}
    assert found["net_rank"].to_dict() == {"eyes": 1, "neck_posture": 2, "ears": 3}


def test_a_region_without_a_score_says_why(tmp_path):
    Image.new("L", (SIDE, SIDE), 0).save(tmp_path / "nothing.png")
    rows = [
        region("ear_left", visible=False), region("ear_right", [30, 0, 40, 5]),
        region("eye_left", kind="points", points="-9 5"),
        region("neck", kind="mask", mask="nothing.png"),
        region("trunk", [0, 0, 5, 5]), region("legs", kind="points", points="1 1 1 1 1 1"),
        region("nostril_left", visible=False), region("tack", kind="points", points="-1 10"),
    ]  # fmt: skip
    names = ["ear_left", "ear_right", "eye_left", "neck", "trunk", "legs", "tail", "nostril_left",
             "tack", "ears", "nostrils", "mouth", "body", "background"]  # fmt: skip
    found = scored(rows, names, images_dir=tmp_path)["missing"].fillna("visible").to_dict()
    outside = "not in the frame"
    assert found == {
        "ear_left": "hidden", "ear_right": outside, "eye_left": outside, "neck": outside,
        "trunk": "visible", "legs": outside, "tail": "not annotated", "nostril_left": "hidden",
        "tack": outside, "ears": outside, "nostrils": "hidden", "mouth": "not annotated",
        "body": "visible", "background": "visible",
    }  # fmt: skip
    covered = scored([region("horse", [0, 0, SIDE, SIDE])], ["horse", "background"])
    assert covered["missing"].fillna("").tolist() == ["", outside]


def test_a_region_partly_outside_the_picture_counts_by_what_is_inside():
    found = scored([region("trunk", [-10, 0, 10, 10])], ["trunk"])
    assert found.loc["trunk", "area"] == pytest.approx(100 / 400)
    assert found.loc["trunk", "enrichment"] == pytest.approx(1)


def test_overlap_is_the_share_that_one_other_region_covers_and_containers_are_none():
    rows = [
        region("head", [0, 0, 20, 10]), region("cheek", [0, 0, 10, 10]),
        region("tack", [5, 0, 10, 10]), region("tail", [15, 15, 20, 20]),
    ]  # fmt: skip
    names = ["head", "cheek", "tack", "tail", "face", "context", "background"]
    found = scored(rows, names)["overlap"].to_dict()
    assert found == pytest.approx({
        "head": 0.5, "cheek": 0, "tack": 1, "tail": 0, "face": 0.5, "background": 0,
        "context": 175 / 225,  # by the background
    })  # fmt: skip


def test_a_study_without_regions_has_thirds_of_the_input_and_the_horse_against_the_background():
    view = {"path": "a.png", "horse": "Comet"} | dict(zip(tables.BOX, (0, 0, 40, 20), strict=True))
    box = view | {"x0": 10, "y0": 0, "x1": 20, "y1": 20, "view": "box"}
    rows = regions.stand_in(pd.DataFrame([view | {"view": "whole"}, box]), "box")
    names = regions.names(rows)
    assert names == [*tables.CELLS, "horse", "background"]
    affine = np.array([[0.5, 0, 0], [0, 1.0, 0]])  # 40 x 20 squashed into 20 x 20
    found = scored(rows, names, affine=affine, picture_px=(20, 40))
    assert found.loc[tables.CELLS, "area"].to_numpy() == pytest.approx(np.full(9, 1 / 9))
    assert found.loc[["horse", "background"], "area"].tolist() == pytest.approx([1 / 4, 3 / 4])
    bright = torch.zeros(SIDE, SIDE)
    bright[:6, -6:] = 1
    ranks = scored(rows, names, bright, affine=affine, picture_px=(20, 40))["rank"]
    assert (ranks["top_right"], ranks["background"], ranks["horse"]) == (1, 1, 2)
    without = regions.stand_in(pd.DataFrame([view | {"view": "whole"}]), None)
    assert regions.names(without) == tables.CELLS
    alone = scored(without, [*tables.CELLS, "background"], picture_px=(20, 40))
    assert alone["missing"].notna().sum() == 1  # nothing is known of a background


def test_a_mask_of_the_whole_horse_may_be_given_beside_its_parts(tmp_path):
    table = tmp_path / "regions.csv"
    table.write_text("image,horse,region,kind,x0,y0,x1,y1\na.png,Comet,horse,box,0,0,10,10\n")
    rows = tables.read_regions(table, {})
    assert regions.names(rows) == ["background", "horse", "context"]
    areas = scored(rows, ["horse", "background"])["area"].tolist()
    assert areas == pytest.approx([0.25, 0.75])
