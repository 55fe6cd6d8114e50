"""Only offset 0 counts, and what is refused is called by its name."""

import pytest

from made_images import encoded, gradient, saved_by_vips
from tintype.imaging.sniff import describe, sniff
from tintype.model.image import Format

PICTURE = gradient(20, 16)


def ftyp(major: bytes, *compatible: bytes, items: bytes = b"") -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return (8 + len(brands)).to_bytes(4) + b"ftyp" + brands + items


def item(kind: bytes) -> bytes:
    return b"\x00\x00\x00\x15infe\x02\x00\x00\x00\x00\x01\x00\x00" + kind + b"\x00"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(PICTURE, "JPEG"), Format.JPEG),
        (encoded(PICTURE, "MPO"), Format.JPEG),
        (encoded(PICTURE, "PNG"), Format.PNG),
        (encoded(PICTURE, "GIF"), Format.GIF),
        (encoded(PICTURE, "WEBP"), Format.WEBP),
        (encoded(PICTURE, "TIFF"), Format.TIFF),
        (encoded(PICTURE, "TIFF", big_tiff=True), Format.TIFF),
        (saved_by_vips(PICTURE, "heifsave", compression="av1"), Format.AVIF),
    ],
)
def test_a_picture_is_known_by_its_first_bytes(data: bytes, expected: Format) -> None:
    assert sniff(data[:64]) is expected


@pytest.mark.parametrize("before", [b"\x00", b"\n", b"\xef\xbb\xbf", b"<?php ?>", b"%PDF-1.7\n"])
def test_a_picture_behind_something_else_is_none(before: bytes) -> None:
    assert sniff(before + encoded(PICTURE, "PNG")) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (ftyp(b"avif", b"mif1", b"miaf"), Format.AVIF),
        (ftyp(b"avis", b"msf1", b"avif"), Format.AVIF),
        (ftyp(b"mif1", b"mif1", b"avif"), Format.AVIF),
        (ftyp(b"heic", b"mif1", b"heic"), Format.HEIC),
        (ftyp(b"heix", b"mif1"), Format.HEIC),
        (ftyp(b"hevc", b"msf1"), Format.HEIC),
        (ftyp(b"mif1", b"heic"), Format.HEIC),
        (ftyp(b"msf1", b"hevc"), Format.HEIC),
        (ftyp(b"mif1", b"miaf", items=item(b"av01")), Format.AVIF),
        (ftyp(b"mif1", b"miaf", items=item(b"hvc1")), Format.HEIC),
        (ftyp(b"mif1", b"miaf", items=item(b"jpeg")), None),
        (ftyp(b"isom", b"mp42"), None),
        (ftyp(b"isom", items=item(b"av01")), None),
        (ftyp(b"qt  "), None),
        (b"\x00\x00\x00\x08ftyp", None),
    ],
)
def test_brands_and_then_items_decide_between_avif_and_heic(head: bytes, expected: Format | None) -> None:
    assert sniff(head) is expected


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf \n<?xml version='1.0'?><!-- drawn --><svg>", "SVG"),
        ("<svg/>".encode("utf-16").replace(b"/", b" "), "SVG"),
        (b"<!DOCTYPE html><title>Not found</title>", "HTML"),
        (b"<?xml version='1.0'?><feed/>", "XML"),
        (b"<?php system('id'); ?>", "PHP"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0", "PostScript"),
        (b"BM\x36\x00\x0c\x00", "BMP"),
        (b"\x00\x00\x01\x00\x01\x00", "ICO"),
        (b"8BPS\x00\x01", "Photoshop (PSD)"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", "camera raw"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"P6\n4 4\n255\n", "PNM"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"#!/bin/sh\n", "a script"),
        (b"\x7fELF\x02", "a program"),
        (ftyp(b"isom"), "MP4 or QuickTime"),
        (ftyp(b"avci"), "HEIF with a codec other than AV1 and HEVC"),
        (b"hello", "not an image"),
        (b"\x00" * 64, "not an image"),
        (b"", "not an image"),
    ],
)
def test_what_is_refused_is_called_by_its_name(head: bytes, name: str) -> None:
    assert sniff(head) is None
    assert describe(head) == name
