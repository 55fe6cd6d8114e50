"""The notifier: turns the log into deliveries and has couriers bring them, for as long as it runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tintype.catalogue import deliveries, events, mailboxes
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.model.delivery import Lane
from tintype.model.errors import DatabaseUnavailable
from tintype.notify.bell import Bell, wait_for
from tintype.notify.fan_out import fan_out, run_errands
from tintype.notify.lanes import Courier
from tintype.telemetry import Metrics, get_logger

LANES = 16
"""Subscriptions that are served at once by one process."""
SOON_SECONDS = 0.05
"""Between two looks: under load one finds many events, and a second one what was still held back by other
transactions at the first. A lone event does not wait."""
SELDOM_SECONDS = 0.5
"""Between two looks, at most, while many events come and nobody is to be told of any."""
SWEEP_SECONDS = 60
SWEEP_ROWS = 1000
RETRY_SECONDS = 1

_log = get_logger()


class Notifier:
    """Any number may run, in any number of processes: they share the work, and take over from the dead."""

    def __init__(
        self, db: Database, courier: Courier, bell: Bell, poll_seconds: float, metrics: Metrics
    ) -> None:
        self._db = db
        self._courier = courier
        self._bell = bell
        self._poll_seconds = poll_seconds
        self._metrics = metrics
        self._work = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self._sweep_at: float = 0
        self._trouble = ""
        self._rest_seconds = SOON_SECONDS

    async def run(self) -> None:
        """Work until cancelled; what is being brought then is brought and recorded first."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._announce())
                group.create_task(self._dispatch())
        finally:
            self._courier.stopping.set()
            if self._serving:
                await asyncio.wait(self._serving, timeout=self._courier.timeout_seconds)
                for task in self._serving:
                    task.cancel()

    async def drain(self, *, seconds: float = 60) -> None:
        """Fan out and bring what is due now: for those who are called, and do not run on.

        Raises `DatabaseUnavailable`.
        """
        ends = time.monotonic() + seconds
        await run_errands(self._db)
        async with self._db.reading(EVERY_OWNER) as tx:
            newest = await events.newest(tx)
        await self.fan_out_until(newest, seconds=seconds)
        while time.monotonic() < ends:
            lanes = await self._claim(LANES)
            if not lanes:
                return
            await asyncio.gather(*(self._courier.serve(lane) for lane in lanes))

    async def fan_out_until(self, position: int, *, seconds: float = 10) -> bool:
        """Turn the log into deliveries up to a position at least; tell whether that was possible in time.

        Raises `DatabaseUnavailable`.
        """
        ends = time.monotonic() + seconds
        while True:
            await fan_out(self._db)
            async with self._db.reading(EVERY_OWNER) as tx:
                if await deliveries.reached(tx) >= position:
                    return True
            if time.monotonic() > ends:
                return False
            await asyncio.sleep(SOON_SECONDS)

    async def _announce(self) -> None:
        """Turn the log into deliveries at each ring of the bell, and at each poll."""
        with self._bell.heard() as ear:
            while True:
                soon = await self._endure(self._look)
                await asyncio.sleep(self._rest_seconds)
                if not soon:
                    await wait_for(ear, self._poll_seconds)

    async def _look(self) -> bool:
        errands = await run_errands(self._db)
        spread = await fan_out(self._db)
        idle = not errands and not spread.deliveries
        self._rest_seconds = min(2 * self._rest_seconds, SELDOM_SECONDS) if idle else SOON_SECONDS
        self._work.set()
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            async with self._db.transaction(EVERY_OWNER) as tx:
                await deliveries.sweep(tx, SWEEP_ROWS)
                await mailboxes.sweep(tx)
                self._metrics.deliveries_late_seconds.set(await deliveries.waiting(tx) or 0)
        return spread.more_soon

    async def _dispatch(self) -> None:
        """Give lanes with something due to couriers, as many as there are at once."""
        while True:
            claimed = await self._endure(self._give_out)
            if claimed and len(self._serving) < LANES:
                continue
            await wait_for(self._work, self._poll_seconds)

    async def _give_out(self) -> bool:
        free = LANES - len(self._serving)
        lanes = await self._claim(free) if free else []
        for lane in lanes:
            task = asyncio.create_task(self._serve(lane))
            self._serving.add(task)
            task.add_done_callback(self._served)
        return bool(lanes)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._work.set()

    async def _serve(self, lane: Lane) -> None:
        """Serve a lane. What goes wrong leaves it to its lease, and to whoever takes it then."""
        with suppress(DatabaseUnavailable):
            try:
                await self._courier.serve(lane)
            except DatabaseUnavailable:
                raise
            except Exception:  # noqa: BLE001 - one subscription's trouble is not the others'
                _log.exception("lane.failed", subscription_id=lane.subscription_id)

    async def _claim(self, limit: int) -> list[Lane]:
        async with self._db.transaction(EVERY_OWNER) as tx:
            return await deliveries.claim(tx, limit, self._courier.lease_seconds)

    async def _endure(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do the work. What goes wrong is logged once for as long as it stays the same."""
        try:
            done = await work()
        except DatabaseUnavailable as error:
            self._note("notify.database_unavailable", str(error.__cause__ or error))
        except Exception as error:  # noqa: BLE001 - messages must flow again when a defect has passed
            if self._trouble != repr(error):
                _log.exception("notify.failed")
            self._trouble = repr(error)
        else:
            self._trouble = ""
            return done
        await asyncio.sleep(RETRY_SECONDS)
        return False

    def _note(self, event: str, reason: str) -> None:
        if self._trouble != event:
            _log.warning(event, reason=reason)
        self._trouble = event
