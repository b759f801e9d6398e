"""Images from files: the one place where image bytes are decoded."""

from __future__ import annotations

import hashlib
import io
import re
from functools import lru_cache
from pathlib import PurePosixPath

import pyarrow
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from visvm import storage
from visvm.records import DecodedImage

MAX_PIXELS = 64 * 2**20
MAX_BYTES = 64 * 2**20
# A closed list: Pillow's other plugins are little tested, and EPS would run an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_PARQUET_ROW = re.compile(r"(?P<file>.+)#(?P<column>\w+)=(?P<row>\d+)")


def load(
    uri: str, *, id: str | None = None, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> DecodedImage:
    """Read and decode one image, by anything that ``read`` takes; ``id`` is else the file's stem.

    Raises:
        ValueError: the file cannot be read or is not a usable image, with the reason.
    """
    data = read(uri, max_bytes=max_bytes)
    return decode(data, id=id or PurePosixPath(uri).stem, uri=uri, max_pixels=max_pixels)


def read(uri: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a local path, a URI of a pyarrow filesystem, or one row of a parquet file.

    "FILE#COLUMN=ROW" names a row whose column holds bytes or the hub's struct {bytes, path}.

    Raises:
        ValueError: the file cannot be read or is larger than ``max_bytes``.
        storage.Unreachable: the store it is in cannot be reached.
    """
    row = _PARQUET_ROW.fullmatch(uri)
    try:
        data = _read_row(**row.groupdict()) if row else storage.read(uri, max_bytes + 1)
    except (OSError, LookupError, pyarrow.lib.ArrowException) as error:
        raise ValueError(f"cannot read {uri}: {error}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{uri} is larger than {max_bytes} bytes")
    return data


def decode(data: bytes, *, id: str, uri: str, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the bytes of one image: upright by its EXIF, first frame, RGB, transparency on white.

    Raises:
        ValueError: empty, unreadable, truncated or above ``max_pixels``, with the reason.
    """
    if not data:
        raise ValueError(f"{uri} is empty (zero bytes)")
    try:
        pil = _rgb(_upright(_pixels(data, max_pixels)))
    except Exception as error:  # hostile bytes make decoders raise anything
        raise ValueError(f"{uri} is not a usable image: {error or type(error).__name__}") from None
    return DecodedImage(id=id, uri=uri, content_hash=content_hash(data), pil=pil)


def from_pil(image: Image.Image, *, id: str = "image") -> DecodedImage:
    """Return a PIL image as ``decode`` would: upright, RGB. Its pixels stand for its file's content.

    Raises:
        ValueError: its pixels cannot be read.
    """
    try:
        pil = _rgb(_upright(image))
    except Exception as error:  # a lazily opened file is only decoded now
        raise ValueError(f"the PIL image cannot be used: {error or type(error).__name__}") from None
    pixels = f"{pil.width}x{pil.height}:".encode() + pil.tobytes()
    return DecodedImage(id=id, uri="", content_hash=content_hash(pixels), pil=pil)


def content_hash(data: bytes) -> str:
    """The identity of a file's content: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


def _read_row(file: str, column: str, row: str) -> bytes:
    parquet, index = _parquet(file), int(row)
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        if index < num_rows:
            value = _column(file, column, group)[index].as_py()
            data = value["bytes"] if isinstance(value, dict) else value
            return data or b""
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
    if image.width * image.height > max_pixels:  # known from the header, before any pixel is decoded
        raise ValueError(f"{image.width} x {image.height} is more than {max_pixels} pixels")
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grayscale: convert() would clip it to white
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
