"""An open-loop sender: uploads begin when their time has come, whether or not earlier ones were answered.

A sender that waits for answers slows down with the server, and so never overloads it (coordinated
omission). This one is a process of its own; it reads one `Schedule` in JSON from its arguments and
writes one `Curve` in JSON to its output. A latency is counted from when the upload was due.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from pydantic import BaseModel

from tintype_bench.load import Client, Order, Pieces, keep_to, requests

MAX_CONNECTIONS = 4000
"""What is due while so many are open is not sent, and is counted as such."""


class Schedule(BaseModel, frozen=True):
    """What to send, where to, how often and for how long."""

    url: str
    photo: Path
    per_second: float
    seconds: float
    seed: int
    """Of the times between arrivals, which are those of a Poisson process."""
    patience_seconds: float = 60
    processor: int | None = None
    """Which one to run on; None: any."""


class Curve(BaseModel, frozen=True):
    """What came of it."""

    due: int
    seconds: float
    """From the first arrival until the last answer."""
    answers: dict[str, int]
    """By status; `late` and `cut off` had none, `not sent` never left."""
    accepted_ms: list[float]
    refused_ms: list[float]
    without_retry_after: int
    """Refusals that did not say when to come back."""
    cpu_seconds: float
    behind_ms: float
    """How late the latest upload began: what this process itself could not keep up with."""


class Caller(Client):
    """A connection that also keeps the head of its last answer."""

    head = b""

    def data_received(self, data: bytes) -> None:
        """Keep the head, which comes first, before the answer is passed on."""
        self.head = self.head or data
        super().data_received(data)


class Sender:
    """All uploads of one schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        parts = urlsplit(schedule.url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        order = Order(url=schedule.url, door="raw", photo=schedule.photo, concurrency=1, seconds=0)
        self._requests: Iterator[Pieces] = requests(order)
        self._idle: list[Caller] = []
        self._open = 0
        self._answers: Counter[str] = Counter()
        self._accepted: list[float] = []
        self._refused: list[float] = []
        self._silent = 0
        self._behind = 0.0

    async def run(self) -> Curve:
        """Begin every upload when it is due, then wait for those under way."""
        chance = random.Random(self._schedule.seed)  # noqa: S311 - arrivals, no secrets
        due, begun, cpu = 0.0, time.perf_counter(), time.process_time()
        count = 0
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(self._schedule.per_second)) < self._schedule.seconds:
                wait = begun + due - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                self._behind = max(self._behind, -wait)
                count += 1
                group.create_task(self._upload(begun + due))
        return Curve(
            due=count,
            seconds=time.perf_counter() - begun,
            answers=dict(self._answers),
            accepted_ms=self._accepted,
            refused_ms=self._refused,
            without_retry_after=self._silent,
            cpu_seconds=time.process_time() - cpu,
            behind_ms=self._behind * 1000,
        )

    async def _upload(self, due: float) -> None:
        if self._open >= MAX_CONNECTIONS:
            self._answers["not sent"] += 1
            return
        self._open += 1
        try:
            async with asyncio.timeout(self._schedule.patience_seconds):
                caller = await self._caller()
                caller.head = b""
                status = await caller.exchange(next(self._requests))
        except TimeoutError:
            self._answers["late"] += 1
            return
        except OSError:
            self._answers["cut off"] += 1
            return
        finally:
            self._open -= 1
        self._note(status, (time.perf_counter() - due) * 1000, caller)

    async def _caller(self) -> Caller:
        while self._idle:
            caller = self._idle.pop()
            if not caller.is_closed:
                return caller
        _, caller = await asyncio.get_running_loop().create_connection(Caller, self._host, self._port)
        return caller

    def _note(self, status: int, milliseconds: float, caller: Caller) -> None:
        self._answers[str(status)] += 1
        head = caller.head.lower()
        if status // 100 == 2:  # noqa: PLR2004 - the class of statuses that mean success
            self._accepted.append(milliseconds)
        else:
            self._refused.append(milliseconds)
            self._silent += b"\r\nretry-after:" not in head
        if b"\r\nconnection: close" in head:
            caller.close()
        else:
            self._idle.append(caller)


if __name__ == "__main__":
    asked = Schedule.model_validate_json(sys.argv[1])
    keep_to(asked.processor)
    print(uvloop.run(Sender(asked).run()).model_dump_json())  # noqa: T201
