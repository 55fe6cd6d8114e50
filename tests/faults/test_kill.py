"""kill -9 under load, again and again: what clients were told is so, and under each key there is one image.

The laptop's form, with its PostgreSQL. `make faults` sends two thousand uploads, the suite a hundred.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from faults.ledger import Ledger, published, serving, uploads
from faults.plug import pull, pull_all_but_postgres
from faults.table import LONG, Row, record
from service import Service

UPLOADS, KILLS = (2000, 40) if LONG else (100, 2)
SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CLIENTS = 6
LATE_SECONDS = 0.06
"""At most so long after an acknowledgement: uploads of that size are at any of their steps by then."""
START_SECONDS = 1.5
"""A start takes longer, so that it is killed in its midst."""


@dataclass
class Killer:
    """Ends the lives of a service after so many acknowledgements, and a moment."""

    service: Service
    chance: random.Random
    kills: int = 0

    async def kill(self, moments: Iterable[int], ledger: Ledger) -> None:
        for moment in moments:
            while len(ledger.told) < moment:  # noqa: ASYNC110 # a moment is no event of anybody's
                await asyncio.sleep(0.002)
            await asyncio.sleep(self.chance.uniform(0, LATE_SECONDS))
            await self._end(self.chance.choice([pull, pull_all_but_postgres]))
            if self.chance.random() < 1 / 3:
                await self._end_the_start()
            await asyncio.to_thread(self.service.start)

    async def _end(self, end: Callable[[Service], None]) -> None:
        await asyncio.to_thread(end, self.service)
        self.kills += 1

    async def _end_the_start(self) -> None:
        """Kill while the database recovers from the kill before."""
        self.service.process = None
        starting = asyncio.create_task(asyncio.to_thread(self.service.start))
        while self.service.process is None:  # noqa: ASYNC110 # it comes in a thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.chance.uniform(0, START_SECONDS))
        await self._end(pull)
        with suppress(AssertionError):  # a start that was killed is none
            await starting


@pytest.mark.faults
@pytest.mark.timeout(60 + 2 * UPLOADS)
async def test_killed_again_and_again_what_was_acknowledged_is_there_once_with_one_event(
    tmp_path: Path,
) -> None:
    print(f"KILL_SEED={SEED}")  # noqa: T201 # shown when it fails
    chance = random.Random(SEED)
    moments = sorted(chance.sample(range(1, UPLOADS - CLIENTS), KILLS))
    async with serving(tmp_path / "data") as (service, client):
        ledger, killer = Ledger(), Killer(service, random.Random(SEED + 1))
        sent = islice(uploads(chance), UPLOADS)
        async with asyncio.TaskGroup() as group:
            group.create_task(killer.kill(moments, ledger))
            for _ in range(CLIENTS):
                group.create_task(ledger.send_all(sent, client))
        recovery, refused = client.longest, client.answers[503]
        lost = await ledger.lost(client)
        stored, told = await client.stored(), await client.told()
        record(
            Row(
                fault=f"kill -9 under load, of everything or of all but PostgreSQL (seed {SEED})",
                times=killer.kills,
                acknowledged=len(ledger.told),
                lost=len(lost),
                duplicated=len(stored) - len(ledger.told),
                server_errors=refused,
                recovery_seconds=recovery,
            )
        )
        assert lost == []
        assert len(ledger.told) == UPLOADS
        assert set(stored) == {image for images in ledger.told.values() for image in images}, (
            "some came twice"
        )
        assert set(told) == set(stored), "an event without its image"

        await ledger.send_all(list(ledger.told), client)

        assert [each.key for each, images in ledger.told.items() if len(set(images)) != 1] == []
        assert await client.stored() == stored
        events = {event for each in told.values() for event in each}
        assert events <= await published(service, events)
        checked = await client.deep_check()
        assert (checked["state"], checked["findings"]["total"]) == ("complete", 0), checked
