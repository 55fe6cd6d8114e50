"""Wires fail between Tintype and PostgreSQL, S3 and SNS: clients are told the truth, and it comes back.

All tests share one service, which is never restarted, and run in one process for that.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import boto3
import httpx
import psutil
import psycopg
import pytest
import pytest_asyncio
from psycopg import conninfo, sql

from aws import REGION, Queue
from faults.every_operation import Answer, ask_everything, belongings, fresh
from faults.table import Row, record
from faults.wired import Wired, wired
from postgres import Postgres
from s3_servers import KEY, S3Server
from scripted_s3 import Request, Response, ScriptedS3, error, honestly, scripted_s3
from tintype.model.errors import StorageUnavailable
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

pytestmark = [
    pytest.mark.faults,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("wires"),
]

BOUND = 20
"""Seconds. By the settings here everything ends after six; the rest is for a busy machine."""


@dataclass(frozen=True)
class World:
    """A service on wires, and the ends of them."""

    tintype: Wired
    database_url: str
    s3_url: str
    queue: Queue

    async def upload(self, data: bytes, **headers: str) -> httpx.Response:
        return await self.tintype.client.post("/v1/images", content=data, headers=headers)

    async def until(self, true: Callable[[], Awaitable[bool]]) -> float:
        """Return after how many seconds it has become true."""
        began = time.monotonic()
        async with asyncio.timeout(30):
            while not await true():  # noqa: ASYNC110 # it asks others
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def until_well(self) -> float:
        """Return after how many seconds it is ready, and takes an upload."""

        async def well() -> bool:
            ready = await self.tintype.client.get("/readyz")
            return ready.status_code == 200 and (await self.upload(fresh())).status_code == 201

        return await self.until(well)

    async def rows(self, data: bytes) -> list[tuple[UUID, int]]:
        """Return the images of these bytes, each with the number of its events."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            await connection.execute("SET ROLE tintype_worker")
            cursor = await connection.execute(
                "SELECT id, (SELECT count(*) FROM events WHERE image_id = images.id) FROM images "
                "WHERE sha256 = %s",
                [hashlib.sha256(data).digest()],
            )
            return await cursor.fetchall()

    async def until_told(self) -> None:
        """Return when the topic has had every event: what failed before is not tried in between any more."""

        async def told() -> bool:
            async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
                await connection.execute("SET ROLE tintype_worker")
                cursor = await connection.execute("SELECT FROM events WHERE published_at IS NULL LIMIT 1")
                return await cursor.fetchone() is None

        await self.until(told)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    postgres: Postgres, moto_s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    aws = boto3.Session(aws_access_key_id=KEY, aws_secret_access_key=KEY, region_name=REGION)
    sns = aws.client("sns", endpoint_url=moto_s3.url)
    sqs = aws.client("sqs", endpoint_url=moto_s3.url)
    topic = sns.create_topic(Name=f"topic-{uuid4()}")["TopicArn"]
    queue = sqs.create_queue(QueueName=f"queue-{uuid4()}")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )
    bucket = str(moto_s3.new_bucket().url).removeprefix("s3://")
    async with (
        postgres.clone() as database_url,
        wired(
            tmp_path_factory.mktemp("wired"),
            database_url=database_url,
            s3_url=moto_s3.url,
            bucket=bucket,
            sns_url=moto_s3.url,
            topic_arn=topic,
        ) as tintype,
    ):
        yield World(tintype, database_url, moto_s3.url, Queue(sqs, queue))


# Silence


def assert_true(answers: list[Answer], problem: str) -> set[str]:
    """Look whether each answer came in time and says what is; return the operations that were refused."""
    late = [each for each in answers if each.seconds > BOUND]
    assert not late
    refused = {each for each in answers if each.status >= 500}
    wrong = [each for each in refused if (each.status, each.problem or problem) != (503, problem)]
    assert not wrong
    assert not [each for each in refused if not each.retry_after]
    return {each.name for each in refused}


async def test_while_the_database_says_nothing_every_operation_is_answered(world: World) -> None:
    client = world.tintype.client
    names = await belongings(client)
    world.tintype.database.fail(silent=True)
    answers = await ask_everything(client, names)
    alive = await client.get("/healthz")
    ready = await client.get("/readyz")
    world.tintype.database.fail()
    seconds = await world.until_well()

    refused = assert_true(answers, "database_unavailable")
    errors = len([each for each in answers if each.status == 503])
    record(Row("PostgreSQL takes everything and says nothing", len(answers), 0, 0, 0, errors, seconds))
    assert refused >= {
        "upload_images",
        "read_image",
        "list_images",
        "trash_image",
        "begin_upload",
        "list_events",
    }
    assert (alive.status_code, ready.status_code) == (200, 503)


async def test_while_the_store_says_nothing_what_needs_it_is_refused_and_all_else_goes_on(
    world: World,
) -> None:
    client = world.tintype.client
    names = await belongings(client)
    world.tintype.store.fail(silent=True)
    answers = await ask_everything(client, names)
    ready = await client.get("/readyz")
    world.tintype.store.fail()
    seconds = await world.until_well()

    refused = assert_true(answers, "storage_unavailable")
    errors = len([each for each in answers if each.status == 503])
    record(Row("S3 takes everything and says nothing", len(answers), 0, 0, 0, errors, seconds))
    assert refused >= {"upload_images", "upload_named_image", "image_content"}
    assert refused.isdisjoint({"read_image", "list_images", "change_image", "trash_image", "list_events"})
    assert (ready.status_code, set(ready.json()["degraded"])) == (200, {"objects"})


async def test_while_the_topic_says_nothing_nobody_notices(world: World) -> None:
    client = world.tintype.client
    names = await belongings(client)
    world.tintype.topic.fail(silent=True)
    data = fresh()
    stored = await world.upload(data)
    answers = await ask_everything(client, names)
    world.tintype.topic.fail()

    assert not assert_true(answers, "")
    seconds = await until_heard(world, {stored.json()["id"]})
    record(Row("SNS takes everything and says nothing", len(answers), 1, 0, 0, 0, seconds))


async def until_heard(world: World, images: set[str]) -> float:
    """Return after how many seconds the queue has heard of these images."""
    heard = set[str]()

    async def all_of_them() -> bool:
        for each in await asyncio.to_thread(messages, world.queue):
            heard.add(each["data"].get("id", ""))
        return images <= heard

    return await world.until(all_of_them)


def messages(queue: Queue) -> list[dict[str, dict[str, str]]]:
    return [json.loads(each.get("Body", "")) for each in queue.receive()]


# Answers that are lost


async def test_an_upload_whose_commit_was_made_and_not_heard_of_is_acknowledged_once(world: World) -> None:
    data = fresh()
    world.tintype.database.has_lost.clear()
    world.tintype.database.fail(lose_answer=b"unheard-of.png")

    async def end() -> None:
        await world.tintype.database.has_lost.wait()
        world.tintype.database.fail()

    ending = asyncio.create_task(end())
    answer = await world.tintype.client.post("/v1/images?filename=unheard-of.png", content=data)
    await ending

    rows = await world.rows(data)
    record(Row("The answer to a COMMIT is lost", 1, 1, int(not rows), max(0, len(rows) - 1)))
    assert answer.status_code == 201
    assert rows == [(UUID(answer.json()["id"]), 1)]


async def test_what_sns_took_without_our_hearing_of_it_comes_again_under_the_same_id(world: World) -> None:
    await world.until_told()
    await asyncio.to_thread(world.queue.receive)
    world.tintype.topic.has_lost.clear()
    world.tintype.topic.fail(lose_answer=b"PublishBatch")
    stored = await world.upload(fresh())
    await world.tintype.topic.has_lost.wait()
    world.tintype.topic.fail()
    image = stored.json()["id"]
    heard: list[str] = []

    async def twice() -> bool:
        told = await asyncio.to_thread(messages, world.queue)
        heard.extend(str(each["id"]) for each in told if each["data"].get("id") == image)
        return len(heard) >= 2

    seconds = await world.until(twice)
    record(Row("SNS takes a message and its answer is lost", 1, 1, 0, len(set(heard)) - 1, 0, seconds))
    assert len(set(heard)) == 1


@pytest.mark.parametrize("after", [0, 100, 1_000])
@pytest.mark.parametrize("way", ["cut_question_after", "cut_answer_after"])
async def test_connections_to_the_store_that_break_anywhere_store_once_or_are_refused(
    world: World, way: str, after: int
) -> None:
    store = world.tintype.store
    store.cut()
    store.fail(**{way: after})
    data, key = fresh(), str(uuid4())
    first = await world.upload(data, **{"Idempotency-Key": key})
    store.fail()
    await world.until_well()
    again = await world.upload(data, **{"Idempotency-Key": key})

    rows = await world.rows(data)
    assert first.status_code in {201, 503}
    assert again.status_code == 201
    assert rows == [(UUID(again.json()["id"]), 1)]
    if first.status_code == 201:
        assert first.json()["id"] == again.json()["id"]


async def test_a_slow_wire_is_only_slow(world: World) -> None:
    world.tintype.store.fail(delay_seconds=0.05, bytes_per_second=2_000_000)
    world.tintype.database.fail(delay_seconds=0.02)
    answer = await world.upload(fresh())
    world.tintype.store.fail()
    world.tintype.database.fail()

    assert answer.status_code == 201


# A database that changes hands, or has no room


async def test_after_a_failover_the_old_primary_is_passed_over_and_the_new_one_found(world: World) -> None:
    """The address leads to the old primary for a while, which only reads by now, and then to the new one."""
    name = conninfo.conninfo_to_dict(world.database_url)["dbname"]
    data, key = fresh(), str(uuid4())

    async def demote(read_only: str) -> None:
        async with await psycopg.AsyncConnection.connect(world.database_url, autocommit=True) as connection:
            change = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(change.format(sql.Identifier(str(name)), sql.Literal(read_only)))

    await demote("on")
    world.tintype.database.cut()
    began = time.monotonic()
    refused = [await world.upload(data, **{"Idempotency-Key": key}) for _ in range(2)]
    took = time.monotonic() - began
    ready = await world.tintype.client.get("/readyz")
    await demote("off")
    seconds = await world.until_well()
    again = await world.upload(data, **{"Idempotency-Key": key})

    rows = await world.rows(data)
    lost, doubled = int(not rows), max(0, len(rows) - 1)
    record(Row("Failover, by way of a primary that only reads", 1, 1, lost, doubled, len(refused), seconds))
    assert [each.status_code for each in refused] == [503, 503]
    assert took < BOUND
    assert ready.status_code == 503
    assert rows == [(UUID(again.json()["id"]), 1)]


async def test_slow_statements_that_hold_all_connections_cost_others_a_quick_refusal(world: World) -> None:
    client = world.tintype.client
    process = psutil.Process(world.tintype.service.pid)
    threads = process.num_threads()
    async with await psycopg.AsyncConnection.connect(world.database_url) as connection:
        await connection.execute("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        asked = [client.get("/v1/images") for _ in range(60)]
        answers = await asyncio.gather(*asked, client.get("/healthz"))
        took = time.monotonic() - began
        await connection.rollback()
    seconds = await world.until_well()

    *refused, alive = answers
    record(Row("All connections of the pool wait for a lock", 60, 0, 0, 0, len(refused), seconds))
    assert alive.status_code == 200
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(503, "database_unavailable")}
    assert all(each.headers["retry-after"] for each in refused)
    assert took < BOUND
    assert process.num_threads() <= threads + 10


# An S3 that is overloaded


@asynccontextmanager
async def overloaded(world: World, share: float) -> AsyncIterator[ScriptedS3]:
    """Lead to an S3 that says SlowDown to so many of its requests, by a seed."""
    dice = random.Random(35)

    async def slow_down(s3: ScriptedS3, request: Request) -> Response:
        if dice.random() < share:
            return error(503, "SlowDown")
        return await honestly(s3, request)

    async with scripted_s3() as s3:
        for kind in ("PUT", "GET", "HEAD", "DELETE", "LIST", "CREATE", "PART", "COMPLETE", "ABORT"):
            s3.always(kind, slow_down)
        world.tintype.store.lead_to(s3.url)
        yield s3
        world.tintype.store.lead_to(world.s3_url)


async def test_while_s3_says_slow_down_uploads_are_told_to_come_back_and_s3_is_not_asked_more(
    world: World,
) -> None:
    """A minute's worth of uploads, one a second, without the pauses between them."""
    client = world.tintype.client
    stored = await world.upload(fresh())
    assert stored.status_code == 201, stored.text
    image = stored.json()
    sent = [fresh() for _ in range(60)]
    async with overloaded(world, share=1) as s3:
        began = time.monotonic()
        answers = [answer for data in sent for answer in [await world.upload(data)]]
        took = time.monotonic() - began
        asked = s3.count("PUT") + s3.count("HEAD")
        ready, known = await client.get("/readyz"), await client.get(image["url"].removesuffix("/content"))
    seconds = await world.until_well()
    rows = [row for data in sent for row in await world.rows(data)]

    record(Row("S3 answers SlowDown for a minute of uploads", 60, 0, 0, len(rows), 60, seconds))
    assert {(each.status_code, each.json()["code"]) for each in answers} == {(503, "storage_unavailable")}
    assert all(each.headers["retry-after"] for each in answers)
    assert took < 60 * 12
    assert asked <= 2 * len(sent) + 40, "one PUT and one HEAD for each, and what could be saved up before"
    assert (ready.status_code, known.status_code) == (200, 200)
    assert rows == []


async def test_while_s3_fails_now_and_then_clients_that_try_again_succeed_without_a_storm(
    world: World,
) -> None:
    sent = [fresh() for _ in range(100)]
    refusals = 0
    async with overloaded(world, share=0.3) as s3:

        async def insist(data: bytes) -> httpx.Response:
            nonlocal refusals
            while (answer := await world.upload(data)).status_code == 503:
                refusals += 1
            return answer

        answers = [await insist(data) for data in sent]
        puts = s3.count("PUT")
    rows = [await world.rows(data) for data in sent]

    once = [len(each) for each in rows]
    record(Row("S3 fails three requests of ten", 100, 100, once.count(0), sum(once) - 100, refusals))
    assert {each.status_code for each in answers} == {201}
    assert set(once) == {1}
    assert puts <= 1.6 * len(sent), "1 / (1 - 0.3) = 1.43 are needed, however they are shared out"


async def test_a_name_that_leads_nowhere_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    settings = ObjectsSettings(url="s3://images", endpoint="http://nowhere.invalid", retry_timeout_seconds=1)
    objects = Objects.open(settings.model_copy(update={"timeout_seconds": 2}), tmp_path)
    async with asyncio.timeout(BOUND):
        with pytest.raises(StorageUnavailable):
            await objects.probe()
        await objects.aclose()
