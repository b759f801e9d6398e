"""Every kind of file a user may have: used rightly, or refused with its reason."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.paths import SHARED_DATA
from visvm.images import MAX_ASPECT_RATIO, content_hash, decode, from_pil, load

PHOTOS = SHARED_DATA / "photos"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(data: bytes, **limits: int) -> Image.Image:
    image = decode(data, id="a", uri="a.png", **limits)
    assert image.pil.mode == "RGB"
    return image.pil


def close(a: tuple[int, ...], b: tuple[int, ...], tolerance: int = 12) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= tolerance


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "WEBP")],
)
def test_every_colour_mode_keeps_its_colour(mode: str, format: str) -> None:
    image = Image.new("RGB", (16, 12), RED).convert(mode)
    assert close(pixels(encode(image, format)).getpixel((5, 5)), RED)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grayscale_becomes_gray(mode: str) -> None:
    assert pixels(encode(Image.new("L", (8, 8), 255).convert(mode))).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grayscale_is_scaled_not_clipped() -> None:
    assert pixels(encode(Image.new("I;16", (8, 8), 256 * 128))).getpixel((1, 1)) == (128, 128, 128)


def test_transparent_pixels_become_white_whatever_hides_beneath() -> None:
    assert pixels(encode(Image.new("RGBA", (4, 4), (*RED, 0)))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*RED, *BLUE])
    assert pixels(encode(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied_and_a_broken_one_ignored() -> None:
    image = Image.new("RGB", (20, 10), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(encode(image, "JPEG", exif=exif)).size == (10, 20)
    assert pixels(encode(image, "JPEG", exif=b"Exif\0\0rubbish")).size == (20, 10)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert close(pixels(data).getpixel((3, 3)), RED)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"not an image", "cannot identify"),
        (encode(Image.effect_noise((64, 64), 90), "JPEG")[:-400], "truncated"),
        (encode(Image.effect_noise((64, 64), 90))[:-400], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
    ],
)
def test_unusable_bytes_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(data, id="a", uri="a.jpg")


def test_a_huge_image_is_refused_from_its_header() -> None:
    data = encode(Image.new("1", (9000, 9000)))
    with pytest.raises(ValueError, match="9000 x 9000 is more than"):
        decode(data, id="a", uri="a.png")
    with pytest.raises(ValueError, match="4 x 4 is more than 15 pixels"):
        pixels(encode(Image.new("L", (4, 4))), max_pixels=15)


def test_load_reads_a_path_or_a_uri_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encode(Image.new("RGB", (4, 4), RED)))
    image = load(str(path))
    assert (image.id, image.uri) == ("cat", str(path))
    assert image.content_hash == content_hash(path.read_bytes())
    assert load(path.as_uri(), id="7").content_hash == image.content_hash
    with pytest.raises(ValueError, match=r"missing\.png"):
        load(str(tmp_path / "missing.png"))
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        load(str(path), max_bytes=10)
    with pytest.raises(ValueError, match="cannot read https"):
        load("https://example.org/cat.png")


def test_a_row_of_a_parquet_file_is_a_image(tmp_path: Path) -> None:
    images = [encode(Image.new("RGB", (4, 4), (shade, 0, 0))) for shade in (10, 20, 30)]
    structs = [{"bytes": data, "path": "x.png"} for data in images]
    table = pa.table({"image": structs, "raw": images})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for row, shade in enumerate((10, 20, 30)):
        for column in ("image", "raw"):
            uri = f"{tmp_path}/a.parquet#{column}={row}"
            assert load(uri).pil.getpixel((0, 0)) == (shade, 0, 0)
    for wrong in ("image=3", "none=0"):
        with pytest.raises(ValueError, match="cannot read"):
            load(f"{tmp_path}/a.parquet#{wrong}")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the shared photographs")
def test_real_photographs_decode() -> None:
    paths = sorted(PHOTOS.glob("*.jpg"))
    assert paths and json.loads((PHOTOS / "index.json").read_text())
    assert all(min(load(str(path)).pil.size) > 100 for path in paths)


def tiff(values: np.ndarray, **tags: object) -> bytes:
    info = {int(tag[1:]): value for tag, value in tags.items()}
    return encode(Image.fromarray(values), "TIFF", tiffinfo=info)


RAMP = np.linspace(0, 1, 16).reshape(4, 4)


@pytest.mark.parametrize(
    "data",
    [
        tiff(RAMP.astype(np.float32)),
        tiff((RAMP * 65535).astype(np.uint16)),
        tiff((RAMP * 4095).astype(np.uint16), _281=4095),
        encode(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
        b"P5 4 4 4095\n" + (RAMP * 4095).astype(">u2").tobytes(),
    ],
)
def test_wide_values_are_scaled_to_where_their_white_is(data: bytes) -> None:
    assert pixels(data).getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 255).astype(np.int32),  # which of 32 bits is white?
        (RAMP * 4095).astype(np.uint16),  # 12 bits, or a dark image?
        (RAMP * 255).astype(np.float32),
        (RAMP - 0.5).astype(np.float32),
        np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32),
    ],
)
def test_values_whose_white_is_not_known_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"white|fill less than a quarter of 16 bits"):
        pixels(tiff(values))


@pytest.mark.parametrize("most", [100, 255, 4095, 16383])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_fewer_bits_in_16_are_refused_whatever_the_format(format: str, most: int) -> None:
    with pytest.raises(ValueError, match="fill less than a quarter of 16 bits"):
        pixels(encode(Image.fromarray((RAMP * most).astype(np.uint16)), format))


def test_a_black_image_and_a_dim_one_stay_what_they_are() -> None:
    assert pixels(tiff(np.zeros((4, 4), np.uint16))).getextrema() == ((0, 0),) * 3
    dim = encode(Image.fromarray((RAMP * 32767).astype(np.uint16)), "PNG")
    assert pixels(dim).getextrema() == ((0, 127),) * 3


def test_pixels_of_a_caller_are_held_to_the_same() -> None:
    assert from_pil(Image.fromarray(RAMP.astype(np.float32))).pil.getextrema() == ((0, 255),) * 3
    for image in (Image.fromarray((RAMP * 255).astype(np.int32)), Image.new("L", (1, 60))):
        with pytest.raises(ValueError, match=r"32-bit values|1 x 60 is longer than"):
            from_pil(image)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 101), (101, 2)])
def test_a_thin_image_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    data = encode(Image.new("1", size))
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} is longer than 50 times its width"):
        decode(data[: len(data) - 12], id="a", uri="a.png")  # its end is not read


def test_what_processors_make_of_the_thinnest_image_is_bounded() -> None:
    """LLaVA's processor and CLIP scale the shorter side to theirs; Qwen and the tiles bound the pixels."""
    image = pixels(encode(Image.new("RGB", (10, 10 * MAX_ASPECT_RATIO))))
    height, width = (round(side * 336 / min(image.size)) for side in image.size)
    assert height * width <= 6 * 2**20


@pytest.mark.skipif(not (SHARED_DATA / "cases").is_dir(), reason="needs the shared cases")
@pytest.mark.parametrize("name", ["float_0_to_1", "int32_0_to_255", "uint16_12_bits"])
def test_shared_dark_files_are_scaled_or_refused(name: str) -> None:
    try:
        image = load(str(SHARED_DATA / "cases" / "dark-tiff" / f"{name}.tif")).pil
    except ValueError as error:
        assert "white" in str(error) or "16 bits" in str(error)
    else:
        assert image.getextrema() == ((0, 255),) * 3
