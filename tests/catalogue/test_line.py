"""The line that looks and commits go over: its role, its answers, and what is left of one that was cut."""

import asyncio

import psycopg
import pytest

from tintype.catalogue.database import Database
from tintype.catalogue.line import Line


async def test_every_statement_acts_for_all_owners_and_leaves_no_role_behind(database: Database) -> None:
    line = Line(database)

    assert await line.run("SELECT current_user::text, $1::int", "7") == [("tintype_worker", 7)]
    assert await line.run("SELECT current_user::text, $1::int", "8") == [("tintype_worker", 8)]

    line.hang_up()


async def test_a_statement_longer_than_the_socket_takes_at_once_arrives_whole(database: Database) -> None:
    line = Line(database)
    long = "é" * 4_000_000

    assert await line.run("SELECT length($1::text)", long) == [(len(long),)]

    line.hang_up()


async def test_a_refused_statement_is_told_as_postgresql_tells_it_and_the_line_stands(
    database: Database,
) -> None:
    line = Line(database)

    with pytest.raises(psycopg.errors.DivisionByZero):
        await line.run("SELECT 1 / $1::int", "0")

    assert line.is_up
    assert await line.run("SELECT 1 / $1::int", "1") == [(1,)]
    line.hang_up()


async def test_a_caller_who_is_cancelled_leaves_no_answer_to_the_next_one(database: Database) -> None:
    line = Line(database)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await line.run("SELECT 'late', pg_sleep(5)")

    assert not line.is_up
    assert await line.run("SELECT 'next'") == [("next",)]
    line.hang_up()


async def test_a_line_that_the_server_has_cut_is_made_anew(database: Database) -> None:
    line = Line(database)
    ((process,),) = await line.run("SELECT pg_backend_pid()")

    await cut(database, process)

    ((another,),) = await line.run("SELECT pg_backend_pid()")
    assert another != process
    line.hang_up()


async def test_why_the_server_cut_the_line_is_told(database: Database) -> None:
    line = Line(database)
    ((process,),) = await line.run("SELECT pg_backend_pid()")
    sleeping = asyncio.create_task(line.run("SELECT pg_sleep(20)"))
    await asyncio.sleep(0)

    await cut(database, process)

    with pytest.raises(psycopg.errors.AdminShutdown):
        await sleeping
    assert not line.is_up


async def cut(database: Database, process: int) -> None:
    """Have the server end a connection, as the login that owns it."""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        await connection.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
