"""`python -m tintype_bench.scale measure`: a quick check of a million objects, its rate and its memory.

Rows are real ones, in a real PostgreSQL. The objects' side is made up as fast as S3 could never list it, or
is a real folder of files. Measured are the merge alone, and whole runs as `tintype check` does them, with
leases, checkpoints and findings; one of those is killed in the middle, and another process goes on with it.
And the listing alone, of answers as S3 gives them: what it adds on S3 to what the others cost.
Each measured run is a process of its own, so that its memory is its own.
"""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, LiteralString
from uuid import UUID

import psutil
import psycopg
import typer
from psycopg import sql
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tintype.catalogue import identity
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import migrate
from tintype.consistency import segments
from tintype.consistency.check import Checker
from tintype.consistency.listing import Listing
from tintype.consistency.merge import stretches
from tintype.consistency.rebuild import Rebuild
from tintype.consistency.repair import Repairer
from tintype.consistency.runs import Runs
from tintype.consistency.segments import Segment, Word
from tintype.model.body import Body
from tintype.model.check import Order
from tintype.model.image import Facts, Format, Image, State
from tintype.model.payload import image_payload
from tintype.objects.info import Entry
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings, DatabaseSettings, ObjectsSettings
from tintype_bench import listed, machine

SHARDS = 256
PAGE = 1000
BEGAN_MS = 1_700_000_000_000
EVERY = 50_000
"""Each object of so many is one of three differences: it has no row, no object, or other bytes."""
SIZE = 3_000_000
LEASE_SECONDS = 2.0
"""What goes on with a killed run waits so long for the shards that were in its hands."""
STORED_AT = 1_700_000_000
"""The mtime of every file, which its ETag tells (see `Folder`)."""
_COLUMNS: LiteralString = """
    id, owner, state, canonical, filename, extension, content_type, bytes, sha256, etag, width, height,
    frames, orientation, camera, exif, tags, attributes, search, protocol
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    part: str
    """`merge`, `listing`, `whole`, or `killed`: a whole run in two processes, of which one is killed."""
    source: str
    objects: int
    workers: int
    seconds: float
    cpu_seconds: float
    database_cpu_seconds: float
    peak_mb: float
    differences: int

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds

    @property
    def rate_per_core(self) -> float:
        """Objects for each second of the check's own CPU."""
        return self.objects / self.cpu_seconds


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A listing that is made up: the same ids as the rows, in the order of the keys."""

    count: int

    async def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
        """Yield pages as S3 would, without waiting."""
        shard = int(prefix.rstrip("/")[-2:], 16)
        page: list[Entry] = []
        for key, etag in _keys(shard, self.count):
            if key > start_after:
                page.append((key, SIZE, etag))
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page


def identifier(shard: int, number: int) -> UUID:
    """Return the id of a shard's object: a UUIDv7 whose time goes up with the number."""
    return UUID(
        int=(BEGAN_MS + number) << 80 | 7 << 76 | 2 << 62 | (number * 2654435761 & 0xFFFFFF) << 8 | shard
    )


def _keys(shard: int, count: int) -> Iterator[tuple[str, str]]:
    """Yield key and ETag of a shard's objects, but for those that are planted to be missing."""
    middle = f"-7000-8000-0000{{:06x}}{shard:02x}"
    for number in range(count // SHARDS):
        planted = _planted(shard, number, count)
        if planted == "row only":
            continue
        began = f"{BEGAN_MS + number:012x}"
        key = f"originals/{shard:02x}/{began[:8]}-{began[8:]}" + middle.format(number * 2654435761 & 0xFFFFFF)
        yield key, "changed" if planted == "changed" else "etag"


def _planted(shard: int, number: int, count: int) -> str | None:
    place = shard * (count // SHARDS) + number
    if place % EVERY:
        return None
    return ("row only", "object only", "changed")[place // EVERY % 3]


def planted(count: int) -> int:
    """Return how many keys differ between the two sides."""
    return -(-(count // SHARDS * SHARDS) // EVERY)


def planted_findings(count: int, *, on_disk: bool) -> int:
    """Return how many of them are findings. What only a made-up listing tells of is none: HEAD says 404."""
    places = range(planted(count))
    return sum(on_disk or place % 3 != 1 for place in places)


def rows(count: int) -> Generator[UUID]:
    """Yield the rows, but for those that are planted to be missing."""
    for shard in range(SHARDS):
        for number in range(count // SHARDS):
            if _planted(shard, number, count) != "object only":
                yield identifier(shard, number)


@app.command()
def measure(
    *,
    counts: Annotated[str, typer.Option(help="Objects of the synthetic runs.")] = "100000,1000000",
    folder: Annotated[int, typer.Option(help="Files of the run on a real folder; 0: none.")] = 200_000,
    out: Annotated[
        Path | None, typer.Option(help="Where the result is kept; none: it is only shown.")
    ] = None,
) -> None:
    """Measure the quick check on made-up listings and on a real folder."""
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="tintype-scale-") as name:
        place = Path(name)
        place.chmod(0o755)  # PostgreSQL does not run as root, and must get to its data
        for count in map(int, counts.split(",")):
            measured += asyncio.run(_round(place / f"made-{count}", count, (1, 2), on_disk=False))
            measured.append(_measure_listing(count))
        if folder:
            measured += asyncio.run(_round(place / "folder", folder, (1,), on_disk=True))
    _show(measured)
    if out is not None:
        result = {"at": datetime.now(UTC).isoformat(), "machine": machine.describe()}
        runs = [asdict(each) | {"rate": each.rate, "rate_per_core": each.rate_per_core} for each in measured]
        out.write_text(json.dumps(result | {"runs": runs}, indent=2) + "\n")
        console.print(f"kept in {out}")


async def _round(place: Path, count: int, workers: Sequence[int], *, on_disk: bool) -> list[Measured]:
    await asyncio.to_thread(place.mkdir, 0o755)
    async with EmbeddedPostgres.run(place) as server:
        await migrate(server.url)
        etag = f"{STORED_AT * 10**9:x}-{SIZE:x}" if on_disk else "etag"
        _fill(_as_superuser(server.url), count, etag)
        if on_disk:
            _make_files(place, count)
        await _pair(server.url, place)
        merges = [_measure(server.url, place, count, number, on_disk=on_disk) for number in workers]
        whole = _measure_whole(server.url, place, count, on_disk=on_disk)
        return [*merges, whole, _measure_killed(server.url, place, whole)]


async def _pair(url: str, place: Path) -> None:
    """Let rows and objects belong together: a run begins with that."""
    objects = Objects.open(ObjectsSettings(), place)
    await objects.write_identity(identifier(0, 0))
    async with Database.open(url, DatabaseSettings()) as database, database.transaction(EVERY_OWNER) as tx:
        await identity.add(tx, identifier(0, 0))
    await objects.aclose()


def _fill(superusers_url: str, count: int, etag: str) -> None:
    """Copy the rows in, and have them analysed, as they would be by and by."""
    begun = time.monotonic()
    first = ("local", "ready", False, "a.jpg", "jpg", "image/jpeg", SIZE)
    last = (etag, 4000, 3000, 1, 1, "{}", "{}", "{}", "{}", "a.jpg", "raw")
    with psycopg.connect(superusers_url, autocommit=True) as connection, _without_indexes(connection):
        with connection.cursor() as cursor, cursor.copy(f"COPY images ({_COLUMNS}) FROM STDIN") as copy:
            for image_id in rows(count):
                copy.write_row((image_id, *first, image_id.bytes + image_id.bytes, *last))
        connection.execute("VACUUM ANALYZE images")
    console.print(f"{count} rows in {time.monotonic() - begun:.0f} s")


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Generator[None]:
    """Let go of triggers and indexes for the block: to make them afterwards takes a tenth of the time."""
    cursor = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'images' AND indexname <> 'images_pkey'"
    )
    indexes: dict[str, str] = dict(cursor.fetchall())
    connection.execute("ALTER TABLE images DISABLE TRIGGER USER")
    for name in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for definition in indexes.values():
        connection.execute(definition.encode())
    connection.execute("ANALYZE images")
    connection.execute("ALTER TABLE images ENABLE TRIGGER USER")


def _make_files(place: Path, count: int) -> None:
    """Make files that the rows fit, with holes for bytes."""
    root = place / "objects"
    for shard in range(SHARDS):
        folder = root / "originals" / f"{shard:02x}"
        folder.mkdir(parents=True)
        for key, etag in _keys(shard, count):
            path = root / key
            path.touch()
            os.truncate(path, SIZE)  # a hole: no block is written
            stored_at = STORED_AT + (etag == "changed")
            os.utime(path, (stored_at, stored_at))


def _measure(url: str, place: Path, count: int, workers: int, *, on_disk: bool) -> Measured:
    source = str(place) if on_disk else ""
    command = [sys.executable, "-m", "tintype_bench.scale", "run", url, str(count), str(workers), source]
    before = _database_cpu(place)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    told = json.loads(done.stdout)
    time.sleep(0.5)  # the server's processes end, and are counted then
    return Measured(
        part="merge",
        source="folder" if on_disk else "made up",
        objects=count,
        workers=workers,
        database_cpu_seconds=_database_cpu(place) - before,
        **told,
    )


def _measure_whole(url: str, place: Path, count: int, *, on_disk: bool) -> Measured:
    before = _database_cpu(place)
    told = _told(_start(url, place, count, on_disk=on_disk))
    time.sleep(0.5)  # as above
    return Measured(
        part="whole",
        source="folder" if on_disk else "made up",
        objects=count,
        workers=ConsistencySettings().at_once,
        database_cpu_seconds=_database_cpu(place) - before,
        **told,
    )


def _measure_killed(url: str, place: Path, whole: Measured) -> Measured:
    """Kill a run in the middle, have another process go on with it, and compare it with the whole one."""
    on_disk, before = whole.source == "folder", _database_cpu(place)
    first = _start(url, place, whole.objects, on_disk=on_disk)
    begun = time.monotonic()
    _wait_for_half(url)
    used = sum(psutil.Process(first.pid).cpu_times()[:2])
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    told = _told(_start(url, place, whole.objects, on_disk=on_disk, resume=True))
    if told["differences"] != whole.differences:
        raise typer.BadParameter(f"{told['differences']} findings when killed, {whole.differences} otherwise")
    time.sleep(0.5)  # as above
    return Measured(
        part="killed",
        source=whole.source,
        objects=whole.objects,
        workers=whole.workers,
        database_cpu_seconds=_database_cpu(place) - before,
        **told | {"seconds": time.monotonic() - begun, "cpu_seconds": told["cpu_seconds"] + used},
    )


def _measure_listing(count: int) -> Measured:
    """List so many objects from a server that answers as S3 does. It is a process of its own."""
    itself = [sys.executable, "-m", "tintype_bench.scale"]
    server = subprocess.Popen([*itself, "serve-listing"], stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    try:
        port = next(iter(server.stdout or ())).decode().strip()
        done = subprocess.run(  # noqa: S603 - ourselves
            [*itself, "list", port, str(count)], check=True, stdout=subprocess.PIPE
        )
    finally:
        server.kill()
        server.wait()
    return Measured(
        part="listing",
        source="S3's answers",
        objects=count,
        workers=ConsistencySettings().at_once,
        database_cpu_seconds=0,
        differences=0,
        **json.loads(done.stdout),
    )


def _wait_for_half(url: str) -> None:
    """Wait until half of the shards are checked."""
    with psycopg.connect(_as_superuser(url), autocommit=True) as connection:
        done = 0
        while done < SHARDS // 2:
            time.sleep(0.01)
            cursor = connection.execute(
                "SELECT count(check_shards.finished_at) FROM check_shards "
                "JOIN check_runs ON check_runs.id = run_id WHERE state = 'running'"
            )
            (done,) = cursor.fetchone() or (0,)


def _as_superuser(url: str) -> str:
    return url.replace("//tintype", "//postgres")


def _start(
    url: str, place: Path, count: int, *, on_disk: bool, resume: bool = False
) -> subprocess.Popen[bytes]:
    options = [*(["--on-disk"] if on_disk else []), *(["--resume"] if resume else [])]
    command = [sys.executable, "-m", "tintype_bench.scale", "whole", url, str(place), str(count), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - ourselves


def _told(process: subprocess.Popen[bytes]) -> Any:  # noqa: ANN401 - what the other process printed
    output, _ = process.communicate()
    if process.returncode:
        raise typer.Exit(process.returncode)
    return json.loads(output.splitlines()[-1])


def _database_cpu(place: Path) -> float:
    """Return what the server has used so far, with those of its processes that have ended."""
    pid = int((place / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    used = psutil.Process(pid).cpu_times()
    own = used.user + used.system + used.children_user + used.children_system
    living = psutil.Process(pid).children(recursive=True)
    return own + sum(sum(child.cpu_times()[:2]) for child in living)


def _show(measured: Sequence[Measured]) -> None:
    table = Table(
        *("measured", "objects' side", "objects", "at once"),
        *("objects/s", "objects/s a core", "PostgreSQL s", "peak MB"),
    )
    for each in measured:
        table.add_row(
            each.part,
            each.source,
            f"{each.objects:,}",
            str(each.workers),
            f"{each.rate:,.0f}",
            f"{each.rate_per_core:,.0f}",
            f"{each.database_cpu_seconds:.1f}",
            f"{each.peak_mb:.0f}",
        )
    Console().print(table)


@app.command()
def rebuild(count: Annotated[int, typer.Option(help="Images.")] = 50_000) -> None:
    """Measure a rebuild of an empty database from the journal, in a real folder."""
    with tempfile.TemporaryDirectory(prefix="tintype-scale-") as name:
        place = Path(name)
        place.chmod(0o755)
        seconds, journal_bytes = asyncio.run(_rebuild(place, count))
    console.print(
        f"{count:,} images in {seconds:.1f} s: {count / seconds:,.0f} a second, peak {_peak_mb():.0f} MB; "
        f"{journal_bytes / count:.0f} bytes of journal each"
    )


async def _rebuild(place: Path, count: int) -> tuple[float, int]:
    _make_files(place, count)
    objects = Objects.open(ObjectsSettings(), place)
    path = place / "segment"
    segments.write(
        (_word(shard, number) for shard in range(SHARDS) for number in range(count // SHARDS)), path
    )
    data = path.read_bytes()
    body = Body(len(data), hashlib.sha256(data).digest(), memory=data)
    key = Segment(count, 0).key
    until = datetime.now(UTC).isoformat()
    await objects.put(key, body, content_type="application/gzip", metadata={"until": until})
    await objects.write_identity(identifier(0, 0))
    async with EmbeddedPostgres.run(place) as server:
        await migrate(server.url)
        async with Database.open(server.url, DatabaseSettings()) as database:
            begun = time.monotonic()
            await Rebuild(database, objects, None, place, 3600).run(lambda _part, _counts: None)
            seconds = time.monotonic() - begun
    await objects.aclose()
    return seconds, len(data)


def _word(shard: int, number: int) -> Word:
    image_id = identifier(shard, number)
    facts = Facts(Format.JPEG, 4000, 3000, camera={"make": "Leica", "iso": number % 6400}, phash=number)
    at = datetime.fromtimestamp(STORED_AT, UTC)
    name = f"IMG_{number}.jpg"
    image = Image(
        image_id, "local", name, "jpg", "image/jpeg", SIZE, hashlib.sha256(image_id.bytes).digest(), "etag",
        facts, ("holiday",), {}, State.READY, "raw", at, at, None, 1,
    )  # fmt: skip
    exif = {"Software": "2.0", "ExposureBias": number % 7, "SerialNumber": number}
    return Word(image_id, 1, {"image": image_payload(image), "etag": "etag", "exif": exif, "location": None})


@app.command(hidden=True)
def run(url: str, count: int, workers: int, folder: Annotated[str, typer.Argument()] = "") -> None:
    """Check once, and tell the figures of this very process."""
    begun, cpu = time.monotonic(), time.process_time()
    differences = asyncio.run(_check(url, count, workers, folder))
    if differences != planted(count):
        raise typer.BadParameter(f"{planted(count)} differences were planted, {differences} found")
    told = {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": _peak_mb(),
        "differences": differences,
    }
    typer.echo(json.dumps(told))


@app.command(hidden=True)
def serve_listing() -> None:
    """Answer as S3 does, with what a shard of a million objects has."""
    prefix = "originals/00/"
    listed.serve(asyncio.run(_pages(prefix)), prefix)


async def _pages(prefix: str) -> list[Sequence[Entry]]:
    return [page async for page in Synthetic(1_000_000).entries(prefix)]


@app.command(name="list", hidden=True)
def list_(port: int, count: int) -> None:
    """List at least so many objects, and tell the figures of this very process."""
    begun, cpu = time.monotonic(), time.process_time()
    listed_objects = asyncio.run(_list(port, count))
    told = {
        "seconds": (time.monotonic() - begun) * count / listed_objects,
        "cpu_seconds": (time.process_time() - cpu) * count / listed_objects,
        "peak_mb": _peak_mb(),
    }
    typer.echo(json.dumps(told))


async def _list(port: int, count: int) -> int:
    settings = ObjectsSettings(
        url="s3://listed",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=SecretStr("nobody"),
        secret_access_key=SecretStr("nothing"),
    )
    objects = Objects.open(settings, Path())
    seen = 0

    async def work() -> None:
        nonlocal seen
        while seen < count:
            async for page in objects.entries("originals/00/"):
                seen += len(page)

    await asyncio.gather(*(work() for _ in range(ConsistencySettings().at_once)))
    await objects.aclose()
    return seen


@app.command(hidden=True)
def whole(url: str, place: Path, count: int, *, on_disk: bool = False, resume: bool = False) -> None:
    """Begin a run, or go on with the one under way, work until it is over, and tell its figures."""
    begun, cpu = time.monotonic(), time.process_time()
    found = asyncio.run(_run_whole(url, place, count, on_disk=on_disk, resume=resume))
    if found != planted_findings(count, on_disk=on_disk):
        raise typer.BadParameter(
            f"{planted_findings(count, on_disk=on_disk)} findings planted, {found} found"
        )
    told = {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": _peak_mb(),
        "differences": found,
    }
    typer.echo(json.dumps(told))


async def _run_whole(url: str, place: Path, count: int, *, on_disk: bool, resume: bool) -> int:
    objects = Objects.open(ObjectsSettings(), place)
    settings = ConsistencySettings(lease_seconds=LEASE_SECONDS)
    async with Database.open(url, DatabaseSettings()) as database:
        checker = Checker(database, objects, settings, objects if on_disk else Synthetic(count))
        runs = Runs(database, objects, settings, checker, Repairer(database, objects, settings, place, None))
        run = await runs.under_way() if resume else await runs.begin(Order())
        if run is None:
            raise typer.BadParameter("There is no run to go on with: it was over before it was killed.")
        await runs.work(run.id)
        run = await runs.find(run.id)
    await objects.aclose()
    if (run.counts.objects, run.state.value) != (_listed(count), "complete"):
        raise typer.BadParameter(f"{run.state}: {run.counts.objects} objects were looked at, not {count}")
    return run.findings


def _listed(count: int) -> int:
    """Return how many objects the listing has: all but those whose rows are alone."""
    return count // SHARDS * SHARDS - len(range(0, planted(count), 3))


async def _check(url: str, count: int, workers: int, folder: str) -> int:
    objects = Objects.open(ObjectsSettings(), Path(folder)) if folder else None
    listing: Listing = objects or Synthetic(count)
    waiting = iter(range(SHARDS))
    async with Database.open(url, DatabaseSettings()) as database:
        found = await asyncio.gather(*(_work(database, listing, waiting) for _ in range(workers)))
    if objects:
        await objects.aclose()
    return sum(found)


async def _work(database: Database, listing: Listing, waiting: Iterator[int]) -> int:
    different: set[str] = set()
    for shard in waiting:
        async for stretch in stretches(database, listing, shard, ""):
            different.update(key for key, _, _ in (*stretch.alone, *stretch.lonely))
    return len(different)


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    app()
