"""The check: what each part of a run looks at, and when a difference is a finding.

A difference that a listing shows is a suspicion. It becomes a finding when a HEAD of the very key and a
second look at the row, in this order, say the same.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from tintype.catalogue import comparison, events
from tintype.catalogue.checks import Tally
from tintype.catalogue.comparison import Standing
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency.listing import Listing
from tintype.consistency.merge import Stretch, stretches
from tintype.consistency.segments import Segment
from tintype.model.check import Mode, Run
from tintype.model.errors import ObjectMissing
from tintype.model.finding import Drift, Finding
from tintype.model.ids import began_at, new_id
from tintype.model.image import State
from tintype.objects.info import Fragment, ObjectInfo
from tintype.objects.keys import (
    DELETED,
    IDENTITY,
    INCOMING,
    JOURNAL,
    ORIGINALS,
    original_key,
    parse_original_key,
)
from tintype.objects.metadata import parse
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings

RENDITIONS = "renditions/"
QUARANTINE = "quarantine/"
HEADS_AT_ONCE = 16
READS_AT_ONCE = 2
READ_BATCH = 32
MOST = 1_000
"""Findings of things that are not objects, in one run."""
SWEEP_LAG_SECONDS = 900
"""After its time an upload is ended within minutes; later than that, nobody does."""

_SHARDS = tuple(f"{shard:02x}" for shard in range(256))
_SIDES = ("events", "fragments", "incoming", "quotas", "renditions", "roots", "uploads")
_OURS = {ORIGINALS, INCOMING, RENDITIONS, QUARANTINE, DELETED, JOURNAL, IDENTITY}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """How far a part has come, and what was found on the way: recorded together."""

    cursor: str
    tally: Tally = field(default_factory=Tally)
    findings: Sequence[Finding] = ()
    verified: Sequence[UUID] = ()
    """Images whose bytes were read, and are right."""
    last: bool = False
    """Whether it is known that nothing follows: then its checkpoint ends the part too."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What came of reading an object."""

    right: bool
    """Whether its bytes are those of its row."""
    finding: Finding | None = None


def parts_of(mode: Mode) -> tuple[str, ...]:
    """Return the parts that a check of this mode has."""
    return (*_SHARDS, *_SIDES, "deep") if mode is Mode.DEEP else (*_SHARDS, *_SIDES)


@dataclass(frozen=True, slots=True)
class Checker:
    """Looks, and changes nothing."""

    database: Database
    objects: Objects
    settings: ConsistencySettings
    listing: Listing
    listed_at: datetime | None = None
    """When the listing was made, where that is long ago: of what began since it can tell nothing."""

    def steps(self, run: Run, part: str, cursor: str) -> AsyncGenerator[Step]:
        """Yield the steps of a part behind its checkpoint. Raises `StorageUnavailable`."""
        if part in _SHARDS:
            return self._shard(run, int(part, 16), cursor)
        sides = {
            "deep": self._deep,
            "events": self._events,
            "fragments": self._fragments,
            "incoming": self._incoming,
            "quotas": self._quotas,
            "renditions": self._renditions,
            "roots": self._roots,
            "uploads": self._uploads,
        }
        return sides[part](run, cursor)

    async def _shard(self, run: Run, shard: int, cursor: str) -> AsyncGenerator[Step]:
        async for stretch in stretches(self.database, self.listing, shard, cursor):
            tally = Tally(stretch.objects, stretch.rows, newest=stretch.newest)
            found = await self._judge(run, stretch, tally)
            if run.order.mode is Mode.FULL:
                found += await self._look_inside(run, [key for key, _, _ in stretch.same], tally)
            yield Step(stretch.upto, tally, found, last=stretch.last)

    async def _judge(self, run: Run, stretch: Stretch, tally: Tally) -> list[Finding]:
        """Look again at whatever differs; count what is young, and what is not ours."""
        suspects: dict[str, UUID] = {}
        for key, _, _ in (*stretch.alone, *stretch.lonely):
            image_id = parse_original_key(key)
            if image_id is None:
                tally.foreign += 1
            elif self._is_unlisted(image_id):
                tally.young += 1
            else:
                suspects[key] = image_id
        found: list[Finding] = []
        if not suspects:
            return found
        heads = await self._heads(suspects)
        now, standings = await self._standings(suspects.values())
        for key, image_id in suspects.items():
            info, standing = heads[key], standings.get(image_id)
            if standing is None and info is not None and self._is_young(image_id, now):
                tally.young += 1
            elif verdict := _verdict(info, standing):
                found.append(finding_of(run, verdict, key, image_id, _sides(info, standing)))
        return found

    async def _look_inside(self, run: Run, keys: Sequence[str], tally: Tally) -> list[Finding]:
        """Hold what objects say of themselves against their rows."""
        wanted = {key: image_id for key in keys if (image_id := parse_original_key(key))}
        heads = await self._heads(wanted)
        _, standings = await self._standings(wanted.values())
        found: list[Finding] = []
        for key, image_id in wanted.items():
            info, standing = heads[key], standings.get(image_id)
            if info is None or standing is None or not standing.has_bytes:
                continue  # it went while this looked: the next run sees how
            if reason := strangeness(info, standing):
                found.append(finding_of(run, Drift.METADATA_DIFFERS, key, image_id, {"reason": reason}))
            else:
                tally.verified += 1
        return found

    async def _deep(self, run: Run, cursor: str) -> AsyncGenerator[Step]:
        """Read what was read longest ago, up to the budget; the cursor is what was read of it.

        Bytes that are missing or wrong count as unread, so that the next check finds them again.
        """
        read = int(cursor or 0)
        passed: list[UUID] = []
        while read < self.settings.deep_bytes:
            async with self.database.reading(EVERY_OWNER) as tx:
                batch = await comparison.longest_unverified(tx, READ_BATCH, run.started_at, passed)
            if not batch:
                return
            chosen = list(_within(batch, self.settings.deep_bytes - read, at_least=int(read == 0)))
            if not chosen:
                return
            tally = Tally(bytes_read=sum(each.size for each in chosen))
            judged = await _at_once(READS_AT_ONCE, [self._read_one(run, each) for each in chosen])
            right = [each.id for each, read_one in zip(chosen, judged, strict=True) if read_one.right]
            found = [read_one.finding for read_one in judged if read_one.finding is not None]
            passed += [each.id for each in chosen if each.id not in right]
            tally.verified = len(right)
            read += tally.bytes_read
            yield Step(str(read), tally, found, right)

    async def _read_one(self, run: Run, standing: Standing) -> _Read:
        key = original_key(standing.id)
        try:
            digest, _ = await fingerprint(self.objects, key)
        except ObjectMissing:
            return _Read(right=False)  # its shard tells
        if digest != standing.sha256:
            details = {"expected": standing.sha256.hex(), "found": digest.hex()}
            return _Read(
                right=False, finding=finding_of(run, Drift.CONTENT_DIFFERS, key, standing.id, details)
            )
        info = await self.objects.head(key)
        if info is None or (info.size, info.etag) != (standing.size, standing.etag):
            return _Read(right=True)  # its shard tells
        reason = strangeness(info, standing)
        if reason is None:
            return _Read(right=True)
        differs = finding_of(run, Drift.METADATA_DIFFERS, key, standing.id, {"reason": reason})
        return _Read(right=True, finding=differs)

    async def _incoming(self, run: Run, cursor: str) -> AsyncGenerator[Step]:
        """Find bytes of uploads that have ended, or of which nothing is known."""
        async for page in self.objects.entries(INCOMING, cursor):
            uploads = {key: _id_after(INCOMING, key) for key, _, _ in page}
            known = [upload_id for upload_id in uploads.values() if upload_id]
            async with self.database.reading(EVERY_OWNER) as tx:
                kept = await comparison.kept_uploads(tx, known, self.settings.grace_seconds)
            now = await self.database.now()
            found = [
                finding_of(run, Drift.UPLOAD_LEFTOVER, key, None, {"bytes": size})
                for key, size, _ in page
                if (upload_id := uploads[key])
                and upload_id not in kept
                and not self._is_young(upload_id, now)
            ]
            yield Step(page[-1][0], Tally(foreign=list(uploads.values()).count(None)), found)

    async def _renditions(self, run: Run, cursor: str) -> AsyncGenerator[Step]:
        async for page in self.objects.entries(RENDITIONS, cursor):
            originals = {key: _rendition_of(key) for key, _, _ in page}
            now, standings = await self._standings(each for each in originals.values() if each)
            found = [
                finding_of(run, Drift.RENDITION_WITHOUT_ORIGINAL, key, image_id, {})
                for key, image_id in originals.items()
                if image_id and not _is_shown(standings.get(image_id)) and not self._is_young(image_id, now)
            ]
            yield Step(page[-1][0], Tally(foreign=list(originals.values()).count(None)), found)

    async def _fragments(self, run: Run, _cursor: str) -> AsyncGenerator[Step]:
        """Find what is left of puts that did not end: dangling multipart uploads, sidecars alone."""
        fragments = [
            each for prefix in (ORIGINALS, INCOMING, JOURNAL) for each in await self.objects.fragments(prefix)
        ]
        owners = {
            each.key: parse_original_key(each.key) or _id_after(INCOMING, each.key) for each in fragments
        }
        known = [each for each in owners.values() if each]
        now, standings = await self._standings(known)
        async with self.database.reading(EVERY_OWNER) as tx:
            kept = await comparison.kept_uploads(tx, known, self.settings.grace_seconds)
        grace = timedelta(seconds=self.settings.grace_seconds)
        left: dict[str, list[Fragment]] = {}
        foreign = 0
        for each in fragments:
            owner = owners[each.key]
            if owner is None and Segment.of(each.key, 0) is None:
                foreign += 1
            # A sidecar whose image has a row is what its bytes are described by when they come back.
            elif (
                each.began < now - grace and owner not in kept and not (each.is_label and owner in standings)
            ):
                left.setdefault(each.key, []).append(each)
        found = [
            finding_of(run, Drift.UNFINISHED_PUT, key, owners[key], _described(those))
            for key, those in left.items()
        ]
        yield Step("", Tally(foreign=foreign), found)

    async def _roots(self, _run: Run, _cursor: str) -> AsyncGenerator[Step]:
        """Count what lies beside our own prefixes. It is somebody else's."""
        beside = [name for name in await self.objects.names("") if name not in _OURS]
        shards = {f"{shard}/" for shard in _SHARDS}
        within = [name for name in await self.objects.names(ORIGINALS) if name not in shards]
        yield Step("", Tally(foreign=len(beside) + len(within)))

    async def _uploads(self, run: Run, _cursor: str) -> AsyncGenerator[Step]:
        async with self.database.reading(EVERY_OWNER) as tx:
            expired = await comparison.expired_uploads(tx, SWEEP_LAG_SECONDS, MOST)
        found = [finding_of(run, Drift.UPLOAD_EXPIRED, f"uploads/{each}", None, {}) for each in expired]
        yield Step("", Tally(), found)

    async def _events(self, run: Run, _cursor: str) -> AsyncGenerator[Step]:
        async with self.database.reading(EVERY_OWNER) as tx:
            waiting = await events.unpublished(tx, self.settings.event_seconds, MOST)
        found = [finding_of(run, Drift.EVENT_UNPUBLISHED, f"events/{each}", None, {}) for each in waiting]
        yield Step("", Tally(), found)

    async def _quotas(self, run: Run, _cursor: str) -> AsyncGenerator[Step]:
        async with self.database.reading(EVERY_OWNER) as tx:
            drifted = await comparison.drifted_quotas(tx, MOST)
        found = [
            finding_of(
                run,
                Drift.QUOTA_DRIFTED,
                f"quotas/{owner}",
                None,
                {"owner": owner, "counted": counted, "stored": stored},
            )
            for owner, counted, stored in drifted
        ]
        yield Step("", Tally(), found)

    def _is_unlisted(self, attempt: UUID) -> bool:
        """Tell whether an upload began after the listing was made: the next one will have it."""
        return self.listed_at is not None and began_at(attempt) >= self.listed_at

    def _is_young(self, attempt: UUID, now: datetime) -> bool:
        """Tell whether a row may still come: by the id's own time and the database's clock."""
        return began_at(attempt) > now - timedelta(seconds=self.settings.grace_seconds)

    async def _heads(self, keys: Iterable[str]) -> dict[str, ObjectInfo | None]:
        wanted = list(keys)
        infos = await _at_once(HEADS_AT_ONCE, [self.objects.head(key) for key in wanted])
        return dict(zip(wanted, infos, strict=True))

    async def _standings(self, image_ids: Iterable[UUID]) -> tuple[datetime, dict[UUID, Standing]]:
        now = await self.database.now()
        async with self.database.reading(EVERY_OWNER) as tx:
            return now, await comparison.standings(tx, list(image_ids))


async def fingerprint(objects: Objects, key: str) -> tuple[bytes, int]:
    """Return the SHA-256 and the length of an object's bytes, which are read for it."""
    digest, length = hashlib.sha256(), 0
    async for block in objects.read(key):
        digest.update(block)
        length += len(block)
    return digest.digest(), length


def strangeness(info: ObjectInfo, standing: Standing) -> str | None:
    """Return how an object's metadata do not fit its row; None where they do."""
    told = parse(info.metadata)
    if told is None:
        return "unreadable"
    fits = {
        "id": told.upload.id == standing.id,
        "sha256": told.sha256 == standing.sha256,
        "bytes": told.size == standing.size,
        "type": told.facts.format.value == standing.content_type,
        "owner": told.upload.owner == standing.owner or "owner" in told.cut,
    }
    return ", ".join(name for name, fit in fits.items() if not fit) or None


def finding_of(run: Run, kind: Drift, key: str, image_id: UUID | None, details: dict[str, Any]) -> Finding:
    """Return a new finding of a run."""
    return Finding(new_id(), run.id, kind, key, image_id, details)


def _verdict(info: ObjectInfo | None, standing: Standing | None) -> Drift | None:
    if standing is None:
        return Drift.OBJECT_WITHOUT_ROW if info else None
    if standing.has_bytes:
        if info is None:
            return Drift.ROW_WITHOUT_OBJECT
        same = (info.size, info.etag) == (standing.size, standing.etag)
        return None if same else Drift.CONTENT_DIFFERS
    if info is None:
        return None
    returned = standing.state in (State.MISSING, State.CORRUPT)
    return Drift.OBJECT_RETURNED if returned else Drift.DELETED_BYTES_REMAIN


def _sides(info: ObjectInfo | None, standing: Standing | None) -> dict[str, Any]:
    """Return what each side says, for people."""
    told: dict[str, Any] = {}
    if info is not None:
        told["object"] = {"bytes": info.size, "etag": info.etag, "modified": info.modified}
    if standing is not None:
        row = {"bytes": standing.size, "etag": standing.etag, "state": standing.state.value}
        told["row"] = {**row, "owner": standing.owner}
    return told


def _described(fragments: Sequence[Fragment]) -> dict[str, Any]:
    """Return what a repair needs to know of the fragments of one key."""
    return {
        "tokens": [each.token for each in fragments if not each.is_label],
        "labels": [each.token for each in fragments if each.is_label],
    }


def _within(batch: Sequence[Standing], budget: int, at_least: int) -> Iterable[Standing]:
    """Yield as many as the budget pays for."""
    for number, each in enumerate(batch):
        budget -= each.size
        if budget < 0 and number >= at_least:
            return
        yield each


def _id_after(prefix: str, key: str) -> UUID | None:
    """Return the id that follows a prefix; None where there is none."""
    try:
        return UUID(key.removeprefix(prefix).split("/", 1)[0])
    except ValueError:
        return None


def _rendition_of(key: str) -> UUID | None:
    """Return whose rendition a key `renditions/<shard>/<id>/<recipe>` is."""
    return _id_after("", key.removeprefix(RENDITIONS).partition("/")[2])


def _is_shown(standing: Standing | None) -> bool:
    return standing is not None and standing.state is State.READY


async def _at_once(limit: int, work: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for all of it, some at a time."""
    turns = asyncio.Semaphore(limit)

    async def one(each: Awaitable[T]) -> T:
        async with turns:
            return await each

    return await asyncio.gather(*(one(each) for each in work))
