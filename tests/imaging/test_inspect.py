"""Inspection end to end: what is accepted, what is found, and what is refused with which words."""

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from bodies import in_memory
from made_images import (
    ascii_value,
    blotches,
    encoded,
    exif_block,
    gradient,
    jpeg_with,
    rational,
    saved_by_vips,
    short,
)
from tintype.imaging.inspect import Inspector
from tintype.model.body import Body
from tintype.model.errors import ImageCorrupt, UnsupportedType, UploadEmpty
from tintype.model.image import Facts, Format
from tintype.settings import ImagingSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = blotches(320, 200)


def heic(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, **options)
    return out.getvalue()


def distance(one: int, other: int) -> int:
    return ((one ^ other) & (1 << 64) - 1).bit_count()


FILES = {
    Format.JPEG: encoded(PICTURE, "JPEG", quality=90),
    Format.PNG: encoded(PICTURE, "PNG"),
    Format.GIF: encoded(PICTURE, "GIF"),
    Format.WEBP: encoded(PICTURE, "WEBP"),
    Format.AVIF: saved_by_vips(PICTURE, "heifsave", compression="av1"),
    Format.TIFF: encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    Format.HEIC: heic(PICTURE),
}


@pytest.mark.parametrize("image_format", FILES)
async def test_every_format_is_decoded_to_the_same_facts(inspector: Inspector, image_format: Format) -> None:
    facts = await inspector.inspect(in_memory(FILES[image_format]))

    assert (facts.format, facts.width, facts.height, facts.frames) == (image_format, 320, 200, 1)
    assert facts.has_alpha is False
    assert facts.orientation == 1
    reference = await inspector.inspect(in_memory(FILES[Format.PNG]))
    assert facts.phash is not None
    assert reference.phash is not None
    assert distance(facts.phash, reference.phash) <= 8
    assert _close(_average(facts), PICTURE)


def _average(facts: Facts) -> tuple[float, float, float]:
    """Read the mean colour out of a ThumbHash, as its `thumbHashToAverageRGBA` does."""
    assert facts.thumbhash is not None
    head = int.from_bytes(facts.thumbhash[:3], "little")
    light, yellow, red_green = (
        (head & 63) / 63,
        (head >> 6 & 63) / 31.5 - 1,
        (head >> 12 & 63) / 31.5 - 1,
    )
    blue = light - 2 / 3 * yellow
    red = (3 * light - blue + red_green) / 2
    return red * 255, (red - red_green) * 255, blue * 255


def _close(colour: tuple[float, float, float], picture: Image.Image) -> bool:
    return bool(np.abs(np.asarray(picture).mean((0, 1)) - colour).max() < 10)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
async def test_frames_are_all_decoded_and_the_first_is_shown(inspector: Inspector, kind: str) -> None:
    frames = [Image.new("RGB", PICTURE.size, colour) for colour in ("red", "blue", "lime", "white")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)

    facts = await inspector.inspect(in_memory(data))

    assert (facts.width, facts.height, facts.frames) == (320, 200, 4)
    assert facts.dominant_color is not None
    assert facts.dominant_color[1] in "ef"
    assert facts.dominant_color[3] in "01"


async def test_pages_may_differ_in_size(inspector: Inspector) -> None:
    data = encoded(PICTURE, "TIFF", save_all=True, append_images=[gradient(50, 70), gradient(500, 10)])

    facts = await inspector.inspect(in_memory(data))

    assert (facts.width, facts.height, facts.frames) == (320, 200, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"})],
)
async def test_damage_in_the_last_frame_is_found(
    inspector: Inspector, kind: str, options: dict[str, object]
) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (3, 200, 320, 3), dtype=np.uint8)
    frames = [Image.fromarray(each) for each in noise]
    data = bytearray(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    start = data.rindex(b"VP8L") + 12 if kind == "WEBP" else len(data) - len(data) // 5
    for place in range(start, start + 2000):
        data[place] ^= 0x55 if data[place] != 0xFF else 0  # the lengths of a GIF's blocks stay

    with pytest.raises(ImageCorrupt):
        await inspector.inspect(in_memory(bytes(data)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (100, 100), (101, 99)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
async def test_odd_sizes_have_all_facts(inspector: Inspector, size: tuple[int, int], kind: str) -> None:
    facts = await inspector.inspect(in_memory(encoded(gradient(*size), kind)))

    assert (facts.width, facts.height) == size
    assert facts.thumbhash
    assert facts.dominant_color
    assert facts.phash is not None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
async def test_every_kind_of_pixel_has_all_facts(inspector: Inspector, mode: str) -> None:
    pixels = PICTURE.convert("I").convert("I;16") if mode == "I;16" else PICTURE.convert(mode)

    facts = await inspector.inspect(in_memory(encoded(pixels, "PNG")))

    assert facts.has_alpha is (mode in ("LA", "RGBA"))
    assert facts.thumbhash
    assert facts.dominant_color


@pytest.mark.parametrize("mode", ["CMYK", "L", "F", "LAB"])
async def test_pixels_of_print_and_science_have_all_facts(inspector: Inspector, mode: str) -> None:
    pixels = PICTURE.convert("L").convert("F") if mode == "F" else PICTURE.convert("RGB")
    pixels = pixels.convert(mode) if mode not in ("F", "LAB") else pixels
    kind = "JPEG" if mode in ("CMYK", "L") else "TIFF"

    facts = await inspector.inspect(in_memory(encoded(pixels, kind)))

    assert facts.thumbhash
    assert facts.dominant_color


async def test_what_is_invisible_does_not_count(inspector: Inspector) -> None:
    pixels = np.zeros((200, 320, 4), np.uint8)
    pixels[..., 0] = 255  # red, and transparent
    pixels[50:150, 80:240] = (0, 0, 250, 255)
    clear = pixels.copy()
    clear[..., 3] = 0

    seen = await inspector.inspect(in_memory(encoded(Image.fromarray(pixels), "PNG")))
    unseen = await inspector.inspect(in_memory(encoded(Image.fromarray(clear), "PNG")))

    assert seen.has_alpha
    assert seen.dominant_color == "#0000fa"
    assert _average(seen)[0] < 8
    assert unseen.dominant_color is None


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_the_fingerprint_is_that_of_the_upright_picture(inspector: Inspector, orientation: int) -> None:
    turned = jpeg_with(
        b"Exif\x00\x00" + exif_block([short(0x0112, orientation)]), encoded(PICTURE, "JPEG", quality=95)
    )
    with Image.open(io.BytesIO(turned)) as image:
        upright = encoded(_upright(image), "JPEG", quality=95)

    facts = await inspector.inspect(in_memory(turned))
    expected = await inspector.inspect(in_memory(upright))

    assert (facts.width, facts.height, facts.orientation) == (320, 200, orientation)
    assert facts.phash is not None
    assert expected.phash is not None
    assert distance(facts.phash, expected.phash) <= 4


def _upright(image: Image.Image) -> Image.Image:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(0x0112, 1))
    return image.transpose(turn) if turn is not None else image.copy()


async def test_a_smaller_or_coarser_copy_has_nearly_the_same_hash(inspector: Inspector) -> None:
    picture = blotches(900, 600)
    original = await inspector.inspect(in_memory(encoded(picture, "PNG")))
    copy = await inspector.inspect(in_memory(encoded(picture.resize((300, 200)), "JPEG", quality=40)))
    other = await inspector.inspect(in_memory(encoded(picture.rotate(180), "PNG")))

    assert original.phash is not None
    assert copy.phash is not None
    assert other.phash is not None
    assert distance(original.phash, copy.phash) <= 6
    assert distance(original.phash, other.phash) > 16


async def test_exif_becomes_facts_and_the_location_is_apart(inspector: Inspector) -> None:
    block = exif_block(
        [ascii_value(0x010F, b"Tintype"), ascii_value(0x0131, b"Plate 1.0")],
        [
            ascii_value(0x9003, b"2026:03:04 05:06:07"),
            ascii_value(0x9011, b"+02:00"),
            rational(0x829D, (28, 10)),
        ],
        [
            ascii_value(1, b"S"),
            rational(2, (12, 1), (30, 1), (0, 1)),
            ascii_value(3, b"E"),
            rational(4, (45, 1), (15, 1), (36, 1)),
        ],
    )
    facts = await inspector.inspect(in_memory(jpeg_with(b"Exif\x00\x00" + block, FILES[Format.JPEG])))

    assert facts.camera == {"make": "Tintype", "f_number": 2.8}
    assert facts.taken_at is not None
    assert facts.taken_at.isoformat() == "2026-03-04T05:06:07+02:00"
    assert facts.exif == {
        "Software": "Plate 1.0",
        "DateTimeOriginal": "2026:03:04 05:06:07",
        "OffsetTimeOriginal": "+02:00",
    }
    assert facts.location is not None
    assert (facts.location.latitude, facts.location.longitude) == (-12.5, 45.26)


async def test_an_empty_body_has_an_error_of_its_own(inspector: Inspector) -> None:
    with pytest.raises(UploadEmpty):
        await inspector.inspect(in_memory(b""))


async def test_what_is_not_accepted_is_named_with_what_is(inspector: Inspector) -> None:
    with pytest.raises(UnsupportedType, match=r"is SVG; accepted are JPEG, PNG, GIF, WebP"):
        await inspector.inspect(in_memory(b"<svg/ onload='alert(1)'>"))


async def test_a_format_can_be_switched_off() -> None:
    inspector = Inspector(ImagingSettings(inspect="header", disable=frozenset({"tiff", "heic"})), None)

    assert Format.TIFF not in inspector.accepted_formats()
    with pytest.raises(UnsupportedType, match="TIFF"):
        await inspector.inspect(in_memory(FILES[Format.TIFF]))
    with pytest.raises(UnsupportedType):
        await inspector.inspect(in_memory(FILES[Format.HEIC]))


@pytest.mark.parametrize("image_format", FILES)
async def test_by_header_alone_the_structure_is_known_and_nothing_else(image_format: Format) -> None:
    inspector = Inspector(ImagingSettings(inspect="header"), None)

    facts = await inspector.inspect(in_memory(FILES[image_format]))

    assert (facts.format, facts.width, facts.height, facts.frames) == (image_format, 320, 200, 1)
    assert facts.thumbhash is facts.dominant_color is facts.phash is facts.taken_at is None
    assert facts.exif == facts.camera == {}


async def test_header_and_decoder_agree(inspector: Inspector) -> None:
    by_header = Inspector(ImagingSettings(inspect="header"), None)
    bodies: list[Body] = [in_memory(data) for data in FILES.values()]

    for body in bodies:
        full, header = await inspector.inspect(body), await by_header.inspect(body)
        assert (full.width, full.height, full.frames, full.has_alpha) == (
            header.width,
            header.height,
            header.frames,
            header.has_alpha,
        )
