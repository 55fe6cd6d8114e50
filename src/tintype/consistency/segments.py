"""Segments of the journal: what they are called, what is in them, and how many become one.

A segment holds, for a stretch of the log of events, the newest word on each image that the stretch is
about: a line each, in the order of the images' keys, compressed. Segments of any stretches merge into one
as sorted files do, in memory that does not depend on their size; the newest word wins.
"""

import gzip
import heapq
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Self, cast
from uuid import UUID

import orjson

from tintype.objects.keys import JOURNAL

FAN = 16
"""So many neighbours of like size become one: each line is written again once for each such step."""
FILES_AT_ONCE = 64
_LEVEL_ZERO_BYTES = 64 * 1024
_TOP = 10**19 - 1
_SPEED = 4
"""gzip's level: three quarters of what 9 saves, in a quarter of its time."""
_FOUND = ("etag", "exif", "location")
"""What the first word on an image knows, and later ones do not repeat."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A stretch of the log: the events behind `after`, up to and with `last`."""

    last: int
    after: int
    size: int = field(compare=False, default=0)
    """In bytes, compressed."""

    @property
    def key(self) -> str:
        """The key in the bucket. A listing begins with the newest: S3 lists forwards only."""
        return f"{JOURNAL}{_TOP - self.last:019d}-{_TOP - self.after:019d}.jsonl.gz"

    @classmethod
    def of(cls, key: str, size: int) -> Self | None:
        """Return the segment that a key names, None for a key of something else."""
        last, _, after = key.removeprefix(JOURNAL).removesuffix(".jsonl.gz").partition("-")
        if not (last.isdecimal() and after.isdecimal()):
            return None
        segment = cls(_TOP - int(last), _TOP - int(after), size)
        return segment if segment.key == key else None

    def covers(self, other: "Segment") -> bool:
        """Tell whether all that the other one tells is told here too."""
        return self.after <= other.after and other.last <= self.last


@dataclass(frozen=True, slots=True)
class Word:
    """What an event said of an image, and what else its row knew."""

    image_id: UUID
    version: int
    content: dict[str, Any]
    """`image`: the event's payload. With the first word also `etag`, `exif`, `location`."""

    @property
    def place(self) -> str:
        """Where the image stands in the order of the originals' keys."""
        return place_of(self.image_id)

    def line(self) -> str:
        """Return the word as a line of a segment; lines sort as text."""
        content = orjson.dumps(self.content).decode()
        return f"{self.place}\t{self.version:010d}\t{content}\n"


def place_of(image_id: UUID) -> str:
    """Return the end of an original's key, which also orders the lines of a segment."""
    return f"{image_id.bytes[-1]:02x}/{image_id}"


def word_of(line: str) -> Word:
    """Return the word of a line."""
    place, version, content = line.split("\t", 2)
    return Word(UUID(place[3:]), int(version), cast("dict[str, Any]", orjson.loads(content)))


def live(segments: Iterable[Segment]) -> list[Segment]:
    """Return the segments, oldest first, without those that a merge has made needless."""
    kept: list[Segment] = []
    for segment in sorted(set(segments), key=lambda each: (each.after, -each.last)):
        if not (kept and kept[-1].covers(segment)):
            kept.append(segment)
    return kept


def is_whole(segments: Sequence[Segment]) -> bool:
    """Tell whether live segments tell all from the log's first event on: each begins where the last ended."""
    if segments and segments[0].after > 0:
        return False
    return all(later.after <= earlier.last for earlier, later in pairwise(segments))


def to_merge(segments: Sequence[Segment]) -> list[Segment]:
    """Return neighbours of like size that should become one, the newest such; none while they are few."""
    runs = [list(run) for _, run in groupby(segments, key=_level)]
    for run in reversed(runs):
        if len(run) >= FAN:
            return run
    return []


def write(words: Iterable[Word], path: Path, *, ordered: bool = False) -> None:
    """Write words as a segment: in any order as far as they fit into memory, any number when `ordered`."""
    lines = (word.line() for word in words)
    _write_lines(_newest(lines if ordered else sorted(lines)), path)


def merge(paths: Sequence[Path], merged: Path) -> None:
    """Write one segment with the newest word of each image. Takes the files away that it reads."""
    paths = list(paths)
    while len(paths) > FILES_AT_ONCE:
        some, paths = paths[:FILES_AT_ONCE], paths[FILES_AT_ONCE:]
        between = merged.with_name(f"{merged.name}.{len(paths)}")
        merge(some, between)
        paths.append(between)
    with ExitStack() as stack:
        files = [stack.enter_context(gzip.open(path, "rt", encoding="utf-8", newline="\n")) for path in paths]
        _write_lines(_newest(heapq.merge(*files)), merged)
    for path in paths:
        path.unlink()


def read(path: Path) -> Generator[Word]:
    """Yield the words of a segment, in the order of the images' keys."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        yield from map(word_of, lines)


def _write_lines(lines: Iterable[str], path: Path) -> None:
    with gzip.open(path, "wt", compresslevel=_SPEED, encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _newest(lines: Iterable[str]) -> Generator[str]:
    """Yield one line for each image, of sorted lines."""
    for _, about_one in groupby(lines, key=lambda line: line.partition("\t")[0]):
        first, *more = list(about_one)
        yield _joined([first, *more]) if more else first


def _joined(lines: Sequence[str]) -> str:
    """Return the newest line, with what only the first one knew."""
    words = [word_of(line) for line in lines]
    content: dict[str, Any] = {}
    for word in words:
        content |= {name: word.content[name] for name in _FOUND if name in word.content}
    newest = words[-1]
    return Word(newest.image_id, newest.version, content | newest.content).line()


def _level(segment: Segment) -> int:
    level, limit = 0, _LEVEL_ZERO_BYTES
    while segment.size > limit:
        level, limit = level + 1, limit * FAN
    return level
