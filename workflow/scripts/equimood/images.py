"""Pictures: open, verify, orient, frame and resize. Nothing else decodes a picture.

Coordinates are continuous: pixel ``i`` covers the interval from ``i`` to ``i + 1``, so a box
``x0, y0, x1, y1`` holds the columns ``x0 … x1 - 1`` and the rows ``y0 … y1 - 1``.
"""

import hashlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.fft import dctn
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
PAD_GREY = 128
BYTES_PER_PIXEL = 8  # 16 bits of each of RGBA, uncompressed
HEADER_BYTES = 1 << 26  # EXIF, previews, the further frames of a burst
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
Image.init()  # so that Pillow knows all of them by name
# The limit is `max_pixels`, checked in the header before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """A picture that cannot be used: ``reason`` says what is wrong, ``remedy`` what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Facts:
    """What the catalogue keeps of a file.

    ``width`` and ``height`` in pixels of the upright picture, ``mean`` and ``contrast`` (standard
    deviation) in grey levels 0-255, ``phash`` a 64-bit perceptual hash, then mean and standard
    deviation of each channel, 0-255.
    """

    sha256: str
    width: int
    height: int
    phash: int
    mean: float
    contrast: float
    red: float
    green: float
    blue: float
    red_sd: float
    green_sd: float
    blue_sd: float


def inspect(path: Path, *, max_pixels: int, min_side_px: int, min_contrast: float) -> Facts:
    """Decode the whole file and measure it; raise :class:`ImageError` if it cannot be used."""
    facts = measure(path, max_pixels)
    check(facts, max_pixels=max_pixels, min_side_px=min_side_px, min_contrast=min_contrast)
    return facts


def measure(path: Path, max_pixels: int) -> Facts:
    """Decode the whole file and measure it; raise :class:`ImageError` if it does not decode."""
    content = _content(path, max_pixels)
    picture = _decode(content, max_pixels)
    _, height, width = picture.shape
    # A million pixels tell the grey levels as well as a hundred million, and fit in memory.
    stride = math.ceil(math.sqrt(width * height / 1e6))
    sample = picture[:, ::stride, ::stride]
    grey, channels = _grey(sample), sample.float().flatten(1)
    red, green, blue = channels.mean(dim=1).tolist()
    red_sd, green_sd, blue_sd = channels.std(dim=1, correction=0).tolist()
    return Facts(
        sha256=hashlib.sha256(content).hexdigest(),
        width=width,
        height=height,
        phash=_perceptual_hash(picture),
        mean=float(grey.mean()),
        contrast=float(grey.std()),
        red=red,
        green=green,
        blue=blue,
        red_sd=red_sd,
        green_sd=green_sd,
        blue_sd=blue_sd,
    )


def check(facts: Facts, *, max_pixels: int, min_side_px: int, min_contrast: float) -> None:
    """Raise :class:`ImageError` if a picture is too large, tiny, black or blank."""
    _check_size(facts.width, facts.height, max_pixels)
    if min(facts.width, facts.height) < min_side_px:
        raise ImageError(
            f"tiny: {facts.width} × {facts.height} pixels",
            f"use the original picture; ingest.min_side_px asks for {min_side_px}",
        )
    if facts.contrast < min_contrast:
        raise ImageError(
            f"black or blank: grey levels {facts.mean:.0f} ± {facts.contrast:.1f}",
            f"use another picture; ingest.min_contrast asks for ± {min_contrast:g}",
        )


def read(path: Path, max_pixels: int | None = None) -> Tensor:
    """Read a picture as uint8 (3, height, width), upright, RGB.

    Transparent pixels become white; of an animation the first frame is taken. Raises
    :class:`ImageError` where the file is missing, broken, or larger than ``max_pixels``.
    """
    return _decode(_content(path, max_pixels), max_pixels)


def fit(
    picture: Tensor,
    box: tuple[int, int, int, int],
    side: int,
    how: Literal["squash", "pad", "crop"],
    interpolation: Literal["bilinear", "bicubic"],
    crop_share: float = 1.0,
) -> tuple[Tensor, np.ndarray]:
    """Make the square that a network sees of a frame in a picture, by an antialiased resize.

    Parameters
    ----------
    picture : uint8 (3, height, width).
    box : x0, y0, x1, y1 of the frame, inside the picture.
    side : side of the square in pixels.
    how : ``squash`` stretches the frame; ``pad`` keeps its proportions and fills with grey;
        ``crop`` takes the central square of ``crop_share`` times the frame's shorter side.

    Returns
    -------
    The square, uint8 (3, side, side), and the affine, float64 (2, 3), that takes a point
    (x, y, 1) of the picture to the square.
    """
    x0, y0, x1, y1 = box
    _, height, width = picture.shape
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"box {box} is not inside the picture of {width} × {height} pixels")
    (x0, y0, x1, y1), (left, top), (new_w, new_h), affine = place(box, side, how, crop_share)
    resized = resize(
        picture[:, y0:y1, x0:x1], [new_h, new_w], InterpolationMode(interpolation), antialias=True
    )
    square = resized
    if (new_w, new_h) != (side, side):
        square = torch.full((3, side, side), PAD_GREY, dtype=torch.uint8)
        square[:, top : top + new_h, left : left + new_w] = resized
    return square.contiguous(), affine


def place(
    box: tuple[int, int, int, int],
    side: int,
    how: Literal["squash", "pad", "crop"],
    crop_share: float = 1.0,
) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int], np.ndarray]:
    """Say how :func:`fit` lays a frame into its square.

    Returns
    -------
    What is cut out of the picture (x0, y0, x1, y1), where its corner comes to lie in the square
    (x, y), the width and height that it gets there, and the affine (2, 3).
    """
    x0, y0, x1, y1 = box
    if how == "crop":
        edge = max(1, round(crop_share * min(x1 - x0, y1 - y0)))
        x0, y0 = x0 + (x1 - x0 - edge) // 2, y0 + (y1 - y0 - edge) // 2
        x1, y1 = x0 + edge, y0 + edge
    w, h = x1 - x0, y1 - y0
    new_w = new_h = side
    if how == "pad":
        new_w, new_h = (max(1, round(side * length / max(w, h))) for length in (w, h))
    left, top = (side - new_w) // 2, (side - new_h) // 2
    affine = np.array([[new_w / w, 0, left - x0 * new_w / w], [0, new_h / h, top - y0 * new_h / h]])
    return (x0, y0, x1, y1), (left, top), (new_w, new_h), affine


def hide(picture: Tensor, boxes: Iterable[tuple[int, int, int, int]]) -> Tensor:
    """Fill boxes of a picture with one colour, the mean of what lies outside all of them.

    So the filled picture depends on no pixel of the boxes. What it still tells of them is their
    place and size. Where nothing is left outside, all is grey.

    Parameters
    ----------
    picture : uint8 (3, height, width); it is left as it is.
    boxes : x0, y0, x1, y1 each, inside the picture.
    """
    hidden = torch.zeros(picture.shape[1:], dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        hidden[y0:y1, x0:x1] = True
    colour = torch.full((3,), PAD_GREY, dtype=torch.uint8)
    if not hidden.all():
        colour = picture[:, ~hidden].double().mean(dim=1).round().to(torch.uint8)
    return torch.where(hidden, colour[:, None, None], picture)


def map_boxes(affine: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Take boxes (n, 4) of the picture to the square by ``fit``'s affine (2, 3); not clipped."""
    scale, shift = affine.diagonal(), affine[:, 2]
    return np.asarray(boxes, float) * np.tile(scale, 2) + np.tile(shift, 2)


def _content(path: Path, max_pixels: int | None) -> bytes:
    try:
        size = path.stat().st_size
        # A film, say, would fill the memory before it is found to be no picture.
        if max_pixels is not None and size > BYTES_PER_PIXEL * max_pixels + HEADER_BYTES:
            raise ImageError(
                f"too large: a file of {size / 1e9:.2g} GB",
                f"save a picture of at most {max_pixels} pixels (ingest.max_pixels)",
            )
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"unreadable: {error.strerror}", "check the file and its permissions"
        ) from None
    if not content:
        raise ImageError("empty: the file has no bytes", "copy the file again")
    return content


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"too large: {width} × {height} pixels",
            f"scale it down; ingest.max_pixels allows {max_pixels}",
        )


def _decode(content: bytes, max_pixels: int | None) -> Tensor:
    """uint8 (3, height, width) of the bytes of a picture."""
    # Damaged files raise what they like in Pillow: OSError, SyntaxError, struct.error, KeyError…
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except MemoryError:
        raise
    except Exception:
        if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise ImageError("unreadable: HEIC", "save the picture as JPEG") from None
        raise ImageError("unreadable: not a picture", "save it as JPEG or PNG") from None
    _check_size(*image.size, max_pixels)
    if image.mode in ("I", "F"):
        raise ImageError(f"unreadable: pixels of type {image.mode}", "save it with 8 or 16 bits")
    try:
        # torchvision's JPEG decoder is the fast one; its PNG decoder dies of a segmentation fault
        # on a damaged file (0.29.2), so that everything else is Pillow's.
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_jpeg(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        rgb = _rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:
        if "truncated" in str(error):
            raise ImageError("truncated: the file ends too early", "copy the file again") from None
        raise ImageError(f"unreadable: {str(error)[-80:]}", "copy or save the file again") from None
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(picture: Tensor) -> Tensor:
    """Grey levels, float32 (h, w), of uint8 (3, h, w)."""
    return torch.tensordot(torch.tensor(LUMA), picture.float(), dims=1)


def _perceptual_hash(picture: Tensor) -> int:
    """64 bits: which of the 8 × 8 lowest frequencies of the picture lie above their median.

    Zauner (2010), "Implementation and benchmarking of perceptual image hash functions".
    """
    small = resize(picture, [32, 32], InterpolationMode.BILINEAR, antialias=True)
    lowest = dctn(_grey(small).numpy(), norm="ortho")[:8, :8]
    bits = lowest > np.median(lowest)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
