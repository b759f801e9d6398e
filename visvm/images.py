"""Images from files: the one place where image bytes are decoded."""

from __future__ import annotations

import hashlib
import io
import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from visvm import storage
from visvm.records import DecodedImage

MAX_PIXELS = 64 * 2**20
MAX_BYTES = 64 * 2**20
# Processors and CLIP scale the shorter side to theirs, 224 to 518 pixels, and crop afterwards: what they make
# of an image has at most this many times the pixels of a square, known before anything is decoded.
MAX_ASPECT_RATIO = 50
# A closed list: Pillow's other plugins are little tested, and EPS would run an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
URI_COLUMNS = ("uri", "path", "file_name")
_FORMATS_WITH_WHITE = ("PNG", "PPM")  # which say, or define, the largest value
_PARQUET_ROW = re.compile(r"(?P<file>.+)#(?P<column>\w+)=(?P<row>\d+)")
_BYTES = re.compile(r"(?P<file>.+)#bytes=(?P<first>\d+)-(?P<last>\d+)")
_BITS_PER_SAMPLE, _MAX_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, (281, 341), 339, 2  # tags of TIFF


def load(
    uri: str, *, id: str | None = None, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> DecodedImage:
    """Read and decode one image, given as ``read`` takes it; ``id`` is else the file's stem.

    Raises:
        ValueError: the file cannot be read or is not a usable image, with the reason.
    """
    data = read(uri, max_bytes=max_bytes)
    return decode(data, id=id or PurePosixPath(uri).stem, uri=uri, max_pixels=max_pixels)


def read(uri: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a local path, a URI of a pyarrow filesystem, or a part of such a file.

    "FILE#COLUMN=ROW" is a row of a parquet file, whose column holds bytes or the hub's struct {bytes, path};
    if the bytes are missing, the path beside them is followed. "FILE#bytes=FIRST-LAST" is a part of a file,
    such as a member of a tar file.

    Raises:
        ValueError: the file cannot be read or is larger than ``max_bytes``.
        storage.Unreachable: the store it is in cannot be reached.
    """
    row, part = _PARQUET_ROW.fullmatch(uri), _BYTES.fullmatch(uri)
    try:
        if row:
            data = _read_row(**row.groupdict(), max_bytes=max_bytes)
        elif part:
            first, last = int(part["first"]), int(part["last"])
            data = storage.read_range(part["file"], first, min(last + 1 - first, max_bytes + 1))
        else:
            data = storage.read(uri, max_bytes + 1)
    except (OSError, LookupError, pyarrow.lib.ArrowException) as error:
        raise ValueError(f"cannot read {uri}: {error}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{uri} is larger than {max_bytes} bytes")
    return data


def decode(data: bytes, *, id: str, uri: str, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the bytes of one image: upright by its EXIF, first frame, RGB, transparency on white.

    Raises:
        ValueError: empty, unreadable, truncated, above ``max_pixels``, too long for its width, or of values
            whose white is not known, with the reason.
    """
    if not data:
        raise ValueError(f"{uri} is empty (zero bytes)")
    try:
        pil = _convert(_pixels(data, max_pixels))
    except Exception as error:  # hostile bytes make decoders raise anything
        raise ValueError(f"{uri} is not a usable image: {error or type(error).__name__}") from None
    return DecodedImage(id=id, uri=uri, content_hash=content_hash(data), pil=pil)


def from_pil(image: Image.Image, *, id: str = "image") -> DecodedImage:
    """Return a PIL image as ``decode`` would: upright, RGB. Its pixels stand for its file's content.

    Raises:
        ValueError: its pixels cannot be read, or it is of a size that ``decode`` refuses.
    """
    try:
        check_size(image, MAX_PIXELS)
        pil = _convert(image)
    except Exception as error:  # a lazily opened file is only decoded now
        raise ValueError(f"the PIL image cannot be used: {error or type(error).__name__}") from None
    pixels = f"{pil.width}x{pil.height}:".encode() + pil.tobytes()
    return DecodedImage(id=id, uri="", content_hash=content_hash(pixels), pil=pil)


def file_of(uri: str) -> str:
    """Return the file that an image is, or is a part of."""
    part = _PARQUET_ROW.fullmatch(uri) or _BYTES.fullmatch(uri)
    return part["file"] if part else uri


def content_hash(data: bytes) -> str:
    """The identity of a file's content: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


def _read_row(file: str, column: str, row: str, max_bytes: int) -> bytes:
    value: Any = _cell(file, column, int(row))
    path: Any = None
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes) and value:
        return value
    if path is None:
        beside = next((name for name in URI_COLUMNS if name in _parquet(file).schema_arrow.names), None)
        path = value if isinstance(value, str) else _cell(file, beside, int(row)) if beside else None
    if not isinstance(path, str) or not path:
        raise LookupError("the row has neither the bytes of an image nor a path")
    return storage.read(storage.resolve(storage.parent(file), path), max_bytes + 1)


def _cell(file: str, column: str, index: int) -> Any:
    parquet = _parquet(file)
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        if index < num_rows:
            return _column(file, column, group)[index].as_py()
        index -= num_rows
    raise IndexError("the file has fewer rows")


@lru_cache(maxsize=4)
def _parquet(uri: str) -> pq.ParquetFile:
    return storage.parquet(uri)


@lru_cache(maxsize=2)  # rows are read in order: the group of the last row is that of the next
def _column(uri: str, column: str, group: int) -> pyarrow.ChunkedArray:
    parquet = _parquet(uri)
    return storage.reading(uri, lambda: parquet.read_row_group(group, columns=[column]).column(column))


def _pixels(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # its own message ends in the address of a buffer
        raise ValueError(f"cannot identify its format: expected {', '.join(FORMATS)}") from None
    check_size(image, max_pixels)  # known from the header, before any pixel is decoded
    image.load()
    return image


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Check that neither the image nor what a processor would make of it has too many pixels.

    Raises:
        ValueError: it has, with its size and the limit.
    """
    size = f"{image.width} x {image.height}"
    if image.width * image.height > max_pixels:
        raise ValueError(f"{size} is more than {max_pixels} pixels")
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(f"{size} is longer than {MAX_ASPECT_RATIO} times its width: crop or split it")


def _upright(image: Image.Image) -> Image.Image:
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if is_turned else image  # without a copy
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _convert(image: Image.Image) -> Image.Image:
    """Turn an image upright and into RGB of 8 bits.

    Raises:
        ValueError: nothing says which of its values is white.
    """
    white = _white(image) if image.mode[0] in "IF" else None
    rgb = _rgb(_upright(image), white)
    if _may_hold_fewer_bits(image):
        # Cameras and microscopes store 10 to 14 bits in 16 and do not say so: its white is less, or it is
        # dark. Of colours in 16 bits only the upper 8 are known here.
        highest = np.asarray(rgb).max() / 255 if white is None else np.asarray(image).max() / white
        if highest < 1 / 4 and (highest > 0 or white is None):
            raise ValueError(
                "its values fill less than a quarter of 16 bits: store it with 8, or state its maximum"
            )
    return rgb


def _rgb(image: Image.Image, white: float | None) -> Image.Image:
    if white is not None:
        image = _eight_bits(image, white)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _eight_bits(image: Image.Image, white: float) -> Image.Image:
    """Scale gray values to 0 to 255, which convert() would clip."""
    values = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # nor are they where one is not a number
        raise ValueError(f"its values, {low:g} to {high:g}, are not between 0 (black) and {white:g} (white)")
    values *= 255 / white  # in place: four bytes a pixel are much
    values += 0.5
    return Image.fromarray(values.astype(np.uint8))


def _white(image: Image.Image) -> float:
    tags = getattr(image, "tag_v2", {})
    stated = next((tags[tag] for tag in _MAX_SAMPLE if tag in tags), None)
    if stated:
        return float(max(stated) if isinstance(stated, tuple) else stated)
    if image.mode == "F":
        return 1.0
    has_white = image.format in _FORMATS_WITH_WHITE
    bits = max(tags.get(_BITS_PER_SAMPLE, (32 if image.mode == "I" and not has_white else 16,)))
    if bits > 16:
        raise ValueError("nothing says which of its 32-bit values is white: store it with 8 or 16 bits")
    return 2.0 ** (bits - (tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED)) - 1


def _may_hold_fewer_bits(image: Image.Image) -> bool:
    """Return whether an image has 16 bits and nothing says what its maximum is."""
    tags = getattr(image, "tag_v2", {})
    if image.format == "PPM" or any(tag in tags for tag in _MAX_SAMPLE):
        return False
    return max(tags.get(_BITS_PER_SAMPLE, (16 if image.mode.startswith("I;16") else 8,))) == 16
