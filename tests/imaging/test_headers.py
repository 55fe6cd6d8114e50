"""Headers tell size, frames and orientation without a decoder, and hold the limits."""

import struct
import zlib

import pytest

from bodies import in_memory
from made_images import (
    CountingBody,
    chunk,
    encoded,
    exif_block,
    gradient,
    jpeg_of_many_scans,
    jpeg_with,
    png_with,
    saved_by_vips,
    short,
)
from tintype.imaging.headers import Header, read_header
from tintype.imaging.sniff import sniff
from tintype.model.errors import ImageCorrupt, ImageTooLarge, UnsupportedType
from tintype.model.image import Format
from tintype.settings import ImagingSettings

PICTURE = gradient(40, 30)
PNG = encoded(PICTURE, "PNG")
JPEG = encoded(PICTURE, "JPEG")
TURNED = exif_block([short(0x0112, 6)])


def header_of(data: bytes, **limits: int) -> Header:
    image_format = sniff(data)
    assert image_format is not None
    return read_header(image_format, in_memory(data), ImagingSettings.model_validate(limits))


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        encoded(PICTURE, "JPEG", progressive=True),
        encoded(PICTURE.convert("L"), "JPEG"),
        encoded(PICTURE.convert("CMYK"), "JPEG"),
        PNG,
        encoded(PICTURE.convert("P"), "PNG"),
        encoded(PICTURE.convert("1"), "PNG"),
        saved_by_vips(PICTURE, "pngsave", interlace=True),
        encoded(PICTURE, "GIF"),
        encoded(PICTURE, "WEBP"),
        encoded(PICTURE, "WEBP", lossless=True),
        encoded(PICTURE, "WEBP", exif=TURNED),
        encoded(PICTURE, "TIFF"),
        encoded(PICTURE, "TIFF", compression="tiff_lzw"),
        encoded(PICTURE, "TIFF", big_tiff=True),
        saved_by_vips(PICTURE, "tiffsave", tile=True, pyramid=False),
        saved_by_vips(PICTURE, "heifsave", compression="av1"),
    ],
)
def test_width_and_height_are_those_of_the_picture(data: bytes) -> None:
    header = header_of(data)

    assert (header.width, header.height, header.frames) == (40, 30, 1)
    assert header.pixels == 1200


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_frames_and_pages_are_counted(kind: str) -> None:
    frames = [PICTURE.rotate(angle) for angle in (90, 180, 270)]
    data = encoded(PICTURE, kind, save_all=True, append_images=frames)

    assert header_of(data).frames == 4
    assert header_of(data).pixels == 4 * 1200


def test_pages_of_different_size_are_added_up() -> None:
    data = encoded(PICTURE, "TIFF", save_all=True, append_images=[gradient(100, 50)])

    header = header_of(data)

    assert (header.width, header.height, header.pixels) == (40, 30, 1200 + 5000)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(PICTURE.convert("RGBA"), "PNG"), True),
        (encoded(PICTURE.convert("LA"), "PNG"), True),
        (encoded(PICTURE.convert("P"), "PNG", transparency=3), True),
        (encoded(PICTURE.convert("RGBA").rotate(9), "GIF"), True),
        (encoded(PICTURE.convert("RGBA").rotate(9), "WEBP"), True),
        (encoded(PICTURE.convert("RGBA").rotate(9), "WEBP", lossless=True), True),
        (encoded(PICTURE.convert("RGBA"), "TIFF"), True),
        (saved_by_vips(PICTURE.convert("RGBA").rotate(9), "heifsave", compression="av1"), True),
        (PNG, False),
        (encoded(PICTURE, "GIF"), False),
        (encoded(PICTURE, "WEBP"), False),
        (saved_by_vips(PICTURE, "heifsave", compression="av1"), False),
    ],
)
def test_alpha_is_seen(data: bytes, *, expected: bool) -> None:
    assert header_of(data).has_alpha is expected


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(b"Exif\x00\x00" + TURNED, JPEG),
        png_with([chunk(b"eXIf", TURNED)], PNG),
        encoded(PICTURE, "WEBP", exif=TURNED),
        encoded(PICTURE, "WEBP", exif=b"Exif\x00\x00" + TURNED),
        encoded(PICTURE, "TIFF", tiffinfo={0x0112: 6}),
    ],
)
def test_the_orientation_is_found_in_every_format(data: bytes) -> None:
    assert header_of(data).orientation == 6


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    data = jpeg_with(b"Exif\x00\x00" + exif_block([short(0x0112, value)]), JPEG)

    assert header_of(data).orientation == 1


def test_the_rotation_of_an_avif_is_part_of_its_size() -> None:
    data = saved_by_vips(PICTURE, "heifsave", compression="av1")
    turned = data.replace(b"pixi\x00", b"irot\x01")

    header = header_of(turned)

    assert (header.width, header.height, header.orientation) == (30, 40, 1)


def test_a_jpeg_with_more_metadata_than_64_kilobytes_is_walked_not_slurped() -> None:
    data = JPEG
    for _ in range(40):
        data = jpeg_with(b"http://ns.adobe.com/xap/1.0/\x00" + bytes(65_000), data)
    body = CountingBody(len(data), b"", memory=data)

    header = read_header(Format.JPEG, body, ImagingSettings())

    assert (header.width, header.height) == (40, 30)
    assert body.taken < 50 * 4096


def test_a_baseline_jpeg_is_not_read_beyond_its_header() -> None:
    data = encoded(gradient(1500, 1000), "JPEG", quality=95)
    body = CountingBody(len(data), b"", memory=data)

    read_header(Format.JPEG, body, ImagingSettings())

    assert body.taken < 10_000 < len(data)


def test_bytes_after_the_picture_are_welcome() -> None:
    assert header_of(JPEG + bytes(3_000_000)).width == 40
    assert header_of(JPEG + JPEG).width == 40
    assert header_of(PNG + b"PK\x03\x04").width == 40
    assert header_of(encoded(PICTURE, "GIF") + b"<?php").width == 40
    assert header_of(encoded(PICTURE, "WEBP") + b"trailer").width == 40


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_ends_early_is_corrupt(kind: str, share: float) -> None:
    data = encoded(gradient(200, 150), kind)

    with pytest.raises(ImageCorrupt):
        header_of(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_avif_that_ends_early_is_corrupt(share: float) -> None:
    data = saved_by_vips(gradient(200, 150), "heifsave", compression="av1")

    with pytest.raises(ImageCorrupt):
        header_of(data[: int(len(data) * share)])


def test_a_png_or_gif_without_its_last_marker_is_whole_enough() -> None:
    assert header_of(PNG[:-12]).width == 40
    assert header_of(encoded(PICTURE, "GIF")[:-1]).width == 40


def test_scans_are_counted_and_limited() -> None:
    data = jpeg_of_many_scans(60)

    assert header_of(data).scans == 70
    with pytest.raises(ImageTooLarge):
        header_of(data, max_scans=69)


def test_what_only_looks_like_scans_is_not_counted_as_such() -> None:
    decoys = b"Exif\x00\x00" + b"\xff\xda" * 500
    data = encoded(PICTURE, "JPEG", progressive=True)
    middle = data.rindex(b"\xff\xda")
    segment = b"\xff\xe5" + (2 + len(decoys)).to_bytes(2) + decoys

    header = header_of(data[:middle] + segment + data[middle:] + decoys)

    assert header.scans == header_of(data).scans == 10


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_metadata_of_a_png_is_unpacked_to_a_bound(kind: bytes) -> None:
    start = b"Comment\x00\x01\x00\x00\x00" if kind == b"iTXt" else b"Comment\x00\x00"
    data = png_with([chunk(kind, start + zlib.compress(bytes(300_000)))] * 3, PNG)

    assert header_of(data, max_metadata_bytes=900_000).width == 40
    with pytest.raises(ImageTooLarge):
        header_of(data, max_metadata_bytes=800_000)


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537])
def test_compressed_metadata_with_bytes_after_its_end_is_no_trap(length: int) -> None:
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(length)) + b"more" * 20_000)

    assert header_of(png_with([text], PNG)).width == 40


def test_damaged_metadata_of_a_png_is_nobodys_concern() -> None:
    data = png_with([chunk(b"zTXt", b"Comment\x00\x00not deflated"), chunk(b"iCCP", b"")], PNG)

    assert header_of(data).width == 40


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (JPEG, {"max_side": 39}),
        (PNG, {"max_pixels": 1199}),
        (encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]), {"max_pixels": 2399}),
        (encoded(PICTURE, "TIFF", save_all=True, append_images=[PICTURE] * 4), {"max_frames": 4}),
        (encoded(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(9)]), {"max_frames": 1}),
        (encoded(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(9)]), {"max_frames": 1}),
        (saved_by_vips(PICTURE, "heifsave", compression="av1"), {"max_pixels_avif": 1199}),
        (saved_by_vips(PICTURE, "heifsave", compression="av1", bitdepth=10), {"max_pixels_avif_deep": 1199}),
    ],
)
def test_each_limit_is_held(data: bytes, limits: dict[str, int]) -> None:
    header_of(data)
    with pytest.raises(ImageTooLarge) as refused:
        header_of(data, **limits)
    assert refused.value.details["limit"] == next(iter(limits.values()))


def test_a_gif_whose_screen_is_enormous_is_refused_whatever_its_frames() -> None:
    data = bytearray(encoded(PICTURE, "GIF"))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)

    with pytest.raises(ImageTooLarge):
        header_of(bytes(data))


def test_a_directory_that_points_at_itself_is_one_page() -> None:
    data = bytearray(encoded(PICTURE, "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)

    assert header_of(bytes(data)).frames == 1


def test_a_raw_picture_in_a_tiff_is_refused_as_such() -> None:
    with pytest.raises(UnsupportedType, match="DNG"):
        header_of(encoded(PICTURE, "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"}))


def test_a_picture_in_another_codec_than_the_brand_says_is_refused() -> None:
    data = saved_by_vips(PICTURE, "heifsave", compression="av1").replace(b"av01", b"hvc1")

    with pytest.raises(UnsupportedType):
        header_of(data)


def test_boxes_within_boxes_are_not_followed_down() -> None:
    nested = b""
    for _ in range(3000):
        nested = (8 + len(nested)).to_bytes(4) + b"meta" + nested
    data = b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00avifmif1" + nested

    with pytest.raises(ImageCorrupt):
        header_of(data)
