"""JPEG (ITU-T T.81, annex B): segments are hopped over; scans are counted where they cost passes."""

import re
from dataclasses import dataclass

from tintype.imaging.headers.header import Header, Span, Window, check_size, damaged, orientation_at
from tintype.model.body import Body
from tintype.model.errors import ImageTooLarge
from tintype.model.image import Format
from tintype.settings import ImagingSettings

_SOI, _EOI, _SOS, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xE1, 0x01
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_BARE = {_SOI, _TEM, *range(0xD0, 0xD8)}
"""Markers without a segment."""

_EXIF = b"Exif\x00"
_END = b"\xff\xd9"
_CHUNK = 1 << 20
MAX_SEGMENTS = 20_000
"""Before the first scan. The longest ICC profile takes 255."""

_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_SCAN_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class _Frame:
    """The start of frame (section B.2.2)."""

    marker: int
    bits: int
    height: int
    width: int
    components: int


def read_jpeg(body: Body, limits: ImagingSettings) -> Header:
    """Walk the segments up to the first scan; count the scans if there can be more than one."""
    window = Window(body)
    frame: _Frame | None = None
    exif: Span | None = None
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker, length, position = _marker(window, position)
        if marker in _BARE:
            continue
        if marker == _EOI:
            raise damaged("The JPEG ends before its picture begins.")
        if length < 2 or position + length > body.length:  # noqa: PLR2004 - the length counts its own two bytes
            raise damaged("The JPEG has a segment that reaches beyond the end of the file.")
        if marker == _SOS:
            return _header(body, limits, frame, exif, position)
        if marker in _FRAMES:
            frame = _frame(marker, window.read(position + 2, 6))
        elif marker == _APP1 and exif is None and window.read(position + 2, 5) == _EXIF:
            exif = Span(position + 8, max(length - 8, 0))
        position += length
    raise ImageTooLarge(
        f"The JPEG has more than {MAX_SEGMENTS} segments before its picture. Remove its metadata.",
        details={"limit": MAX_SEGMENTS},
    )


def _marker(window: Window, position: int) -> tuple[int, int, int]:
    """Return the next marker, the length behind it if it has one, and the position between the two.

    Fill bytes and junk are skipped, as decoders do.
    """
    head = window.read(position, 4)
    if len(head) > 1 and head[0] == 0xFF and head[1] not in (0x00, 0xFF):  # noqa: PLR2004 - a marker
        return head[1], int.from_bytes(head[2:]), position + 2
    while block := window.read(position, Window.BLOCK):
        if found := _MARKER.search(block):
            after = position + found.end()
            return block[found.end() - 1], int.from_bytes(window.read(after, 2)), after
        position += max(len(block) - 1, 1)  # its last byte may be the first half of a marker
    raise damaged("The JPEG ends before its picture begins.")


def _frame(marker: int, data: bytes) -> _Frame:
    if len(data) < 6:  # noqa: PLR2004 - precision, height, width, number of components
        raise damaged("The JPEG ends within its header.")
    return _Frame(marker, data[0], int.from_bytes(data[1:3]), int.from_bytes(data[3:5]), data[5])


def _header(
    body: Body, limits: ImagingSettings, frame: _Frame | None, exif: Span | None, scan: int
) -> Header:
    """Put the facts together; `scan` is where the first scan's header lies."""
    if frame is None:
        raise damaged("The JPEG does not say how large it is.")
    pixels = check_size(frame.width, frame.height, 1, limits)
    if not _has_end(body, scan):
        raise damaged("The JPEG ends early: its end marker is missing.")
    several = frame.marker in _PROGRESSIVE or body.read(scan + 2, 1)[0] < frame.components
    return Header(
        format=Format.JPEG,
        width=frame.width,
        height=frame.height,
        pixels=pixels,
        orientation=orientation_at(body, exif),
        bits=frame.bits,
        scans=_scans(body, scan, limits.max_scans) if several else 1,
        exif=exif,
    )


def _has_end(body: Body, start: int) -> bool:
    """Tell whether an end marker follows. Usually it comes last; phones append videos and gain maps."""
    if body.read(body.length - 2) == _END:
        return True
    end = body.length
    while end > start:
        begin = max(start, end - _CHUNK)
        if _END in body.read(begin, end - begin + 1):
            return True
        end = begin
    return False


def _scans(body: Body, start: int, most: int) -> int:
    """Count the scans: each is a pass over the whole picture, and 600 of them take seconds to decode.

    Counting the marker's two bytes is fast, and too many rather than too few, since metadata and
    appended files have them too. Only where that is over the limit, the markers are followed.
    """
    rough = 1 + sum(
        body.read(begin, _CHUNK + 1).count(bytes((0xFF, _SOS))) for begin in range(start, body.length, _CHUNK)
    )
    scans = rough if rough <= most else _exact_scans(body, start, most)
    if scans > most:
        raise ImageTooLarge(
            f"The JPEG has more than {most} scans, each of which costs a whole pass. "
            "Save it as a baseline JPEG.",
            details={"limit": most},
        )
    return scans


def _exact_scans(body: Body, start: int, most: int) -> int:
    """Follow the markers from scan to scan up to the end marker, or to one scan more than `most`."""
    view = body.view()
    scans, position = 1, start + int.from_bytes(view[start : start + 2])
    while scans <= most and (found := _SCAN_MARKER.search(view, position)):
        marker, position = view[found.end() - 1], found.end()
        if marker == _EOI:
            break
        scans += marker == _SOS
        if marker not in _BARE:
            position += max(int.from_bytes(view[position : position + 2]), 2)
    return scans
