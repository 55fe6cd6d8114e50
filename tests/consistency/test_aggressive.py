"""Two aggressive checkers with a grace of seconds, beside uploads in one go and in pieces, deletions and a
purge: what was acknowledged is there at every moment, and a row that is shown has its object.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from conformance.suite import picture
from consistency.damage import World, new_seed
from tintype.catalogue import comparison
from tintype.catalogue.commits import Commits
from tintype.catalogue.comparison import Standing
from tintype.catalogue.database import EVERY_OWNER
from tintype.catalogue.images import restore, trash
from tintype.consistency.check import fingerprint
from tintype.consistency.runs import Runs
from tintype.model.check import Order
from tintype.model.errors import AttemptTooOld, ImageNotFound, ObjectMissing, RunInProgress, TintypeError
from tintype.model.image import State
from tintype.model.session import Opening, Session, SessionKind, SessionState
from tintype.model.upload import Stored, Upload
from tintype.objects.keys import original_key
from tintype.settings import (
    ConsistencySettings,
    DatabaseSettings,
    ImagingSettings,
    LimitsSettings,
    Settings,
    TrashSettings,
)
from tintype.wiring import Parts, open_parts

SECONDS = float(os.environ.get("TINTYPE_AGGRESSIVE_SECONDS", "8"))
"""The suite takes the short form, `make endurance` ten minutes."""
LONGEST_SECONDS = SECONDS + 60
"""On a busy machine it goes on until enough has happened."""
FENCE = DatabaseSettings(attempt_seconds=0.6, statement_timeout_seconds=0.7)
GRACE = ConsistencySettings(grace_seconds=2.0, at_once=2, every_seconds=0)
SESSION_SECONDS = 3
"""After which an upload in pieces that nobody goes on with has expired."""
TRASH = TrashSettings(days=3 / 86_400)


@dataclass
class Traffic:
    """Clients, each at one thing after the other, and what they were told."""

    parts: Parts
    world: World
    commits: Commits
    chance: random.Random
    until: float
    acknowledged: dict[UUID, tuple[bytes, int]] = field(default_factory=dict[UUID, tuple[bytes, int]])
    """Digest and length of each image."""
    deleted: set[UUID] = field(default_factory=set[UUID])
    """Images that a client has put into the trash, once."""
    resumed: int = 0
    expired: int = 0
    refused: int = 0
    purged: int = 0
    looks: int = 0

    @property
    def goes_on(self) -> bool:
        now = time.monotonic()
        enough = (
            len(self.acknowledged) > 20 and self.resumed and self.expired and self.refused and self.purged
        )
        return now < self.until or (not enough and now < self.until + LONGEST_SECONDS - SECONDS)

    async def client(self) -> None:
        while self.goes_on:
            await self.upload()
            if self.acknowledged and self.chance.random() < 0.3:
                await self.delete_or_restore(self.chance.choice([*self.acknowledged]))
            await asyncio.sleep(self.chance.random() * 0.05)

    async def upload(self) -> None:
        upload = Upload("local", "a.png", None, "raw")
        arrival = await self.world.put(upload, self.chance.randbytes(100))
        if self.chance.random() < 0.1:
            return  # the process died here: nobody was told
        # Some come to their commit just before the fence, some just behind it, some long after.
        await asyncio.sleep(self.chance.choice([0, 0, 0, 0.5, 0.65, 2.5]))
        try:
            outcome = await self.commits.commit(arrival)
        except AttemptTooOld:
            self.refused += 1
            return
        assert isinstance(outcome, Stored)
        self.acknowledged[outcome.image.id] = (outcome.image.sha256, outcome.image.size)

    async def resuming_client(self) -> None:
        while self.goes_on:
            with contextlib.suppress(TintypeError):  # nothing was promised: it begins anew
                await self.upload_in_pieces(picture(200_000, self.chance.randrange(10**9)))

    async def upload_in_pieces(self, data: bytes) -> None:
        """Some pieces lie in the store, some in the catalogue; between them it may rest for too long."""
        opening = Opening("local", SessionKind.TUS, len(data), 10**6, "pieces.png", keep_duplicate=True)
        session = await self.parts.sessions.open(opening)
        while session.state is SessionState.OPEN:
            piece = self.chance.choice([30_000, 70_000, len(data)])
            try:
                session = await self.append(session, data[session.received : session.received + piece])
            except AttemptTooOld:  # this busy machine took too long; the bytes are durable, and tried again
                self.refused += 1
            await asyncio.sleep(self.chance.choice([0, 0, 0.3, 1, SESSION_SECONDS + 1]))
            if session.state is SessionState.OPEN:
                try:
                    session = await self.parts.sessions.settle_offset("local", session.id)
                except TintypeError:
                    self.expired += 1
                    raise
        assert session.image_id is not None
        async with self.parts.database.reading("local") as tx:
            image = await comparison.find(tx, session.image_id)
        assert image is not None
        self.acknowledged[image.id] = (image.sha256, len(data))
        self.resumed += 1

    async def append(self, session: Session, data: bytes) -> Session:
        async def chunks() -> AsyncGenerator[bytes]:
            yield data

        sessions = self.parts.sessions
        async with sessions.appending(session, session.received, count=len(data)) as transfer:
            await transfer.receive(chunks())
            return await sessions.end(transfer)

    async def delete_or_restore(self, image_id: UUID) -> None:
        async with self.parts.database.transaction("local") as tx:
            with contextlib.suppress(ImageNotFound):  # it is gone for good
                if self.chance.random() < 0.5:
                    self.deleted.add(image_id)
                    await trash(tx, "local", image_id)
                else:
                    await restore(tx, "local", image_id)

    async def upkeep(self) -> None:
        """What the service does all the time: end what is over, and purge the trash."""
        while self.goes_on:
            with contextlib.suppress(TintypeError):
                await self.parts.sessions.sweep()
                self.purged += await self.parts.purge.round()
            await asyncio.sleep(0.5)

    async def watch(self) -> None:
        """Hold what was promised against what is, all the time."""
        while self.goes_on:
            known = [*self.acknowledged]
            await self.look(self.chance.sample(known, min(len(known), 20)))
            await self.look(await self.shown())
            await asyncio.sleep(0.2)

    async def shown(self) -> list[UUID]:
        """Return some of the images that anybody would be shown."""
        rows = await self.world.fetch(
            "SELECT id FROM images WHERE state = 'ready' ORDER BY random() LIMIT 20"
        )
        return [image_id for (image_id,) in rows]

    async def look(self, image_ids: Sequence[UUID]) -> None:
        for image_id in image_ids:
            before = await self.standing(image_id)
            try:
                there = await fingerprint(self.parts.objects, original_key(image_id))
            except ObjectMissing:
                there = None
            if there != (before.sha256, before.size):
                assert image_id in self.deleted
                assert (await self.standing(image_id)).purged
            assert before.state in (State.READY, State.DELETED)
            assert self.acknowledged.get(image_id) in (None, (before.sha256, before.size))
            self.looks += 1

    async def standing(self, image_id: UUID) -> Standing:
        async with self.parts.database.reading(EVERY_OWNER) as tx:
            return (await comparison.standings(tx, [image_id]))[image_id]


async def aggressive(runs: Runs, traffic: Traffic) -> int:
    """Check and repair without a pause; return how many runs this one began."""
    begun = 0
    while traffic.goes_on:
        try:
            run = await runs.begin(Order(repair=True, confirmed=True))
            begun += 1
        except RunInProgress as other:
            run = await runs.find(_id(other))
        await runs.work(run.id)
    return begun


def _id(error: RunInProgress) -> UUID:
    return UUID(error.details["run"].rpartition("/")[2])


def test_a_grace_that_is_shorter_than_the_fence_is_refused() -> None:
    with pytest.raises(ValueError, match="grace_seconds must be at least"):
        Settings(database=DatabaseSettings(attempt_seconds=60), consistency=GRACE)
    Settings(database=FENCE, consistency=GRACE)


@pytest.mark.timeout(LONGEST_SECONDS + 110)
async def test_beside_two_aggressive_checkers_nothing_that_was_acknowledged_is_lost(
    database_url: str, tmp_path: Path
) -> None:
    seed = new_seed()
    settings = Settings(
        data_dir=tmp_path,
        database=DatabaseSettings.model_validate(FENCE.model_dump() | {"url": database_url, "pool_size": 20}),
        consistency=GRACE,
        imaging=ImagingSettings(inspect="header"),
        limits=LimitsSettings(upload_ttl_seconds=SESSION_SECONDS),
        trash=TRASH,
    )
    async with open_parts(settings) as parts, Commits.open(parts.database) as commits:
        world = World(parts.database, parts.objects, tmp_path / "objects", settings=GRACE)
        traffic = Traffic(parts, world, commits, random.Random(seed), time.monotonic() + SECONDS)
        runs = [parts.upkeep.runs, world.checks]

        began = await asyncio.gather(
            *(aggressive(each, traffic) for each in runs),
            *(traffic.client() for _ in range(6)),
            *(traffic.resuming_client() for _ in range(3)),
            traffic.upkeep(),
            traffic.watch(),
        )

        assert sum(each or 0 for each in began) >= 2
        assert len(traffic.acknowledged) > 20
        assert min(traffic.refused, traffic.resumed, traffic.expired, traffic.purged, traffic.looks) > 0
        await traffic.look([*traffic.acknowledged])
        ((lost,),) = await world.fetch(
            "SELECT count(*) FROM events WHERE kind IN ('image.missing', 'image.corrupt')"
        )
        assert lost == 0
        await asyncio.sleep(max(GRACE.grace_seconds, SESSION_SECONDS))
        await parts.sessions.sweep()
        await world.check(Order(repair=True, confirmed=True))
        last = await world.check(Order())
        assert last.clean, await world.findings(last)
        print(  # noqa: T201 # what has happened, for whoever runs the long form
            f"{len(traffic.acknowledged)} acknowledged, {traffic.resumed} of them resumed; "
            f"{traffic.expired} expired, {traffic.refused} refused, {traffic.purged} purged; "
            f"{sum(each or 0 for each in began)} checks, {traffic.looks} looks"
        )
