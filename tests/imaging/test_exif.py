"""EXIF is read as cameras write it, and as strangers write it."""

import math
import struct
from datetime import timedelta

import pytest

from made_images import Value, ascii_value, exif_block, rational, short
from tintype.imaging.storable import storable
from tintype.imaging.worker.exif import Exif, read_exif

TAKEN, FRACTION, OFFSET = 0x9003, 0x9291, 0x9011


def read(block: bytes) -> Exif:
    return read_exif(lambda start, count: block[start : start + count])


def test_the_camera_is_described() -> None:
    found = read(
        exif_block(
            [ascii_value(0x010F, b"Zeiss "), ascii_value(0x0110, b"Ikon")],
            [
                ascii_value(0xA434, b"Tessar 2.8/50"),
                rational(0x829A, (1, 250)),
                rational(0x829D, (28, 10)),
                rational(0x920A, (50, 1)),
                short(0x8827, 400),
            ],
        )
    )

    assert found.camera == {
        "make": "Zeiss",
        "model": "Ikon",
        "lens": "Tessar 2.8/50",
        "exposure_time": 0.004,
        "f_number": 2.8,
        "focal_length": 50,
        "iso": 400,
    }
    assert found.rest == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(TAKEN, b"2026:11:22 18:30:05")], "2026-11-22T18:30:05"),
        ([(TAKEN, b"2026:11:22 18:30:05"), (OFFSET, b"-03:30")], "2026-11-22T18:30:05-03:30"),
        ([(TAKEN, b"2026:11:22 18:30:05"), (FRACTION, b"25")], "2026-11-22T18:30:05.250000"),
        ([(TAKEN, b"2026-11-22 18:30:05")], "2026-11-22T18:30:05"),
        ([(TAKEN, b"2026:11:22 18:30:05"), (OFFSET, b"+99:00")], "2026-11-22T18:30:05"),
        ([(TAKEN, b"2026:11:22 18:30:05"), (FRACTION, b"\xb2\xb3")], "2026-11-22T18:30:05"),
        ([(TAKEN, b"0000:00:00 00:00:00")], None),
        ([(TAKEN, b"2026:02:30 00:00:00")], None),
        ([(TAKEN, b"    :  :     :  :  ")], None),
        ([(TAKEN, b"yesterday")], None),
        ([], None),
    ],
)
def test_the_moment_is_read_as_far_as_it_makes_sense(
    values: list[tuple[int, bytes]], expected: str | None
) -> None:
    found = read(exif_block(camera=[ascii_value(tag, text) for tag, text in values]))

    assert (found.taken_at.isoformat() if found.taken_at else None) == expected


def test_the_zone_is_the_cameras() -> None:
    found = read(
        exif_block(camera=[ascii_value(TAKEN, b"2026:11:22 18:30:05"), ascii_value(OFFSET, b"+05:45")])
    )

    assert found.taken_at is not None
    assert found.taken_at.utcoffset() == timedelta(hours=5, minutes=45)


def gps(latitude: Value, longitude: Value, *more: Value) -> list[Value]:
    return [ascii_value(1, b"N"), latitude, ascii_value(3, b"W"), longitude, *more]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            gps(rational(2, (40, 1), (26, 1), (46, 1)), rational(4, (79, 1), (58, 1), (56, 1))),
            (40.4461111, -79.9822222, None),
        ),
        (
            gps(
                rational(2, (40, 1), (30, 1), (0, 1)),
                rational(4, (79, 1)),
                (5, 1, 1, b"\x01"),
                rational(6, (12, 1)),
            ),
            (40.5, -79, -12),
        ),
        (gps(rational(2, (404, 10)), rational(4, (79, 1)), rational(6, (85, 10))), (40.4, -79, 8.5)),
        (gps(rational(2, (0, 0), (0, 0), (0, 0)), rational(4, (0, 0), (0, 0), (0, 0))), None),
        (gps(rational(2, (91, 1)), rational(4, (79, 1))), None),
        (gps(rational(2, (40, 1)), rational(4, (181, 1))), None),
        ([ascii_value(1, b"N"), rational(2, (40, 1))], None),
        (gps((2, 12, 1, struct.pack("<d", math.nan)), rational(4, (79, 1))), None),
    ],
)
def test_a_location_is_taken_only_whole(
    values: list[Value], expected: tuple[float, float, float | None] | None
) -> None:
    found = read(exif_block([ascii_value(0x0131, b"v1")], gps=values))

    assert found.location == expected
    assert found.rest == {"Software": "v1"}


def test_nothing_that_can_hold_a_location_is_among_the_rest() -> None:
    hidden = b"<x:xmpmeta exif:GPSLatitude='40,26.1N'/>"
    found = read(
        exif_block(
            [
                (0x02BC, 1, len(hidden), hidden),
                (0x83BB, 7, len(hidden), hidden),
                (0x8649, 1, len(hidden), hidden),
            ],
            [(0x927C, 7, len(hidden), hidden), ascii_value(0x9004, b"2026:01:01 00:00:00")],
            gps(rational(2, (40, 1)), rational(4, (79, 1)), ascii_value(0x1D, b"2026:01:01")),
        )
    )

    assert found.rest == {"DateTimeDigitized": "2026:01:01 00:00:00"}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        ("Größe 写真".encode(), "Größe 写真"),
        (b"Gr\xf6\xdfe", "Größe"),
        (b"first\x00second", "first"),
        (b"'; DROP TABLE images; --", "'; DROP TABLE images; --"),
        (b"x" * 100_000, "x" * 2000),
    ],
)
def test_text_is_decoded_somehow(raw: bytes, text: str) -> None:
    found = read(exif_block([ascii_value(0x010E, raw)]))

    assert storable(found.rest) == {"ImageDescription": text}


def test_comments_have_a_character_set_of_their_own() -> None:
    ascii_comment = b"ASCII\x00\x00\x00hello"
    wide = b"UNICODE\x00" + "写真".encode("utf-16-le")
    assert read(exif_block(camera=[(0x9286, 7, len(ascii_comment), ascii_comment)])).rest == {
        "UserComment": "hello"
    }
    assert read(exif_block(camera=[(0x9286, 7, len(wide), wide)])).rest == {"UserComment": "写真"}


def test_a_directory_that_points_at_itself_ends() -> None:
    block = bytearray(exif_block([ascii_value(0x0131, b"v1")], [short(0x8827, 100)]))
    struct.pack_into("<I", block, block.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8, 8)

    assert read(bytes(block)).rest == {"Software": "v1"}


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\x00",
        b"II*\x00\x08\x00\x00\x00",
        b"MM\x00*\xff\xff\xff\xff",
        b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(100),
        b"Exif rubbish, and more of it",
    ],
)
def test_damage_leaves_nothing(block: bytes) -> None:
    assert read(block) == Exif()


def test_counts_that_are_lies_are_bounded() -> None:
    lies = [(0x0111, 4, 0xFFFFFFFF, b"\x00\x00\x00\x00"), (0x010E, 2, 0xFFFFFFFF, b"\x08\x00\x00\x00")]
    found = read(exif_block([*lies, (0xC618, 5, 0x7FFFFFFF, b"\x00\x00\x00\x00")]))

    assert len(repr(found.rest)) < 100_000
