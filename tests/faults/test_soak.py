"""A soak: everything at once, with faults by seed; afterwards nothing is lost and nothing has grown.

`make soak` takes half an hour, the suite a quarter of a minute.
"""

import asyncio
import hashlib
import math
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest

from faults.patience import PATIENCE_SECONDS, Patient
from faults.proxy import Proxy, proxied_database
from faults.table import LONG, Row, record
from pictures import picture
from receiver import Receiver, Reply, confirming
from service import Service

SECONDS = float(os.environ.get("SOAK_SECONDS", "300" if LONG else "15"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CLIENTS = 4
QUIET_SECONDS = (0.2, 2.0)
"""Between two faults."""
GROWTH = 1.2
"""Of resident memory from the second quarter of a life to its last one, beside a few megabytes of chance."""
CHANCE_BYTES = 24_000_000
LONG_SECONDS = 120
"""From here on a life is long enough for its growth to be judged."""
MORE_FILES = 24
TUS = {"Tus-Resumable": "1.0.0"}
SAID_TWICE = frozenset({200, 201})


@dataclass
class Ledger:
    """What clients were told."""

    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """The SHA-256 of each image that was acknowledged, by id."""
    deleted: set[str] = field(default_factory=set[str])
    unknown: int = 0
    """Uploads of which nobody heard in time."""


@dataclass
class Sample:
    life: int
    resident: int
    files: int


@dataclass
class Soak:
    """One service, its clients, and those who break it."""

    service: Service
    database: Proxy
    receiver: Receiver
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    faults: Counter[str] = field(default_factory=Counter[str])
    samples: list[Sample] = field(default_factory=list[Sample])
    seeds: "count[int]" = field(default_factory=lambda: count(500_000))
    lives: int = 1
    ends: float = math.inf
    clients: Patient = field(init=False)

    def __post_init__(self) -> None:
        self.clients = Patient(lambda: self.service.base)

    @property
    def going_on(self) -> bool:
        return time.monotonic() < self.ends

    # Clients

    async def client(self) -> None:
        """Do one thing after the other."""
        doings: dict[Callable[[], Awaitable[None]], int] = {
            self.upload: 8,
            self.upload_form: 2,
            self.upload_in_pieces: 4,
            self.upload_directly: 2,
            self.upload_rubbish: 2,
            self.read: 6,
            self.delete: 2,
            self.check: 1,
        }
        while self.going_on:
            (doing,) = self.chance.choices(list(doings), list(doings.values()))
            await doing()

    async def upload(self) -> None:
        data, key = self.picture(), f"soak-{next(self.seeds)}"
        answer = await self.clients.ask("POST", "/v1/images", content=data, headers={"Idempotency-Key": key})
        self.note(answer, data)

    async def upload_form(self) -> None:
        data, key = self.picture(), f"soak-{next(self.seeds)}"
        files = {"file": ("a.jpg", data)}
        self.note(
            await self.clients.ask("POST", "/v1/images", files=files, headers={"Idempotency-Key": key}), data
        )

    async def upload_in_pieces(self) -> None:
        """Go on where the service says, as every client of tus does."""
        data = self.picture()
        head = TUS | {"Upload-Length": str(len(data))}
        begun = await self.clients.ask("POST", "/v1/tus", headers=head)
        if begun is None:
            self.ledger.unknown += 1
            return
        path = httpx.URL(begun.headers["location"]).path
        began, offset = time.monotonic(), 0
        while time.monotonic() - began < PATIENCE_SECONDS:
            piece = data[offset : offset + len(data) // 3 + 1]
            head = TUS | {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            answer = await self.clients.ask("PATCH", path, headers=head, content=piece)
            if answer is not None and self.was_refused(answer):
                return
            if answer is None or answer.status_code != 204:
                answer = await self.clients.ask("HEAD", path, headers=TUS)
            if answer is None or answer.is_error:
                continue
            if (address := answer.headers.get("content-location")) is not None:
                self.note_id(address.rpartition("/")[2], data)
                return
            offset = int(answer.headers["upload-offset"])
        self.ledger.unknown += 1

    async def upload_directly(self) -> None:
        data = self.picture()
        order = {"filename": "a.jpg", "bytes": len(data), "content_type": "image/jpeg"}
        begun = await self.clients.ask("POST", "/v1/uploads", json=order)
        if begun is None or begun.status_code != 201:
            assert begun is None, begun.text
            return
        told = begun.json()
        signed = told["request"]
        url = httpx.URL(signed["url"]).raw_path.decode()
        await self.clients.ask(signed["method"], url, headers=signed.get("headers", {}), content=data)
        done = await self.clients.ask("POST", f"/v1/uploads/{told['id']}/complete")
        self.note(done, data)

    async def upload_rubbish(self) -> None:
        whole = self.picture()
        answer = await self.clients.ask("POST", "/v1/images", content=whole[: len(whole) // 2])
        assert answer is None or answer.status_code in (415, 422), answer.text

    async def read(self) -> None:
        """List, draw, and read what was stored."""
        await self.clients.ask("GET", "/v1/images?limit=20&ext=jpg")
        await self.clients.ask("GET", "/v1/images/random")
        if self.ledger.stored:
            image = self.chance.choice(list(self.ledger.stored))
            await self.look_at(image)

    async def look_at(self, image: str) -> None:
        answer = await self.clients.ask("GET", f"/v1/images/{image}/content")
        if image in self.ledger.deleted or answer is None:
            return
        assert answer.status_code == 200, (image, answer.text)
        assert hashlib.sha256(answer.content).digest() == self.ledger.stored[image], image

    async def delete(self) -> None:
        """Delete an image; bring every second one back."""
        kept = [image for image in self.ledger.stored if image not in self.ledger.deleted]
        if not kept:
            return
        image = self.chance.choice(kept)
        self.ledger.deleted.add(image)
        answer = await self.clients.ask("DELETE", f"/v1/images/{image}")
        if answer is not None and self.chance.random() < 0.5:
            back = await self.clients.ask("POST", f"/v1/images/{image}/restore")
            if back is not None and back.status_code == 200:
                self.ledger.deleted.discard(image)

    async def check(self) -> None:
        answer = await self.clients.ask("POST", "/v1/consistency/runs", json={"mode": "quick"})
        assert answer is None or answer.status_code in (200, 201, 202, 409), answer.text

    def picture(self) -> bytes:
        side = self.chance.choice([48, 96, 400])
        return picture("JPEG", seed=next(self.seeds), size=(side, side))

    def note(self, answer: httpx.Response | None, data: bytes) -> None:
        if answer is None:
            self.ledger.unknown += 1
        elif not self.was_refused(answer):
            assert answer.status_code in SAID_TWICE, answer.text
            self.note_id(answer.json()["id"], data)

    def was_refused(self, answer: httpx.Response) -> bool:
        """Tell whether a decoder was killed over it, for which the service has to blame the file."""
        refused = answer.status_code == 422
        assert not refused or "decoder_failed" in answer.text, answer.text
        return refused

    def note_id(self, image: str, data: bytes) -> None:
        self.ledger.stored[image] = hashlib.sha256(data).digest()

    # Faults

    async def breaker(self) -> None:
        """Break one thing after the other; whole processes in the first third: the rest is one long life."""
        faults: dict[Callable[[], Awaitable[None]], int] = {
            self.cut_the_database_off: 6,
            self.silence_the_database: 2,
            self.slow_the_database_down: 3,
            self.kill_a_decoder: 4,
            self.deafen_the_subscriber: 3,
        }
        plugs: dict[Callable[[], Awaitable[None]], int] = {self.pull_the_plug: 4, self.start_anew: 2}
        await self.pull_the_plug()
        self.ends = time.monotonic() + SECONDS
        third = self.ends - SECONDS * 2 / 3
        while self.going_on:
            await asyncio.sleep(self.chance.uniform(*QUIET_SECONDS))
            possible = faults | plugs if time.monotonic() < third else faults
            (fault,) = self.chance.choices(list(possible), list(possible.values()))
            await fault()
            self.faults[fault.__name__] += 1
        self.database.fail()
        self.receiver.answer = confirming

    async def cut_the_database_off(self) -> None:
        self.database.cut()

    async def silence_the_database(self) -> None:
        self.database.fail(silent=True)
        await asyncio.sleep(self.chance.uniform(0.1, 3))
        self.database.fail()

    async def slow_the_database_down(self) -> None:
        self.database.fail(delay_seconds=self.chance.uniform(0.001, 0.05))
        await asyncio.sleep(self.chance.uniform(0.5, 3))
        self.database.fail()

    async def kill_a_decoder(self) -> None:
        decoders = [
            each for each in self.descendants() if "tintype.imaging.worker" in " ".join(each.cmdline())
        ]
        if decoders:
            self.chance.choice(decoders).kill()

    async def deafen_the_subscriber(self) -> None:
        self.receiver.answer = lambda _: self.chance.choice([Reply(503), Reply(200), Reply(500)])
        await asyncio.sleep(self.chance.uniform(0.5, 3))
        self.receiver.answer = confirming

    async def pull_the_plug(self) -> None:
        assert self.service.process is not None
        os.killpg(self.service.pid, signal.SIGKILL)
        await self.start_again()

    async def start_anew(self) -> None:
        assert self.service.process is not None
        self.service.process.send_signal(signal.SIGTERM)
        await self.start_again()

    async def start_again(self) -> None:
        assert self.service.process is not None
        await asyncio.to_thread(self.service.process.wait, 60)
        await asyncio.to_thread(self.service.start)
        self.lives += 1

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.service.pid).children(recursive=True)

    # What it takes

    async def watch(self) -> None:
        """Take samples of what the API process holds."""
        pause = max(0.2, SECONDS / 600)
        while self.going_on:
            try:
                process = psutil.Process(self.service.pid)
                self.samples.append(Sample(self.lives, process.memory_info().rss, process.num_fds()))
            except psutil.NoSuchProcess:
                pass
            await asyncio.sleep(pause)

    def growth(self) -> tuple[float, float]:
        """Compare the end of the last life with its second quarter: times the memory, files more."""
        life = [each for each in self.samples if each.life == self.lives]
        quarter = len(life) // 4
        early, late = life[quarter : 2 * quarter], life[-quarter:]
        memory = [statistics.median(each.resident for each in part) for part in (early, late)]
        files = [statistics.median(each.files for each in part) for part in (early, late)]
        return (memory[1] - CHANCE_BYTES) / memory[0], files[1] - files[0]


@asynccontextmanager
async def soaking(database_url: str, receiver: Receiver, folder: Path, seed: int) -> AsyncIterator[Soak]:
    async with proxied_database(database_url) as database:
        environment = {
            "TINTYPE_DATABASE__URL": database.url,
            "TINTYPE_WEBHOOKS__ALLOW_PRIVATE": "true",
            "TINTYPE_DATABASE__SILENCE_SECONDS": "2",
        }
        service = Service(folder / "data", environment)
        await asyncio.to_thread(service.start)
        soak = Soak(service, database, receiver, random.Random(seed))
        try:
            yield soak
        finally:
            database.fail()
            await soak.clients.http.aclose()
            await asyncio.to_thread(service.stop)


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + 400)
async def test_after_a_soak_nothing_is_lost_and_nothing_has_grown(
    database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    print(f"SOAK_SEED={SEED} SOAK_SECONDS={SECONDS}")  # noqa: T201 # shown when it fails, and by `make soak`
    async with soaking(database_url, receiver, tmp_path, SEED) as soak:
        subscribed = await soak.clients.ask(
            "POST", "/v1/subscriptions", json={"channel": "webhook", "address": receiver.url}
        )
        assert subscribed is not None
        assert subscribed.status_code == 202, subscribed.text

        await asyncio.gather(soak.breaker(), soak.watch(), *(soak.client() for _ in range(CLIENTS)))

        ledger = soak.ledger
        lost = [image for image in ledger.stored if not await _is_kept(soak, image)]
        told = await soak.clients.told()
        untold = [image for image in ledger.stored if len(told.get(image, ())) != 1]
        print(  # noqa: T201
            f"{len(ledger.stored)} images, {dict(soak.faults)}, {dict(soak.clients.answers)}; "
            f"{soak.clients.longest:.1f} s at the most, {ledger.unknown} unknown"
        )
        doubled = _doubled(soak)
        record(
            Row(
                fault=f"{SECONDS:.0f} seconds of everything, with faults of all kinds (seed {SEED})",
                times=soak.faults.total(),
                acknowledged=len(ledger.stored),
                lost=len(lost) + len(untold),
                duplicated=doubled,
                server_errors=soak.clients.answers[503],
                recovery_seconds=soak.clients.longest,
            )
        )
        assert (lost, untold) == ([], []), "".join(
            line for line in soak.service.log if any(image in line for image in (*lost, *untold))
        )
        assert (doubled, ledger.unknown) == (0, 0)
        if SECONDS >= LONG_SECONDS:
            memory, files = soak.growth()
            print(f"{memory:.2f} times the memory, {files:+.0f} files")  # noqa: T201
            assert memory < GROWTH, [each.resident for each in soak.samples]
            assert files <= MORE_FILES, [each.files for each in soak.samples]
        checked = await soak.clients.deep_check()
        assert (checked["state"], checked["findings"]["total"]) == ("complete", 0), checked


async def _is_kept(soak: Soak, image: str) -> bool:
    answer = await soak.clients.ask("GET", f"/v1/images/{image}/content")
    if answer is None or image in soak.ledger.deleted:
        return answer is not None
    return answer.status_code == 200 and hashlib.sha256(answer.content).digest() == soak.ledger.stored[image]


def _doubled(soak: Soak) -> int:
    """Return how many images have the same bytes as another one."""
    found = Counter(soak.ledger.stored.values())
    return found.total() - len(found)
