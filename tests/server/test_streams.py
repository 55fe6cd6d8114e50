"""Streams of events: many at once cost an instance little, and a stalled reader no more than others."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from happenings import image
from tintype.catalogue import events
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.model.errors import TooManyStreams
from tintype.model.event import Kind
from tintype.notify.bell import Bell
from tintype.server.instance import Instance
from tintype.server.streams import BATCH, MAX_OPEN, Stream, Streams

FOLLOWERS = 300


async def happen(database: Database, times: int = 1) -> None:
    async with database.transaction(EVERY_OWNER) as tx:
        for _ in range(times):
            await events.add(tx, Kind.UPLOADED, image())


def stream(database: Database, bell: Bell, streams: Streams, instance: Instance) -> Stream:
    return Stream(database, bell, instance, streams, "local", lambda _: True, 60)


async def next_event(following: AsyncGenerator[bytes]) -> bytes:
    while True:
        told = await anext(following)
        if told.startswith(b"event:"):
            return told


async def test_hundreds_follow_beside_others_and_end_when_the_instance_does(
    database: Database,
) -> None:
    bell, streams, instance = Bell(database), Streams(), Instance()
    followed = [stream(database, bell, streams, instance).follow(0) for _ in range(FOLLOWERS)]
    waiting = [asyncio.create_task(next_event(each)) for each in followed]
    async with asyncio.timeout(5), database.reading(EVERY_OWNER) as tx:
        await tx.execute("SELECT 1")  # an upload finds a connection
    await happen(database)
    bell.ring()

    told = await asyncio.wait_for(asyncio.gather(*waiting), 30)

    assert len(told) == FOLLOWERS
    assert len(set(told)) == 1
    instance.on_drain = bell.ring
    ends = [asyncio.create_task(anext(each, None)) for each in followed]
    await asyncio.sleep(0)
    instance.drain()
    assert set(await asyncio.wait_for(asyncio.gather(*ends), 30)) == {None}
    streams.require("local", 1)  # nobody is counted any more


async def test_a_reader_that_stalls_holds_a_few_events_and_misses_none(database: Database) -> None:
    await happen(database, 2 * BATCH + 1)
    following = stream(database, Bell(database), Streams(), Instance()).follow(0)

    told = [await next_event(following) for _ in range(2 * BATCH + 1)]

    assert len(set(told)) == 2 * BATCH + 1
    await following.aclose()


def test_an_instance_has_room_for_so_many_streams() -> None:
    streams = Streams()
    with streams.counting("ada"):
        streams._open["others"] = MAX_OPEN - 1  # noqa: SLF001 - two thousand of them are not needed to see it
        with pytest.raises(TooManyStreams, match="at this instance"):
            streams.require("bob", 20)
