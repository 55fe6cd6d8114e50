"""Quotas: exact whoever races, counted from the moment they are set, given back when nothing came of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from catalogue import arrivals
from tintype.catalogue import quotas as table
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.ingest.quotas import Quotas
from tintype.model.errors import DatabaseUnavailable, ImageCorrupt, QuotaExceeded
from tintype.model.quota import Quota, Usage
from tintype.model.upload import Arrival, Upload
from tintype.settings import DatabaseSettings

SIZE = 1000


@pytest.fixture
async def commits(database: Database) -> AsyncIterator[Commits]:
    async with Commits.open(database) as commits:
        yield commits


@pytest.fixture
def quotas(database: Database) -> Quotas:
    return Quotas(database, Quota())


def arrival(owner: str = "anna", size: int = SIZE) -> Arrival:
    """An upload of bytes that nobody sent before."""
    return arrivals.arrival(size=size, owner=owner)


async def store(quotas: Quotas, commits: Commits, one: Arrival) -> None:
    """Do what a door and `Ingest.finish` do."""
    room = await quotas.admit(one.upload.owner, one.size)
    try:
        async with quotas.holding(replace(one.upload, room=room), one.size):
            await commits.commit(one)
    finally:
        await quotas.release(one.upload.owner, room)


async def usage(quotas: Quotas, owner: str = "anna") -> Usage | None:
    return await quotas.usage_of(owner)


async def reservations(database_url: str) -> int:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("SET ROLE tintype_worker")
        cursor = await connection.execute("SELECT count(*) FROM quota_reservations")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_of_many_at_once_on_two_instances_exactly_as_many_are_stored_as_fit(
    database_url: str, database: Database, quotas: Quotas
) -> None:
    await quotas.give("anna", Quota(max_bytes=7 * SIZE))
    async with (
        Database.open(database_url, DatabaseSettings()) as other,
        Commits.open(database) as here,
        Commits.open(other) as there,
    ):
        instances = [(quotas, here), (Quotas(other, Quota()), there)]
        ends = await asyncio.gather(
            *(store(*instances[number % 2], arrival()) for number in range(40)), return_exceptions=True
        )

    assert sum(end is None for end in ends) == 7
    assert all(end is None or isinstance(end, QuotaExceeded) for end in ends)
    assert await usage(quotas) == Usage(bytes=7 * SIZE, images=7)
    assert await reservations(database_url) == 0


async def test_a_quota_of_images_is_exact_too(quotas: Quotas, commits: Commits) -> None:
    await quotas.give("anna", Quota(max_images=3))

    ends = await asyncio.gather(
        *(store(quotas, commits, arrival()) for _ in range(12)), return_exceptions=True
    )

    assert sum(end is None for end in ends) == 3


async def test_a_quota_that_is_set_later_counts_what_was_there_and_what_comes_meanwhile(
    quotas: Quotas, commits: Commits
) -> None:
    await asyncio.gather(*(commits.commit(arrival()) for _ in range(20)))

    async def go_on() -> None:
        for _ in range(30):
            await commits.commit(arrival())

    coming = [asyncio.create_task(go_on()) for _ in range(4)]
    await asyncio.sleep(0.02)
    await quotas.give("anna", Quota(max_bytes=10**9))
    await asyncio.gather(*coming)

    assert await usage(quotas) == Usage(bytes=140 * SIZE, images=140)


async def test_nothing_is_counted_for_owners_without_a_quota(
    quotas: Quotas, commits: Commits, database: Database
) -> None:
    await quotas.give("bert", Quota(max_images=10))

    await store(quotas, commits, arrival("anna"))

    assert await usage(quotas, "anna") is None
    async with database.reading("anna") as tx:
        assert await table.usage(tx, "anna") is None
        assert await table.stored(tx, "anna") == Usage(SIZE, 1)


async def test_the_settings_quota_holds_for_everybody_without_one_of_their_own(
    database: Database, commits: Commits
) -> None:
    quotas = Quotas(database, Quota(max_images=1))
    await quotas.give("free", Quota())
    await quotas.give("more", Quota(max_images=2))

    async def stored(owner: str) -> int:
        ends = [await asyncio.gather(store(quotas, commits, arrival(owner)), return_exceptions=True)]
        ends += [await asyncio.gather(store(quotas, commits, arrival(owner)), return_exceptions=True)]
        ends += [await asyncio.gather(store(quotas, commits, arrival(owner)), return_exceptions=True)]
        return sum(end == [None] for end in ends)

    assert [await stored(owner) for owner in ("anna", "free", "more")] == [1, 3, 2]


async def test_what_was_refused_or_repeated_takes_no_room(quotas: Quotas, commits: Commits) -> None:
    await quotas.give("anna", Quota(max_images=2))
    one = arrival()
    await store(quotas, commits, one)

    for _ in range(3):  # the same bytes again
        again = arrival()
        await store(quotas, commits, replace(again, sha256=one.sha256))
    with pytest.raises(ImageCorrupt):
        async with quotas.holding(Upload("anna", "a.png", None, "raw"), SIZE):
            raise ImageCorrupt("It is no picture.")

    assert await usage(quotas) == Usage(SIZE, 1)


async def test_while_it_is_in_doubt_whether_an_image_was_stored_its_room_is_held(quotas: Quotas) -> None:
    await quotas.give("anna", Quota(max_images=2))

    with pytest.raises(DatabaseUnavailable):
        async with quotas.holding(Upload("anna", "a.png", None, "raw"), SIZE):
            raise DatabaseUnavailable("Nobody knows.")

    assert await usage(quotas) == Usage(reserved_bytes=SIZE, reserved_images=1)


async def test_the_trash_counts_until_the_bytes_are_gone(
    quotas: Quotas, commits: Commits, database: Database
) -> None:
    await quotas.give("anna", Quota(max_images=9))
    kept, purged, removed = arrival(), arrival(), arrival()
    for one in (kept, purged, removed):
        await store(quotas, commits, one)
    ids = [one.upload.id for one in (kept, purged, removed)]

    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute(
            "UPDATE images SET state = 'deleted', canonical = false, deleted_at = now() WHERE id = ANY(%s)",
            [ids],
        )
    assert await usage(quotas) == Usage(3 * SIZE, 3)
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE images SET purged_at = now() WHERE id = %s", [purged.upload.id])
    assert await usage(quotas) == Usage(2 * SIZE, 2)
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("DELETE FROM images WHERE id = ANY(%s)", [[purged.upload.id, removed.upload.id]])
    assert await usage(quotas) == Usage(SIZE, 1)


async def test_a_counter_that_went_astray_is_found_and_put_right(
    quotas: Quotas, commits: Commits, database: Database
) -> None:
    await quotas.give("anna", Quota(max_images=9))
    await store(quotas, commits, arrival())
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE quota_usage SET bytes = 5, images = 77")

    async with database.transaction(EVERY_OWNER) as tx:
        drift = await table.recount(tx, "anna")
        nobody = await table.recount(tx, "nobody")

    assert drift == (Usage(5, 77), Usage(SIZE, 1))
    assert nobody is None


async def test_room_of_a_process_that_died_is_given_back_in_time(
    quotas: Quotas, commits: Commits, database: Database
) -> None:
    await quotas.give("anna", Quota(max_images=1))
    await quotas.admit("anna", SIZE)
    with pytest.raises(QuotaExceeded):
        await quotas.admit("anna", SIZE)

    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE quota_reservations SET expires_at = now()")

    await store(quotas, commits, arrival())
    assert await usage(quotas) == Usage(SIZE, 1)
