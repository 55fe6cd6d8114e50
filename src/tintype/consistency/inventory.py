"""S3 Inventory as the objects' side of a check: S3 itself lists, once a day, and the check asks for nothing.

An inventory is a manifest and files of CSV, compressed, in no order ("Amazon S3 Inventory", S3 User Guide).
It is brought into the order of keys on this machine, in runs that are sorted in memory and then merged. It
is a day old: what a check finds by it is looked at again, key by key, as whatever a listing says.
"""

import asyncio
import csv
import gzip
import hashlib
import heapq
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import unquote_plus, urlsplit

import orjson

from tintype.consistency.workspace import workspace
from tintype.model.errors import ObjectMissing, StorageUnavailable
from tintype.objects.info import Entry
from tintype.objects.keys import ORIGINALS
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

PAGE = 1000
RUN = 200_000
"""Lines that are sorted in memory."""
RUNS_AT_ONCE = 64

_NEEDED = ("Key", "Size", "ETag")


@dataclass(frozen=True, slots=True)
class Inventory:
    """A listing (`consistency.listing.Listing`) of the originals, as they were when S3 wrote it."""

    folder: Path
    created_at: datetime
    count: int

    async def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
        """Yield the objects of a shard (`originals/<shard>/`) behind a key, in the order of the keys."""
        shard = prefix.removeprefix(ORIGINALS).rstrip("/")
        path = self.folder / shard
        if not await asyncio.to_thread(path.exists):
            return
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            entries = (entry for entry in map(_entry, lines) if entry[0] > start_after)
            while page := await asyncio.to_thread(lambda: list(islice(entries, PAGE))):
                yield page


@dataclass(frozen=True, slots=True)
class Inventories:
    """Finds inventories by the addresses of their manifests, with the credentials for the originals."""

    originals: ObjectsSettings
    spool: Path

    @asynccontextmanager
    async def opened(self, address: str) -> AsyncGenerator[Inventory]:
        """Open `s3://bucket/…/manifest.json`. Raises `StorageUnavailable`, also for another bucket's."""
        place, ours = urlsplit(address), urlsplit(self.originals.url or "")
        store = Objects.open(
            self.originals.model_copy(update={"url": f"{place.scheme}://{place.netloc}"}), self.spool
        )
        manifest = place.path.lstrip("/")
        try:
            async with opened(store, manifest, self.spool, ours.path, of=ours.netloc) as inventory:
                yield inventory
        finally:
            await store.aclose()


@asynccontextmanager
async def opened(
    store: Objects, manifest: str, spool: Path, below: str = "", *, of: str = ""
) -> AsyncGenerator[Inventory]:
    """Fetch an inventory and sort it, for as long as the block.

    `store` is where S3 delivers it, `manifest` the key of its `manifest.json`; `below` the prefix that the
    originals have in their own bucket, `of` that bucket's name. Raises `StorageUnavailable` for an inventory
    that is damaged, of another bucket, or of another format than CSV with key, size and ETag.
    """
    described = await _manifest(store, manifest)
    if of and described.get("sourceBucket") != of:
        raise StorageUnavailable(
            f"{manifest} is an inventory of {described.get('sourceBucket')}; the images are in {of}."
        )
    with workspace(spool, "inventory-") as folder:
        columns = _columns(described, manifest)
        runs: list[Path] = []
        for number, file in enumerate(described["files"]):
            path = folder / f"file-{number}"
            await _fetch(store, file["key"], file["MD5checksum"], path)
            runs += await asyncio.to_thread(_sorted_runs, path, columns, below, folder / f"run-{number}")
        count = await asyncio.to_thread(_into_shards, runs, folder)
        created_at = datetime.fromtimestamp(int(described["creationTimestamp"]) / 1000, UTC)
        yield Inventory(folder, created_at, count)


async def _manifest(store: Objects, key: str) -> dict[str, Any]:
    try:
        data = b"".join([block async for block in store.read(key)])
        described: object = orjson.loads(data)
    except ObjectMissing as error:
        raise StorageUnavailable(f"There is no {key} in {store.location}.") from error
    except ValueError as error:
        raise StorageUnavailable(f"{key} is no manifest of an S3 Inventory.") from error
    if not isinstance(described, dict) or not described.keys() >= {"files", "creationTimestamp"}:
        raise StorageUnavailable(f"{key} is no manifest of an S3 Inventory.")
    return cast("dict[str, Any]", described)


def _columns(described: dict[str, Any], manifest: str) -> dict[str, int]:
    names = [name.strip() for name in str(described.get("fileSchema", "")).split(",")]
    columns = {name: number for number, name in enumerate(names)}
    if described.get("fileFormat") != "CSV" or not columns.keys() >= set(_NEEDED):
        raise StorageUnavailable(
            f"{manifest} is of format {described.get('fileFormat')} with {', '.join(names)}. Let S3 "
            "Inventory write CSV with size and ETag."
        )
    return columns


async def _fetch(store: Objects, key: str, md5: str, path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)  # what the manifest has
    try:
        with path.open("wb") as file:
            async for block in store.read(key):
                digest.update(block)
                file.write(block)
    except ObjectMissing as error:
        raise StorageUnavailable(f"{key} of the inventory is not in {store.location}.") from error
    if digest.hexdigest() != md5:
        raise StorageUnavailable(f"{key} of the inventory is damaged: its MD5 is not that of the manifest.")


def _sorted_runs(path: Path, columns: dict[str, int], below: str, run: Path) -> list[Path]:
    """Write the originals of a file in runs, each sorted, and take the file away."""
    runs: list[Path] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        lines = _lines(text, columns, below)
        while some := sorted(islice(lines, RUN)):
            runs.append(run.with_name(f"{run.name}-{len(runs)}"))
            _write(some, runs[-1])
    path.unlink()
    return runs


def _lines(text: TextIO, columns: dict[str, int], below: str) -> Iterator[str]:
    """Yield the current versions of originals, a line each; keys are URL-encoded in an inventory."""
    key, size, etag = (columns[name] for name in _NEEDED)
    latest, marker = columns.get("IsLatest"), columns.get("IsDeleteMarker")
    prefix = f"{below.strip('/')}/" if below.strip("/") else ""
    for row in csv.reader(text):
        if latest is not None and row[latest] != "true":
            continue
        if marker is not None and row[marker] == "true":
            continue
        name = unquote_plus(row[key])
        if name.startswith(f"{prefix}{ORIGINALS}") and "\n" not in name and "\t" not in name:
            bare = row[etag].strip('"')
            yield f"{name.removeprefix(prefix)}\t{row[size]}\t{bare}\n"


def _into_shards(runs: list[Path], folder: Path) -> int:
    """Merge the runs, and write what comes out of it as a file for each shard."""
    while len(runs) > RUNS_AT_ONCE:
        some, runs = runs[:RUNS_AT_ONCE], runs[RUNS_AT_ONCE:]
        between = folder / f"between-{len(runs)}"
        with ExitStack() as stack:
            _write(_merged(some, stack), between)
        runs.append(between)
    count = 0
    with ExitStack() as stack:
        for shard, lines in groupby(_merged(runs, stack), key=lambda line: line.split("/", 2)[1]):
            count += _write(lines, folder / shard) if len(shard) == 2 else 0  # noqa: PLR2004 - two digits
    return count


def _merged(runs: Sequence[Path], stack: ExitStack) -> Iterator[str]:
    return heapq.merge(
        *(stack.enter_context(gzip.open(run, "rt", encoding="utf-8", newline="\n")) for run in runs)
    )


def _write(lines: Iterable[str], path: Path) -> int:
    count = 0
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


def _entry(line: str) -> Entry:
    key, size, etag = line.rstrip("\n").split("\t")
    return key, int(size), etag
