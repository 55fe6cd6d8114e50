"""The catalogue made anew from the bucket alone: from the journal, the objects' metadata, and their bytes.

Three listings in one order are walked side by side: the originals, the newest word that the journal has on
each image, and the markers of what was deleted. So it takes the memory of a page, whatever their number,
and goes on after a crash from the last place that was committed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

from tintype.catalogue import rebuilding
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.rebuilding import Progress
from tintype.consistency import journal, markers, pair, segments
from tintype.consistency.described import image_of_object, image_of_word, inspected
from tintype.consistency.journal import Kept
from tintype.consistency.markers import Marker
from tintype.consistency.segments import Word
from tintype.imaging.inspect import Inspector
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import WrongPair
from tintype.model.ids import began_at, new_id
from tintype.model.image import Image, State
from tintype.objects.info import ObjectInfo
from tintype.objects.keys import DELETED, ORIGINALS, original_key, parse_original_key
from tintype.objects.store import Objects

REQUESTS_AT_ONCE = 16
INSPECTIONS_AT_ONCE = 4
BATCH = 500
MARGIN = timedelta(minutes=10)
"""Beyond the time that an attempt may take. How long a commit lasts and clocks differ is far below it."""
_END = "~"
"""Behind every place: those are hexadecimal digits."""

LOST = (
    "API keys, upload tokens and signing secrets",
    "subscriptions and their deliveries",
    "the log of events, which goes on behind the last position that the bucket knows",
    "the answers to idempotency keys",
    "uploads that were under way",
    "past checks and their findings",
)
"""What the bucket does not keep, so that no rebuild brings it back."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a rebuild made. `counts` are by what was known of an image, and what became of it."""

    counts: Mapping[str, int]
    resumed: bool

    @property
    def images(self) -> int:
        """How many rows there are now."""
        return self.counts.get("rows", 0)


@dataclass(slots=True)
class _Stretch:
    """What the bucket has between two places: by the end of their keys."""

    objects: dict[str, ObjectInfo] = field(default_factory=dict[str, ObjectInfo])
    words: dict[str, Word] = field(default_factory=dict[str, Word])
    marked: set[str] = field(default_factory=set[str])
    foreign: int = 0
    upto: str = _END


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Fills an empty database; or, `restored`, one that is older than the bucket.

    Without an `inspector` nothing is read but metadata: then EXIF and location are unknown of images that
    the journal does not have, those of the last seconds.
    """

    database: Database
    objects: Objects
    inspector: Inspector | None
    spool: Path
    attempt_seconds: float
    restored: bool = False
    batch: int = BATCH
    """Images of one transaction: what a crash repeats at most."""

    async def run(self, tell: Callable[[float, Mapping[str, int]], None]) -> Report:
        """Rebuild, and tell now and then which part of the keys was walked.

        Raises `WrongPair` before anything is written when the database is not one to fill, and
        `DatabaseUnavailable` or `StorageUnavailable` in the middle: the same again goes on from there.
        """
        identity = await self._identity()
        async with journal.opened(self.objects, self.spool) as kept:
            begun = await self._begin(identity, kept)
            counts = Counter(begun.counts)
            async for stretch in self._stretches(begun.cursor, kept):
                found = await self._images(stretch, kept, counts)
                await self._record(found, stretch.upto, counts)
                checkpoint("rebuild-recorded")
                tell(_part(stretch.upto), counts)
            async with self.database.transaction(EVERY_OWNER) as tx:
                await rebuilding.finish(tx, identity, kept.position)
        return Report(dict(counts), resumed=bool(begun.cursor))

    async def _identity(self) -> UUID:
        """Return whose bucket it is; one that lost its identity gets a new one."""
        identity = await self.objects.read_identity()
        if identity is not None:
            return identity
        if await pair.is_empty(self.objects):
            raise WrongPair(
                f"{self.objects.location} is empty: there is nothing to rebuild from. Is its disk mounted, "
                "and is this the right place?"
            )
        fresh = new_id()
        await self.objects.write_identity(fresh)
        return fresh

    async def _begin(self, identity: UUID, kept: Kept) -> Progress:
        """Return where to begin. Raises `WrongPair` for a database that is not one to fill."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            begun = await rebuilding.progress(tx)
            if begun is not None and begun.pair == identity:
                return begun
            if self.restored:
                await self._check_restored(identity)
            elif not await rebuilding.is_empty(tx):
                raise WrongPair(
                    "The database holds images or belongs to a bucket already; a rebuild fills an empty one. "
                    "Name a new database. For one that was restored from a backup, use --restored; to "
                    "compare and mend a current one, use `tintype check`."
                )
            await rebuilding.begin(tx, identity, kept.position)
        return Progress(identity, "", kept.position)

    async def _check_restored(self, identity: UUID) -> None:
        if await pair.of_database(self.database) != identity:
            raise WrongPair("The database does not belong to this bucket. Name the two that belong together.")

    async def _stretches(self, after: str, kept: Kept) -> AsyncGenerator[_Stretch]:
        """Yield what is behind a place, a page of originals at a time, then the words behind the last."""
        words = _Words(segments.read(kept.path), after)
        marked = _Marks(self.objects, after)
        async for page in self.objects.list(ORIGINALS, f"{ORIGINALS}{after}" if after else ""):
            for start in range(0, len(page), self.batch):
                infos = page[start : start + self.batch]
                stretch = _Stretch(upto=infos[-1].key.removeprefix(ORIGINALS))
                for info in infos:
                    if parse_original_key(info.key) is None:
                        stretch.foreign += 1
                    else:
                        stretch.objects[info.key.removeprefix(ORIGINALS)] = info
                stretch.words = await words.upto(stretch.upto)
                stretch.marked = await marked.upto(stretch.upto)
                yield stretch
        while True:
            stretch = _Stretch(words=await words.upto(_END, self.batch))
            if len(stretch.words) == self.batch:
                stretch.upto = max(stretch.words)
            stretch.marked = await marked.upto(stretch.upto)
            yield stretch
            if stretch.upto == _END:
                return

    async def _images(self, stretch: _Stretch, kept: Kept, counts: Counter[str]) -> list[Image | UUID]:
        """Return the images of a stretch; a mere id is that of one that is gone for good."""
        counts["foreign"] += stretch.foreign
        requests = asyncio.Semaphore(REQUESTS_AT_ONCE)
        inspections = asyncio.Semaphore(INSPECTIONS_AT_ONCE)

        async def settle(place: str) -> Image | UUID | None:
            async with requests:
                found = await self._one(place, stretch, kept, counts)
            if isinstance(found, _FromObject):
                if self.inspector is None:
                    return found.image
                key = original_key(found.image.id)
                async with inspections:
                    return await inspected(found.image, key, self.objects, self.inspector, self.spool)
            return found

        places = sorted(stretch.objects.keys() | stretch.words.keys())
        settled = await asyncio.gather(*map(settle, places))
        return [each for each in settled if each is not None]

    async def _one(
        self, place: str, stretch: _Stretch, kept: Kept, counts: Counter[str]
    ) -> "Image | UUID | _FromObject | None":
        word, info = stretch.words.get(place), stretch.objects.get(place)
        image_id = UUID(place[3:])
        marker = await markers.find(self.objects, image_id) if place in stretch.marked else None
        if marker is not None and word is not None and marker.version < word.version:
            marker = None  # it was restored since
        if marker is not None and marker.purged and await self._lost_its_bytes(info, image_id):
            counts["purged"] += 1
            return image_id
        if word is not None:
            counts["from_journal"] += 1
            return _trashed(await self._by_word(word, info), marker)
        if info is None or (marker is None and self._was_never_committed(image_id, kept)):
            counts["unacknowledged"] += 1
            return None
        described = await self.objects.head(info.key)
        image = image_of_object(described) if described else None
        if image is None:
            counts["unreadable"] += 1
            return None
        counts["from_objects"] += 1
        return _trashed(image, marker) if marker is not None else _FromObject(image)

    async def _lost_its_bytes(self, info: ObjectInfo | None, image_id: UUID) -> bool:
        """Tell whether a purge went as far as the bytes. If not, the image is in the trash, and due again."""
        return info is None and await self.objects.head(original_key(image_id)) is None

    async def _by_word(self, word: Word, info: ObjectInfo | None) -> Image:
        if info is None:  # a listing proves no absence
            info = await self.objects.head(original_key(word.image_id))
        image = image_of_word(word, info.etag if info else "")
        if info is None and image.state is State.READY:
            return replace(image, state=State.MISSING)
        return image

    def _was_never_committed(self, image_id: UUID, kept: Kept) -> bool:
        """Tell whether an object without a word in the journal cannot be an image's that was acknowledged.

        The journal has every commit up to `until`, and a commit accepts no attempt that began longer ago
        than the fence. What began later than that may have been committed since: it is kept.
        """
        if kept.until is None:
            return False
        return began_at(image_id) < kept.until - timedelta(seconds=self.attempt_seconds) - MARGIN

    async def _record(self, found: list[Image | UUID], upto: str, counts: Counter[str]) -> None:
        images = [each for each in found if isinstance(each, Image)]
        gone = [each for each in found if isinstance(each, UUID)]
        for state in State:
            counts[state.value] += sum(image.state is state for image in images)

        async with self.database.transaction(EVERY_OWNER) as tx:
            counts["rows"] += await rebuilding.put(tx, images)
            if self.restored:
                await rebuilding.remove(tx, gone)
            await rebuilding.advance(tx, upto, counts)


@dataclass(frozen=True, slots=True)
class _FromObject:
    """An image of which nothing is known but what its object tells."""

    image: Image


class _Words:
    """The words of a journal, taken stretch by stretch."""

    def __init__(self, words: Generator[Word], after: str) -> None:
        self._words: Iterator[Word] = (word for word in words if word.place > after)
        self._ahead: list[Word] = []

    async def upto(self, place: str, limit: int | None = None) -> dict[str, Word]:
        """Take the words up to a place, no more than the limit."""
        taken: dict[str, Word] = {}
        while limit is None or len(taken) < limit:
            if not self._ahead:
                self._ahead = await asyncio.to_thread(lambda: list(islice(self._words, BATCH)))
                self._ahead.reverse()
            if not self._ahead or self._ahead[-1].place > place:
                break
            word = self._ahead.pop()
            taken[word.place] = word
        return taken


class _Marks:
    """The places of markers, taken stretch by stretch."""

    def __init__(self, objects: Objects, after: str) -> None:
        self._pages = objects.list(DELETED, f"{DELETED}{after}" if after else "")
        self._ahead: list[str] = []
        self._ended = False

    async def upto(self, place: str) -> set[str]:
        """Take the places of markers up to a place."""
        taken: set[str] = set()
        while True:
            if not self._ahead and not self._ended:
                page = await _next(self._pages)
                self._ended = not page
                self._ahead = [info.key.removeprefix(DELETED) for info in reversed(page)]
            if not self._ahead or self._ahead[-1] > place:
                return taken
            taken.add(self._ahead.pop())


async def _next(pages: AsyncGenerator[list[ObjectInfo]]) -> list[ObjectInfo]:
    """Return the next page, an empty one after the last."""
    try:
        return await anext(pages)
    except StopAsyncIteration:
        return []


def _trashed(image: Image, marker: Marker | None) -> Image:
    """Return the image as its marker has it, where that knows more than the journal.

    Its version is no lower than the marker's: else a restore would not make the marker void.
    """
    if marker is None:
        return image
    if image.state is State.DELETED:
        return replace(image, version=max(image.version, marker.version))
    return replace(
        image,
        state=State.DELETED,
        version=max(image.version + 1, marker.version),
        deleted_at=marker.deleted_at,
        updated_at=marker.deleted_at,
    )


def _part(place: str) -> float:
    """Return how much of all keys comes before a place: their first two digits are spread evenly."""
    try:
        return int(place[:2], 16) / 256
    except ValueError:
        return 1.0
