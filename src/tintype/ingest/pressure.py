"""Pressure: how long an upload that came now would wait to be finished; too long, and it is not read."""

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tintype.model.errors import Overloaded

FEW = 64
"""Of one owner: so many may always be under way, however long each takes."""
WINDOW_SECONDS = 0.25
"""Over how long it is counted how many uploads are finished."""


@dataclass(slots=True)
class _Line:
    """One owner's uploads that have arrived and are being finished."""

    since: float
    """When the window began."""
    under_way: int = 0
    finished: int = 0
    """In this window."""
    rate: float | None = None
    """Uploads a second, while many wait; None: not known yet."""


@dataclass(slots=True)
class Pressure:
    """Foresees the wait by Little's law: as many as are under way, by as many as are finished in a second.

    So it needs to know neither what an upload costs nor what it waits for: decoders, disk, store or
    database. It measures only while many wait: what few finish tells of the demand, not of what is
    possible. Each owner has a line of their own, or one who floods would have the others refused.
    One per process; used by its event loop only. `max_wait_seconds` of 0 never refuses.
    """

    max_wait_seconds: float
    clock: Callable[[], float] = time.monotonic
    _lines: dict[str, _Line] = field(default_factory=dict[str, _Line], init=False)
    _rate: float | None = field(default=None, init=False)
    """What a line went at last, for those that are new."""

    def check(self, owner: str) -> None:
        """Raise `Overloaded` where an upload that came now would wait too long behind the owner's others."""
        line = self._lines.get(owner)
        if line is None or line.under_way < FEW or not self.max_wait_seconds:
            return
        self._measure(line)
        rate = self._rate if line.rate is None else line.rate
        if rate is not None and line.under_way > rate * self.max_wait_seconds:
            raise Overloaded(
                "More uploads arrive than can be stored, and yours would wait long. Send it again shortly.",
                retry_after=random.randint(1, 5),  # noqa: S311 # so that not all come back at once
            )

    @contextmanager
    def finishing(self, owner: str) -> Generator[None]:
        """Count an upload that has arrived, for the time of the block that finishes it."""
        line = self._lines.setdefault(owner, _Line(self.clock()))
        line.under_way += 1
        try:
            yield
        finally:
            line.finished += 1
            self._measure(line)
            line.under_way -= 1
            if not line.under_way:
                del self._lines[owner]

    def _measure(self, line: _Line) -> None:
        """Take the rate when a window is over, and begin the next one."""
        now = self.clock()
        elapsed = now - line.since
        if elapsed < WINDOW_SECONDS:
            return
        if line.under_way >= FEW:
            rate = line.finished / elapsed
            line.rate = self._rate = rate if line.rate is None else (line.rate + rate) / 2
        line.finished, line.since = 0, now
