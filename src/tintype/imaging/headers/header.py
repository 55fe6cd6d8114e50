"""What a header says, and the limits that are checked before any decoder runs."""

from dataclasses import dataclass

from tintype.imaging.ifd import orientation_of
from tintype.model.body import Body
from tintype.model.errors import ImageCorrupt, ImageTooLarge
from tintype.model.image import Format
from tintype.settings import ImagingSettings


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the structure of a file says, read without decoding anything.

    `width` and `height` are those that the decoder will report: pixels as stored, except for AVIF
    and HEIC, whose rotation is part of decoding (ISO/IEC 23008-12, section 6.5.10).
    """

    format: Format
    width: int
    height: int
    pixels: int
    """Of all frames together: what decoding costs."""
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False
    bits: int = 8
    """Of one channel."""
    scans: int = 1
    """Passes over a JPEG, where they were counted because each costs time."""
    exif: Span | None = None
    """Where EXIF lies, from its TIFF header on."""


def damaged(what: str) -> ImageCorrupt:
    """Return the refusal of a file whose structure is broken; `what` is a sentence."""
    return ImageCorrupt(f"{what} Send the original file, or export it again.")


def check_side(width: int, height: int, limits: ImagingSettings) -> None:
    """Refuse a picture without extent, or with a side over the limit."""
    if width <= 0 or height <= 0:
        raise damaged(f"The image says that it has {width} x {height} pixels.")
    longest = max(width, height)
    if longest > limits.max_side:
        raise ImageTooLarge(
            f"The image is {width} x {height} pixels; a side may have up to {limits.max_side}. "
            "Send a smaller version.",
            details={"limit": limits.max_side, "found": longest},
        )


def check_frames(frames: int, limits: ImagingSettings) -> None:
    """Refuse more frames or pages than the limit."""
    if frames > limits.max_frames:
        raise ImageTooLarge(
            f"The image has more than {limits.max_frames} frames or pages. Send fewer of them.",
            details={"limit": limits.max_frames},
        )


def check_pixels(pixels: int, limit: int) -> None:
    """Refuse more pixels than `limit`, counted over all frames."""
    if pixels > limit:
        raise ImageTooLarge(
            f"The image has {pixels} pixels in all its frames; up to {limit} are accepted. "
            "Send a smaller version.",
            details={"limit": limit, "found": pixels},
        )


def check_size(width: int, height: int, frames: int, limits: ImagingSettings) -> int:
    """Refuse what breaks any limit of size; return the number of pixels in all frames."""
    check_side(width, height, limits)
    check_frames(frames, limits)
    pixels = width * height * frames
    check_pixels(pixels, limits.max_pixels)
    return pixels


def orientation_at(body: Body, exif: Span | None) -> int:
    """Return the orientation that EXIF gives, 1 without any."""
    if exif is None:
        return 1
    block = body.read(exif.offset, exif.length)
    return orientation_of(lambda start, count: block[start : start + count])


class Window:
    """Small reads of a body, a block at a time: headers are hopped through, never taken whole."""

    __slots__ = ("_block", "_body", "_start", "length")

    BLOCK = 4096

    def __init__(self, body: Body) -> None:
        self.length = body.length
        self._body = body
        self._start = 0
        self._block = body.read(0, self.BLOCK)

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`, or fewer at the end."""
        offset = start - self._start
        if offset >= 0 and offset + count <= len(self._block):
            return self._block[offset : offset + count]
        if start >= self.length:
            return b""
        self._start, self._block = start, self._body.read(start, max(count, self.BLOCK))
        return self._block[:count]
