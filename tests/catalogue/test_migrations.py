"""Steps of the schema: once each, in order, by one runner, and never on a schema that does not fit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import LiteralString

import psycopg
import pytest

from postgres import Postgres
from tintype.catalogue.database import Database
from tintype.catalogue.migrations import Step, check_schema, known_steps, migrate
from tintype.model.errors import DatabaseUnavailable
from tintype.settings import DatabaseSettings

TABLE = Step(
    1, "0001_table.sql", "CREATE TABLE things (id int PRIMARY KEY);\nINSERT INTO things VALUES (1);\n"
)
COLUMN = Step(2, "0002_column.sql", "ALTER TABLE things ADD COLUMN name text;\n")
BROKEN = Step(2, "0002_broken.sql", "CREATE TABLE others (id int);\nSELECT nothing FROM nowhere;\n")
CONTRACT = Step(
    3, "0003_contract.sql", "-- needs programs that know step 0002\nALTER TABLE things DROP COLUMN name;\n"
)
INDEX = Step(
    2,
    "0002_index.sql",
    "-- outside of a transaction\n"
    "DROP INDEX CONCURRENTLY IF EXISTS things_again;\n"
    "CREATE INDEX CONCURRENTLY things_again ON things (id);\n",
)


@pytest.fixture
async def empty_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database without any schema."""
    async with postgres.clone("template0") as url:
        yield url


async def rows(url: str, statement: LiteralString) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


async def check(url: str, steps: Sequence[Step]) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await check_schema(connection, steps)


async def test_a_fresh_database_gets_every_step_and_a_second_run_has_nothing_to_do(empty_url: str) -> None:
    assert await migrate(empty_url) == [step.name for step in known_steps()]
    assert await migrate(empty_url) == []

    async with Database.open(empty_url, DatabaseSettings()) as database:
        await database.probe()


async def test_the_steps_are_numbered_without_a_gap() -> None:
    assert [step.number for step in known_steps()] == list(range(1, len(known_steps()) + 1))


async def test_the_service_does_not_start_before_the_first_step(empty_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="Run `tintype migrate`"):
        async with Database.open(empty_url, DatabaseSettings()):
            pass


async def test_the_service_does_not_start_on_an_older_schema(empty_url: str) -> None:
    await migrate(empty_url, [TABLE])

    with pytest.raises(DatabaseUnavailable, match=r"0002_column\.sql is missing.*Run `tintype migrate`"):
        await check(empty_url, [TABLE, COLUMN])
    assert await migrate(empty_url, [TABLE, COLUMN]) == ["0002_column.sql"]
    await check(empty_url, [TABLE, COLUMN])


async def test_a_step_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        await migrate(empty_url, [TABLE, BROKEN])

    assert await rows(empty_url, "SELECT to_regclass('others')") == [(None,)]
    assert await rows(empty_url, "SELECT name FROM schema_steps") == [("0001_table.sql",)]
    assert await migrate(empty_url, [TABLE, COLUMN]) == ["0002_column.sql"]


async def test_a_half_done_step_keeps_the_service_from_starting_until_it_is_done(empty_url: str) -> None:
    await migrate(empty_url, [TABLE])
    await rows(empty_url, "INSERT INTO things VALUES (2)")
    half = Step(2, "0002_index.sql", INDEX.text.replace("CREATE INDEX", "CREATE UNIQUE INDEX"))
    await rows(empty_url, "ALTER TABLE things DROP CONSTRAINT things_pkey; UPDATE things SET id = 1")
    with pytest.raises(DatabaseUnavailable, match="duplicated"):
        await migrate(empty_url, [TABLE, half])

    with pytest.raises(DatabaseUnavailable, match="unfinished"):
        await check(empty_url, [TABLE, half])

    await rows(empty_url, "DELETE FROM things")
    assert await migrate(empty_url, [TABLE, half]) == ["0002_index.sql"]
    await check(empty_url, [TABLE, half])


async def test_a_step_outside_of_a_transaction_can_do_what_is_not_allowed_inside(empty_url: str) -> None:
    await migrate(empty_url, [TABLE, INDEX])

    assert await rows(
        empty_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'things_again'::regclass"
    ) == [(True,)]


async def test_the_release_before_runs_on_a_schema_that_was_only_expanded(empty_url: str) -> None:
    await migrate(empty_url, [TABLE, COLUMN])

    await check(empty_url, [TABLE])
    assert await migrate(empty_url, [TABLE]) == []


async def test_a_contracted_schema_refuses_only_programs_that_do_not_know_what_took_the_place(
    empty_url: str,
) -> None:
    await migrate(empty_url, [TABLE, COLUMN, CONTRACT])

    await check(empty_url, [TABLE, COLUMN])
    for refused in (check(empty_url, [TABLE]), migrate(empty_url, [TABLE])):
        with pytest.raises(DatabaseUnavailable, match="Start a newer release"):
            await refused


async def test_a_step_that_was_edited_after_its_release_is_found(empty_url: str) -> None:
    await migrate(empty_url, [TABLE])
    edited = Step(1, TABLE.name, TABLE.text + "-- better\n")

    for refused in (check(empty_url, [edited]), migrate(empty_url, [edited])):
        with pytest.raises(DatabaseUnavailable, match=r"another 0001_table\.sql"):
            await refused


async def test_of_runners_at_the_same_time_one_does_the_work_and_the_others_find_it_done(
    empty_url: str,
) -> None:
    done = await asyncio.gather(*(migrate(empty_url) for _ in range(5)))

    assert sorted(map(len, done)) == [0, 0, 0, 0, len(known_steps())]


async def test_a_step_gives_way_while_it_cannot_get_its_lock_and_then_tries_again(empty_url: str) -> None:
    await migrate(empty_url, [TABLE])
    async with await psycopg.AsyncConnection.connect(empty_url) as reader:
        await reader.execute("SELECT * FROM things")
        migration = asyncio.create_task(migrate(empty_url, [TABLE, COLUMN]))
        async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as late:
            await waits(late)
            await late.execute("SELECT * FROM things")  # behind the step, which lets it pass

        assert not migration.done()

    assert await migration == ["0002_column.sql"]


async def waits(connection: psycopg.AsyncConnection) -> None:
    """Return when another connection waits for a lock."""
    while True:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
        )
        if await cursor.fetchone() != (0,):
            return
        await asyncio.sleep(0.01)


async def test_a_server_that_cannot_be_reached_is_explained() -> None:
    with pytest.raises(DatabaseUnavailable, match="could not be brought up to date"):
        await migrate("postgresql://nobody@/x?host=/nowhere")
