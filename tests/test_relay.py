"""The relay: what is committed is published, whatever fails on the way."""

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from aws import Topic
from happenings import image
from tintype.catalogue import events
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import migrate
from tintype.messaging.local import LocalPublisher
from tintype.messaging.publisher import Message, Publisher, Report
from tintype.messaging.sns import SnsPublisher
from tintype.model.errors import DatabaseUnavailable
from tintype.model.event import Kind
from tintype.relay import BATCH, Relay
from tintype.settings import DatabaseSettings
from tintype.telemetry import Metrics


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def relay(database: Database, outbox: Path) -> Relay:
    return make_relay(database, LocalPublisher(outbox))


def make_relay(
    database: Database, publisher: Publisher, poll_seconds: float = 60, metrics: Metrics | None = None
) -> Relay:
    return Relay(database, publisher, poll_seconds, metrics or Metrics())


class Door:
    """A publisher that lets messages through to another one when it is open, and tells who knocked."""

    def __init__(self, behind: Publisher) -> None:
        self.behind = behind
        self.knocked = asyncio.Event()
        self.open = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> Report:
        self.knocked.set()
        await self.open.wait()
        return await self.behind.publish(messages)


class Refusal:
    """A publisher that refuses everything, for a reason, and remembers how much it was asked."""

    def __init__(self, reason: str = "down") -> None:
        self.reason = reason
        self.asked: list[int] = []
        self.messages: list[Message] = []

    async def publish(self, messages: Sequence[Message]) -> Report:
        self.asked.append(len(messages))
        self.messages += messages
        return Report(refused={message.position: self.reason for message in messages})


async def store(database: Database, count: int = 1) -> None:
    """Commit events of new images."""
    for _ in range(count):
        async with database.transaction(EVERY_OWNER) as tx:
            await events.add(tx, Kind.UPLOADED, image())


def published(outbox: Path) -> dict[int, UUID]:
    """What lies in the outbox: positions and ids."""
    bodies = [json.loads(path.read_text()) for path in outbox.glob("*.json")]
    return {body["position"]: UUID(body["id"]) for body in bodies}


def empty(outbox: Path) -> None:
    for path in outbox.iterdir():
        path.unlink()


def block(outbox: Path) -> Callable[[], None]:
    """Put a file where the folder should be, and return what takes it away."""
    outbox.touch()
    return outbox.unlink


async def committed(database: Database) -> dict[int, UUID]:
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT position, id FROM events")
        return dict(await cursor.fetchall())


async def column(database: Database, name: str) -> list[object]:
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT to_jsonb(events) -> %s FROM events ORDER BY position", [name])
        return [value for (value,) in await cursor.fetchall()]


async def alter(database: Database, change: LiteralString) -> None:
    """Age the log, or spoil it, as time or a defect would."""
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute("UPDATE events SET " + change)  # noqa: S608 # a literal


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 # it asks a database and a folder
            await asyncio.sleep(0.02)


async def until_all_are_published(database: Database, outbox: Path, seconds: float = 20) -> None:
    async def all_are() -> bool:
        return published(outbox) == await committed(database)

    await until(all_are, seconds)


@asynccontextmanager
async def opened(server: EmbeddedPostgres) -> AsyncIterator[Database]:
    await migrate(server.url)
    async with Database.open(server.url, DatabaseSettings()) as database:
        yield database


async def restart(server: EmbeddedPostgres, database: Database) -> None:
    """Kill PostgreSQL, and return when it has been started again."""
    assert server.pid
    os.kill(killed := server.pid, signal.SIGQUIT)

    async def back() -> bool:
        if server.pid in {None, killed}:
            return False
        with suppress(DatabaseUnavailable):
            await database.probe()
            return True
        return False

    await until(back, 60)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(relay.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_committed_event_is_published_exactly_once_in_quiet_times(
    database: Database, relay: Relay, outbox: Path
) -> None:
    await store(database, 3)

    assert await relay.drain() == 3
    assert await relay.drain() == 0
    assert published(outbox) == await committed(database)
    assert await column(database, "attempts") == [1, 1, 1]


async def test_the_oldest_is_published_first(database: Database, relay: Relay) -> None:
    await store(database, 3)

    with capture_logs() as lines:
        await relay.drain()

    assert [line["position"] for line in lines] == sorted(await committed(database))


async def test_people_are_told_where_the_image_is_to_be_seen(database: Database) -> None:
    def link(image_id: UUID) -> tuple[str, datetime]:
        return f"https://images.example/{image_id}", datetime(2026, 12, 1, tzinfo=UTC)

    told = Refusal()
    await store(database)
    await Relay(database, told, 60, Metrics(), link).drain()

    (message,) = told.messages
    assert f"Open it until 2026-12-01 00:00 UTC: https://images.example/{message.about}" in message.email


async def test_a_long_log_is_published_in_one_go(database: Database, relay: Relay, outbox: Path) -> None:
    async with database.transaction(EVERY_OWNER) as tx:
        for _ in range(2 * BATCH + 1):
            await events.add(tx, Kind.UPLOADED, image())

    assert await relay.drain() == 2 * BATCH + 1
    assert published(outbox) == await committed(database)


async def test_what_is_not_committed_is_not_published(database: Database, relay: Relay) -> None:
    with suppress(RuntimeError):
        async with database.transaction(EVERY_OWNER) as tx:
            await events.add(tx, Kind.UPLOADED, image())
            raise RuntimeError

    assert await relay.drain() == 0


async def test_a_committed_event_reaches_a_queue_that_listens_to_the_topic(
    database: Database, topic: Topic
) -> None:
    queue = topic.subscribe({"kind": ["image.uploaded"], "width": [{"numeric": [">", 1000]}]}, raw=True)
    await store(database, 2)

    assert await make_relay(database, SnsPublisher(topic.settings)).drain() == 2

    bodies = [json.loads(message.get("Body", "")) for message in queue.receive()]
    assert {body["position"]: UUID(body["id"]) for body in bodies} == await committed(database)


async def test_a_commit_wakes_the_relay_long_before_the_poll(
    database: Database, relay: Relay, outbox: Path
) -> None:
    async with running(relay):
        for _ in range(3):
            await store(database)
            await until_all_are_published(database, outbox)


async def test_the_poll_finds_what_nobody_told_of(database: Database, outbox: Path) -> None:
    async with running(make_relay(database, LocalPublisher(outbox), poll_seconds=0.05)):
        await store(database)
        await until_all_are_published(database, outbox)
        await alter(database, "published_at = NULL")  # without a notification
        empty(outbox)
        await until_all_are_published(database, outbox)


async def test_two_relays_never_have_the_same_event_at_the_same_time(
    database: Database, tmp_path: Path
) -> None:
    await store(database, 3)
    door = Door(LocalPublisher(tmp_path / "one"))
    slow, quick = make_relay(database, door), make_relay(database, LocalPublisher(tmp_path / "other"))
    first = asyncio.create_task(slow.drain())
    await door.knocked.wait()
    await store(database, 2)

    assert await quick.drain() == 2

    door.open.set()
    assert await first == 3
    one, other = published(tmp_path / "one"), published(tmp_path / "other")
    assert one.keys().isdisjoint(other)
    assert one | other == await committed(database)


OLDER = "created_at = now() - interval '1 h', next_attempt_at = now() - interval '1 h'"
"""Than all that was published, as what took long to commit, or what another relay let go."""


async def test_an_event_that_is_older_than_the_published_ones_is_found_as_soon_as_nothing_newer_is(
    database: Database, outbox: Path
) -> None:
    relay = Relay(database, LocalPublisher(outbox), 60, Metrics(), everything_seconds=math.inf)
    await store(database)
    await relay.drain()
    await store(database)
    await alter(database, f"{OLDER} WHERE published_at IS NULL")
    await store(database)

    assert await relay.drain() == 1, "the newer one"
    assert await relay.drain() == 1

    assert published(outbox) == await committed(database)


async def test_at_times_everything_is_looked_at_whatever_else_there_is(
    database: Database, outbox: Path
) -> None:
    relay = Relay(database, LocalPublisher(outbox), 60, Metrics(), everything_seconds=0)
    await store(database)
    await relay.drain()
    await store(database)
    await alter(database, f"{OLDER} WHERE published_at IS NULL")
    await store(database)

    assert await relay.drain() == 2


async def test_a_publisher_that_is_down_costs_uploads_nothing_and_catches_up_when_it_is_back(
    database: Database, relay: Relay, outbox: Path
) -> None:
    unblock = block(outbox)
    async with running(relay):
        await store(database, 5)

        async def refused() -> bool:
            return sum(int(str(attempts)) for attempts in await column(database, "attempts")) >= 2

        await until(refused)
        assert not any(await column(database, "published_at"))
        await store(database, 2)
        unblock()
        await until_all_are_published(database, outbox, 60)


async def test_while_everything_is_refused_a_single_event_asks(database: Database) -> None:
    publisher = Refusal()
    relay = make_relay(database, publisher)
    await store(database, 5)

    for _ in range(3):
        assert await relay.drain() == 0
        await alter(database, "next_attempt_at = now()")

    assert publisher.asked == [5, 1, 1]


async def test_a_publisher_that_refuses_everything_is_left_in_peace(database: Database) -> None:
    publisher = Refusal()
    async with running(make_relay(database, publisher, poll_seconds=0.01)):
        for _ in range(20):
            await store(database)
            await asyncio.sleep(0.01)

    assert len(publisher.asked) <= 2


async def test_an_event_that_cannot_be_put_into_words_holds_back_no_other(
    database: Database, relay: Relay, outbox: Path
) -> None:
    await store(database, 3)
    _poison, *others = await committed(database)
    await alter(database, "payload = '{}' WHERE position = (SELECT min(position) FROM events)")

    assert await relay.drain() == 2

    assert published(outbox).keys() == set(others)
    assert "KeyError" in str((await column(database, "last_error"))[0])


async def test_a_refused_event_is_offered_again_after_a_pause(database: Database) -> None:
    relay = make_relay(database, Refusal("Throttled: too \0 fast"))
    await store(database)

    await relay.drain()

    assert await relay.drain() == 0
    assert await column(database, "last_error") == ["Throttled: too   fast"]
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT next_attempt_at > now() - interval '1 s' FROM events")
        assert await cursor.fetchone() == (True,)


@pytest.mark.parametrize("change", ["attempts = 39", "created_at = now() - interval '25 hours'"])
async def test_an_event_that_is_refused_for_too_long_stays_and_is_an_error_in_the_log(
    database: Database, relay: Relay, outbox: Path, change: LiteralString
) -> None:
    await store(database)
    await alter(database, change)

    with capture_logs() as lines:
        await make_relay(database, Refusal()).drain()

    (error,) = [line for line in lines if line["log_level"] == "error"]
    assert error["event"] == "event.stuck"
    assert error["reason"] == "down"
    await alter(database, "next_attempt_at = now()")
    assert await relay.drain() == 1
    assert published(outbox) == await committed(database)


async def test_what_is_published_and_refused_is_counted_and_the_oldest_has_an_age(database: Database) -> None:
    metrics = Metrics()
    refusing = make_relay(database, Refusal(), poll_seconds=0.01, metrics=metrics)
    await store(database, 2)
    await alter(database, "created_at = now() - interval '100 s'")

    async with running(refusing):

        async def measured() -> bool:
            return b"tintype_outbox_oldest_seconds 10" in metrics.render()

        await until(measured)

    assert b"tintype_events_refused_total 2.0" in metrics.render()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tintype.catalogue.database import Database
from tintype.messaging.local import LocalPublisher
from tintype.model.checkpoint import arm
from tintype.relay import Relay
from tintype.settings import DatabaseSettings
from tintype.telemetry import Metrics

async def main(url, outbox):
    async with Database.open(url, DatabaseSettings()) as database:
        await Relay(database, LocalPublisher(Path(outbox)), 60, Metrics()).drain()

arm("after-publish", lambda: os.kill(os.getpid(), signal.SIGKILL))
asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_after_publishing_the_same_ids_are_published_again(
    database: Database, relay: Relay, outbox: Path, tmp_path: Path
) -> None:
    await store(database, 3)

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, database.url, str(tmp_path / "first"), stderr=asyncio.subprocess.DEVNULL
    )

    assert await process.wait() == -9
    assert published(tmp_path / "first") == await committed(database)
    assert not any(await column(database, "published_at"))

    async def freed() -> bool:
        return await relay.drain() == 3

    await until(freed)
    assert published(outbox) == published(tmp_path / "first")


async def test_a_stop_finishes_the_batch_so_that_nothing_is_published_twice(
    database: Database, outbox: Path
) -> None:
    await store(database)
    door = Door(LocalPublisher(outbox))
    task = asyncio.create_task(make_relay(database, door).run())
    await door.knocked.wait()

    task.cancel()
    await asyncio.sleep(0)
    door.open.set()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await column(database, "attempts") == [1]
    assert published(outbox) == await committed(database)


async def test_after_the_database_was_restarted_the_relay_goes_on(tmp_path: Path, outbox: Path) -> None:
    async with (
        EmbeddedPostgres.run(tmp_path / "data") as server,
        opened(server) as database,
        running(make_relay(database, LocalPublisher(outbox))),
    ):
        await store(database)
        await until_all_are_published(database, outbox)

        with capture_logs() as lines:
            await restart(server, database)
            await store(database)
            await until_all_are_published(database, outbox)

            async def told() -> bool:
                return "relay.recovered" in [line["event"] for line in lines]

            await until(told)

    said = [line["event"] for line in lines if line["event"].startswith("relay.")]
    assert said == ["relay.database_unavailable", "relay.recovered"]
