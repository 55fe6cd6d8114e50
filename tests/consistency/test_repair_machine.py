"""Uploads that stall, damage behind Tintype's back, checks, repairs, undos, and a clock that is moved: in any
order. Nothing that was acknowledged is lost, and nothing that a repair takes away is destroyed.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from catalogue.arrivals import id_of
from consistency.damage import World
from postgres import Postgres, memory
from tintype.catalogue import images
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency import pair
from tintype.consistency.runs import Runs
from tintype.model.check import Mode, Order, Run, RunState
from tintype.model.errors import AttemptTooOld, ImageNotFound
from tintype.model.finding import FindingState
from tintype.model.image import Image, State
from tintype.model.upload import Arrival, Stored, Upload
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings, DatabaseSettings, ObjectsSettings

BEGAN_HOURS_AGO = 1_000
"""The machine's clock begins so far behind the real one, and is moved towards it."""
FENCE_HOURS = 1
GRACE_HOURS = 24
REPAIR = Order(repair=True, confirmed=True)
T = TypeVar("T")


@dataclass
class Known:
    """An image that was acknowledged."""

    image: Image
    data: bytes
    trashed: bool = False
    harmed: bool = False
    """By somebody who passed by Tintype."""


@dataclass
class Stalled:
    """An upload between its object and its row."""

    arrival: Arrival
    began_hours: float


@dataclass
class Taken:
    """A file that somebody took away."""

    data: bytes
    modified_ns: int


class Machine(RuleBasedStateMachine):
    """Everything that a check meets."""

    images_made = Bundle("images")
    stalled = Bundle("stalled")

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        self.postgres = postgres
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.known: dict[UUID, Known] = {}
        self.taken: dict[UUID, Taken] = {}
        self.must_exist: dict[bytes, str] = {}
        """Digests of bytes that somebody put there and nobody but us may have taken away; what they are."""
        self.clock_hours = 0.0
        self.made = 0
        self.run_done: Run | None = None

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        folder = memory() or Path(tempfile.mkdtemp())
        self.stack.callback(shutil.rmtree, folder)
        self.do(self._open(folder))

    async def _open(self, folder: Path) -> None:
        url = await self.stack.enter_async_context(self.postgres.clone())
        self.database = await self.stack.enter_async_context(Database.open(url, DatabaseSettings()))
        objects = Objects.open(ObjectsSettings(), folder)
        self.stack.push_async_callback(objects.aclose)
        await pair.claim(self.database, objects)
        self.world = World(self.database, objects, folder / "objects")
        self.commits = await self.stack.enter_async_context(Commits.open(self.database))

    def teardown(self) -> None:
        if self.known:
            self.do(self._ends_clean())
        self.do(self.stack.aclose())
        self.runner.close()

    async def _ends_clean(self) -> None:
        await self.world.check(REPAIR, self.checks())
        again = await self.world.check(Order(), self.checks())
        assert again.clean, await self.world.findings(again)

    # The clock: attempts carry its time in their ids, and fence and grace are as far behind the real one

    def behind(self) -> timedelta:
        return timedelta(hours=BEGAN_HOURS_AGO - self.clock_hours)

    def checks(self) -> Runs:
        grace = self.behind() + timedelta(hours=GRACE_HOURS)
        return self.world.runs(ConsistencySettings(grace_seconds=grace.total_seconds()))

    @rule(hours=st.sampled_from([0.5, 2, 30]))
    def time_passes(self, hours: float) -> None:
        self.clock_hours += hours

    # What clients do

    async def _put(self) -> tuple[Arrival, bytes]:
        self.made += 1
        data = f"{self.made} ".encode() * (1 + self.made % 7)
        upload = Upload("local", "a.png", None, "raw", id=id_of(datetime.now(UTC) - self.behind()))
        self.must_exist[digest_of(data)] = f"upload {self.made}"
        return await self.world.put(upload, data), data

    async def _commit(self, arrival: Arrival) -> Image:
        fence = self.behind() + timedelta(hours=FENCE_HOURS)
        self.database.settings.attempt_seconds = fence.total_seconds()
        outcome = await self.commits.commit(arrival)
        assert isinstance(outcome, Stored)
        return outcome.image

    @rule(target=images_made)
    def upload(self) -> UUID:
        arrival, data = self.do(self._put())
        image = self.do(self._commit(arrival))
        self.known[image.id] = Known(image, data)
        return image.id

    @rule(target=stalled)
    def upload_stalls(self) -> Stalled:
        arrival, _ = self.do(self._put())
        return Stalled(arrival, self.clock_hours)

    @rule(late=consumes(stalled))
    def upload_goes_on(self, late: Stalled) -> None:
        """In time it is stored, and its object is there; behind the fence it is refused."""
        if self.clock_hours - late.began_hours >= FENCE_HOURS:
            with pytest.raises(AttemptTooOld):
                self.do(self._commit(late.arrival))
            return
        image = self.do(self._commit(late.arrival))
        self.known[image.id] = Known(image, self.world.file(image).read_bytes())

    @rule(image_id=images_made, trashed=st.booleans())
    def trash_or_restore(self, image_id: UUID, *, trashed: bool) -> None:
        with contextlib.suppress(ImageNotFound):  # it is missing, or was given up
            self.do(self._let(image_id, images.trash if trashed else images.restore))
            self.known[image_id].trashed = trashed

    async def _let(self, image_id: UUID, verb: Any) -> None:  # noqa: ANN401 - two that look alike
        async with self.database.transaction("local") as tx:
            await verb(tx, "local", image_id)

    # What is done behind Tintype's back

    @rule(image_id=images_made, what=st.sampled_from(["take", "put back", "alter", "alter and lengthen"]))
    def somebody_passes_by(self, image_id: UUID, what: str) -> None:
        match what:
            case "take":
                self._take_away(image_id)
            case "put back":
                self._put_back(image_id)
            case _:
                self._alter(image_id, longer=what != "alter")

    def _take_away(self, image_id: UUID) -> None:
        path, known = self.world.file(image_id), self.known[image_id]
        if path.exists():
            data = path.read_bytes()
            self.must_exist.pop(digest_of(data), None)
            if data == known.data:
                self.taken[image_id] = Taken(data, path.stat().st_mtime_ns)
            known.harmed = True
            path.unlink()

    def _put_back(self, image_id: UUID) -> None:
        path = self.world.file(image_id)
        if image_id in self.taken and not path.exists():
            taken = self.taken.pop(image_id)
            path.write_bytes(taken.data)
            os.utime(path, ns=(taken.modified_ns, taken.modified_ns))
            self.must_exist[digest_of(taken.data)] = f"{image_id} put back"

    def _alter(self, image_id: UUID, *, longer: bool) -> None:
        path = self.world.file(image_id)
        if path.exists():
            data = path.read_bytes()
            self.must_exist.pop(digest_of(data), None)
            self.made += 1
            other = f"strange {self.made}".encode().ljust(len(data) + longer)
            path.write_bytes(other)
            self.must_exist[digest_of(other)] = f"strange bytes in place of {image_id}"
            self.known[image_id].harmed = True

    # What checks do

    @rule(mode=st.sampled_from([Mode.QUICK, Mode.FULL]))
    def check_and_repair(self, mode: Mode) -> None:
        order = Order(mode, repair=True, confirmed=True)
        self.run_done = self.do(self.world.check(order, self.checks()))
        assert self.run_done.state is RunState.COMPLETE
        self.do(self._hold_after_repair())

    @rule()
    def check(self) -> None:
        self.run_done = self.do(self.world.check(Order(), self.checks()))

    @precondition(lambda self: self.run_done)
    @rule()
    def repair_by_an_old_plan(self) -> None:
        assert self.run_done
        self.do(self._again(self.checks().repair(self.run_done.id, REPAIR)))

    @precondition(lambda self: self.run_done)
    @rule()
    def undo_late(self) -> None:
        assert self.run_done
        self.do(self._again(self.checks().undo(self.run_done.id, "a test")))

    async def _again(self, begin: Coroutine[Any, Any, Run]) -> None:
        assert await self.checks().work((await begin).id)

    @rule()
    def repair_and_undo(self) -> None:
        """Taken back at once, all is as it was before."""
        before = self.do(self.world.snapshot())
        run = self.do(self.world.check(REPAIR, self.checks()))
        self.do(self._again(self.checks().undo(run.id, "a test")))
        states = {each.state for each in self.do(self.world.findings(run))}
        assert states <= {FindingState.UNDONE, FindingState.SKIPPED}
        assert self.do(self.world.snapshot()) == before

    # What holds at every moment

    @invariant()
    def nothing_is_lost(self) -> None:
        self.do(self._hold())

    async def _hold(self) -> None:
        there = await self._digests("originals/")
        held = await self._digests("quarantine/")
        gone = {what for digest, what in self.must_exist.items() if digest not in there | held}
        assert not gone
        states = await self._states()
        for image_id, known in self.known.items():
            if not known.harmed:
                assert digest_of(known.data) in there
                assert states[image_id] == (State.DELETED if known.trashed else State.READY, False)
        told = await self.world.fetch(
            "SELECT id FROM images WHERE version <> (SELECT count(*) FROM events WHERE image_id = images.id)"
        )
        assert told == []

    async def _hold_after_repair(self) -> None:
        """A row that is shown has its bytes, and one whose bytes are there is shown."""
        states = await self._states()
        for image_id, known in self.known.items():
            path = self.world.file(image_id)
            whole = path.exists() and path.read_bytes() == known.data
            wanted = State.DELETED if known.trashed else State.READY
            assert (states[image_id] == (wanted, False)) == whole

    async def _states(self) -> dict[UUID, tuple[State, bool]]:
        async with self.database.reading(EVERY_OWNER) as tx:
            cursor = await tx.execute("SELECT id, state, purged_at IS NOT NULL FROM images")
            return {row[0]: (State(row[1]), row[2]) for row in await cursor.fetchall()}

    async def _digests(self, prefix: str) -> set[bytes]:
        keys = [info.key async for page in self.world.objects.list(prefix) for info in page]
        return {digest_of((self.world.root / key).read_bytes()) for key in keys}


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_whatever_is_damaged_repaired_and_undone_nothing_is_lost(postgres: Postgres) -> None:
    class OnThisServer(Machine):
        def __init__(self) -> None:
            super().__init__(postgres)

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=int(os.environ.get("TINTYPE_EXAMPLES", "4")),
            stateful_step_count=16,
            deadline=None,
            derandomize=True,
            print_blob=True,
        ),
    )
