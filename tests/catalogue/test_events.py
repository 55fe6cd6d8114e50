"""The log: nobody who reads by position misses an event, and none is published twice at once."""

from datetime import datetime, timedelta

import psycopg

from happenings import image
from tintype.catalogue import events, identity
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.model.event import Event, Kind, event_id
from tintype.model.ids import new_id
from tintype.model.payload import image_payload


async def add(database: Database, count: int = 1) -> None:
    async with database.transaction(EVERY_OWNER) as tx:
        for _ in range(count):
            await events.add(tx, Kind.UPLOADED, image())


async def log(database: Database, after: int = 0, limit: int = 100) -> list[int]:
    async with database.reading(EVERY_OWNER) as tx:
        return positions(await events.page(tx, "local", after, limit))


def positions(log: list[Event]) -> list[int]:
    return [event.position for event in log]


async def due(tx: Tx) -> list[int]:
    return positions(await events.claim(tx, 100))


# Reading by position


async def test_an_event_is_read_as_it_was_added(database: Database) -> None:
    rome = image()
    async with database.transaction(EVERY_OWNER) as tx:
        await events.add(tx, Kind.UPDATED, rome)

    async with database.reading(EVERY_OWNER) as tx:
        (event,) = await events.page(tx, "local", 0, 10)
    assert event == Event(
        position=event.position,
        id=event_id(rome.id, Kind.UPDATED, rome.version),
        kind=Kind.UPDATED,
        image_id=rome.id,
        owner="local",
        version=rome.version,
        payload=image_payload(rome),
        created_at=event.created_at,
    )


async def test_what_happened_since_a_moment_is_all_there_also_behind_what_is_older(
    database: Database,
) -> None:
    await add(database)
    async with await database.connect(EVERY_OWNER) as slow, slow.begun():
        await slow.execute("SELECT")  # begun before the others, and writing after them
        await add(database, 2)
        await events.add(slow, Kind.UPLOADED, image())
    async with database.reading(EVERY_OWNER) as tx:
        first, since, _, late = await events.page(tx, "local", 0, 10)
        assert late.created_at < since.created_at
        assert await events.position_before(tx, "local", since.created_at) == first.position
        assert await events.position_before(tx, "local", first.created_at) < first.position
        after_all = since.created_at + timedelta(seconds=1)
        assert await events.position_before(tx, "local", after_all) == late.position
        assert await events.position_before(tx, "nobody", after_all) == 0


async def test_a_reader_goes_on_from_the_last_position_it_has_seen(database: Database) -> None:
    await add(database, 5)

    first = await log(database, limit=2)
    rest = await log(database, after=first[-1])

    assert len(first) == 2
    assert first + rest == await log(database)


async def test_a_reader_never_passes_a_place_that_a_late_commit_will_fill(database: Database) -> None:
    async with database.transaction(EVERY_OWNER) as late:
        await events.add(late, Kind.UPLOADED, image())
        await add(database)
        seen = await log(database)
        await add(database)
        assert await log(database) == seen == []

    assert len(await log(database)) == 3


async def test_a_transaction_that_took_its_place_before_it_wrote_anything_hides_nothing(
    database: Database,
) -> None:
    async with database.transaction(EVERY_OWNER) as early:
        await early.execute("SELECT pg_current_xact_id()")
        await add(database)
        seen = await log(database)
        await events.add(early, Kind.UPLOADED, image())

    assert len(await log(database, after=max(seen, default=0))) == 2 - len(seen)


async def test_a_transaction_that_reads_for_long_holds_nobody_up(database: Database) -> None:
    async with database.transaction(EVERY_OWNER) as reader:
        await reader.execute("SELECT count(*) FROM images")
        await add(database)
        assert len(await log(database)) == 1


# Publishing


async def test_two_relays_claim_different_events(database: Database) -> None:
    await add(database, 4)

    async with database.transaction(EVERY_OWNER) as one, database.transaction(EVERY_OWNER) as other:
        mine = positions(await events.claim(one, 2))
        theirs = positions(await events.claim(other, 10))

    assert sorted(mine + theirs) == await log(database)
    assert len(mine) == 2


async def test_a_claim_passes_by_what_was_published_under_a_transaction_that_is_still_open(
    database: Database,
) -> None:
    """PostgreSQL keeps all of that for whoever might still read it, and has to look at each."""
    async with await psycopg.AsyncConnection.connect(database.url) as reader:
        await reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await reader.execute("SELECT")
        await add(database, 500)
        async with database.transaction(EVERY_OWNER) as tx:
            await events.mark_published(tx, positions(await events.claim(tx, 500)))
        async with database.reading(EVERY_OWNER) as tx:
            now = await tx.execute("SELECT now()")
            ((since,),) = await now.fetchall()
        await add(database, 3)
        every, lately = await blocks_read(database, None), await blocks_read(database, since)

    assert every > 10 * lately


async def blocks_read(database: Database, since: datetime | None) -> int:
    """Return how many blocks PostgreSQL looks at to claim three events."""
    async with database.transaction(EVERY_OWNER) as tx:
        before = await blocks_so_far(tx)
        assert len(await events.claim(tx, 100, since)) == 3
        return await blocks_so_far(tx) - before


async def blocks_so_far(tx: Tx) -> int:
    cursor = await tx.execute("SELECT pg_stat_get_xact_blocks_fetched('events'::regclass)")
    ((blocks,),) = await cursor.fetchall()
    return blocks


async def test_the_longest_due_are_claimed_first(database: Database) -> None:
    await add(database, 5)

    async with database.transaction(EVERY_OWNER) as tx:
        assert positions(await events.claim(tx, 3)) == (await log(database))[:3]


async def test_a_claim_that_ends_without_a_word_is_due_again_at_once(database: Database) -> None:
    await add(database, 2)

    async with database.transaction(EVERY_OWNER) as tx:
        claimed = await due(tx)
    async with database.transaction(EVERY_OWNER) as tx:
        assert await due(tx) == claimed


async def test_what_is_published_is_not_due_and_stays_in_the_log(database: Database) -> None:
    await add(database, 3)
    async with database.transaction(EVERY_OWNER) as tx:
        claimed = await due(tx)
        await events.mark_published(tx, claimed[:2])

    async with database.transaction(EVERY_OWNER) as tx:
        assert await due(tx) == claimed[2:]
    assert await log(database) == claimed


async def test_a_refused_event_comes_again_after_a_pause_that_grows_to_five_minutes(
    database: Database,
) -> None:
    await add(database)
    pauses: list[float] = []
    for tried in range(1, 31):
        async with database.transaction(EVERY_OWNER) as tx:
            (position,) = await due(tx)
            assert await events.postpone(tx, position, "down") == tried
            cursor = await tx.execute(
                "SELECT extract(epoch FROM next_attempt_at - now())::float, last_error FROM events"
            )
            pause, error = await cursor.fetchone() or (None, None)
            assert error == "down"
            assert isinstance(pause, float)
            assert 0 <= pause <= min(300, 2 ** (tried - 1))
            pauses.append(pause)
            await tx.execute("UPDATE events SET next_attempt_at = now() WHERE position = %s", [position])

    assert len(set(pauses)) == len(pauses)


async def test_an_event_in_its_pause_holds_back_no_other(database: Database) -> None:
    await add(database, 2)
    async with database.transaction(EVERY_OWNER) as tx:
        postponed, other = await due(tx)
        await events.postpone(tx, postponed, "down")
        await tx.execute("UPDATE events SET next_attempt_at = now() + interval '1 h' WHERE attempts > 0")

    async with database.transaction(EVERY_OWNER) as tx:
        assert await due(tx) == [other]


async def test_the_age_of_the_oldest_unpublished_is_known(database: Database) -> None:
    async with database.reading(EVERY_OWNER) as tx:
        assert await events.oldest_unpublished_age(tx) is None
    await add(database, 2)
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE events SET created_at = now() - interval '100 s' WHERE position = 1")
        await tx.execute("UPDATE events SET created_at = now() - interval '50 s' WHERE position = 2")
        age = await events.oldest_unpublished_age(tx)
        assert age is not None
        assert 100 <= age < 150
        await events.mark_published(tx, [1])
        age = await events.oldest_unpublished_age(tx)
        assert age is not None
        assert 50 <= age < 100


# The pair's identity


async def test_an_identity_is_recorded_once_and_for_ever(database: Database) -> None:
    pair = new_id()
    async with database.transaction(EVERY_OWNER) as tx:
        assert await identity.find(tx) is None
        assert await identity.add(tx, pair) == pair
        assert await identity.add(tx, new_id()) == pair
        assert await identity.find(tx) == pair
