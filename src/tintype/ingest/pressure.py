"""Pressure: whether uploads wait too long to be finished; then new ones are refused before they are read."""

import math
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tintype.model.errors import Overloaded

FEW = 16
"""Of one owner: so many may always be under way, however long each takes."""


@dataclass(slots=True)
class _Line:
    """One owner's uploads that have arrived and are being finished."""

    since: float
    """When the interval began."""
    under_way: int = 0
    least: float = math.inf
    """The shortest stay, in seconds, of those finished in this interval."""
    before: float = 0
    """The same of the interval before; infinite if none was finished in it."""


@dataclass(slots=True)
class Pressure:
    """Tells a burst, which passes, from a queue that stays. One per process; used by its event loop only.

    What counts is the shortest stay of an interval, not the length of a queue: after a burst somebody
    soon finds no queue, and under overload nobody does (CoDel: RFC 8289, section 3). So it needs to
    know neither what an upload costs nor what it waits for: decoders, disk, store or database. Each
    owner has a line of their own, or one who floods would have the others refused.

    `max_wait_seconds` is both the stay that is too long and the length of an interval; 0: never refuse.
    """

    max_wait_seconds: float
    clock: Callable[[], float] = time.monotonic
    _lines: dict[str, _Line] = field(default_factory=dict[str, _Line], init=False)

    def check(self, owner: str) -> None:
        """Raise `Overloaded` where an upload that came now would wait too long behind the owner's others."""
        line = self._lines.get(owner)
        if line is None or line.under_way < FEW or not self.max_wait_seconds:
            return
        self._move_on(line)
        if line.before > self.max_wait_seconds:
            raise Overloaded(
                "More uploads arrive than can be stored, and yours would wait long. Send it again shortly.",
                retry_after=random.randint(1, 5),  # noqa: S311 # so that not all come back at once
            )

    @contextmanager
    def finishing(self, owner: str) -> Generator[None]:
        """Count an upload that has arrived, for the time of the block that finishes it."""
        began = self.clock()
        line = self._lines.setdefault(owner, _Line(began))
        line.under_way += 1
        try:
            yield
        finally:
            self._move_on(line)
            line.least = min(line.least, self.clock() - began)
            line.under_way -= 1
            if not line.under_way:
                del self._lines[owner]

    def _move_on(self, line: _Line) -> None:
        """Begin the next interval when its time has come."""
        now = self.clock()
        if now - line.since >= self.max_wait_seconds:
            line.before, line.least, line.since = line.least, math.inf, now
