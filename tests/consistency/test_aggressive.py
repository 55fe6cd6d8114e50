"""Two aggressive checkers with a grace of seconds, beside stalling uploads and deletions: I1 and I2 hold."""

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from consistency.damage import World, new_seed
from tintype.catalogue import comparison
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.images import restore, trash
from tintype.consistency import pair
from tintype.consistency.check import fingerprint
from tintype.model.check import Order
from tintype.model.errors import AttemptTooOld, RunInProgress
from tintype.model.image import Image, State
from tintype.model.upload import Stored, Upload
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings, DatabaseSettings, ObjectsSettings, Settings

SECONDS = float(os.environ.get("TINTYPE_AGGRESSIVE_SECONDS", "8"))
"""The suite takes the short form, `make endurance` ten minutes."""
FENCE = DatabaseSettings(attempt_seconds=0.6, statement_timeout_seconds=0.7)
GRACE = ConsistencySettings(grace_seconds=2.0, at_once=2)


@dataclass
class Traffic:
    """Clients: each uploads, now and then stalls before its commit, and deletes or restores what it has."""

    world: World
    commits: Commits
    chance: random.Random
    until: float
    acknowledged: list[Image] = field(default_factory=list[Image])
    refused: int = 0

    async def client(self) -> None:
        while time.monotonic() < self.until:
            await self.upload()
            if self.acknowledged and self.chance.random() < 0.3:
                await self.delete_or_restore(self.chance.choice(self.acknowledged))
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
        self.acknowledged.append(outcome.image)

    async def delete_or_restore(self, image: Image) -> None:
        async with self.world.database.transaction("local") as tx:
            if self.chance.random() < 0.5:
                await trash(tx, "local", image.id)
            else:
                await restore(tx, "local", image.id)


async def aggressive(world: World, until: float) -> int:
    """Check and repair without a pause; return how many runs this one began."""
    begun = 0
    while time.monotonic() < until:
        try:
            run = await world.checks.begin(Order(repair=True, confirmed=True))
            begun += 1
        except RunInProgress as other:
            run = await world.checks.find(_id(other))
        await world.checks.work(run.id)
    return begun


def _id(error: RunInProgress) -> UUID:
    return UUID(error.details["run"].rpartition("/")[2])


def test_a_grace_that_is_shorter_than_the_fence_is_refused() -> None:
    with pytest.raises(ValueError, match="grace_seconds must be at least"):
        Settings(database=DatabaseSettings(attempt_seconds=60), consistency=GRACE)
    Settings(database=FENCE, consistency=GRACE)


@pytest.mark.timeout(SECONDS + 170)
async def test_beside_two_aggressive_checkers_nothing_that_was_acknowledged_is_lost(
    database_url: str, tmp_path: Path
) -> None:
    seed = new_seed()
    objects = Objects.open(ObjectsSettings(), tmp_path)
    async with Database.open(database_url, FENCE) as database, Commits.open(database) as commits:
        await pair.claim(database, objects)
        worlds = [World(database, objects, tmp_path / "objects", settings=GRACE) for _ in range(2)]
        until = time.monotonic() + SECONDS
        traffic = Traffic(worlds[0], commits, random.Random(seed), until)

        began = await asyncio.gather(
            *(aggressive(world, until) for world in worlds), *(traffic.client() for _ in range(6))
        )

        assert sum(each or 0 for each in began) >= 2
        assert len(traffic.acknowledged) > 20
        assert traffic.refused > 0
        async with database.reading(EVERY_OWNER) as tx:
            standings = await comparison.standings(tx, [image.id for image in traffic.acknowledged])
        for image in traffic.acknowledged:
            assert standings[image.id].state in (State.READY, State.DELETED)
            assert await fingerprint(objects, original_key(image.id)) == (image.sha256, image.size)
        ((lost,),) = await worlds[0].fetch(
            "SELECT count(*) FROM events WHERE kind IN ('image.missing', 'image.corrupt')"
        )
        assert lost == 0
        await asyncio.sleep(GRACE.grace_seconds)
        await worlds[0].check(Order(repair=True, confirmed=True))
        assert (await worlds[0].check(Order())).clean
    await objects.aclose()
