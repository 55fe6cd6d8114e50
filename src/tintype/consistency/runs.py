"""Runs: begun, worked on by any number of workers, braked, finished, told of."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from tintype.catalogue import checks, comparison, events, findings
from tintype.catalogue.checks import Part
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.consistency import pair
from tintype.consistency.check import Checker, Step, parts_of
from tintype.consistency.inventory import Inventories
from tintype.consistency.recall import Recall
from tintype.consistency.repair import Repairer
from tintype.consistency.undo import Undoer
from tintype.model.check import Order, Run, RunState, Task, run_payload
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import (
    DatabaseUnavailable,
    RequestInvalid,
    StorageRefused,
    StorageUnavailable,
    TintypeError,
    WrongPair,
)
from tintype.model.event import Kind
from tintype.model.finding import Finding, FindingState
from tintype.model.ids import began_at
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings
from tintype.telemetry import get_logger

MOST_FAILURES = 3
"""Of one part, before its run fails."""
PAUSE_SECONDS = 1
FEW = 20
"""Removals that are never too many, however small the store."""
RESTORED_AFTER = timedelta(hours=1)
PAGE = 1_000
RECALLED = 5_000
"""Images that one pass through the journal looks for."""
AT_ONCE = 3
"""Findings that one worker settles at the same time; each holds up to two connections of the pool."""

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Runs:
    """Everything that doors and schedules ask for. One run at a time, whoever works on it."""

    database: Database
    objects: Objects
    settings: ConsistencySettings
    checker: Checker
    repairer: Repairer
    inventories: Inventories | None = None
    """None: the objects are in a folder, of which there are none."""

    async def begin(self, order: Order) -> Run:
        """Begin a run; somebody has to `work` on it. Raises `RunInProgress` and `WrongPair`."""
        if order.inventory is not None and self.inventories is None:
            raise RequestInvalid(
                f"The images are in {self.objects.location}, and S3 makes inventories of its buckets alone. "
                "Check without one."
            )
        await self._same_pair()
        return await self._started(await self._begun(order))

    async def _begun(self, order: Order) -> UUID:
        async with self.database.transaction(EVERY_OWNER) as tx:
            return await checks.begin(tx, order, parts_of(order.mode))

    async def repair(self, run_id: UUID, order: Order, selected: Sequence[UUID] | None = None) -> Run:
        """Begin to repair what a run has found, all of it or some. Raises `RunInProgress`, `RunNotFound`."""
        return await self._resume(run_id, Task.REPAIR, order, selected)

    async def undo(self, run_id: UUID, asked_by: str) -> Run:
        """Begin to take back what a run has repaired. Raises `RunInProgress` and `RunNotFound`."""
        return await self._resume(run_id, Task.UNDO, Order(asked_by=asked_by), None)

    async def cancel(self, run_id: UUID) -> Run:
        """End a run where it is; what it has found and done stays. One that is over stays as it is."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            await checks.find(tx, run_id)
            if await checks.finish(tx, run_id, RunState.CANCELLED, "It was cancelled."):
                await self._announce(tx, run_id)
            return await checks.find(tx, run_id)

    async def under_way(self) -> Run | None:
        """Return the run that is not over, if there is one, whether or not somebody works on it."""
        async with self.database.reading(EVERY_OWNER) as tx:
            run_id = await checks.running(tx)
        return None if run_id is None else await self.find(run_id)

    async def clear(self) -> None:
        """Cancel what is under way: for a process that knows that nobody works on it."""
        run = await self.under_way()
        if run is not None:
            await self.cancel(run.id)

    async def find(self, run_id: UUID) -> Run:
        """Return a run as it stands. Raises `RunNotFound`."""
        async with self.database.reading(EVERY_OWNER) as tx:
            return await checks.find(tx, run_id)

    async def findings(self, run_id: UUID) -> list[Finding]:
        """Return everything that a run has found."""
        found: list[Finding] = []
        while True:
            after = found[-1].id if found else None
            async with self.database.reading(EVERY_OWNER) as tx:
                page = await findings.page(tx, run_id, after, PAGE)
            if not page:
                return found
            found += page

    async def work(self, run_id: UUID, deadline: float | None = None) -> bool:
        """Work on a run until it is over, with whoever else does; True when it is.

        `deadline` is by `time.monotonic`: a step that is begun before it is ended. What is not done then
        is left to another worker, who finds its checkpoint.
        """
        async with AsyncExitStack() as stack:
            try:
                checker = await self._checker_of(await self.find(run_id), stack)
            except StorageUnavailable as error:
                await self._fail(run_id, error)
                return True
            return await self._work(run_id, checker, deadline)

    async def _checker_of(self, run: Run, stack: AsyncExitStack) -> Checker:
        """Return the checker with the listing that the run is to have, open as long as the stack."""
        wanted = run.order.inventory
        looks = run.state is RunState.RUNNING and run.task is Task.CHECK
        if wanted is None or self.inventories is None or not looks:
            return self.checker
        inventory = await stack.enter_async_context(self.inventories.opened(wanted))
        return replace(self.checker, listing=inventory, listed_at=inventory.created_at)

    async def _work(self, run_id: UUID, checker: Checker, deadline: float | None) -> bool:
        while True:
            run = await self.find(run_id)
            if run.state is not RunState.RUNNING:
                return True
            if _is_over(deadline):
                return False
            count = self.settings.at_once if run.task is Task.CHECK else 1
            worked = await asyncio.gather(*(self._work_parts(run, checker, deadline) for _ in range(count)))
            if not any(worked) and not await self._conclude(run):
                await asyncio.sleep(PAUSE_SECONDS)  # others hold what is left

    async def _resume(self, run_id: UUID, task: Task, order: Order, selected: Sequence[UUID] | None) -> Run:
        await self._same_pair()
        async with self.database.transaction(EVERY_OWNER) as tx:
            await checks.resume(tx, run_id, task, order, selected)
        return await self._started(run_id)

    async def _started(self, run_id: UUID) -> Run:
        run = await self.find(run_id)
        _LOG.info("consistency.started", run_id=str(run.id), task=run.task.value, mode=run.order.mode.value)
        return run

    async def _same_pair(self) -> None:
        """Raise `WrongPair` when bucket and database do not belong together, before anything is judged."""
        in_objects = await self.objects.read_identity()
        if in_objects is None or in_objects != await pair.of_database(self.database):
            raise WrongPair(
                f"{self.objects.location} and the database do not carry the same identity. "
                "Nothing was checked."
            )

    async def _work_parts(self, run: Run, checker: Checker, deadline: float | None) -> bool:
        """Take parts and work on them, one after the other; tell whether there was any."""
        worked = False
        while not _is_over(deadline):
            async with self.database.transaction(EVERY_OWNER) as tx:
                part = await checks.claim(tx, run.id, self.settings.lease_seconds)
            if part is None:
                return worked
            worked = True
            try:
                await self._work_part(run, part, checker, deadline)
            except (StorageUnavailable, DatabaseUnavailable) as error:
                await self._note_failure(part, error)
            except BaseException:
                await self._release(part)
                raise
        return worked

    async def _work_part(self, run: Run, part: Part, checker: Checker, deadline: float | None) -> None:
        if part.name == Task.REPAIR.value:
            await self._work_repair(run, part, deadline)
            return
        if part.name == Task.UNDO.value:
            await self._work_undo(part, deadline)
            return
        cursor = part.cursor
        async for step in checker.steps(run, part.name, part.cursor):
            cursor = step.cursor
            mine = await self._save(part, step, finished=step.last)
            checkpoint("after-check-step")
            if step.last or not mine:
                return  # if it is not ours, another worker has it by now, or the run is over
            if _is_over(deadline):
                await self._release(part)
                return
        await self._save(part, Step(cursor), finished=True)

    async def _work_repair(self, run: Run, part: Part, deadline: float | None) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            _, selected = await checks.lock(tx, run.id)
        if not part.cursor and (reason := await self._brake(run, selected)):
            async with self.database.transaction(EVERY_OWNER) as tx:
                if await checks.finish(tx, run.id, RunState.STOPPED, reason):
                    await self._announce(tx, run.id)
            return

        async def following(finding_id: UUID) -> list[UUID]:
            async with self.database.reading(EVERY_OWNER) as tx:
                others = await findings.page(tx, run.id, finding_id, RECALLED, state=FindingState.OPEN)
            return [each.image_id for each in others if each.image_id]

        recall = Recall(self.objects, self.repairer.spool, following)

        async def settle(finding: Finding) -> None:
            await self.repairer.settle(finding, run.order, recall)

        await self._work_findings(part, FindingState.OPEN, settle, deadline, selected)

    async def _work_undo(self, part: Part, deadline: float | None) -> None:
        undoer = Undoer(self.database, self.objects)
        await self._work_findings(part, FindingState.REPAIRED, undoer.undo, deadline, None)

    async def _work_findings(
        self,
        part: Part,
        state: FindingState,
        work: Callable[[Finding], Awaitable[None]],
        deadline: float | None,
        selected: Sequence[UUID] | None,
    ) -> None:
        """Do something about each finding in a state, some at a time; a checkpoint follows each of these."""
        cursor = part.cursor
        while True:
            async with self.database.reading(EVERY_OWNER) as tx:
                some = await findings.page(
                    tx, part.run_id, _id(cursor), AT_ONCE, state=state, selected=selected
                )
            if not some:
                break
            ends = await asyncio.gather(*map(work, some), return_exceptions=True)
            for error in filter(None, ends):
                raise error  # once all of them have ended
            cursor = str(some[-1].id)
            if not await self._save(part, Step(cursor)):
                return  # the part is another worker's by now, or the run is over
            if _is_over(deadline):
                await self._release(part)
                return
        await self._save(part, Step(cursor), finished=True)

    async def _brake(self, run: Run, selected: Sequence[UUID] | None) -> str | None:
        """Return why a person is to be asked before anything is repaired; None where nobody is."""
        if run.order.confirmed or run.order.dry_run:
            return None
        async with self.database.reading(EVERY_OWNER) as tx:
            newest_row, newest_object = await comparison.newest(tx), await checks.newest_object(tx, run.id)
            removals = await findings.removals(tx, run.id, selected)
        if removals and newest_object and not run.order.adopting:
            behind = began_at(newest_object) - (began_at(newest_row) if newest_row else began_at(UUID(int=0)))
            if behind > RESTORED_AFTER:
                return (
                    "The newest row is older than the newest object by more than an hour, as after a "
                    "restored database. Repair again with `adopt` to make rows of the objects, or with "
                    "`confirm` if the database is right."
                )
        allowed = max(FEW, self.settings.max_removal_share * run.counts.objects)
        if removals > min(allowed, self.settings.max_removals):
            return (
                f"{removals} of {run.counts.objects} objects would be put aside or given up, which is more "
                "than a repair does unasked. Look at the findings, then repair again with `confirm`."
            )
        return None

    async def _conclude(self, run: Run) -> bool:
        """End the run's task when all of its parts are finished; tell whether they are."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            current, _ = await checks.lock(tx, run.id)
            if current.state is not RunState.RUNNING or current.task is not run.task:
                return True
            if await checks.unfinished(tx, run.id):
                return False
            if current.task is Task.CHECK and current.order.repair and current.findings:
                await checks.go_on(tx, run.id)
                return True
            await checks.finish(tx, run.id, RunState.COMPLETE)
            await self._announce(tx, run.id)
        return True

    async def _announce(self, tx: Tx, run_id: UUID) -> None:
        """Tell the operators, and the log, how a run ended."""
        run = await checks.find(tx, run_id)
        payload = {**run_payload(run), "summary": summary_of(run)}
        # A run that is repaired later ends a second time: each end is an event of its own.
        version = round((run.finished_at or run.started_at).timestamp()) % 2**31
        for number, owner in enumerate(sorted(self.settings.operators or {"local"})):
            await events.add_notice(
                tx, Kind.CONSISTENCY_FINISHED, owner, run.id, payload, version=(version + number) % 2**31
            )
        _LOG.info(
            "consistency.finished",
            run_id=str(run.id),
            task=run.task.value,
            state=run.state.value,
            reason=run.reason,
            findings=run.findings,
            kinds=dict(run.drift),
            states=dict(run.states),
        )

    async def _save(self, part: Part, step: Step, *, finished: bool = False) -> bool:
        """Record a step: checkpoint, counts and findings together, under the part's fence."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            mine = await checks.save(
                tx, part, step.tally, step.cursor, self.settings.lease_seconds, finished=finished
            )
            if mine and step.findings:
                await findings.add(tx, step.findings)
            if mine and step.verified:
                await comparison.mark_verified(tx, step.verified)
            return mine

    async def _release(self, part: Part) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await checks.release(tx, part)

    async def _note_failure(self, part: Part, error: TintypeError) -> None:
        """Let a part be tried again, or fail its run: nothing is said about what was not read."""
        _LOG.warning("consistency.part_failed", run_id=str(part.run_id), part=part.name, reason=str(error))
        hopeless = isinstance(error, StorageRefused) or part.failures + 1 >= MOST_FAILURES
        async with self.database.transaction(EVERY_OWNER) as tx:
            await checks.release(tx, part, failed=True)
        if hopeless:
            await self._fail(part.run_id, error)
        else:
            await asyncio.sleep(PAUSE_SECONDS)

    async def _fail(self, run_id: UUID, error: TintypeError) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            if await checks.finish(tx, run_id, RunState.FAILED, str(error)):
                await self._announce(tx, run_id)


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _id(cursor: str) -> UUID | None:
    return UUID(cursor) if cursor else None


def summary_of(run: Run) -> str:
    """Return how a run ended, in a sentence."""
    looked = f"{_number(run.counts.objects, 'object')} and {_number(run.counts.rows, 'row')}"
    fates = ", ".join(f"{count} {state}" for state, count in sorted(run.states.items()))
    aside = f" {_number(run.counts.foreign, 'foreign key')} left alone." if run.counts.foreign else ""
    match run.state:
        case RunState.COMPLETE if not run.findings:
            return f"The check of {looked} found nothing.{aside}"
        case RunState.COMPLETE if run.task is Task.UNDO:
            return f"What was repaired has been taken back where that was possible: {fates}."
        case RunState.COMPLETE | RunState.RUNNING:
            return f"The check of {looked} found {_number(run.findings, 'difference')}: {fates}.{aside}"
        case RunState.STOPPED:
            return f"The repair stopped before it changed anything. {run.reason}"
        case RunState.FAILED:
            return f"The {run.task} failed. {run.reason}"
        case RunState.CANCELLED:
            return f"The {run.task} was cancelled."


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"
