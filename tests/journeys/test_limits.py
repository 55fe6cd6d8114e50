"""Limits as clients meet them: quotas, rates, and other owners who want everything at once."""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import psycopg
import pytest

from identified import first_keys
from made_images import hungry_png
from pictures import picture
from service import COMMAND, Service
from tintype.ingest.pressure import FEW

TINTYPE = COMMAND[0]
LENGTH = 8192
ADDRESSES = (f"198.51.100.{number}" for number in count(1))
"""For guessing: an address that was refused stays refused for whoever tries again."""
Serve = Callable[..., Service]


@pytest.fixture
def two(database_url: str, serve: Serve, tmp_path: Path) -> list[Service]:
    """Two instances of one service, with room for seven pictures of one size."""
    shared = {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_OBJECTS__URL": f"file://{tmp_path / 'objects'}",
        "TINTYPE_LIMITS__QUOTA_BYTES": str(7 * len(some(0))),
    }
    return [serve(tmp_path / name, **shared) for name in ("one", "other")]


@dataclass(frozen=True)
class Limited:
    """A service with narrow limits, and a key of each of two owners."""

    service: Service
    anna: str
    bert: str

    def client(self, key: str) -> httpx.Client:
        client = self.service.client()
        client.headers["authorization"] = f"Bearer {key}"
        return client

    def key(self, owner_key: str) -> str:
        """Make another key of the same owner, of which nothing was used yet."""
        with self.client(owner_key) as client:
            made: str = client.post("/v1/api-keys", json={"scopes": ["read", "write"]}).json()["key"]
        return made


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    data_dir = tmp_path_factory.mktemp("limited") / "data"
    anna, bert, *_ = asyncio.run(first_keys(data_dir))
    narrow = {
        "TINTYPE_IDENTITY__MODE": "keys",
        "TINTYPE_LIMITS__REQUESTS_PER_SECOND": "2",
        "TINTYPE_LIMITS__BYTES_PER_SECOND": "200",  # 12,000 in a minute
        "TINTYPE_LIMITS__OPEN_REQUESTS": "3",
        "TINTYPE_LIMITS__FAILED_LOGINS_PER_MINUTE": "5",
        "TINTYPE_TRUSTED_PROXIES": '["127.0.0.1/32"]',
    }
    service = Service(data_dir, narrow).start()
    yield Limited(service, anna, bert)
    service.stop()


def some(seed: int) -> bytes:
    """A picture like no other, of always the same length."""
    data = picture("PNG", seed=seed)
    return data + bytes(LENGTH - len(data))


def send(service: Service, data: bytes, **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.post("/v1/images", content=data, headers=headers)


def test_a_quota_is_exact_on_two_instances_at_once(two: list[Service]) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda seed: send(two[seed % 2], some(seed)), range(100, 132)))

    refused = [each for each in answers if each.status_code != 201]
    assert len(answers) - len(refused) == 7
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(413, "quota_exceeded")}
    assert all(not each.json()["retryable"] and "retry-after" not in each.headers for each in refused)
    with two[1].client() as client:
        told = client.get("/v1/me").json()["quota"]
        assert told["images"] == len(client.get("/v1/images").json()["data"]) == 7
        assert told["bytes"] == told["max_bytes"]


def test_a_full_quota_is_told_before_the_body_is_sent_and_a_repeat_gets_its_answer(
    two: list[Service],
) -> None:
    first = send(two[0], some(140), **{"Idempotency-Key": "first"})
    for seed in range(141, 147):
        assert send(two[0], some(seed)).status_code == 201

    assert head_only(two[1], len(some(147))).startswith(b"HTTP/1.1 413 ")
    again = send(two[1], some(140), **{"Idempotency-Key": "first"})
    form = httpx.post(f"{two[1].base}/v1/images", files={"file": ("a.png", some(148))}, timeout=60)

    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert (form.status_code, form.json()["code"]) == (413, "quota_exceeded")


def head_only(service: Service, length: int, patience: float = 20) -> bytes:
    """Announce a body, send nothing of it, and return how the answer begins."""
    host, port = service.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience) as connection:
        head = f"POST /v1/images HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        return connection.recv(65536)


def test_an_operator_gives_a_quota_and_takes_it_away(database_url: str, serve: Serve) -> None:
    database = {"TINTYPE_DATABASE__URL": database_url}

    def quota(*arguments: str) -> str:
        command = [TINTYPE, "quota", *arguments]
        environment = os.environ | database
        return subprocess.check_output(command, env=environment, text=True, timeout=120).strip()

    given = quota("set", "local", "--images", "1", "--bytes", "1GiB")
    service = serve(**database)
    stored, refused = send(service, some(150)), send(service, some(151))
    listed = quota("list")
    quota("remove", "local")

    assert given == "local  0 of 1,073,741,824 bytes  0 of 1 images"
    assert (stored.status_code, refused.json()["code"]) == (201, "quota_exceeded")
    assert listed == "local  8,192 of 1,073,741,824 bytes  1 of 1 images"
    assert quota("list") == ""


def test_a_key_that_asks_too_often_is_told_when_to_go_on(limited: Limited) -> None:
    with limited.client(limited.key(limited.anna)) as greedy, limited.client(limited.bert) as modest:
        answers = [greedy.get("/v1/images")]
        while answers[-1].status_code == 200 and len(answers) < 200:
            answers.append(greedy.get("/v1/images"))
        other = modest.get("/v1/images")

    refused = answers[-1]
    assert refused.status_code == 429
    assert len(answers) > 20  # its quota, and what was filled up again meanwhile
    assert answers[0].headers["ratelimit-policy"].startswith('"requests";q=20;w=10, ')
    assert answers[0].headers["ratelimit"].startswith('"requests";r=19;t=1, ')
    assert refused.json()["code"] == "rate_exceeded"
    assert int(refused.headers["retry-after"]) == refused.json()["retry_after"] == 1
    assert refused.headers["ratelimit"].startswith('"requests";r=0;')
    assert other.status_code == 200


def test_bytes_are_counted_in_both_directions_and_beyond_a_rate_none_is_read(limited: Limited) -> None:
    with limited.client(limited.key(limited.anna)) as client:
        first, second, third = (client.post("/v1/images", content=some(160 + number)) for number in range(3))

    assert [first.status_code, second.status_code, third.status_code] == [201, 201, 429]
    assert '"bytes";q=12000;qu="content-bytes";w=60' in third.headers["ratelimit-policy"]
    assert int(third.headers["retry-after"]) > 10


def test_an_owner_has_only_so_many_requests_open(limited: Limited) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held_open(limited.service, limited.anna))
        one, other = (stack.enter_context(limited.client(key)) for key in (limited.anna, limited.bert))
        deadline = time.monotonic() + 10
        while (refused := one.get("/v1/me")).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.5)

        assert (refused.status_code, refused.json()["code"]) == (429, "rate_exceeded")
        assert "open" in refused.json()["detail"]
        assert other.get("/v1/me").status_code == 200


@contextlib.contextmanager
def held_open(service: Service, key: str) -> Iterator[None]:
    """Begin an upload and go no further."""
    host, port = service.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/images HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        yield


def test_an_address_that_guesses_is_refused_and_whoever_shares_it_goes_on(limited: Limited) -> None:
    address = next(ADDRESSES)
    with limited.client(limited.bert) as known, limited.service.client() as stranger:
        for each in (known, stranger):
            each.headers["x-forwarded-for"] = address
        assert known.get("/v1/me").status_code == 200
        guesses = [
            stranger.get("/v1/me", headers={"authorization": f"Bearer tt_{number:012}_{'x' * 50}"})
            for number in range(6)
        ]
        nothing = stranger.get("/v1/me")

        assert [each.status_code for each in guesses] == [401] * 5 + [429]
        assert guesses[-1].headers["retry-after"] == "12"
        assert nothing.status_code == 429
        assert known.get("/v1/me").status_code == 200
        assert stranger.get("/healthz").status_code == 200
        assert stranger.get("/v1/me", headers={"x-forwarded-for": "203.0.113.10"}).status_code == 401


async def test_a_modest_owner_is_served_while_a_greedy_one_sends_two_hundred_files(
    tmp_path: Path,
) -> None:
    slow = hungry_png(3000)
    crowd_limits = httpx.Limits(max_connections=200)
    anna, bert, *_ = await first_keys(tmp_path / "data")
    workers = {
        "TINTYPE_IDENTITY__MODE": "keys",
        "TINTYPE_IMAGING__WORKERS": "1",
        "TINTYPE_DRAIN_SECONDS": "0",
    }
    service = await asyncio.to_thread(Service(tmp_path / "data", workers).start)

    async def send_one(client: httpx.AsyncClient, key: str, data: bytes) -> int:
        told = {"authorization": f"Bearer {key}"}
        return (await client.post("/v1/images", content=data, headers=told)).status_code

    async with (
        httpx.AsyncClient(base_url=service.base, timeout=60, limits=crowd_limits) as many,
        httpx.AsyncClient(base_url=service.base, timeout=60) as one,
    ):
        crowd = [
            asyncio.create_task(send_one(many, anna, slow + number.to_bytes(4))) for number in range(200)
        ]
        await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        before = sum(each.done() for each in crowd)
        modest = [await send_one(one, bert, some(170 + number)) for number in range(5)]
        meanwhile = sum(each.done() for each in crowd) - before
        for each in crowd:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    await asyncio.to_thread(service.stop)

    assert modest == [201] * 5
    assert meanwhile <= 15  # of two hundred: a turn or two of theirs for each of the modest one's


async def test_counters_live_where_no_owner_can_change_them(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'images'::regclass AND NOT tgisinternal"
        )
        assert await cursor.fetchone() == (3,)


def test_a_loader_is_taken_out_by_one_word_in_the_environment(serve: Serve) -> None:
    service = serve(TINTYPE_IMAGING__DISABLE="tiff")

    refused, stored = send(service, picture("TIFF", seed=180)), send(service, picture("PNG", seed=181))
    with service.client() as client:
        accepted = [each["extension"] for each in client.get("/v1/capabilities").json()["types"]]

    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_type")
    assert stored.status_code == 201
    assert "tif" not in accepted


def test_a_resumable_upload_without_room_is_refused_when_it_is_begun(two: list[Service]) -> None:
    told = {"Tus-Resumable": "1.0.0", "Upload-Length": str(8 * LENGTH)}
    with two[0].client() as client:
        refused = client.post("/v1/tus", headers=told)
        begun = client.post("/v1/tus", headers=told | {"Upload-Length": str(LENGTH)})

    assert refused.status_code == 413
    assert "quota" in refused.text
    assert begun.status_code == 201


def test_a_queue_that_stays_refuses_newcomers_before_their_bodies_and_keeps_who_waits(
    database_url: str, serve: Serve
) -> None:
    service = serve(TINTYPE_DATABASE__URL=database_url, TINTYPE_LIMITS__MAX_WAIT_SECONDS="0.3")
    with ThreadPoolExecutor(70) as threads, psycopg.connect(database_url) as holder, service.client() as all_:
        holder.execute("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        bodies = [some(seed) for seed in range(200, 270)]
        waiting = [threads.submit(all_.post, "/v1/images", content=body) for body in bodies]
        ends = time.monotonic() + 20
        refused = b""
        while not refused:
            assert time.monotonic() < ends
            with contextlib.suppress(TimeoutError):  # it was let in, and is waited for
                refused = head_only(service, LENGTH, patience=0.5)
        alive = httpx.get(f"{service.base}/healthz")
        holder.rollback()

        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in refused.lower()
        assert alive.status_code == 200
        answers = Counter(each.result().status_code for each in waiting)
    assert answers[201] >= FEW  # those who were let in; one or another came too late
    assert answers[201] + answers[503] == len(waiting)
    assert send(service, some(270)).status_code == 201
