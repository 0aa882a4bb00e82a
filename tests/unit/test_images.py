import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from equimood import images
from PIL import Image

LIMITS = {"max_pixels": 10**7, "min_side_px": 32, "min_contrast": 2.0}
TOP_LEFT_RED = np.zeros((60, 80, 3), np.uint8)  # upright: red above left, blue below right
TOP_LEFT_RED[:30, :40] = 255, 0, 0
TOP_LEFT_RED[30:, 40:] = 0, 0, 255


@pytest.fixture
def scene() -> np.ndarray:
    """A smooth picture (120, 160, 3): every codec keeps it within a few grey levels."""
    y, x = np.mgrid[:120, :160]
    waves = [np.sin(x / 9) + np.cos(y / 13), np.cos(x / 17 + y / 23), np.sin(y / 7)]
    return (np.stack(waves, axis=-1) * 50 + 128).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def pixels(picture: torch.Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


def refusal(path: Path) -> str:
    with pytest.raises(images.ImageError) as caught:
        images.inspect(path, **LIMITS)
    assert caught.value.remedy
    with pytest.raises(images.ImageError):
        images.read(path, LIMITS["max_pixels"])
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", None, {"quality": 95}),
        ("progressive.jpg", None, {"quality": 95, "progressive": True}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("a.png", None, {}),
        ("alpha.png", "RGBA", {}),
        ("a.tif", None, {}),
        ("a.bmp", None, {}),
        ("a.webp", None, {"lossless": True}),
        ("a.jp2", None, {}),
    ],
)
def test_a_picture_of_any_format_is_read_as_rgb(tmp_path, scene, name, mode, options):
    picture = images.read(save(tmp_path / name, scene, mode, **options))
    assert picture.dtype == torch.uint8
    assert np.abs(pixels(picture).astype(int) - scene).mean() < 3


def test_grey_palette_and_sixteen_bits_keep_their_grey_levels(tmp_path, scene):
    grey = scene[:, :, 0]
    deep = grey.astype(np.uint16) * 257
    for name, image in {
        "grey.jpg": Image.fromarray(grey),
        "grey.png": Image.fromarray(grey),
        "palette.png": Image.fromarray(grey).convert("P"),
        "deep.png": Image.fromarray(deep),
        "deep.tif": Image.fromarray(deep),
    }.items():
        image.save(tmp_path / name)
        found = pixels(images.read(tmp_path / name)).astype(int)
        assert np.abs(found - grey[:, :, None]).max() < 12, name
        assert (found[:, :, 0] == found[:, :, 2]).all(), name


def test_transparent_pixels_are_white_whatever_hides_in_them(tmp_path):
    hidden = np.zeros((40, 40, 4), np.uint8)
    hidden[:, 20:] = 10, 200, 10, 255
    found = pixels(images.read(save(tmp_path / "a.png", hidden)))
    assert (found[:, :20] == 255).all() and (found[:, 20:] == (10, 200, 10)).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=[second], duration=100, quality=100)
    red, _, blue = images.read(tmp_path / name).float().mean(dim=(1, 2))
    assert red > 240 and blue < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    # What a camera that was held so would have stored: the inverse of what a viewer does.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](TOP_LEFT_RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif, quality=95)
    facts = images.inspect(path, **LIMITS)
    assert (facts.width, facts.height) == (80, 60)
    found = pixels(images.read(path)).astype(int)
    assert np.abs(found - TOP_LEFT_RED)[5:25, 5:35].max() < 30
    assert np.abs(found - TOP_LEFT_RED)[35:55, 45:75].max() < 30


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("lost", [0.9, 0.5, 0.02])
def test_a_truncated_jpeg_is_refused(tmp_path, scene, options, lost):
    content = save(tmp_path / "whole.jpg", scene, **options).read_bytes()
    kept = content[: int(len(content) * (1 - lost))]
    for name, damaged in {"cut": kept, "zeros": kept + bytes(len(content) - len(kept))}.items():
        (tmp_path / f"{name}.jpg").write_bytes(damaged)
        reason = refusal(tmp_path / f"{name}.jpg")
        assert reason.startswith("truncated") or lost == 0.9  # the header is lost, too


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.tif"])
def test_half_a_file_of_another_format_is_refused(tmp_path, scene, name):
    path = save(tmp_path / name, scene)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refusal(path).startswith(("truncated", "unreadable"))


def test_a_damaged_png_is_refused_and_kills_nothing(tmp_path, scene):
    content = bytearray(save(tmp_path / "a.png", scene).read_bytes())
    content[len(content) // 2] ^= 255  # torchvision's decoder dies of it
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png").startswith("unreadable")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert refusal(tmp_path / "empty.jpg").startswith("empty")
    (tmp_path / "text.jpg").write_text("a note about a horse\n")
    assert refusal(tmp_path / "text.jpg") == "unreadable: not a picture"
    with pytest.raises(images.ImageError) as refused:
        images.read(tmp_path / "text.jpg")
    assert refused.value.remedy == "save it as JPEG or PNG"
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert refusal(tmp_path / "phone.jpg") == "unreadable: HEIC"
    assert refusal(tmp_path / "none.jpg").startswith("unreadable: No such file")
    assert refusal(tmp_path).startswith("unreadable")


def test_postscript_is_not_run(tmp_path, scene):
    path = save(tmp_path / "a.eps", scene, format="EPS")
    assert refusal(path) == "unreadable: not a picture"


def test_float_pixels_are_refused(tmp_path, scene):
    path = save(tmp_path / "a.tif", scene[:, :, 0].astype(np.float32))
    assert "type F" in refusal(path)


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A PNG of RGB, each row led by its filter's number."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    """100,000 x 100,000 pixels (30 GB decoded) in a few bytes."""
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000, 8, bytes(99)))
    assert refusal(tmp_path / "bomb.png") == "too large: 100000 × 100000 pixels"
    with pytest.raises(images.ImageError) as refused:
        images.inspect(tmp_path / "bomb.png", **LIMITS)
    allowed = f"scale it down; ingest.max_pixels allows {LIMITS['max_pixels']}"
    assert refused.value.remedy == allowed


def test_colours_of_sixteen_bits_keep_their_levels(tmp_path, scene):
    deep = (scene.astype(">u2") * 257).tobytes()
    length = len(deep) // 120
    rows = b"".join(b"\0" + deep[i * length : (i + 1) * length] for i in range(120))
    (tmp_path / "deep.png").write_bytes(png(160, 120, 16, rows))
    found = pixels(images.read(tmp_path / "deep.png")).astype(int)
    assert np.abs(found - scene).max() <= 1


def test_a_hundred_million_pixels_are_read(tmp_path):
    Image.linear_gradient("L").resize((10_000, 10_000)).save(tmp_path / "large.jpg")
    facts = images.measure(tmp_path / "large.jpg", 100_000_000)
    assert (facts.width, facts.height) == (10_000, 10_000)
    assert facts.mean == pytest.approx(127.5, abs=1)


def test_a_file_far_too_large_for_a_picture_is_not_read(tmp_path, scene):
    film = save(tmp_path / "a.png", scene)
    os.truncate(film, 5 * 10**9)  # takes no room on the disk
    with pytest.raises(images.ImageError) as refused:
        images.inspect(film, **LIMITS)
    assert refused.value.reason == "too large: a file of 5 GB"
    assert "ingest.max_pixels" in refused.value.remedy


def test_the_size_limit_counts_pixels(tmp_path, scene):
    path = save(tmp_path / "a.png", scene)
    assert images.read(path, 120 * 160).shape == (3, 120, 160)
    with pytest.raises(images.ImageError, match="too large"):
        images.read(path, 120 * 160 - 1)


def test_only_the_settings_limit_the_size(tmp_path):
    side = 14_000  # Pillow alone refuses it; 196 million pixels of 1 bit make a small file
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="too large: 14000"):
        images.measure(tmp_path / "a.png", side * side - 1)


def test_tiny_and_blank_pictures_are_refused(tmp_path, scene):
    assert refusal_of_facts(save(tmp_path / "tiny.png", scene[:31])).startswith("tiny: 160 × 31")
    black = np.zeros((60, 60, 3), np.uint8)
    assert refusal_of_facts(save(tmp_path / "black.jpg", black)).startswith("black or blank")
    assert refusal_of_facts(save(tmp_path / "white.jpg", black + 255)).startswith("black or blank")


def refusal_of_facts(path: Path) -> str:
    images.read(path)  # it can be read; it is of no use
    with pytest.raises(images.ImageError) as caught:
        images.inspect(path, **LIMITS)
    return caught.value.reason


def test_facts_are_of_the_upright_picture(tmp_path, scene):
    facts = images.inspect(save(tmp_path / "a.png", scene), **LIMITS)
    grey = scene @ np.array([0.299, 0.587, 0.114])
    assert (facts.width, facts.height) == (160, 120)
    assert facts.mean == pytest.approx(grey.mean(), abs=0.01)
    assert facts.contrast == pytest.approx(grey.std(), abs=0.01)
    assert len(facts.sha256) == 64 and 0 <= facts.phash < 2**64


def test_the_perceptual_hash_knows_a_picture_again(tmp_path, scene):
    rng = np.random.default_rng(1)
    other = np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8)

    def hashed(name: str, array: np.ndarray, **options: object) -> int:
        return images.inspect(save(tmp_path / name, array, **options), **LIMITS).phash

    once = hashed("a.png", other)
    smaller = np.asarray(Image.fromarray(other).resize((96, 72), Image.Resampling.BICUBIC))
    darker = (other * 0.8).astype(np.uint8)
    for name, again in {"b.jpg": other, "c.png": smaller, "d.png": darker}.items():
        assert (once ^ hashed(name, again)).bit_count() <= 4, name
    assert (once ^ hashed("e.png", scene)).bit_count() > 12


def test_squash_stretches_the_frame_over_the_square(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    square, affine = images.fit(picture, (10, 20, 90, 60), 64, "squash", "bicubic")
    assert square.shape == (3, 64, 64) and square.dtype == torch.uint8 and square.is_contiguous()
    assert affine.dtype == np.float64 and affine.shape == (2, 3)
    assert images.map_boxes(affine, np.array([[10, 20, 90, 60]]))[0] == pytest.approx(
        [0, 0, 64, 64]
    )


def test_a_frame_of_the_input_size_is_taken_unchanged(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    square, affine = images.fit(picture, (5, 7, 69, 71), 64, "squash", "bilinear")
    assert torch.equal(square, picture[:, 7:71, 5:69])
    assert affine.tolist() == [[1, 0, -5], [0, 1, -7]]


def test_pad_keeps_proportions_and_fills_with_grey(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    square, affine = images.fit(picture, (0, 0, 160, 80), 64, "pad", "bilinear")
    assert (square[:, :16] == images.PAD_GREY).all() and (square[:, 48:] == images.PAD_GREY).all()
    assert affine.tolist() == [[0.4, 0, 0], [0, 0.4, 16]]


def test_crop_takes_the_centre(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    square, affine = images.fit(picture, (0, 0, 160, 120), 60, "crop", "bilinear", crop_share=0.5)
    expected, _ = images.fit(picture, (50, 30, 110, 90), 60, "squash", "bilinear")
    assert torch.equal(square, expected)
    assert images.map_boxes(affine, np.array([[50, 30, 110, 90]])).tolist() == [[0, 0, 60, 60]]


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
@pytest.mark.parametrize("box", [(0, 0, 160, 120), (21, 13, 118, 95), (3, 40, 44, 119)])
def test_the_affine_leads_to_where_the_pixels_went(how, box):
    """A white square of the picture lies where the affine says, to a fraction of a pixel."""
    picture = torch.zeros(3, 120, 160, dtype=torch.uint8)
    target = np.array([[24, 62, 40, 78]])
    picture[:, 62:78, 24:40] = 255
    square, affine = images.fit(picture, box, 96, how, "bilinear", crop_share=0.98)
    x0, y0, x1, y1 = images.map_boxes(affine, target)[0]
    weight = (square[0].numpy() * (square[1].numpy() != images.PAD_GREY)).astype(float)
    centres = np.arange(96) + 0.5
    if how == "pad":
        scale = affine.diagonal()
        inside = images.map_boxes(affine, np.array([box]))[0]
        weight[:, (centres < inside[0]) | (centres > inside[2])] = 0
        weight[(centres < inside[1]) | (centres > inside[3])] = 0
        assert scale[0] == pytest.approx(scale[1], rel=0.02)
    x = (weight.sum(0) * centres).sum() / weight.sum()
    y = (weight.sum(1) * centres).sum() / weight.sum()
    low, high = np.clip([x0, x1], 0, 96), np.clip([y0, y1], 0, 96)
    assert x == pytest.approx(low.mean(), abs=0.3)
    assert y == pytest.approx(high.mean(), abs=0.3)


def test_the_resize_is_antialiased(scene):
    checker = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = torch.from_numpy(checker).expand(3, -1, -1)
    for interpolation in ("bilinear", "bicubic"):
        square, _ = images.fit(picture, (0, 0, 256, 256), 64, "squash", interpolation)
        assert square.float().std() < 12, interpolation


def test_the_resize_agrees_with_pillow(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    for name, filter_ in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
        square, _ = images.fit(picture, (0, 0, 160, 120), 48, "squash", name)
        expected = np.asarray(Image.fromarray(scene).resize((48, 48), filter_)).astype(int)
        assert np.abs(pixels(square) - expected).max() <= 1


def test_a_box_outside_the_picture_is_a_mistake(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    for box in [(0, 0, 161, 120), (-1, 0, 10, 10), (5, 5, 5, 9)]:
        with pytest.raises(ValueError, match="not inside"):
            images.fit(picture, box, 32, "squash", "bilinear")


def test_a_very_thin_frame_is_padded(scene):
    picture = torch.from_numpy(scene).permute(2, 0, 1)
    square, _ = images.fit(picture, (0, 0, 160, 1), 32, "pad", "bilinear")
    assert square.shape == (3, 32, 32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path, scene):
    path = save(tmp_path / "a.png", scene)
    path.chmod(0)
    assert "Permission" in refusal(path)


def test_reading_leaves_no_file_open_and_a_broken_exif_block_does_no_harm(tmp_path, scene):
    stream = io.BytesIO()
    Image.fromarray(scene).save(stream, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert images.read(tmp_path / "a.jpg").shape == (3, 120, 160)
