"""`python -m tintype_bench.balanced`: uploads through a balancer to instances that are killed and come back.

Three instances on one database and one object store, behind HAProxy, which sends each request to the next
of them. Meanwhile one after the other is killed with SIGKILL and started again. Afterwards every upload has
to be an image with the right SHA-256, and only one.
"""

import asyncio
import hashlib
import itertools
import json
import random
import struct
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import boto3
import httpx
import typer
from rich.console import Console

from tintype_bench import machine, postgres
from tintype_bench.contestants import AWS, TINTYPE, is_ready
from tintype_bench.processes import Server, free_port, listens, run
from tintype_bench.results import percentile
from tintype_bench.surroundings import run_folder

MB = 1_000_000
INSTANCES = 3
CHUNKS = (65_536, 300_000, MB, 5 * MB, 8 * MB)
LONGEST_WAIT_SECONDS = 2.0
"""After a connection broke, until the upload can go on."""
RETRY_SECONDS = 0.05
GIVE_UP_SECONDS = 60.0
VERSION = {"Tus-Resumable": "1.0.0"}
OK, NO_CONTENT, CONFLICT, LOCKED, SERVER_ERROR = 200, 204, 409, 423, 500

BALANCER = """
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
frontend door
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    option httpchk GET /readyz
    timeout check 5s
    default-server check inter 500ms fall 3 rise 1
{servers}
"""

console = Console(stderr=True)


class Estate:
    """The instances and the balancer before them. `with` starts and ends them."""

    def __init__(self, folder: Path, environment: Mapping[str, str], count: int = INSTANCES) -> None:
        self._folder, self._environment = folder, environment
        self._ports = [free_port() for _ in range(count)]
        self._instances: list[Server] = []
        self._stack = ExitStack()
        self.kills = 0
        self.address = ""

    def __enter__(self) -> Self:
        self._instances = [self._start(number) for number in range(len(self._ports))]
        self._stack.callback(lambda: [each.kill() for each in self._instances])
        for number in range(len(self._instances)):
            self.await_ready(number)
        port = free_port()
        lines = (f"    server instance-{port} 127.0.0.1:{port}" for port in self._ports)
        config = self._folder / "haproxy.cfg"
        config.write_text(BALANCER.format(port=port, servers="\n".join(lines)))
        command = ["haproxy", "-db", "-f", str(config)]
        log = self._folder / "haproxy.log"
        balancer = self._stack.enter_context(Server("haproxy", command, {}, port, log))
        balancer.wait_until(lambda: listens(port))
        self.address = balancer.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def kill(self, number: int) -> None:
        """Kill an instance, and start it again."""
        self._instances[number].kill()
        self._instances[number] = self._start(number)
        self.kills += 1

    def await_ready(self, number: int) -> None:
        """Return when an instance takes uploads."""
        server = self._instances[number]
        server.wait_until(lambda: is_ready(server))

    def _start(self, number: int) -> Server:
        port, name = self._ports[number], f"instance-{number}"
        command = [str(TINTYPE), "serve", "--port", str(port), "--data-dir", str(self._folder / name)]
        return Server(name, command, self._environment, port, self._folder / f"{name}.log")


@dataclass(slots=True)
class Traveller:
    """One upload that has to arrive, and what it met on its way."""

    seed: int
    size: int
    url: str = ""
    digest: str = ""
    waits: list[float] = field(default_factory=list[float])
    """From each break until it could go on, in seconds."""
    breaks: int = 0
    broken_at: float | None = None

    async def travel(self, client: httpx.AsyncClient) -> None:
        """Upload, chunk by chunk, whatever happens in between."""
        content = await asyncio.to_thread(picture, self.size, self.seed)
        self.digest = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        chance = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        at = await self._begin(client, len(content))
        while at < len(content):
            chunk = content[at : at + chance.choice((*CHUNKS, len(content)))]
            head = VERSION | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(at)}
            answer = await self._ask(client, "PATCH", head, chunk)
            if answer is not None and answer.status_code == NO_CONTENT:
                at = int(answer.headers["upload-offset"])
            else:
                at = await self._offset(client)

    async def _begin(self, client: httpx.AsyncClient, length: int) -> int:
        """Begin; a creation that breaks has made nothing that anybody knows of, and is tried again."""
        while not self.url:
            head = VERSION | {"Upload-Length": str(length)}
            answer = await self._ask(client, "POST", head)
            if answer is not None:
                self.url = answer.headers["location"]
        self.broken_at = None
        return 0

    async def _offset(self, client: httpx.AsyncClient) -> int:
        """Ask until it is told, as clients do."""
        while True:
            answer = await self._ask(client, "HEAD", VERSION)
            if answer is not None and answer.status_code == OK:
                if self.broken_at is not None:
                    self.waits.append(time.monotonic() - self.broken_at)
                    self.broken_at = None
                return int(answer.headers["upload-offset"])
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask(
        self, client: httpx.AsyncClient, method: str, headers: Mapping[str, str], content: bytes = b""
    ) -> httpx.Response | None:
        """Return the answer; None when the connection broke, or the balancer says so."""
        try:
            url = self.url or "/v1/tus"
            answer = await client.request(method, url, headers=dict(headers), content=content or None)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < SERVER_ERROR:
            if answer.is_client_error and answer.status_code not in (CONFLICT, LOCKED):
                raise AssertionError(f"{method} {self.url}: {answer.status_code} {answer.text}")
            return answer
        self.breaks += 1
        if self.broken_at is None:
            self.broken_at = time.monotonic()
        await asyncio.sleep(RETRY_SECONDS)
        return None


@dataclass(frozen=True, slots=True)
class Journey:
    """What came of all uploads."""

    uploads: int
    bytes: int
    seconds: float
    kills: int
    breaks: int
    """Connections that broke, or that the balancer had no instance for."""
    longest_wait_seconds: float
    p50_wait_seconds: float
    wrong: int
    """Uploads without an image of their bytes."""
    doubled: int
    """Images that there are besides theirs."""
    unfinished: int

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled or stuck."""
        return (
            not (self.wrong or self.doubled or self.unfinished)
            and self.longest_wait_seconds <= LONGEST_WAIT_SECONDS
        )


async def journey(estate: Estate, sizes: Sequence[int], at_once: int, pause_seconds: float) -> Journey:
    """Upload files of these sizes while one instance after the other is killed, and look what came of it."""
    travellers = [Traveller(seed, size) for seed, size in enumerate(sizes)]
    waiting = iter(travellers)
    limits = httpx.Limits(max_keepalive_connections=at_once)
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=estate.address, timeout=GIVE_UP_SECONDS, limits=limits) as client:

        async def lane() -> None:
            for each in waiting:
                await each.travel(client)

        killing = asyncio.create_task(_kill_in_turn(estate, pause_seconds))
        try:
            await asyncio.gather(*(lane() for _ in range(at_once)))
        finally:
            killing.cancel()
            await asyncio.wait([killing])
        seconds = time.monotonic() - began
        return await _looked_at(client, estate, travellers, seconds)


async def _kill_in_turn(estate: Estate, pause_seconds: float) -> None:
    """Kill one after the other, while another one is ready."""
    coming: dict[int, asyncio.Task[None]] = {}
    try:
        for number in itertools.cycle(range(INSTANCES)):
            await asyncio.sleep(pause_seconds)
            for other in {number, (number + 1) % INSTANCES} & coming.keys():
                await coming[other]
            estate.kill(number)
            coming[number] = asyncio.create_task(asyncio.to_thread(estate.await_ready, number))
    finally:
        await asyncio.gather(*coming.values())


async def _looked_at(
    client: httpx.AsyncClient, estate: Estate, travellers: Sequence[Traveller], seconds: float
) -> Journey:
    wrong = [each.url for each in travellers if not await _has_arrived(client, each)]
    waits = [wait for each in travellers for wait in each.waits]
    unfinished = await _asked(client, "/v1/uploads")
    begun = [each for each in unfinished["data"] if each["received"]]
    return Journey(
        uploads=len(travellers),
        bytes=sum(each.size for each in travellers),
        seconds=seconds,
        kills=estate.kills,
        breaks=sum(each.breaks for each in travellers),
        longest_wait_seconds=max(waits, default=0.0),
        p50_wait_seconds=percentile(waits, 0.5),
        wrong=len(wrong),
        doubled=await _count_images(client) - len(travellers),
        unfinished=len(begun),
    )


async def _has_arrived(client: httpx.AsyncClient, traveller: Traveller) -> bool:
    """Read an upload's image, and compare."""
    upload = await _asked(client, f"/v1/uploads/{traveller.url.rpartition('/')[2]}")
    found = hashlib.sha256()
    async with client.stream("GET", upload["image"]["url"]) as answer:
        async for block in answer.aiter_bytes():
            found.update(block)
    return found.hexdigest() == traveller.digest


async def _count_images(client: httpx.AsyncClient) -> int:
    count, cursor = 0, None
    while True:
        page = await _asked(client, f"/v1/images?limit=100{'&cursor=' + cursor if cursor else ''}")
        count, cursor = count + len(page["data"]), page["next_cursor"]
        if cursor is None:
            return count


async def _asked(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    while answer.status_code >= SERVER_ERROR:  # the balancer has not seen yet that all are back
        await asyncio.sleep(RETRY_SECONDS)
        answer = await client.get(path)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def picture(size: int, seed: int) -> bytes:
    """Return a PNG of exactly so many bytes: a few pixels, and a private chunk of noise."""
    noise = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + noise.randbytes(4) for _ in range(4))
    tail = chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return head + chunk(b"ruNd", noise.randbytes(size - len(head) - len(tail) - 12)) + tail


def main(
    *,
    uploads: Annotated[int, typer.Option(help="How many.")] = 200,
    most_megabytes: Annotated[int, typer.Option(help="Of one; the least is 1 MB.")] = 50,
    at_once: Annotated[int, typer.Option(help="Uploads under way.")] = 8,
    pause_seconds: Annotated[float, typer.Option(help="From one kill to the next.")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="Where the result is kept.")] = None,
) -> None:
    """Send uploads through the balancer, and say whether all of them arrived."""
    chance = random.Random(uploads)  # noqa: S311 - repeatable, not secret
    sizes = [chance.randrange(MB, most_megabytes * MB) for _ in range(uploads)]
    with run_folder() as folder, ExitStack() as stack:
        environment = _parts(stack, folder)
        with Estate(folder, environment) as estate:
            result = asyncio.run(journey(estate, sizes, at_once, pause_seconds))
    console.print(
        f"{result.uploads} uploads of {result.bytes / MB:.0f} MB in {result.seconds:.0f} s, while instances "
        f"were killed {result.kills} times: {result.wrong} wrong, {result.doubled} doubled, "
        f"{result.unfinished} unfinished; {result.breaks} breaks, "
        f"the longest wait {result.longest_wait_seconds:.2f} s"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": machine.describe(), "load": machine.load_average()} | asdict(result)
        out.write_text(json.dumps(told, indent=2) + "\n")
        console.print(f"kept in {out}")
    sys.exit(0 if result.holds else 1)


def _parts(stack: ExitStack, folder: Path) -> dict[str, str]:
    """Start a PostgreSQL and an S3 server, and return the settings that name them."""
    data = folder / "postgres"
    data.mkdir()
    command = [sys.executable, "-m", "tintype_bench.postgres", str(data)]
    database = stack.enter_context(Server("postgres", command, {}, 0, folder / "postgres.log"))
    database.wait_until((data / postgres.URL_FILE).exists)
    port = free_port()
    moto = [str(Path(sys.executable).with_name("moto_server")), "--port", str(port)]
    s3 = stack.enter_context(Server("moto", moto, {}, port, folder / "moto.log"))
    s3.wait_until(lambda: listens(port))
    s3_client = boto3.client(
        "s3",
        endpoint_url=s3.address,
        region_name="us-east-1",
        aws_access_key_id=AWS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS["AWS_SECRET_ACCESS_KEY"],
    )
    s3_client.create_bucket(Bucket="images")
    environment = AWS | {
        "TINTYPE_DATABASE__URL": (data / postgres.URL_FILE).read_text(),
        "TINTYPE_OBJECTS__URL": "s3://images",
        "TINTYPE_OBJECTS__ENDPOINT": s3.address,
        "TINTYPE_OBJECTS__ACCESS_KEY_ID": AWS["AWS_ACCESS_KEY_ID"],
        "TINTYPE_OBJECTS__SECRET_ACCESS_KEY": AWS["AWS_SECRET_ACCESS_KEY"],
    }
    run([str(TINTYPE), "migrate"], environment)
    return environment


if __name__ == "__main__":
    typer.run(main)
