"""Directories of tags, as TIFF files are made of and as EXIF is: read within bounds, never trusted."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""`read(start, count)` returns the bytes there, fewer at the end."""

ORIENTATION = 0x0112
MAX_ENTRIES = 1024
"""Of one directory. Cameras write a few dozen; the format allows 65,535, BigTIFF 2^64."""

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_CODES = {
    1: "B",
    3: "H",
    4: "I",
    6: "b",
    8: "h",
    9: "i",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}
_RATIONALS = {5: "I", 10: "i"}


class BadDirectory(ValueError):
    """The structure points nowhere, or cannot be what it says."""


class Entry(NamedTuple):
    """A tag with its type, how many values it has, and the field that holds or locates them."""

    tag: int
    kind: int
    number: int
    field: bytes


Directory = dict[int, Entry]


@dataclass(frozen=True, slots=True)
class Ifds:
    """The directories of one TIFF structure (TIFF 6.0, section 2). Offsets count from its start."""

    read: Read
    order: str
    """`<` or `>`, as `struct` has it."""
    big: bool
    """BigTIFF: counts and offsets have 64 bits."""
    first: int

    @classmethod
    def open(cls, read: Read) -> "Ifds":
        """Read the header; raise `BadDirectory` if it is none."""
        head = read(0, 16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:  # noqa: PLR2004 - the smallest header there is
            raise BadDirectory("no TIFF header")
        (magic,) = struct.unpack_from(f"{order}H", head, 2)
        if magic == 43 and len(head) == 16:  # noqa: PLR2004 - BigTIFF's version number and header
            return cls(read, order, big=True, first=struct.unpack_from(f"{order}Q", head, 8)[0])
        if magic != 42:  # noqa: PLR2004 - TIFF's version number
            raise BadDirectory("no TIFF header")
        return cls(read, order, big=False, first=struct.unpack_from(f"{order}I", head, 4)[0])

    def directory(self, offset: int) -> tuple[Directory, int]:
        """Return the entries of the directory at `offset`, and the offset of the next one (0: none).

        The first entry of a tag counts, as with libtiff. Raises `BadDirectory`.
        """
        counter, entry, pointer = ("Q", "HHQ8s", "Q") if self.big else ("H", "HHI4s", "I")
        head = self.read(offset, struct.calcsize(f"={counter}"))
        if len(head) < struct.calcsize(f"={counter}"):
            raise BadDirectory("a directory lies outside of the file")
        (count,) = struct.unpack(f"{self.order}{counter}", head)
        if not 0 < count <= MAX_ENTRIES:
            raise BadDirectory(f"a directory of {count} entries")
        size = struct.calcsize(f"={entry}") * count
        block = self.read(offset + len(head), size + struct.calcsize(f"={pointer}"))
        if len(block) < size:
            raise BadDirectory("a directory is cut off")
        entries: Directory = {}
        for each in struct.iter_unpack(f"{self.order}{entry}", block[:size]):
            entries.setdefault(each[0], Entry(*each))
        following = block[size:]
        if len(following) < struct.calcsize(f"={pointer}"):
            return entries, 0  # EXIF writers forget the last pointer
        return entries, struct.unpack(f"{self.order}{pointer}", following)[0]

    def raw(self, entry: Entry, most: int) -> bytes:
        """Return the entry's bytes, at most `most` of them."""
        size = _SIZES.get(entry.kind, 0) * entry.number
        if size <= len(entry.field):
            return entry.field[: min(size, most)]
        (offset,) = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", entry.field)
        return self.read(offset, min(size, most))

    def numbers(self, entry: Entry, most: int) -> list[int | float]:
        """Return up to `most` values of a numeric entry; fractions without a denominator are left out."""
        raw = self.raw(entry, most * _SIZES.get(entry.kind, 0))
        if entry.kind in _RATIONALS:
            pairs = struct.iter_unpack(f"{self.order}2{_RATIONALS[entry.kind]}", raw[: len(raw) // 8 * 8])
            return [numerator / denominator for numerator, denominator in pairs if denominator]
        code = _CODES.get(entry.kind)
        if code is None:
            return []
        whole = len(raw) // _SIZES[entry.kind]
        return list(struct.unpack_from(f"{self.order}{whole}{code}", raw))

    def integer(self, entries: Directory, tag: int, default: int) -> int:
        """Return the first value of an integer tag, or the default where it is missing."""
        entry = entries.get(tag)
        values = self.numbers(entry, 1) if entry else []
        return values[0] if values and isinstance(values[0], int) else default

    def orientation(self, entries: Directory) -> int:
        """Return the EXIF orientation; what is not 1 to 8 means 1 (EXIF 2.32, section 4.6.4)."""
        value = self.integer(entries, ORIENTATION, 1)
        return value if value in range(1, 9) else 1


def orientation_of(read: Read) -> int:
    """Return the orientation that a block of EXIF gives, 1 where it is missing or damaged."""
    try:
        ifds = Ifds.open(read)
        return ifds.orientation(ifds.directory(ifds.first)[0])
    except BadDirectory:
        return 1
