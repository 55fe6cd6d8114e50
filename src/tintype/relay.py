"""From the log of committed events to the publisher: each one at least once, and none ever dropped."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from tintype.catalogue import events
from tintype.catalogue.database import EVERY_OWNER, Database, Listener, Tx
from tintype.messaging.publisher import Link, Message, Publisher, Report, message_of
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import DatabaseUnavailable
from tintype.model.event import Event
from tintype.telemetry import Metrics, get_logger

BATCH = 100
"""Events of one transaction. A crash between publishing and committing repeats that many at most."""

GATHER_SECONDS = 0.1
"""Between two rounds, so that under load a round carries many events. A lone event does not wait."""

LONGEST_REST_SECONDS = 5
"""For a publisher that refuses everything: so late at most it is found to be back."""

RETRY_SECONDS = 1
"""Between two tries to reach a database that does not answer."""

MEASURE_SECONDS = 1
"""Between two looks at how far the log is behind."""

EVERYTHING_SECONDS = 10
"""Between two looks at the whole log. The others begin where the last one found something."""

LOOK_BACK = timedelta(minutes=1)
"""How far before that they begin: a transaction that took as long to commit is still seen at once."""

STUCK_ATTEMPTS = 40
STUCK_AGE = timedelta(hours=24)

MAX_REASON = 500

_log = get_logger()

T = TypeVar("T")


class Relay:
    """Publishes what is committed. Any number may run, in any number of processes.

    An event is locked, published and marked in one transaction. Two relays never have the same event
    at the same time; one that is killed frees its events at once, and whoever takes them next sends
    the same ids again. Nothing is promised about order beyond an effort: receivers go by the image's
    version.

    A refused event is due again after a pause that grows to five minutes, and then every five minutes
    for ever. After 40 attempts or 24 hours each further refusal is an error in the log; the event
    stays. While a publisher refuses everything, a single event asks it now and then, more and more
    rarely up to every 5 s, so that an outage neither wears the database nor ages the others.

    NOTIFY is a hint that saves waiting; the poll finds what no hint came for.
    """

    def __init__(
        self,
        db: Database,
        publisher: Publisher,
        poll_seconds: float,
        metrics: Metrics,
        link: Link | None = None,
        *,
        everything_seconds: float = EVERYTHING_SECONDS,
    ) -> None:
        """Publish to a publisher. `link`: where people see an image that they are told of."""
        self._db = db
        self._link = link
        self._publisher = publisher
        self._poll_seconds = poll_seconds
        self._metrics = metrics
        self._rest_seconds: float = 0
        self._measure_at: float = 0
        self._everything_seconds = everything_seconds
        self._everything_at: float = 0
        self._since: datetime | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Publish until cancelled. A batch under way is finished first, so a stop repeats nothing."""
        while True:
            await self._endure(self._listen)
            # No connection to listen on does not mean none to work with.
            await self._endure(self._round)
            await asyncio.sleep(min(RETRY_SECONDS, self._poll_seconds))

    async def drain(self, *, seconds: float = math.inf) -> int:
        """Publish all that is due, and return how many events were taken.

        Stops early when the publisher takes nothing, and begins nothing after so many seconds. Raises
        `DatabaseUnavailable`.
        """
        ends = time.monotonic() + seconds
        total = 0
        while True:
            limit = 1 if self._rest_seconds else BATCH
            claimed, taken = await _finished(self._publish_batch(limit))
            total += taken
            if claimed < limit or taken == 0 or time.monotonic() >= ends:
                return total

    async def _endure(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work. What goes wrong is logged once for as long as it stays the same."""
        try:
            await work()
        except DatabaseUnavailable as error:
            if self._trouble != error.code:
                _log.warning("relay.database_unavailable", reason=str(error.__cause__ or error))
            self._trouble = error.code
        except Exception as error:  # noqa: BLE001 - events must flow again when a defect has passed
            if self._trouble != repr(error):
                _log.exception("relay.failed")
            self._trouble = repr(error)

    async def _listen(self) -> None:
        """Publish at each notification, and at each poll, for as long as the connection stands."""
        async with self._db.listening(events.CHANNEL) as listener:
            while True:
                await self._round()
                if self._trouble:
                    _log.info("relay.recovered")
                    self._trouble = ""
                await self._wait(listener)

    async def _wait(self, listener: Listener) -> None:
        await asyncio.sleep(max(GATHER_SECONDS, self._rest_seconds))
        if not self._rest_seconds:
            await listener.wait(self._poll_seconds)

    async def _round(self) -> None:
        await self.drain()
        await self._measure()

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._measure_at:
            return
        self._measure_at = now + MEASURE_SECONDS
        async with self._db.reading(EVERY_OWNER) as tx:
            age = await events.oldest_unpublished_age(tx)
        self._metrics.outbox_oldest_seconds.set(age or 0)

    async def _publish_batch(self, limit: int) -> tuple[int, int]:
        """Publish up to `limit` events in one transaction; return how many were claimed, and taken."""
        async with self._db.transaction(EVERY_OWNER) as tx:
            claimed = await self._claim(tx, limit)
            if not claimed:
                return 0, 0
            report = await self._publish(claimed)
            checkpoint("after-publish")
            await events.mark_published(tx, sorted(report.taken))
            for event in claimed:
                if event.position in report.refused:
                    await _postpone(tx, event, report.refused[event.position])
        self._since = min(event.created_at for event in claimed) - LOOK_BACK
        self._account(report)
        return len(claimed), len(report.taken)

    async def _claim(self, tx: Tx, limit: int) -> list[Event]:
        """Claim what came since the last claim; at times, and when there is no such thing, whatever is due.

        What another relay let go, or what took long to commit, is older.
        """
        now = time.monotonic()
        if self._since is not None and now < self._everything_at:
            claimed = await events.claim(tx, limit, self._since)
            if claimed:
                return claimed
        self._everything_at = now + self._everything_seconds
        return await events.claim(tx, limit)

    async def _publish(self, claimed: Sequence[Event]) -> Report:
        """Put the events into words and publish them. One that has no words holds back no other."""
        messages: list[Message] = []
        wordless: dict[int, str] = {}
        for event in claimed:
            try:
                messages.append(message_of(event, self._link))
            except Exception as error:  # noqa: BLE001 - a payload that we did not foresee
                _log.exception("event.wordless", event_id=event.id, position=event.position)
                wordless[event.position] = repr(error)
        report = await self._publisher.publish(messages)
        return Report(report.taken, report.refused | wordless)

    def _account(self, report: Report) -> None:
        """Count and log what became of a batch, and rest from a publisher that takes nothing."""
        self._metrics.events_published.inc(len(report.taken))
        self._metrics.events_refused.inc(len(report.refused))
        for reason, count in Counter(report.refused.values()).items():
            _log.warning("events.refused", count=count, reason=reason)
        if report.taken:
            self._rest_seconds = 0
        elif report.refused:
            self._rest_seconds = min(max(1, self._rest_seconds * 2), LONGEST_REST_SECONDS)


async def _postpone(tx: Tx, event: Event, reason: str) -> None:
    """Have an event offered again later, and speak up when this has gone on for too long."""
    attempts = await events.postpone(tx, event.position, _storable(reason))
    age = datetime.now(UTC) - event.created_at
    if attempts >= STUCK_ATTEMPTS or age >= STUCK_AGE:
        _log.error(
            "event.stuck",
            event_id=event.id,
            kind=event.kind.value,
            position=event.position,
            attempts=attempts,
            age_seconds=round(age.total_seconds()),
            reason=reason,
        )


async def _finished(work: Coroutine[None, None, T]) -> T:
    """Return the work's result. A cancellation waits for its end: the publisher's and database's timeouts."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise


def _storable(reason: str) -> str:
    """Return the reason as PostgreSQL can hold it: it may quote anything."""
    return reason[:MAX_REASON].encode(errors="replace").decode().replace("\0", " ")
