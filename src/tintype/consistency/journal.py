"""The journal: what became of images after their upload, kept in the bucket beside them.

Events are copied from the log of the database by position, a few seconds after their commit: nothing
waits for it on an upload's way. It trails by ten seconds at most while the bucket answers, by one for a
deletion. Written again, it is the same; read in any order, the highest version of an image wins.
See docs/consistency.md for why it is a journal.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from tintype.catalogue import history
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.catalogue.history import Entry
from tintype.consistency import markers, segments
from tintype.consistency.described import image_of_object, image_of_word
from tintype.consistency.markers import Marker
from tintype.consistency.segments import Segment, Word
from tintype.consistency.workspace import workspace
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import DatabaseUnavailable, StorageUnavailable
from tintype.model.event import Kind
from tintype.model.image import Image, State
from tintype.objects.keys import JOURNAL, original_key
from tintype.objects.store import Objects
from tintype.settings import JournalSettings
from tintype.telemetry import Metrics, get_logger

LOOK_SECONDS = 1
"""Between two looks for something to write. So late a deletion is in the bucket at most."""
RETRY_SECONDS = 10
"""Until somebody else may keep the journal, and after the database or the bucket did not answer."""
PAGE = 500
SEGMENT_BYTES = 8 * 1024 * 1024
"""Of lines in one new segment, about: what a flush holds in memory."""
REQUESTS_AT_ONCE = 16
UNTIL = "until"
"""The metadata entry of a segment: when its last event was recorded, by the database's clock."""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the bucket and the database know the log of events."""

    journal: int | None
    """The journal's last position; None without a journal."""
    database: int

    @property
    def behind(self) -> bool:
        """Whether the bucket knows of events that the database does not: it is a restored one."""
        return self.journal is not None and self.database < self.journal


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole journal, made one file on this machine."""

    path: Path
    position: int
    """Of its last event, 0 without a journal."""
    until: datetime | None
    """When that was recorded. None: the journal tells nothing about what is *not* in it."""


@dataclass(slots=True)
class Journal:
    """Writes the journal, and keeps it short."""

    database: Database
    objects: Objects
    settings: JournalSettings
    spool: Path
    metrics: Metrics
    _position: int | None = field(default=None, init=False)
    _trouble: str = field(default="", init=False)

    async def keep(self) -> None:
        """Write what is committed, until cancelled; then what is still waiting."""
        try:
            while True:
                await self._endure()
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end()))

    async def catch_up(self) -> bool:
        """Write all that waits, unless somebody keeps the journal already; tell whether nobody did.

        Raises `DatabaseUnavailable` and `StorageUnavailable`.
        """
        connection = await self.database.connect(EVERY_OWNER)
        try:
            if not await history.try_to_be_alone(connection):
                return False
            self._position = None  # somebody else may have written since
            await self.flush()
            await self.compact()
            return True
        finally:
            await connection.close()

    async def flush(self) -> int:
        """Write all that waits, and return how many events that was.

        Markers of deletions first: whoever reads a segment finds the bucket to agree with it. Raises
        `DatabaseUnavailable` and `StorageUnavailable`; what was not written is written next time.
        """
        written = 0
        while True:
            position = await self._last_position()
            entries, upto = await self._read(position)
            if entries:
                await self._mark(entries)
                checkpoint("journal-marked")
                await self._write(Segment(upto, position), entries)
                checkpoint("journal-written")
            self._position = upto
            written += len(entries)
            if upto == position:
                return written

    async def compact(self) -> bool:
        """Merge what has grown too many, and tell whether something was merged.

        The merged segment is there before its parts go: a crash between leaves words said twice.
        """
        known = [segment async for segment in _segments(self.objects)]
        needed = segments.live(known)
        for segment in set(known) - set(needed):
            await self.objects.delete(segment.key)
        chosen = await self._too_old(needed) or segments.to_merge(needed)
        if not chosen:
            return False
        whole = Segment(max(each.last for each in chosen), min(each.after for each in chosen))
        async with _local(self.objects, chosen, self.spool) as path:
            await self._without_the_purged(path)
            newest = await self.objects.head(max(chosen).key)
            until = newest.metadata.get(UNTIL, "") if newest else ""
            await self._put(whole, path, until)
        checkpoint("journal-merged")
        for segment in chosen:
            if segment != whole:
                await self.objects.delete(segment.key)
        return True

    async def _endure(self) -> None:
        """Keep the journal for as long as the database and the bucket answer."""
        try:
            connection = await self.database.connect(EVERY_OWNER)
            try:
                if await history.try_to_be_alone(connection):
                    await self._keep_alone(connection)
            finally:
                await connection.close()
        except (DatabaseUnavailable, StorageUnavailable) as error:
            if self._trouble != error.code:
                _log.warning("journal.waits", reason=str(error.__cause__ or error))
            self._trouble = error.code
        except Exception as error:  # noqa: BLE001 - it must go on when a defect has passed
            if self._trouble != repr(error):
                _log.exception("journal.failed")
            self._trouble = repr(error)

    async def _keep_alone(self, connection: Tx) -> None:
        self._position = None  # somebody else may have written since
        while True:
            waiting = await history.waiting(connection, await self._last_position())
            self.metrics.journal_trailing_seconds.set(waiting.oldest_age)
            if waiting.urgent or waiting.oldest_age >= self.settings.seconds:
                await self.flush()
                self._trouble = ""
                await self.compact()
            await asyncio.sleep(min(LOOK_SECONDS, self.settings.seconds))

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(self.settings.end_seconds):
                await self.flush()
        except (DatabaseUnavailable, StorageUnavailable, TimeoutError) as error:
            _log.warning("journal.unfinished", reason=repr(error))

    async def _last_position(self) -> int:
        if self._position is None:
            newest = await newest_segment(self.objects)
            self._position = newest.last if newest else 0
        return self._position

    async def _read(self, position: int) -> tuple[list[Entry], int]:
        """Read events for one segment, and the position up to which there is none left out."""
        entries: list[Entry] = []
        size = 0
        while size < SEGMENT_BYTES:
            async with self.database.reading(EVERY_OWNER) as tx:
                page, upto = await history.behind(tx, position, PAGE)
            if upto == position:
                break
            position = upto
            entries += page
            size += sum(len(_word(entry).line()) for entry in page)
        return entries, position

    async def _mark(self, entries: Sequence[Entry]) -> None:
        """Put or remove the markers of images that were deleted or restored, as the newest event has it."""
        newest = {entry.image_id: entry for entry in entries if entry.kind in (Kind.DELETED, Kind.RESTORED)}
        turn = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def mark(entry: Entry) -> None:
            async with turn:
                await self._mark_one(entry)

        async with asyncio.TaskGroup() as group:
            for entry in newest.values():
                group.create_task(mark(entry))

    async def _mark_one(self, entry: Entry) -> None:
        standing = await markers.find(self.objects, entry.image_id)
        if standing is not None and standing.version >= entry.version:
            return  # written before, and perhaps the story went on
        if entry.kind == Kind.DELETED:
            deleted_at = datetime.fromisoformat(entry.payload["deleted_at"])
            await markers.put(self.objects, Marker(entry.image_id, entry.version, deleted_at))
        elif standing is not None:
            await markers.remove(self.objects, entry.image_id)

    async def _write(self, segment: Segment, entries: Sequence[Entry]) -> None:
        with workspace(self.spool, "journal-") as folder:
            path = folder / "segment"
            await asyncio.to_thread(segments.write, map(_word, entries), path)
            await self._put(segment, path, entries[-1].created_at.isoformat())

    async def _put(self, segment: Segment, path: Path, until: str) -> None:
        size, digest = await asyncio.to_thread(_measured, path)
        with path.open("rb") as file:
            body = Body(size, digest, file=file.fileno())
            await self.objects.put(
                segment.key, body, content_type="application/gzip", metadata={"schema": "1", UNTIL: until}
            )

    async def _too_old(self, needed: Sequence[Segment]) -> list[Segment]:
        """Return all segments once the oldest is older than the setting: what was purged leaves them then."""
        if len(needed) < 2:  # noqa: PLR2004 - one alone is merged already
            return []
        oldest = await self.objects.head(needed[0].key)
        age = datetime.now(UTC) - oldest.modified if oldest else timedelta()
        return list(needed) if age > timedelta(days=self.settings.rewrite_days) else []

    async def _without_the_purged(self, path: Path) -> None:
        """Leave out of a merged segment what it says of images whose bytes are gone for good."""
        gone = {
            marker.image_id
            async for marker in self._markers_of_deleted(path)
            if marker is not None and marker.purged
        }
        if gone:
            kept = path.with_name("kept")
            await asyncio.to_thread(_copy_without, path, kept, gone)
            await asyncio.to_thread(kept.replace, path)

    async def _markers_of_deleted(self, path: Path) -> AsyncGenerator[Marker | None]:
        """Yield the markers of the images that a segment has in the trash."""
        words = segments.read(path)
        while batch := await asyncio.to_thread(_next_deleted, words):
            found = await asyncio.gather(*(markers.find(self.objects, image_id) for image_id in batch))
            for marker in found:
                yield marker


async def standing(database: Database, objects: Objects) -> Standing:
    """Return how far both sides know the log. Raises `DatabaseUnavailable` and `StorageUnavailable`."""
    newest = await newest_segment(objects)
    async with database.reading(EVERY_OWNER) as tx:
        known = await history.last_known(tx)
    return Standing(newest.last if newest else None, known)


async def newest_segment(objects: Objects) -> Segment | None:
    """Return the segment that reaches furthest: a listing begins with it."""
    async for segment in _segments(objects):
        return segment
    return None


async def was_deleted(objects: Objects, image_id: UUID) -> bool:
    """Tell whether the bucket has a marker of the image's deletion: in the trash, or gone for good."""
    return await markers.find(objects, image_id) is not None


async def words_about(objects: Objects, wanted: frozenset[UUID], spool: Path) -> dict[UUID, Word]:
    """Return what the journal says of images, in one pass, whatever their number."""
    async with opened(objects, spool) as kept:
        return await asyncio.to_thread(_words_about, kept.path, wanted)


async def image_in_bucket(objects: Objects, image_id: UUID, spool: Path) -> Image | None:
    """Return an image as the bucket alone knows it; None without its object, or with an unreadable one."""
    return (await images_in_bucket(objects, [image_id], spool)).get(image_id)


async def images_in_bucket(objects: Objects, wanted: Collection[UUID], spool: Path) -> dict[UUID, Image]:
    """Return images as the bucket alone knows them: by the journal, or else by their objects' metadata.

    One pass through the journal, whatever their number: ask for many at once. Those without an object, or
    with one that does not describe itself, are not among them. EXIF is what the journal has of it.
    """
    found: dict[UUID, Image] = {}
    said = await words_about(objects, frozenset(wanted), spool)
    for image_id in wanted:
        info = await objects.head(original_key(image_id))
        if info is None:
            continue
        word = said.get(image_id)
        image = image_of_word(word, info.etag) if word else image_of_object(info)
        if image is not None:
            found[image_id] = image
    return found


@asynccontextmanager
async def opened(objects: Objects, spool: Path) -> AsyncGenerator[Kept]:
    """Bring the whole journal onto this machine, as one file below `spool`, for as long as the block.

    It needs as much room there as the journal in the bucket, twice for a while.
    """
    needed = segments.live([segment async for segment in _segments(objects)])
    newest = await objects.head(needed[-1].key) if needed else None
    until = newest.metadata.get(UNTIL) if newest and segments.is_whole(needed) else None
    async with _local(objects, needed, spool) as path:
        yield Kept(path, needed[-1].last if needed else 0, datetime.fromisoformat(until) if until else None)


async def _segments(objects: Objects) -> AsyncGenerator[Segment]:
    async for page in objects.list(JOURNAL):
        for info in page:
            if segment := Segment.of(info.key, info.size):
                yield segment


@asynccontextmanager
async def _local(objects: Objects, wanted: Sequence[Segment], spool: Path) -> AsyncGenerator[Path]:
    """Fetch segments and merge them into one file."""
    with workspace(spool, "journal-") as folder:
        turn = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def fetch(number: int, segment: Segment) -> Path:
            path = folder / f"{number}.gz"
            async with turn:
                with path.open("wb") as file:
                    async for block in objects.read(segment.key):
                        file.write(block)
            return path

        paths = await asyncio.gather(*(fetch(number, each) for number, each in enumerate(wanted)))
        merged = folder / "merged"
        await asyncio.to_thread(segments.merge, paths, merged)
        yield merged


def _word(entry: Entry) -> Word:
    content: dict[str, Any] = {"image": entry.payload}
    if entry.etag is not None:
        content["etag"] = entry.etag
    if entry.exif is not None:
        content |= {"exif": entry.exif, "location": entry.location}
    return Word(entry.image_id, entry.version, content)


def _words_about(path: Path, wanted: frozenset[UUID]) -> dict[UUID, Word]:
    return {word.image_id: word for word in segments.read(path) if word.image_id in wanted}


def _next_deleted(words: Iterator[Word]) -> list[UUID]:
    deleted = (word.image_id for word in words if word.content["image"]["state"] == State.DELETED)
    return list(islice(deleted, REQUESTS_AT_ONCE))


def _copy_without(path: Path, kept: Path, gone: Collection[UUID]) -> None:
    segments.write((word for word in segments.read(path) if word.image_id not in gone), kept, ordered=True)


def _measured(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").digest()
