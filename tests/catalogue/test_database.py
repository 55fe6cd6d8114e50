"""The way to the catalogue: patient for as long as it promises, and clear about what failed."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import LiteralString

import psycopg
import pytest
from psycopg import errors

from faults.proxy import Proxy
from tintype.catalogue import uploads
from tintype.catalogue.database import EVERY_OWNER, RETRIES, Database, Tx
from tintype.model.errors import DatabaseUnavailable, ImageNotFound, Internal, RequestInvalid
from tintype.model.session import Opening, SessionKind
from tintype.settings import DatabaseSettings


@pytest.fixture
async def noted(database: Database) -> Database:
    """A database with a table to write into."""
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE notes (id int PRIMARY KEY, note text)")
        await connection.execute("INSERT INTO notes VALUES (1, ''), (2, '')")
    return database


async def notes(database: Database) -> list[str]:
    async with database.reading(EVERY_OWNER) as tx:
        return [note for (note,) in await (await tx.execute("SELECT note FROM notes ORDER BY id")).fetchall()]


async def spoil(
    database: Database, *statements: LiteralString, values: Sequence[object] | None = None
) -> None:
    """Run statements, of which the last one fails, in one transaction."""
    async with database.transaction(EVERY_OWNER) as tx:
        for statement in statements:
            await tx.execute(statement, values)


async def until_it_answers(database: Database) -> None:
    while True:
        try:
            return await database.probe()
        except DatabaseUnavailable:
            continue


async def test_a_transaction_is_committed_at_its_end(noted: Database) -> None:
    async with noted.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE notes SET note = 'kept' WHERE id = 1")

    assert await notes(noted) == ["kept", ""]


async def test_an_exception_rolls_back_and_passes_on_as_it_is(noted: Database) -> None:
    async def change_and_fail() -> None:
        async with noted.transaction(EVERY_OWNER) as tx:
            await tx.execute("UPDATE notes SET note = 'lost'")
            raise ImageNotFound("of the caller's own")

    with pytest.raises(ImageNotFound):
        await change_and_fail()
    assert await notes(noted) == ["", ""]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("application_name", "tintype"),
        ("statement_timeout", "5s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("timezone", "UTC"),
    ],
)
async def test_every_connection_has_its_limits(database: Database, name: str, value: str) -> None:
    async with database.reading(EVERY_OWNER) as pooled:
        assert await (await pooled.execute("SELECT current_setting(%s)", [name])).fetchone() == (value,)
    async with await database.connect(EVERY_OWNER) as single:
        assert await (await single.execute("SELECT current_setting(%s)", [name])).fetchone() == (value,)


async def test_what_the_url_says_comes_before_our_own_settings(database_url: str) -> None:
    url = f"{database_url}&application_name=mine"
    async with Database.open(url, DatabaseSettings()) as database, database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT current_setting('application_name')")
        assert await cursor.fetchone() == ("mine",)


async def test_a_statement_that_takes_too_long_ends_as_unavailable(database_url: str) -> None:
    async with Database.open(database_url, DatabaseSettings(statement_timeout_seconds=0.05)) as database:
        with pytest.raises(DatabaseUnavailable) as ended:
            await spoil(database, "SELECT pg_sleep(60)")

    assert ended.value.retry_after is not None
    assert isinstance(ended.value.__cause__, errors.QueryCanceled)


async def test_when_all_connections_are_taken_the_next_request_is_refused_with_a_time_to_come_back(
    database_url: str,
) -> None:
    settings = DatabaseSettings(pool_size=2, acquire_timeout_seconds=0.1)
    async with Database.open(database_url, settings) as database:
        async with database.reading(EVERY_OWNER), database.reading(EVERY_OWNER):
            with pytest.raises(DatabaseUnavailable) as refused:
                await database.probe()
        await database.probe()

    assert refused.value.retry_after is not None


@pytest.mark.parametrize("turns", range(12))
async def test_whoever_is_cancelled_while_a_connection_is_handed_over_ends(
    database_url: str, turns: int
) -> None:
    """The cancellation comes so many turns of the event loop after a connection came free."""

    async def duty() -> None:
        async with database.reading(EVERY_OWNER):
            pass
        await asyncio.Event().wait()

    settings = DatabaseSettings(pool_size=2)
    async with Database.open(database_url, settings) as database, database.reading(EVERY_OWNER):
        async with database.reading(EVERY_OWNER):
            waiting = asyncio.create_task(duty())
            await asyncio.sleep(0.05)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        _, going_on = await asyncio.wait([waiting], timeout=1)
        waiting.cancel()
        assert not going_on, "the cancellation was lost"
        await database.probe()  # nor was the connection


async def test_a_database_that_was_away_is_found_again_by_the_next_request(proxy: Proxy) -> None:
    async with Database.open(proxy.url, DatabaseSettings(acquire_timeout_seconds=0.2)) as database:
        proxy.fail(refusing=True)
        proxy.cut()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.probe()

        proxy.fail()
        async with asyncio.timeout(5):
            await until_it_answers(database)


async def test_a_connection_that_the_server_closed_is_not_handed_out(database: Database) -> None:
    await database.probe()
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        await connection.execute(f"SELECT pg_terminate_backend(pid, 10000) {others}")

        await database.probe()


async def test_a_broken_connection_is_unavailable_and_keeps_its_cause(proxy: Proxy) -> None:
    proxy.fail(lose_question=b"SELECT 'lost'")
    async with Database.open(proxy.url, DatabaseSettings()) as database:
        with pytest.raises(DatabaseUnavailable) as broken:
            await spoil(database, "SELECT 'lost'")

    assert isinstance(broken.value.__cause__, psycopg.OperationalError)


HASTY = DatabaseSettings(statement_timeout_seconds=0.2, silence_seconds=0.2, acquire_timeout_seconds=0.5)


@pytest.mark.parametrize("moment", ["statement", "begin", "statement of a transaction", "commit"])
async def test_a_server_that_says_nothing_any_more_is_not_waited_for(proxy: Proxy, moment: str) -> None:
    async with Database.open(proxy.url, HASTY) as database:
        await database.probe()

        async def work() -> None:
            if moment in {"statement", "begin"}:
                proxy.fail(silent=True)
            if moment == "statement":
                await database.probe()
            async with database.transaction(EVERY_OWNER) as tx:
                if moment == "statement of a transaction":
                    proxy.fail(silent=True)
                await tx.execute("SELECT 1")
                proxy.fail(silent=True)

        async with asyncio.timeout(5):
            with pytest.raises(DatabaseUnavailable) as silent:
                await work()
        assert silent.value.retry_after is not None

        proxy.fail()
        async with asyncio.timeout(10):
            await until_it_answers(database)


async def test_whoever_listens_to_a_server_that_says_nothing_hears_nothing(proxy: Proxy) -> None:
    async with Database.open(proxy.url, HASTY) as database, database.listening("news") as listener:
        proxy.fail(silent=True)
        async with asyncio.timeout(5):
            assert not await listener.wait(0.5), "which is longer than a statement is waited for"
        proxy.fail()


async def test_a_server_that_became_read_only_is_left_for_new_connections(noted: Database) -> None:
    async with noted.reading(EVERY_OWNER) as tx:
        demoted = tx.info.backend_pid

    with pytest.raises(DatabaseUnavailable) as refused:
        await spoil(noted, "SET TRANSACTION READ ONLY", "UPDATE notes SET note = 'lost'")

    assert isinstance(refused.value.__cause__, errors.ReadOnlySqlTransaction)
    for _ in range(20):
        async with noted.reading(EVERY_OWNER) as tx:
            assert tx.info.backend_pid != demoted


async def test_a_standby_is_passed_over(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        async with Database.open(
            f"{database_url}&options=-cdefault_transaction_read_only%3Don", DatabaseSettings()
        ):
            pass


async def test_what_says_so_is_prepared_once_and_shows_everybody_their_own_rows(database: Database) -> None:
    tx = await database.connect("anna")
    opening = Opening(owner="anna", kind=SessionKind.TUS, length=1, max_bytes=1)
    assert await uploads.add(tx, opening, 60, 1)

    for _ in range(10):  # the first five times PostgreSQL plans anew even so
        for tx.acts_for, is_there in (("anna", True), ("bert", False), (EVERY_OWNER, True)):
            assert (await uploads.find_any(tx, opening.id) is not None) is is_there

    cursor = await tx.execute(
        "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%% uploads WHERE id = $1'"
    )
    assert await cursor.fetchone() == (1,)
    await tx.close()


async def test_a_value_that_postgresql_cannot_store_is_the_clients_to_change(noted: Database) -> None:
    with pytest.raises(RequestInvalid):
        await spoil(noted, "UPDATE notes SET note = %s", values=["a\0b"])


async def test_a_mistake_in_a_statement_is_ours(noted: Database) -> None:
    with pytest.raises(Internal) as ours:
        await spoil(noted, "SELECT nothing FROM nowhere")

    assert isinstance(ours.value.__cause__, errors.UndefinedTable)


class Contended:
    """A unit of work that loses against another one as often as it is told to."""

    def __init__(self, database: Database, losses: int) -> None:
        self.database = database
        self.losses = losses
        self.runs = 0

    async def __call__(self, tx: Tx) -> str:
        self.runs += 1
        await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await tx.execute("SELECT note FROM notes")
        if self.runs <= self.losses:
            async with self.database.transaction(EVERY_OWNER) as other:
                await other.execute("UPDATE notes SET note = note || 'o'")
        await tx.execute("UPDATE notes SET note = note || 'w'")
        return "done"


async def test_work_that_lost_against_another_is_done_again_in_silence(noted: Database) -> None:
    work = Contended(noted, losses=RETRIES)

    assert await noted.run(work, EVERY_OWNER) == "done"
    assert work.runs == RETRIES + 1
    assert await notes(noted) == ["ooow", "ooow"]


async def test_work_that_always_loses_is_given_up(noted: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as lost:
        await noted.run(Contended(noted, losses=100), EVERY_OWNER)

    assert isinstance(lost.value.__cause__, errors.SerializationFailure)


async def test_two_that_wait_for_each_other_both_get_their_work_done(noted: Database) -> None:
    meeting = asyncio.Barrier(2)
    met: list[bool] = []

    def work(first: int, second: int) -> "asyncio.Future[None]":
        async def crosswise(tx: Tx) -> None:
            await tx.execute("UPDATE notes SET note = note || 'x' WHERE id = %s", [first])
            if len(met) < 2:
                met.append(True)
                await meeting.wait()
            await tx.execute("UPDATE notes SET note = note || 'x' WHERE id = %s", [second])

        return asyncio.ensure_future(noted.run(crosswise, EVERY_OWNER))

    await asyncio.gather(work(1, 2), work(2, 1))

    assert await notes(noted) == ["xx", "xx"]


async def test_the_clock_is_the_databases(database: Database) -> None:
    async with database.reading(EVERY_OWNER) as tx:
        before = await database.now()
        cursor = await tx.execute("SELECT %s <= clock_timestamp()", [before])
        assert await cursor.fetchone() == (True,)
    assert before.utcoffset() == timedelta(0)


async def test_a_listener_wakes_at_a_notification_and_only_then(database: Database) -> None:
    async with database.listening("test_channel") as listener:
        assert not await listener.wait(0.01)
        async with database.transaction(EVERY_OWNER) as tx:
            await tx.execute("NOTIFY test_channel")
            await tx.execute("NOTIFY another_channel")
        assert await listener.wait(10)
        assert not await listener.wait(0.01)


async def test_a_listener_that_lost_its_connection_says_so(proxy: Proxy) -> None:
    async with (
        Database.open(proxy.url, DatabaseSettings()) as database,
        database.listening("test_channel") as listener,
    ):
        proxy.cut()
        with pytest.raises(DatabaseUnavailable):
            await listener.wait(10)


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://localhost:1/none", "postgresql://nobody@/x?host=/nowhere"]
)
async def test_a_database_that_cannot_be_reached_at_the_start_is_explained(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="TINTYPE_DATABASE__URL"):
        async with Database.open(url, DatabaseSettings()):
            pass
