"""EXIF (CIPA DC-008): what the camera says, sorted into facts, a sealed location, and the rest."""

import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from PIL.ExifTags import TAGS

from tintype.imaging.ifd import BadDirectory, Directory, Entry, Ifds, Read

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_ASCII, _UNDEFINED = 2, 7
_TEXT_BYTES = 2000
_VALUES = 64
_MAX_TAGS = 200

_CAMERA_TEXTS = {"make": 0x010F, "model": 0x0110, "lens": 0xA434}
_CAMERA_NUMBERS = {"exposure_time": 0x829A, "f_number": 0x829D, "focal_length": 0x920A}
_ISO = 0x8827
_TAKEN, _TAKEN_FRACTION, _TAKEN_OFFSET = 0x9003, 0x9291, 0x9011

# Not among the rest: what is told elsewhere, pointers, where pictures lie in the file, and blocks of
# other formats (maker notes, XMP, IPTC, Photoshop, profiles), which can be long and hide a location.
_ELSEWHERE = {*_CAMERA_TEXTS.values(), *_CAMERA_NUMBERS.values(), _ISO, 0x0112}
_POINTERS = {_EXIF_IFD, _GPS_IFD, 0xA005, 0x014A, 0x0190}
_LAYOUT = {
    *(*range(0x00FE, 0x0107), 0x0111, *range(0x0115, 0x011A), 0x011C),
    *(*range(0x0140, 0x015C), *range(0x0200, 0x020A), *range(0x0211, 0x0215)),
}
_BLOCKS = {0x02BC, 0x83BB, 0x8649, 0x8773, 0x927C, 0x935C, 0xC4A5, 0xC634, 0xEA1C}
_LEFT_OUT = _ELSEWHERE | _POINTERS | _LAYOUT | _BLOCKS
_USER_COMMENT = 0x9286
_WIDE_TEXTS = range(0x9C9B, 0x9CA0)
"""XPTitle and its like: UTF-16."""

_DATE = re.compile(r"(\d{4})[:/.-](\d\d?)[:/.-](\d\d?)[ T](\d\d?):(\d\d?):(\d\d?)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")

_LATITUDE, _LONGITUDE, _ALTITUDE = (1, 2), (3, 4), (5, 6)
"""Tags of reference and value."""


@dataclass(slots=True)
class Exif:
    """What a block of EXIF says. Nothing in it is checked for what JSON or PostgreSQL can hold."""

    camera: dict[str, Any] = field(default_factory=dict[str, Any])
    taken_at: datetime | None = None
    location: tuple[float, float, float | None] | None = None
    rest: dict[str, Any] = field(default_factory=dict[str, Any])


def read_exif(read: Read) -> Exif:
    """Read a block of EXIF as far as it makes sense; nothing in it makes a picture unacceptable."""
    try:
        ifds = Ifds.open(read)
        main, _ = ifds.directory(ifds.first)
    except BadDirectory:
        return Exif()
    entries = _linked(ifds, main, _EXIF_IFD) | main
    gps = _linked(ifds, main, _GPS_IFD)
    return Exif(
        camera=_camera(ifds, entries),
        taken_at=_taken_at(ifds, entries),
        location=_location(ifds, gps),
        rest=_rest(ifds, entries),
    )


def _linked(ifds: Ifds, entries: Directory, tag: int) -> Directory:
    """Return the directory that a tag points to; one level deep, so a loop ends at once."""
    offset = ifds.integer(entries, tag, 0)
    try:
        return ifds.directory(offset)[0] if offset else {}
    except BadDirectory:
        return {}


def _camera(ifds: Ifds, entries: Directory) -> dict[str, Any]:
    texts = {name: _text(ifds, entries, tag) for name, tag in _CAMERA_TEXTS.items()}
    numbers = {name: _positive(ifds, entries, tag) for name, tag in _CAMERA_NUMBERS.items()}
    iso = ifds.integer(entries, _ISO, 0)
    found = {**texts, **numbers, "iso": iso or None}
    return {name: value for name, value in found.items() if value}


def _text(ifds: Ifds, entries: Directory, tag: int) -> str:
    entry = entries.get(tag)
    return _decoded(ifds.raw(entry, _TEXT_BYTES)) if entry and entry.kind in (_ASCII, _UNDEFINED) else ""


def _decoded(raw: bytes) -> str:
    """Return text up to its NUL. The standard says ASCII; what is met is UTF-8, else Latin-1."""
    raw = raw.split(b"\x00", 1)[0]
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


def _positive(ifds: Ifds, entries: Directory, tag: int) -> float | None:
    entry = entries.get(tag)
    values = ifds.numbers(entry, 1) if entry else []
    return _shortened(values[0]) if values and math.isfinite(values[0]) and values[0] > 0 else None


def _shortened(value: float) -> int | float:
    """Return a whole number as such, and a fraction with the digits that a camera can mean."""
    if not math.isfinite(value):
        return value
    return int(value) if value == int(value) else float(f"{value:.9g}")


def _taken_at(ifds: Ifds, entries: Directory) -> datetime | None:
    """Return when the shutter opened, with a zone only if the camera recorded one."""
    found = _DATE.match(_text(ifds, entries, _TAKEN))
    if not found:
        return None
    try:
        year, month, day, hour, minute, second = map(int, found.groups())
        taken = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - the zone, if any, comes below
    except ValueError:  # "0000:00:00 00:00:00": the clock was never set
        return None
    fraction = _text(ifds, entries, _TAKEN_FRACTION)
    if fraction.isascii() and fraction.isdigit():
        taken = taken.replace(microsecond=int(fraction[:6].ljust(6, "0")))
    return taken.replace(tzinfo=_zone(_text(ifds, entries, _TAKEN_OFFSET)))


def _zone(text: str) -> timezone | None:
    found = _OFFSET.fullmatch(text)
    if not found:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset) if offset < timedelta(hours=24) else None


def _location(ifds: Ifds, gps: Directory) -> tuple[float, float, float | None] | None:
    latitude = _degrees(ifds, gps, _LATITUDE, "S", 90)
    longitude = _degrees(ifds, gps, _LONGITUDE, "W", 180)
    if latitude is None or longitude is None:
        return None
    altitude = _positive(ifds, gps, _ALTITUDE[1])
    below = ifds.integer(gps, _ALTITUDE[0], 0) == 1
    return latitude, longitude, -altitude if altitude and below else altitude


def _degrees(ifds: Ifds, gps: Directory, tags: tuple[int, int], negative: str, most: int) -> float | None:
    """Return degrees, minutes and seconds as degrees; without all that is needed, None."""
    entry = gps.get(tags[1])
    parts = ifds.numbers(entry, 3) if entry else []
    if not parts or not all(map(math.isfinite, parts)):
        return None
    degrees = sum(part / 60**power for power, part in enumerate(parts))
    if not 0 <= degrees <= most:
        return None
    return round(-degrees if _text(ifds, gps, tags[0]).upper() == negative else degrees, 7)


def _rest(ifds: Ifds, entries: Directory) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for entry in sorted(entries.values())[:_MAX_TAGS]:
        name = TAGS.get(entry.tag)
        if name is None or entry.tag in _LEFT_OUT:
            continue
        value = _value(ifds, entry)
        if value not in (None, "", []):
            rest[name] = value
    return rest


def _value(ifds: Ifds, entry: Entry) -> object:
    """Return an entry as text, a number or a list of numbers; None for what is none of these."""
    if entry.tag == _USER_COMMENT:
        return _comment(ifds.raw(entry, _TEXT_BYTES))
    if entry.tag in _WIDE_TEXTS:
        return ifds.raw(entry, _TEXT_BYTES).decode("utf-16-le", "replace").split("\x00", 1)[0].strip()
    if entry.kind == _ASCII:
        return _decoded(ifds.raw(entry, _TEXT_BYTES))
    if entry.kind == _UNDEFINED:
        raw = ifds.raw(entry, 16)
        return raw.decode().strip() if raw.isascii() and raw.decode().isprintable() else None
    values = [_shortened(value) for value in ifds.numbers(entry, _VALUES)]
    return values[0] if len(values) == 1 else values


def _comment(raw: bytes) -> str:
    """Return a user comment, whose first eight bytes name its character set (section 4.6.5)."""
    if raw.startswith(b"UNICODE"):
        return raw[8:].decode("utf-16", "replace").split("\x00", 1)[0].strip()
    return _decoded(raw[8:])
