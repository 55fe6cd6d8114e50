"""Upkeep: who begins runs and works on them, and what is looked after every few minutes besides."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from tintype.catalogue import checks, comparison, events, quarantined
from tintype.catalogue.database import EVERY_OWNER
from tintype.consistency.runs import Runs
from tintype.model.check import Mode, Order, Run
from tintype.model.errors import RunInProgress, TintypeError
from tintype.model.finding import Drift
from tintype.telemetry import Metrics, get_logger

SCHEDULE = "schedule"
MOST = 1_000
"""Things of one sort that one round deals with."""

_LOG = get_logger()

Invoke = Callable[[UUID], Awaitable[None]]
"""Has somebody else work on a run."""


@dataclass(slots=True)
class Upkeep:
    """The working side of `Runs`: in this process, or by a function that is invoked for it."""

    runs: Runs
    metrics: Metrics
    sweep: Callable[[], Awaitable[object]]
    """Ends uploads whose time is over, and takes in those whose bytes came late."""
    forget: Callable[[], Awaitable[object]]
    """Removes from the catalogue what it need not keep any longer."""
    invoke: Invoke | None = None
    """None: this process works on runs itself."""
    _working: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def start(self, run: Run) -> None:
        """Have a run worked on, here or elsewhere; returns at once."""
        if self.invoke is not None:
            await self.invoke(run.id)
            return
        task = asyncio.create_task(self._work(run.id), name=f"consistency-{run.id}")
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def run(self) -> None:
        """Look after things until cancelled: at once, and then every few minutes."""
        try:
            while True:
                try:
                    await self.round()
                except TintypeError as error:
                    _LOG.warning("upkeep.failed", reason=str(error))
                except Exception:  # noqa: BLE001 # a defect here must not end all upkeep
                    _LOG.exception("upkeep.failed")
                await asyncio.sleep(self.runs.settings.sweep_seconds)
        finally:
            for task in [*self._working]:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def round(self) -> None:
        """Go once through what may be stuck: uploads, events, runs; through quarantine; and the figures.

        Where a function works on runs it also empties quarantine: this process may delete no image.
        """
        await self.sweep()
        await self._nudge_events()
        await self.forget()
        if self.invoke is None:
            await self._let_go()
            await self._resume()
            await self._begin_if_due()
        await self.measure()

    async def settle(self) -> Run | None:
        """Go through what may be stuck, as `round` does; return the run that is to be worked on.

        It is the one under way, or the very first, which is begun here: until one has ended nobody can
        say when all was found in order.
        """
        await self.sweep()
        await self._nudge_events()
        await self._let_go()
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            run_id = await checks.running(tx)
            never = await checks.seconds_since_start(tx) is None
        if run_id is not None:
            return await self.runs.find(run_id)
        return await self.runs.begin(Order(asked_by=SCHEDULE)) if never else None

    async def figures(self) -> dict[str, float]:
        """Return what alarms look at, by the name of the metric. What nobody knows yet is not among them."""
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            clean = await checks.last_clean(tx)
            drift = await checks.drift(tx)
            waiting = await events.oldest_unpublished_age(tx)
            held = await quarantined.held_bytes(tx)
            unverified = await comparison.oldest_unverified_age(tx)
        figures = {
            "OldestUnpublishedEventSeconds": waiting or 0.0,
            "QuarantineBytes": float(held),
            "OldestUnverifiedSeconds": unverified,
        }
        if drift is not None:
            figures["ConsistencyDrift"] = float(sum(drift.values()))
            # Those alone that there are: CloudWatch asks money for each name.
            figures |= {f"ConsistencyDrift.{kind}": float(count) for kind, count in drift.items()}
        if clean is not None:
            figures["LastCleanCheckSeconds"] = clean
        return figures

    async def measure(self) -> None:
        """Bring the figures up to date."""
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            clean = await checks.last_clean(tx)
            drift = await checks.drift(tx) or {}
            self.metrics.quarantine_bytes.set(await quarantined.held_bytes(tx))
            self.metrics.oldest_unverified_seconds.set(await comparison.oldest_unverified_age(tx))
        for kind in Drift:
            self.metrics.drift.labels(kind.value).set(drift.get(kind.value, 0))
        self.metrics.clean_check_age_seconds.set(float("inf") if clean is None else clean)

    async def _work(self, run_id: UUID) -> None:
        try:
            await self.runs.work(run_id)
            await self.measure()
        except TintypeError as error:
            _LOG.warning("consistency.interrupted", run_id=str(run_id), reason=str(error))
        except Exception:  # noqa: BLE001 # the next round goes on with the run
            _LOG.exception("consistency.interrupted", run_id=str(run_id))

    async def _nudge_events(self) -> None:
        """Have events offered again that should have been published long ago."""
        async with self.runs.database.transaction(EVERY_OWNER) as tx:
            waiting = await events.unpublished(tx, self.runs.settings.event_seconds, MOST)
            if waiting:
                await events.nudge(tx, waiting)
                _LOG.error("events.stuck", count=len(waiting))

    async def _let_go(self) -> None:
        """Delete what has been in quarantine for its time."""
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            outdated = await quarantined.outdated(tx, self.runs.settings.quarantine_days, MOST)
        for held in outdated:
            await self.runs.objects.delete(held.held_key)
            async with self.runs.database.transaction(EVERY_OWNER) as tx:
                await quarantined.mark(tx, held.id, "expired")

    async def _resume(self) -> None:
        """Go on with a run that whoever worked on it has left."""
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            run_id = await checks.running(tx)
        if run_id is not None and not self._working:
            await self.start(await self.runs.find(run_id))

    async def _begin_if_due(self) -> None:
        """Begin the scheduled check when the last one is long enough ago."""
        settings = self.runs.settings
        if not settings.every_seconds:
            return
        async with self.runs.database.reading(EVERY_OWNER) as tx:
            since = await checks.seconds_since_start(tx)
        if since is not None and since < settings.every_seconds:
            return
        order = Order(Mode(settings.scheduled_mode), repair=settings.scheduled_repair, asked_by=SCHEDULE)
        with contextlib.suppress(RunInProgress):
            await self.start(await self.runs.begin(order))

    async def finished(self, run: Run, seconds: float) -> Run:
        """Wait for a run to end, for so long at most, and return it as it stands then."""
        deadline = time.monotonic() + seconds
        while run.finished_at is None and time.monotonic() < deadline:
            await asyncio.sleep(min(0.1, max(deadline - time.monotonic(), 0)))
            run = await self.runs.find(run.id)
        return run
