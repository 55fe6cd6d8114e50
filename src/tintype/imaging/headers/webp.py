"""WebP (RFC 9649): a walk over the RIFF chunks."""

from dataclasses import dataclass

from tintype.imaging.headers.header import (
    Header,
    Span,
    Window,
    check_frames,
    check_size,
    damaged,
    orientation_at,
)
from tintype.model.body import Body
from tintype.model.errors import ImageTooLarge
from tintype.model.image import Format
from tintype.settings import ImagingSettings

_RIFF = 12
_CHUNK = 8
_ANIMATED, _ALPHA = 0x02, 0x10
_KEY_FRAME = b"\x9d\x01\x2a"
_LOSSLESS = 0x2F
MAX_CHUNKS = 20_000


@dataclass(slots=True)
class _Walk:
    """What the chunks have said so far."""

    width: int = 0
    height: int = 0
    has_alpha: bool = False
    animated: bool = False
    frames: int = 0
    exif: Span | None = None


def read_webp(body: Body, limits: ImagingSettings) -> Header:
    """Follow the chunks of the container; the first says how large the picture is."""
    window = Window(body)
    end = 8 + int.from_bytes(window.read(4, 4), "little")
    if end > body.length + 1:  # some writers count the padding that they leave out
        raise damaged("The WebP is shorter than it says.")
    walk = _Walk()
    _follow(window, min(end, body.length), walk, limits)
    if walk.frames == 0:
        raise damaged("The WebP has no picture in it.")
    pixels = check_size(walk.width, walk.height, walk.frames, limits)
    return Header(
        format=Format.WEBP,
        width=walk.width,
        height=walk.height,
        pixels=pixels,
        frames=walk.frames,
        orientation=orientation_at(body, walk.exif),
        has_alpha=walk.has_alpha,
        exif=walk.exif,
    )


def _follow(window: Window, end: int, walk: _Walk, limits: ImagingSettings) -> None:
    position = _RIFF
    for _ in range(MAX_CHUNKS):
        head = window.read(position, _CHUNK)
        if position + _CHUNK > end or len(head) < _CHUNK:
            return
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        data = Span(position + _CHUNK, length)
        if data.offset + length > end:
            raise damaged("The WebP has a part that reaches beyond its end.")
        _look_at(window, walk, kind, data, first=position == _RIFF)
        check_frames(walk.frames, limits)
        position = data.offset + length + length % 2
    raise ImageTooLarge(
        f"The WebP has more than {MAX_CHUNKS} parts. Save it again with an image editor.",
        details={"limit": MAX_CHUNKS},
    )


def _look_at(window: Window, walk: _Walk, kind: bytes, data: Span, *, first: bool) -> None:
    match kind:
        case b"VP8X" if first:
            _canvas(walk, window.read(data.offset, 10))
        case b"ANMF":
            walk.frames += walk.animated
        case b"VP8 " | b"VP8L" if not walk.animated and walk.frames == 0:
            size, alpha = _lossy(window, data) if kind == b"VP8 " else _lossless(window, data)
            walk.frames = 1
            walk.has_alpha |= alpha
            if first:
                walk.width, walk.height = size
        case b"EXIF" if walk.exif is None:
            walk.exif = _exif(window, data)
        case _:
            if first:
                raise damaged("The WebP does not begin with a picture.")


def _canvas(walk: _Walk, data: bytes) -> None:
    """Read the extended header (section 2.7.1.2)."""
    if len(data) < 10:  # noqa: PLR2004 - flags, reserved, two sizes of 24 bits
        raise damaged("The WebP ends within its header.")
    walk.animated = bool(data[0] & _ANIMATED)
    walk.has_alpha = bool(data[0] & _ALPHA)
    walk.width = 1 + int.from_bytes(data[4:7], "little")
    walk.height = 1 + int.from_bytes(data[7:10], "little")


def _lossy(window: Window, data: Span) -> tuple[tuple[int, int], bool]:
    """Read the frame header of VP8 (RFC 6386, section 9.1)."""
    head = window.read(data.offset, min(data.length, 10))
    if len(head) < 10 or head[0] & 1 or head[3:6] != _KEY_FRAME:  # noqa: PLR2004 - tag, start code, sizes
        raise damaged("The WebP has no picture that can be decoded.")
    size = int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    return size, False


def _lossless(window: Window, data: Span) -> tuple[tuple[int, int], bool]:
    """Read the header of VP8L (RFC 9649, section 3.4)."""
    head = window.read(data.offset, min(data.length, 5))
    if len(head) < 5 or head[0] != _LOSSLESS:  # noqa: PLR2004 - signature and 32 bits
        raise damaged("The WebP has no picture that can be decoded.")
    bits = int.from_bytes(head[1:], "little")
    return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)


def _exif(window: Window, data: Span) -> Span:
    """Return where EXIF lies. Some writers put JPEG's prefix before it, which the format does not want."""
    prefix = 6 if window.read(data.offset, min(data.length, 6)) == b"Exif\x00\x00" else 0
    return Span(data.offset + prefix, data.length - prefix)
