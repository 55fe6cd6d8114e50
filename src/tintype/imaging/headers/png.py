"""PNG (third edition, W3C 2025): a walk over the chunks; compressed metadata is unpacked to a bound."""

import zlib
from dataclasses import dataclass, field

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

_SIGNATURE = 8
_FRAMING = 12
"""Bytes of a chunk besides its data: length, type and CRC."""
_IMAGE_HEADER = 13
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""The allowed bit depths of each colour type (section 11.2.1)."""
_PALETTE = 3
_WITH_ALPHA = {4, 6}
_STEP = 1 << 16
_LONGEST_KEYWORD = 80
MAX_CHUNKS = 100_000


@dataclass(slots=True)
class _Walk:
    """What the chunks have said so far."""

    limits: ImagingSettings
    width: int = 0
    height: int = 0
    pixels: int = 0
    bits: int = 0
    colour: int = 0
    has_alpha: bool = False
    unpacked: int = 0
    """Bytes of compressed metadata."""
    seen: set[bytes] = field(default_factory=set[bytes])
    exif: Span | None = None


def read_png(body: Body, limits: ImagingSettings) -> Header:
    """Follow the chunks up to the end; the image header says how large the picture is."""
    walk = _Walk(limits)
    _follow(Window(body), body, walk)
    if b"IDAT" not in walk.seen:
        raise damaged("The PNG has no picture in it.")
    return Header(
        format=Format.PNG,
        width=walk.width,
        height=walk.height,
        pixels=walk.pixels,
        orientation=orientation_at(body, walk.exif),
        has_alpha=walk.has_alpha,
        bits=walk.bits,
        exif=walk.exif,
    )


def _follow(window: Window, body: Body, walk: _Walk) -> None:
    position = _SIGNATURE
    for _ in range(MAX_CHUNKS):
        head = window.read(position, 8)
        length, kind = int.from_bytes(head[:4]), head[4:]
        end = position + _FRAMING + length
        if len(kind) < 4 or not kind.isalpha() or end > body.length:  # noqa: PLR2004 - a type has four letters
            # Decoders have all pixels once the last IDAT is whole: what follows may be cut off.
            if b"IDAT" not in walk.seen or kind == b"IDAT":
                raise damaged("The PNG ends early, or a part of it is damaged.")
            return
        if kind == b"IEND":
            return
        _look_at(body, walk, kind, Span(position + 8, length))
        walk.seen.add(kind)
        position = end
    raise ImageTooLarge(
        f"The PNG has more than {MAX_CHUNKS} chunks. Save it again with an image editor.",
        details={"limit": MAX_CHUNKS},
    )


def _look_at(body: Body, walk: _Walk, kind: bytes, data: Span) -> None:
    match kind:
        case b"IHDR":
            _image_header(body, walk, data)
        case b"IDAT":
            if b"IHDR" not in walk.seen or (walk.colour == _PALETTE and b"PLTE" not in walk.seen):
                raise damaged("The PNG has its parts in an order that cannot be decoded.")
        case b"tRNS":
            walk.has_alpha = True
        case b"eXIf":
            walk.exif = walk.exif or data
        case b"acTL":
            _animation(body, walk, data)
        case b"zTXt" | b"iTXt" | b"iCCP":
            _unpack(body, walk, kind, data)
        case _:
            pass


def _image_header(body: Body, walk: _Walk, data: Span) -> None:
    """Read IHDR (section 11.2.1)."""
    chunk = body.read(data.offset - 4, 4 + data.length + 4) if data.length == _IMAGE_HEADER else b""
    if b"IHDR" in walk.seen or not chunk or zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        raise damaged("The header of the PNG is damaged.")
    walk.width, walk.height = int.from_bytes(chunk[4:8]), int.from_bytes(chunk[8:12])
    walk.bits, walk.colour, compression, filtering, interlace = chunk[12:17]
    if walk.bits not in _DEPTHS.get(walk.colour, ()) or compression or filtering or interlace > 1:
        raise damaged("The header of the PNG names a coding that does not exist.")
    walk.has_alpha = walk.colour in _WITH_ALPHA
    walk.pixels = check_size(walk.width, walk.height, 1, walk.limits)


def _animation(body: Body, walk: _Walk, data: Span) -> None:
    """Hold an animation to the limits as well: we decode its first picture only, browsers play it."""
    frames = int.from_bytes(body.read(data.offset, 4))
    check_frames(frames, walk.limits)
    if b"IHDR" in walk.seen:
        check_size(walk.width, walk.height, max(frames, 1), walk.limits)


def _unpack(body: Body, walk: _Walk, kind: bytes, data: Span) -> None:
    """Count how large a compressed chunk is when unpacked; refuse more than the limit for all of them.

    Damage in it is nobody's concern: it is metadata, and decoders skip it.
    """
    skipped = _before_compressed(body.read(data.offset, min(data.length, _STEP)), kind)
    if skipped is None:
        return
    limit = walk.limits.max_metadata_bytes
    inflater = zlib.decompressobj()
    for start in range(data.offset + skipped, data.offset + data.length, _STEP):
        piece = body.read(start, min(_STEP, data.offset + data.length - start))
        while piece and not inflater.eof:
            try:
                walk.unpacked += len(inflater.decompress(piece, _STEP))
            except zlib.error:
                return
            if walk.unpacked > limit:
                raise ImageTooLarge(
                    f"The metadata of the PNG unpacks to more than {limit} bytes. Save it without metadata.",
                    details={"limit": limit},
                )
            piece = inflater.unconsumed_tail


def _before_compressed(head: bytes, kind: bytes) -> int | None:
    """Return the length of what precedes the compressed data, None if nothing is compressed."""
    keyword = head.find(b"\x00", 0, _LONGEST_KEYWORD)
    if keyword < 0:
        return None
    if kind != b"iTXt":
        return keyword + 2  # the compression method
    if head[keyword + 1 : keyword + 2] != b"\x01":
        return None
    language = head.find(b"\x00", keyword + 3)
    translated = head.find(b"\x00", language + 1) if language >= 0 else -1
    return translated + 1 if translated >= 0 else None
