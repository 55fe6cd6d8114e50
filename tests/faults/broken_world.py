"""A Tintype whose every I/O can fail: its database behind a wire, its disk under watch, its plug at hand."""

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import signal
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from aws import Topic
from consistency import damage
from faults import breakable
from faults.http_wire import HttpWire, wired_server
from faults.points import Kind, Point, Station
from faults.postgres_wire import PostgresWire, wired_database
from faults.wired import KEYS as AWS_KEYS
from s3_servers import KEY, S3Server
from tintype.catalogue.database import Database
from tintype.model.check import Mode, Order
from tintype.model.finding import Drift
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import DatabaseSettings, ObjectsSettings

FORKS = multiprocessing.get_context("forkserver")
# Python 3.11 looks for them where installed packages are, and nowhere else. Each process runs the file of the
# main program once more, which is pytest's.
FORKS.set_forkserver_preload(["pytest", "tintype.server.app", "tintype.wiring", "uvicorn", "uvloop"])

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Each client would read all certificates of the machine otherwise."""
START_SECONDS = 60
DEATH_SECONDS = 5
SETTINGS: dict[str, Any] = {
    "imaging": {"inspect": "header"},
    "consistency": {"every_seconds": 0},
    "limits": {"quota_images": 1_000_000, "min_free_bytes": 0},
    "log": {"format": "json"},
}
"""Without a cage: no I/O of a story goes there. With a quota: to keep to it is I/O of each upload."""
JANITOR = frozenset(
    {
        Drift.OBJECT_WITHOUT_ROW,
        Drift.UPLOAD_LEFTOVER,
        Drift.UNFINISHED_PUT,
        Drift.DELETED_BYTES_REMAIN,
    }
)
"""What a fault may leave, and a check with repair removes."""


@dataclass
class Known:
    """An image of which a client knows."""

    sha256: bytes
    state: str = "ready"
    told: Counter[str] = field(default_factory=lambda: Counter({"image.uploaded": 1}))
    """Its events by kind: each exactly once."""
    is_purged: bool = False


@dataclass
class World:
    """One data folder, one database, and one life of the process after another."""

    folder: Path
    database: PostgresWire
    servers: list[HttpWire]
    """Those of AWS."""
    real: damage.World
    """The same database and store, past the wires."""
    heard: Callable[[], Awaitable[set[str]]]
    """Returns the ids of all events that listeners were told of."""
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict[str, str])
    known: dict[UUID, Known] = field(default_factory=dict[UUID, Known])
    put_aside: list[bytes] = field(default_factory=list[bytes])
    """SHA-256 of what a repair has to keep in quarantine."""
    lies: list[str] = field(default_factory=list[str])
    refusals: int = 0
    lives: int = 0
    stock: list[Any] = field(default_factory=list[Any])
    """What runs of a story need that is made for many of them at once."""
    _process: ForkServerProcess | None = None
    _end: asyncio.Task[None] | None = None
    """Of the process: only one may wait for it."""
    _client: httpx.AsyncClient | None = None

    @property
    def log(self) -> Path:
        return self.folder / "process.log"

    @property
    def stations(self) -> list[Station]:
        """Those outside of the process. It counts its system calls itself."""
        return [self.database.station, *(each.station for each in self.servers)]

    # The process

    async def start(self) -> None:
        """Begin a life, and return when it answers."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            told = self.settings | {"data_dir": str(self.folder / "data")}
            what = (listener, told, self.environment, self.log)
            self._process = FORKS.Process(target=breakable.serve, args=what, daemon=True)
            await asyncio.to_thread(self._process.start)
            self._end = asyncio.create_task(asyncio.to_thread(self._process.join))
            base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.lives += 1
        self._client = httpx.AsyncClient(base_url=base, timeout=START_SECONDS, verify=NO_TLS)
        try:
            await self._client.get("/-/seen")
        except httpx.TransportError as error:
            raise AssertionError(self.log.read_text()[-4000:]) from error

    async def kill(self) -> None:
        """Pull the plug."""
        assert self._process is not None
        self._process.kill()
        await self._ended()

    async def end(self) -> None:
        """Pull the plug, and put everything away."""
        if self._process is not None:
            await self.kill()
            self._process = None
        if self._client is not None:
            await self._client.aclose()

    async def restart(self) -> None:
        """Begin another life."""
        await self.end()
        await self.start()

    async def is_dead(self, within_seconds: float = 0) -> bool:
        """Tell whether the process was killed; one that ended by itself is none that we know."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._ended()
        if self._process.exitcode is None:
            return False
        assert self._process.exitcode == -signal.SIGKILL, self.log.read_text()[-4000:]
        return True

    async def _ended(self) -> None:
        assert self._end is not None
        await asyncio.shield(self._end)

    # What may fail

    async def arm(self, point: Point | None = None, kind: Kind | None = None) -> None:
        """Begin to count; have one point fail."""
        told = {"point": asdict(point), "kind": kind.value} if point and kind else {}
        (await self._control("arm", told)).raise_for_status()
        self.database.from_nothing = False
        for each in self.stations:
            each.arm(point, kind)

    async def seen(self) -> tuple[list[Point], bool]:
        """Return what was done since, and whether what was armed has happened."""
        there = (await self._control("seen")).json()
        outside = [point for each in self.stations for point in each.seen]
        hit = there["hit"] or any(each.hit for each in self.stations)
        return [*outside, *(Point(**each) for each in there["seen"])], hit

    async def idle(self) -> None:
        """Wait until nothing goes on behind the answers, where the process may be killed as well."""
        await self.ask("POST", "/-/idle")

    async def _control(self, name: str, told: dict[str, Any] | None = None) -> httpx.Response:
        assert self._client is not None
        return await self._client.post(f"/-/{name}", content=json.dumps(told or {}))

    # What is asked

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response | None:  # noqa: ANN401
        """Ask once; None: the connection was closed, which is a lie of a process that lives."""
        assert self._client is not None
        try:
            answer = await self._client.request(method, self._address(path), **how)
        except httpx.TransportError as error:
            if not await self.is_dead(DEATH_SECONDS):
                self.lies.append(f"{method} {path}: no answer: {error!r}")
            return None
        if answer.status_code >= 500:
            self.refusals += 1
        return answer

    def _address(self, url: str) -> str:
        """Return a URL as it leads there now: the process has another port in each life, S3 has not."""
        if any(url.startswith(each.url) for each in self.servers):
            return url
        return httpx.URL(url).raw_path.decode()

    async def duty(self, name: str, **told: Any) -> httpx.Response | None:  # noqa: ANN401
        """Have the process do what it does by itself at work."""
        return await self.ask("POST", f"/-/duty/{name}", content=json.dumps(told))

    async def insist(self, ask: Callable[[], Awaitable[httpx.Response | None]]) -> httpx.Response:
        """Ask again as clients do: as long as it is worth it."""
        answer = None
        for _ in range(100):
            answer = await ask()
            if answer is not None and answer.status_code < 500:
                return answer
            await asyncio.sleep(0.02)
        raise AssertionError(f"nothing came of it: {answer and answer.text}\n{self.log.read_text()[-3000:]}")

    # What is true

    async def audit(self) -> list[str]:
        """Move the clock on, let the janitor work, look at everything; return every lie."""
        await self.settle()
        lies = [*self.lies, *await self._rows(), *await self._events()]
        checked = await self.real.check(Order(Mode.DEEP, repair=True, confirmed=True))
        lies += [
            f"a check found {finding.kind} of {finding.key}: {finding.note}"
            for finding in await self.real.findings(checked)
            if finding.kind not in JANITOR
        ]
        again = await self.real.check(Order(Mode.DEEP))
        lies += [
            f"a second check found {each.kind} of {each.key}" for each in await self.real.findings(again)
        ]
        return [*lies, *await self._bytes()]

    async def settle(self) -> None:
        """Have everything done that only waits for its time."""
        await self.real.execute(
            "UPDATE uploads SET expires_at = now() - interval '1 hour' WHERE expires_at > now()"
        )
        await self.insist(lambda: self.duty("sweep"))
        await self.insist(lambda: self.duty("sweep"))
        while await self.real.fetch("SELECT FROM events WHERE published_at IS NULL LIMIT 1"):
            await self.real.execute("UPDATE events SET next_attempt_at = now() WHERE published_at IS NULL")
            await self.insist(lambda: self.duty("relay"))

    async def _rows(self) -> list[str]:
        rows = await self.real.fetch("SELECT id, sha256, state, purged_at IS NOT NULL FROM images")
        found = {row[0]: Known(row[1], row[2], is_purged=row[3]) for row in rows}
        lies = [f"there is an image {each} that nobody knows of" for each in found.keys() - self.known.keys()]
        for image, known in self.known.items():
            row = found.get(image)
            if row is None:
                lies.append(f"the image {image} is lost")
            elif (row.state, row.is_purged) != (known.state, known.is_purged):
                lies.append(f"the image {image} is {row.state}, and should be {known.state}")
            elif row.sha256 != known.sha256:
                lies.append(f"the image {image} has other bytes by its row")
        return lies

    async def _events(self) -> list[str]:
        rows = await self.real.fetch("SELECT id, kind, image_id FROM events WHERE image_id IS NOT NULL")
        found: dict[UUID, Counter[str]] = {image: Counter() for image in self.known}
        for _, kind, image in rows:
            found.setdefault(image, Counter())[kind] += 1
        lies = [
            f"the image {image} has the events {dict(told)}"
            for image, told in found.items()
            if image not in self.known or told != self.known[image].told
        ]
        unheard = {str(row[0]) for row in rows} - await self.heard()
        return [*lies, *(f"the event {each} was not published" for each in unheard)]

    async def _bytes(self) -> list[str]:
        lies: list[str] = []
        for image, known in self.known.items():
            is_there = await self.real.objects.head(original_key(image)) is not None
            if is_there != (known.state in ("ready", "deleted") and not known.is_purged):
                lies.append(f"the bytes of {image} ({known.state}) are {'there' if is_there else 'gone'}")
            elif is_there and await self.digest(original_key(image)) != known.sha256:
                lies.append(f"the bytes of {image} are others")
        return [*lies, *await self._quarantine()]

    async def _quarantine(self) -> list[str]:
        """Look whether what was put aside is there, and all that is there will go again one day."""
        there = [info.key async for page in self.real.objects.list("quarantine/") for info in page]
        noted = {row[0] for row in await self.real.fetch("SELECT held_key FROM quarantine")}
        held = {await self.digest(key) for key in there}
        return [
            *(f"{key} will stay for ever" for key in there if key not in noted),
            *(f"the orphan {each.hex()} is lost" for each in self.put_aside if each not in held),
        ]

    async def digest(self, key: str) -> bytes:
        digest = hashlib.sha256()
        async for block in self.real.objects.read(key):
            digest.update(block)
        return digest.digest()


@asynccontextmanager
async def on_a_laptop(url: str, folder: Path) -> AsyncIterator[World]:
    """Start a Tintype with its images in a folder, and on a database of its own."""

    async def heard() -> set[str]:
        return {json.loads(path.read_text())["id"] for path in (folder / "data" / "outbox").glob("*.json")}

    async with (
        wired_database(url, Station("database")) as database,
        _real(url, folder, ObjectsSettings()) as real,
    ):
        yield World(folder, database, [], real, heard, SETTINGS | {"database": {"url": database.url}})


@asynccontextmanager
async def on_aws(url: str, folder: Path, s3: S3Server, topic: Topic) -> AsyncIterator[World]:
    """Start a Tintype with its images in a bucket, and with a topic to tell of them."""
    queue = topic.subscribe(raw=True)

    async def heard() -> set[str]:
        messages = await asyncio.to_thread(queue.receive)
        return {json.loads(each.get("Body", ""))["id"] for each in messages}

    bucket = s3.new_bucket()
    async with (
        wired_database(url, Station("database")) as database,
        wired_server(s3.url, Station("objects")) as store,
        wired_server(s3.url, Station("publisher")) as publisher,
        _real(url, folder, bucket) as real,
    ):
        settings = SETTINGS | {
            "database": {"url": database.url},
            "objects": {
                "url": bucket.url,
                "endpoint": store.url,
                "access_key_id": KEY,
                "secret_access_key": KEY,
            },
            "events": {"topic_arn": topic.arn, "endpoint": publisher.url},
        }
        yield World(folder, database, [store, publisher], real, heard, settings, AWS_KEYS)


@asynccontextmanager
async def _real(url: str, folder: Path, where: ObjectsSettings) -> AsyncIterator[damage.World]:
    (folder / "data").mkdir(parents=True)
    async with Database.open(url, DatabaseSettings()) as database:
        objects = Objects.open(where, folder / "data")
        try:
            yield damage.World(
                database, objects, folder / "data" / "objects", keeps_etags=not where.in_bucket
            )
        finally:
            await objects.aclose()


@asynccontextmanager
async def living(world: World) -> AsyncIterator[World]:
    """Have a world's process live, until the end of the block."""
    for each in (world.database, *world.servers):
        each.kill = world.kill
    try:
        await world.start()
        yield world
    finally:
        await world.end()
