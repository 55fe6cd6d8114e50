"""Whatever the bytes are, walking them ends soon, and in a header or a refusal of ours."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_images import (
    CountingBody,
    chunk,
    encoded,
    exif_block,
    gradient,
    jpeg_with,
    png_with,
    saved_by_vips,
    short,
)
from tintype.imaging.headers import read_header
from tintype.imaging.ifd import Ifds
from tintype.imaging.sniff import describe, sniff
from tintype.imaging.storable import MAX_BYTES, storable
from tintype.imaging.worker.exif import read_exif
from tintype.model.errors import TintypeError
from tintype.model.image import Format
from tintype.settings import ImagingSettings

PICTURE = gradient(24, 18)
EXIF = exif_block([short(0x0112, 6)], [(0x9003, 2, 20, b"2026:01:02 03:04:05\x00")], [(2, 5, 3, bytes(24))])
SEEDS = {
    Format.JPEG: jpeg_with(b"Exif\x00\x00" + EXIF, encoded(PICTURE, "JPEG", progressive=True)),
    Format.PNG: png_with([chunk(b"eXIf", EXIF), chunk(b"acTL", bytes(8))], encoded(PICTURE, "PNG")),
    Format.GIF: encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
    Format.WEBP: encoded(PICTURE, "WEBP", exif=EXIF, save_all=True, append_images=[PICTURE.rotate(90)]),
    Format.TIFF: encoded(PICTURE, "TIFF", save_all=True, append_images=[PICTURE.rotate(90)]),
    Format.AVIF: saved_by_vips(PICTURE.convert("RGBA").rotate(5), "heifsave", compression="av1"),
}
SEEDS[Format.HEIC] = SEEDS[Format.AVIF].replace(b"av01", b"hvc1")
MOST_READ = 32 * 1024 * 1024

damages = st.lists(st.tuples(st.integers(0, 1_000_000), st.binary(min_size=1, max_size=8)), max_size=12)
fuzzing = settings(derandomize=True, max_examples=250, deadline=None)


def damaged(data: bytes, damage: list[tuple[int, bytes]], cut: int) -> bytes:
    """Return the data with other bytes in some places, most of them near the start, and cut off."""
    broken = bytearray(data)
    for place, replacement in damage:
        start = place % (len(broken) if place % 3 else min(len(broken), 512))
        broken[start : start + len(replacement)] = replacement
    return bytes(broken[: len(broken) - cut % len(broken)] if cut % 4 == 0 else broken)


def walk(image_format: Format, data: bytes) -> None:
    body = CountingBody(len(data), b"", memory=data)
    with contextlib.suppress(TintypeError):
        read_header(image_format, body, ImagingSettings())
    assert body.taken < MOST_READ


@pytest.mark.parametrize("image_format", list(SEEDS))
@fuzzing
@given(damage=damages, cut=st.integers(0, 100_000))
def test_a_damaged_file_gives_a_header_or_a_refusal(
    image_format: Format, damage: list[tuple[int, bytes]], cut: int
) -> None:
    walk(image_format, damaged(SEEDS[image_format], damage, cut))


@pytest.mark.parametrize("image_format", list(SEEDS))
@fuzzing
@given(rubbish=st.binary(max_size=600))
def test_rubbish_behind_a_signature_gives_a_refusal(image_format: Format, rubbish: bytes) -> None:
    walk(image_format, SEEDS[image_format][:24] + rubbish)


@fuzzing
@given(head=st.binary(max_size=200))
def test_whatever_comes_has_a_name(head: bytes) -> None:
    assert sniff(head) is not None or describe(head)


@fuzzing
@given(damage=damages, cut=st.integers(0, 1000))
def test_damaged_exif_gives_facts_that_can_be_stored(damage: list[tuple[int, bytes]], cut: int) -> None:
    block = damaged(EXIF, damage, cut)

    found = read_exif(lambda start, count: block[start : start + count])

    assert len(repr(storable(found.rest))) <= 2 * MAX_BYTES
    if found.location is not None:
        assert abs(found.location[0]) <= 90


def test_the_seeds_are_good_files() -> None:
    for image_format, data in SEEDS.items():
        assert (
            read_header(image_format, CountingBody(len(data), b"", memory=data), ImagingSettings()).width
            == 24
        )
    assert Ifds.open(lambda start, count: EXIF[start : start + count]).first == 8
