"""Streams of events: followed by their owner from a place in the log on, for as long as both sides live."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from tintype.catalogue import events
from tintype.catalogue.database import Database
from tintype.messaging.publisher import body_of
from tintype.model.errors import DatabaseUnavailable, TooManyStreams
from tintype.model.event import Event
from tintype.notify.bell import Bell, wait_for
from tintype.server.instance import Instance

BATCH = 25
"""Events that a stream holds at once: a reader that stalls costs no more memory than these."""
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # beyond those that JSON escapes
SOON_SECONDS = 0.05
"""Until a second look at events that other transactions still hold back."""
RETRY_MILLISECONDS = 1000
"""After which a client is to come back when the stream ends."""
MAX_OPEN = 2000
"""Streams at one instance, whoever follows them."""
BUSY_SECONDS = 10
"""Until somebody may come back when there are as many as that."""
LOOKS_AT_ONCE = 2
"""Connections to the database that all streams together take: uploads need the others."""


@dataclass(slots=True)
class Streams:
    """Counts the streams of each owner at this instance, and has them look at the log in turn."""

    looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))
    _open: Counter[str] = field(default_factory=Counter[str])

    def require(self, owner: str, limit: int) -> None:
        """Raise `TooManyStreams` when the owner follows as many as that already, or all together too many."""
        if self._open.total() >= MAX_OPEN:
            raise TooManyStreams(
                f"{MAX_OPEN} streams are followed at this instance. Try again, or read `GET /v1/events`.",
                retry_after=BUSY_SECONDS,
            )
        if self._open[owner] >= limit:
            raise TooManyStreams(
                f"You follow {limit} streams at this instance already.",
                retry_after=RETRY_MILLISECONDS // 1000,
            )

    @contextmanager
    def counting(self, owner: str) -> Generator[None]:
        """Count one while it is followed."""
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]


@dataclass(frozen=True, slots=True)
class Stream:
    """One owner's events as Server-Sent Events; an event's id is its position in the log."""

    database: Database
    bell: Bell
    instance: Instance
    streams: Streams
    owner: str
    wanted: Callable[[Event], bool]
    heartbeat_seconds: float

    async def follow(self, position: int | None) -> AsyncGenerator[bytes]:
        """Yield what happened behind a position, and then what happens; None: from now on.

        Nothing is skipped, also what commits later than what stands behind it. Ends when the instance
        is on its way out, or the database is away: the client comes back with the last id it has seen.
        """
        yield format_sse_event(comment="events", retry=RETRY_MILLISECONDS)
        with self.streams.counting(self.owner), self.bell.heard() as ear:
            try:
                if position is None:
                    position = await self._now()
                told_at = time.monotonic()
                while not self.instance.draining:
                    batch, held_back = await self._look(position)
                    for event in batch:
                        position = event.position
                        if self.wanted(event):
                            yield _written(event)
                            told_at = time.monotonic()
                    if len(batch) == BATCH:
                        continue
                    left = told_at + self.heartbeat_seconds - time.monotonic()
                    if left <= 0:
                        yield KEEPALIVE_COMMENT
                        told_at, left = time.monotonic(), self.heartbeat_seconds
                    await wait_for(ear, SOON_SECONDS if held_back else left)
            except DatabaseUnavailable:
                return

    async def _now(self) -> int:
        async with self.database.reading(self.owner) as tx:
            return await events.horizon(tx, self.owner)

    async def _look(self, position: int) -> tuple[list[Event], bool]:
        """Return the events behind a position, and whether there are others, to be shown in a moment."""
        async with self.streams.looks, self.database.reading(self.owner) as tx:
            batch = await events.page(tx, self.owner, position, BATCH)
            last = batch[-1].position if batch else position
            held_back = len(batch) < BATCH and await events.newest_position(tx, self.owner) > last
        return batch, held_back


def _written(event: Event) -> bytes:
    # One line, whatever the receiver takes for the end of one.
    body = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", body_of(event))
    return format_sse_event(data_str=body, event=event.kind.value, id=str(event.position))
