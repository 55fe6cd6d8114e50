"""Points: every I/O of a story by its name, and what may go wrong at it, once."""

import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

SLOW_SECONDS = 0.05
"""How late what is slow is done."""

_PLAIN = re.compile(r"[a-z]{3,}(\.json)?")
"""A folder, a file or a part of a key that has the same name in each run; shards and ids have not."""


def place_of(parts: Iterable[str]) -> str:
    """Return a path or a key without what is different in each run."""
    return "/".join(part if _PLAIN.fullmatch(part) else "*" for part in parts)


class Kind(StrEnum):
    """What becomes of one I/O."""

    ERROR = "error"
    """It is not done, and says so."""
    LOST = "lost"
    """It is done, and says that it is not."""
    TORN = "torn"
    """Half of it is done."""
    SLOW = "slow"
    """It is done, late."""
    KILL_BEFORE = "kill before"
    """The process ends where it would be done."""
    KILL_AFTER = "kill after"
    """The process ends when it is done."""


KILLS = frozenset({Kind.KILL_BEFORE, Kind.KILL_AFTER})


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One I/O of a story: the second COMMIT, the first fsync of an original."""

    station: str
    operation: str
    number: int

    def __str__(self) -> str:
        return f"{self.station} {self.operation} #{self.number}"


@dataclass(slots=True)
class Station:
    """Counts the operations of one outside thing, and lets one of them fail. Threads may use it."""

    name: str
    seen: list[Point] = field(default_factory=list[Point])
    """Since `arm`, in their order."""
    hit: bool = False
    """Whether what was armed has happened."""
    _counts: Counter[str] = field(default_factory=Counter[str])
    _armed: tuple[Point, Kind] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, point: Point | None = None, kind: Kind | None = None) -> None:
        """Begin to count anew; have the point fail, once, if it is one of this station's."""
        with self._lock:
            self.seen, self.hit = [], False
            self._counts.clear()
            is_ours = point is not None and kind is not None and point.station == self.name
            self._armed = (point, kind) if is_ours else None  # pyright: ignore[reportAttributeAccessIssue]

    def passes(self, operation: str) -> Kind | None:
        """Count an operation that is about to be done; return what is to become of it."""
        with self._lock:
            self._counts[operation] += 1
            point = Point(self.name, operation, self._counts[operation])
            self.seen.append(point)
            if self._armed is None or self._armed[0] != point:
                return None
            self.hit = True
            return self._armed[1]
