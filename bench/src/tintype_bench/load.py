"""The sender: a process of its own that uploads distinct photographs and times every answer.

It reads one `Order` in JSON from its arguments and writes one `Outcome` in JSON to its output.
It does as little as it can, so that the processors are left to the server that is measured: one
uvloop protocol for each connection, and the photograph's bytes are never copied in Python.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

import uvloop
from pydantic import BaseModel

from tintype_bench.distinct import Distinct

Door = Literal["raw", "form"]

BOUNDARY = "tintype-bench-b79d6a3c"
PART_HEAD = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
    "Content-Type: image/jpeg\r\n\r\n"
).encode()
PART_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()

Pieces = tuple[bytes | memoryview, ...]


class Order(BaseModel, frozen=True):
    """What to send, where to, how many at once, and for how long."""

    url: str
    door: Door
    photo: Path
    concurrency: int
    seconds: float
    """No upload begins later than this; those under way are waited for."""
    least: int = 0
    """At least so many uploads, however long they take."""
    patience_seconds: float = 30
    """For one answer; then the upload counts as failed and the run ends."""
    processor: int | None = None
    """Which one to run on; None: any."""


class Outcome(BaseModel, frozen=True):
    """What came of it. An error is an answer other than 2xx, or none."""

    uploads: int
    bytes: int
    seconds: float
    """From the first byte sent to the last answer."""
    latencies_ms: list[float]
    errors: dict[str, int]
    """How many, by status; `late` and `cut off` had none."""
    cpu_seconds: float


class Client(asyncio.Protocol):
    """One kept-alive connection; `exchange` sends one request and waits for its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._arrived = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what is given at once: there is always somebody waiting for it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect an answer until it is whole."""
        self._arrived += data
        status = _status_when_whole(self._arrived)
        if status is not None:
            self._arrived.clear()
            self._settle(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that nothing will come."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    async def exchange(self, pieces: Pieces) -> int:
        """Return the status of the answer to the request that `pieces` make."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(pieces)
        return await self._answer

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _settle(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


def _status_when_whole(arrived: bytearray) -> int | None:
    end = arrived.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(arrived[:end]).lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    length = int(rest.split(b"\r\n", 1)[0]) if found else 0
    return int(head[9:12]) if len(arrived) >= end + 4 + length else None


def requests(order: Order) -> Iterator[Pieces]:
    """Yield one whole request after the other, no two with the same photograph."""
    distinct = Distinct(order.photo.read_bytes())
    form = order.door == "form"
    length = distinct.length + (len(PART_HEAD) + len(PART_TAIL) if form else 0)
    kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "image/jpeg"
    parts = urlsplit(order.url)
    target = parts.path + ("" if form else "?filename=photo.jpg")
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
    for own, shared in distinct:
        yield (head, PART_HEAD, own, shared, PART_TAIL) if form else (head, own, shared)


class Sender:
    """All connections of one order, and what they have seen."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = requests(order)
        self._begun = 0
        self._failed = False
        self._latencies: list[float] = []
        self._errors: dict[str, int] = {}

    async def run(self) -> Outcome:
        """Send until the time is over, then wait for what is under way."""
        parts = urlsplit(self._order.url)
        loop = asyncio.get_running_loop()
        clients: list[Client] = []
        for _ in range(self._order.concurrency):
            _, client = await loop.create_connection(Client, parts.hostname or "", parts.port or 80)
            clients.append(client)
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(self._send(client, began + self._order.seconds) for client in clients))
        return self._outcome(time.perf_counter() - began, time.process_time() - cpu)

    async def _send(self, client: Client, end: float) -> None:
        while not self._failed and (time.perf_counter() < end or self._begun < self._order.least):
            self._begun += 1
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self._order.patience_seconds):
                    status = await client.exchange(next(self._requests))
            except TimeoutError:
                self._fail("late")
                break
            except OSError:
                self._fail("cut off")
                break
            if status // 100 == 2:  # noqa: PLR2004 - the class of statuses that mean success
                self._latencies.append((time.perf_counter() - began) * 1000)
            else:
                self._fail(str(status))
        client.close()

    def _fail(self, what: str) -> None:
        self._errors[what] = self._errors.get(what, 0) + 1
        self._failed = True

    def _outcome(self, seconds: float, cpu_seconds: float) -> Outcome:
        uploads = len(self._latencies)
        return Outcome(
            uploads=uploads,
            bytes=uploads * (self._order.photo.stat().st_size + Distinct.COST),
            seconds=seconds,
            latencies_ms=self._latencies,
            errors=self._errors,
            cpu_seconds=cpu_seconds,
        )


def keep_to(processor: int | None) -> None:
    """Run on one processor from here on; None: on any."""
    if processor is not None:
        os.sched_setaffinity(0, {processor})


if __name__ == "__main__":
    asked = Order.model_validate_json(sys.argv[1])
    keep_to(asked.processor)
    print(uvloop.run(Sender(asked).run()).model_dump_json())  # noqa: T201
