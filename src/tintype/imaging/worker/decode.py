"""Decoding by libvips: every pixel of every frame is read, and the first is made small on the way.

One sequential pass does both. Shrinking as the lines come costs less than writing them to memory
would, so the small picture is free (a 12 megapixel JPEG: 36 ms against 58 ms).
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyvips

from tintype.imaging.worker.job import Job, Kind, Refused

Pixels = npt.NDArray[np.uint8]
"""Rows, columns, and red, green, blue, alpha in sRGB, not premultiplied."""

SMALL_SIDE = 100
"""ThumbHash takes no more, and more would not change it."""

_LOADERS = {
    "JPEG": ("jpegload_source", "VipsForeignLoadJpeg"),
    "PNG": ("pngload_source", "VipsForeignLoadPng"),
    "GIF": ("gifload_source", "VipsForeignLoadNsgif"),
    "WEBP": ("webpload_source", "VipsForeignLoadWebp"),
    "AVIF": ("heifload_source", "VipsForeignLoadHeif"),
    "TIFF": ("tiffload_source", "VipsForeignLoadTiff"),
}
FORMATS = tuple(_LOADERS)

_STACKED = {"GIF", "WEBP"}
"""Formats whose frames are of one size and come as one tall image; others are opened page by page."""
_PAGED = {"AVIF", "TIFF"}

_COARSE = 4
"""Alpha is taken into account from a quarter of the size on: on every pixel it costs a third more."""
_DRAIN = 64

_OUT_OF_MEMORY = re.compile(r"out of memory|[Cc]annot allocate memory")
_UNSUPPORTED = re.compile(
    r"not supported|unsupported|not configured|not been built|not implemented", re.IGNORECASE
)
_NOISE = re.compile(r"bad seek to|^\s*$")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
MAX_REASON = 160


@dataclass(frozen=True, slots=True)
class Picture:
    """What decoding found."""

    width: int
    height: int
    frames: int
    has_alpha: bool
    small: Pixels
    """The first frame, as stored, up to `SMALL_SIDE` pixels wide and high."""


def prepare() -> None:
    """Set libvips up: no cache, and no loader but those named here."""
    pyvips.cache_set_max(0)
    pyvips.operation_block_set("VipsForeignLoad", True)  # noqa: FBT003 - libvips' signature
    for _, allowed in _LOADERS.values():
        pyvips.operation_block_set(allowed, False)  # noqa: FBT003


def decode(job: Job, data: memoryview) -> Picture:
    """Decode the file to its last pixel. Raises `Refused`."""
    pyvips.vips_lib.vips_error_clear()  # what an earlier file left behind
    try:
        return _decode_stack(job, data) if job.format in _STACKED else _decode_pages(job, data)
    except pyvips.Error as error:
        raise refusal(error.detail) from error
    except UnicodeDecodeError as error:  # pyvips reads libvips' message, which quotes the file
        raise Refused(Kind.CORRUPT, "damaged data") from error


def shrunk(job: Job, data: memoryview) -> Pixels:
    """Decode the first frame, no larger than `job.side` along a side, as stored. Raises `Refused`."""
    pyvips.vips_lib.vips_error_clear()
    if job.format not in _LOADERS:
        raise Refused(Kind.UNSUPPORTED, "no small pictures of this format")
    try:
        image = _open(job, data)
        check(job, image.width, image.height, 1, image.width * image.height)
        small = image.thumbnail_image(job.side, height=job.side, size="down", no_rotate=True)
        return _rgba(small.copy_memory())
    except pyvips.Error as error:
        raise refusal(error.detail) from error
    except UnicodeDecodeError as error:
        raise Refused(Kind.CORRUPT, "damaged data") from error


def refusal(detail: str) -> Refused:
    """Turn a decoder's message into a reason: its last telling line, in printable characters."""
    lines = [line for line in detail.splitlines() if not _NOISE.search(line)]
    reason = _UNPRINTABLE.sub(" ", lines[-1] if lines else "damaged data").strip()[:MAX_REASON]
    if _OUT_OF_MEMORY.search(detail):
        return Refused(Kind.TOO_LARGE, "more memory than a decoder may have")
    return Refused(Kind.UNSUPPORTED if _UNSUPPORTED.search(detail) else Kind.CORRUPT, reason)


def check(job: Job, width: int, height: int, frames: int, pixels: int) -> None:
    """Hold the limits against what the decoder says, which need not be what the header walk found."""
    if max(width, height) > job.max_side or frames > job.max_frames or pixels > job.max_pixels:
        raise Refused(Kind.TOO_LARGE, f"{width} x {height} pixels, {frames} frames")


def _open(job: Job, data: memoryview, **options: int) -> pyvips.Image:
    loader, _ = _LOADERS[job.format]
    source = pyvips.Source.new_from_memory(data)
    return pyvips.Operation.call(loader, source, access="sequential", fail_on="error", **options)


def _decode_stack(job: Job, data: memoryview) -> Picture:
    """Read frames that come as one tall image: the first is kept small, the rest only read."""
    tall = _open(job, data, n=-1)
    width, whole = tall.width, tall.height
    height = _integer(tall, "page-height", whole)
    frames = whole // height
    check(job, width, height, frames, width * whole)
    first = tall.crop(0, 0, width, height) if frames > 1 else tall
    small = _small(first, width, height)
    if frames > 1:
        _drain(tall.crop(0, height, width, whole - height), width, whole - height)
    return Picture(width, height, frames, bool(first.hasalpha()), small)


def _decode_pages(job: Job, data: memoryview) -> Picture:
    """Read pages, which may differ in size; the main one gives the facts."""
    main = _open(job, data)
    width, height = main.width, main.height
    frames = _integer(main, "n-pages", 1) if job.format in _PAGED else 1
    pixels = width * height
    check(job, width, height, frames, pixels)
    picture = Picture(width, height, frames, bool(main.hasalpha()), _small(main, width, height))
    shown = _integer(main, "heif-primary", 0)
    for number in range(frames):
        if number != shown:
            page = _open(job, data, page=number)
            pixels += page.width * page.height
            check(job, page.width, page.height, frames, pixels)
            _drain(page, page.width, page.height)
    return picture


def _integer(image: pyvips.Image, name: str, default: int) -> int:
    value = image.get(name) if image.get_typeof(name) else default
    return value if isinstance(value, int) and value > 0 else default


def _small(image: pyvips.Image, width: int, height: int) -> Pixels:
    """Read every pixel, and return averages of blocks of them."""
    factor = math.ceil(max(width, height) / SMALL_SIDE)
    if not image.hasalpha():
        return _rgba(_block_average(image, min(factor, width), min(factor, height)))
    # Averages of colours count by their alpha, or what is invisible bleeds into what is seen.
    coarse = _COARSE if factor >= 2 * _COARSE else 1
    original = image.format
    image = _block_average(image, min(coarse, width), min(coarse, height)).premultiply()
    fine = math.ceil(factor / coarse)
    image = _block_average(image, min(fine, image.width), min(fine, image.height))
    return _rgba(image.unpremultiply().cast(original))


def _block_average(image: pyvips.Image, across: int, down: int) -> pyvips.Image:
    """Shrink, rounding sizes up: the last line is read like all others."""
    return image if across == down == 1 else image.shrink(across, down, ceil=True)


def _drain(image: pyvips.Image, width: int, height: int) -> None:
    """Read every pixel and keep next to none."""
    _block_average(image, min(_DRAIN, width), min(_DRAIN, height)).write_to_memory()


def _rgba(small: pyvips.Image) -> Pixels:
    """Run the pipeline, and return what comes out as 8-bit sRGB with alpha.

    An embedded profile is left out of account: to build its transform takes up to 30 ms, which for
    the colours of a placeholder would be most of the work.
    """
    sample = small.format
    if small.interpretation not in ("srgb", "b-w") or sample not in ("uchar", "float"):
        small = _converted(small.copy_memory())  # pixels first: an unknown colour space is no damage
        sample = small.format
    if sample != "uchar":
        small = small.cast("uchar")
    bands, has_alpha = small.bands, small.hasalpha()
    data = np.frombuffer(small.write_to_memory(), np.uint8)
    pixels = data.reshape(small.height, small.width, bands)
    rgba = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = pixels[..., :3] if bands >= 3 else pixels[..., :1]  # noqa: PLR2004 - colours, or grey
    if has_alpha:
        rgba[..., 3] = pixels[..., min(bands, 4) - 1]
    return rgba


def _converted(small: pyvips.Image) -> pyvips.Image:
    try:
        return small.colourspace("srgb").copy_memory()
    except pyvips.Error:
        return small
