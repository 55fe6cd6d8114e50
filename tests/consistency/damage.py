"""The seeding tool: a small store with its database, and damage of every kind done behind Tintype's back."""

import asyncio
import json
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bodies import in_memory
from catalogue.arrivals import ago, id_of
from tintype.catalogue import findings
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.images import trash
from tintype.consistency import markers
from tintype.consistency.check import Checker
from tintype.consistency.markers import Marker
from tintype.consistency.repair import Repairer
from tintype.consistency.runs import Runs
from tintype.model.check import Order, Run
from tintype.model.finding import Drift, Finding, Settlement
from tintype.model.image import Facts, Format, Image
from tintype.model.upload import Arrival, Stored, Upload
from tintype.objects.keys import original_key
from tintype.objects.metadata import describe
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings

FACTS = Facts(Format.PNG, 3, 2, camera={"make": "Leica"}, exif={"Software": "2.0"})
GRACE = 0.05
"""Seconds. Nothing is uploaded while a check runs here, so an object may be judged at once."""


def new_seed() -> int:
    """A seed, printed where pytest shows it when the test fails; TINTYPE_SEED repeats one."""
    seed = int(os.environ.get("TINTYPE_SEED") or random.SystemRandom().randrange(10**6))
    print(f"TINTYPE_SEED={seed}")  # noqa: T201 # for whoever repeats it
    return seed


@dataclass
class World:
    """A store, its database, and what checks and repairs them."""

    database: Database
    objects: Objects
    root: Path
    """Where the objects are, when they are in a folder."""
    keeps_etags: bool = True
    """A folder's copy has the ETag of its source."""
    settings: ConsistencySettings = field(default_factory=lambda: ConsistencySettings(grace_seconds=GRACE))
    checks: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.checks = self.runs(self.settings)

    def runs(self, settings: ConsistencySettings) -> Runs:
        """What checks and repairs, by other settings."""
        checker = Checker(self.database, self.objects, settings, self.objects)
        spool = self.root.parent / "spool"
        spool.mkdir(exist_ok=True, parents=True)
        repairer = Repairer(self.database, self.objects, settings, spool, self._end_uploads)
        return Runs(self.database, self.objects, settings, checker, repairer)

    async def upload(self, count: int, data: Callable[[int], bytes] | None = None) -> list[Image]:
        """Store images as uploads do: object, then row."""
        async with Commits.open(self.database) as commits:

            async def one(number: int) -> Image:
                body = data(number) if data else random.randbytes(64 + number % 64)
                upload = Upload("local", f"{number}.png", "image/png", "raw", ("seeded",), {"number": number})
                arrival = await self.put(upload, body)
                outcome = await commits.commit(arrival)
                assert isinstance(outcome, Stored)
                return outcome.image

            images = [
                image
                for batch in range(0, count, 64)
                for image in await asyncio.gather(*map(one, range(batch, min(batch + 64, count))))
            ]
        await asyncio.sleep(GRACE * 2)
        return images

    async def put(self, upload: Upload, data: bytes) -> Arrival:
        """Store an object as an upload does, and no row."""
        with in_memory(data) as body:
            stored = await self.objects.put(
                original_key(upload.id),
                body,
                content_type="image/png",
                metadata=describe(upload, FACTS, size=body.length, sha256=body.sha256),
            )
            return Arrival(upload, FACTS, body.length, body.sha256, stored.etag)

    async def execute(self, statement: str, *values: object) -> None:
        """Run a statement as somebody would who passes by Tintype."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            await tx.execute(statement, list(values))  # pyright: ignore[reportArgumentType]: a test's own

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with self.database.transaction(EVERY_OWNER) as tx:
            cursor = await tx.execute(statement, list(values))  # pyright: ignore[reportArgumentType]: same
            return await cursor.fetchall()

    async def findings(self, run: Run) -> list[Finding]:
        async with self.database.reading(EVERY_OWNER) as tx:
            return await findings.page(tx, run.id, None, 10_000)

    def file(self, image: Image | UUID) -> Path:
        return self.root / original_key(image if isinstance(image, UUID) else image.id)

    def sidecar(self, image: Image) -> Path:
        return self.root / "metadata" / f"{original_key(image.id)}.json"

    async def publish(self) -> None:
        """What a relay does with all that is due."""
        await self.execute(
            "UPDATE events SET published_at = now() WHERE published_at IS NULL AND next_attempt_at <= now()"
        )

    async def check(self, order: Order, checks: Runs | None = None) -> Run:
        """Run a check, and what it orders, to its end."""
        checks = checks or self.checks
        run = await checks.begin(order)
        assert await checks.work(run.id)
        return await checks.find(run.id)

    async def snapshot(self) -> tuple[dict[str, Any], dict[UUID, tuple[Any, ...]]]:
        """All originals, byte by byte with their times and labels; and all rows but for what only grows."""
        objects: dict[str, Any] = {}
        async for page in self.objects.list("originals/"):
            for info in page:
                data = b"".join([block async for block in self.objects.read(info.key)])
                etag = info.etag if self.keeps_etags else ""
                objects[info.key] = (data, etag, await self.objects.label(info.key))
        rows = await self.fetch(
            """
            SELECT id, owner, state, canonical, filename, extension, declared_type, content_type, bytes,
                   sha256, CASE WHEN %s THEN etag END, width, height, exif, location, tags, attributes,
                   search, protocol, created_at, deleted_at, purged_at FROM images
            """,
            self.keeps_etags,
        )
        return objects, {row[0]: row for row in rows}

    async def _end_uploads(self) -> None:
        await self.execute("UPDATE uploads SET state = 'expired' WHERE expires_at < now() AND state = 'open'")


@dataclass
class Damage:
    """Does each kind of damage to an image of its own, and remembers what should become of it."""

    world: World
    chance: random.Random
    others: Sequence[Image] = ()
    """Images that are left as they are."""
    expected: dict[tuple[str, Drift], Settlement] = field(default_factory=dict[tuple[str, Drift], Settlement])

    def kinds(self) -> "list[Callable[[Image], Coroutine[Any, Any, None]]]":
        """Every kind of damage; those to a folder's files only where the store is one."""
        return [
            *(self.remove_object, self.swap_bytes, self.cut_bytes, self.add_orphan, self.delete_row),
            *(self.alter_digest, self.alter_length, self.alter_etag, self.alter_owner, self.alter_type),
            *(self.lose_trashed, self.swap_trashed, self.leave_purged, self.return_bytes),
            *(self.return_strangers, self.spoil_label, self.take_label, self.leave_chunk),
            *(self.leave_rendition, self.hold_event, self.forget_upload, self.miscount),
        ]

    async def remove_object(self, image: Image) -> None:
        await self.world.objects.delete(original_key(image.id))
        self.expect(image, Drift.ROW_WITHOUT_OBJECT, Settlement.MARKED_MISSING)

    async def swap_bytes(self, image: Image) -> None:
        """Another image's bytes, of another length or of the same."""
        other = self.chance.choice(self.others) if self.others and self.chance.random() < 0.5 else None
        await self.overwrite(image, await self.data(other) if other else self.chance.randbytes(image.size))
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MARKED_CORRUPT)

    async def cut_bytes(self, image: Image) -> None:
        await self.overwrite(image, await self.data(image), cut=True)
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MARKED_CORRUPT)

    async def add_orphan(self, image: Image) -> None:
        """An upload that ended between its object and its row."""
        upload = Upload("local", "orphan.png", None, "raw", id=id_of(ago(days=2)))
        await self.world.put(upload, self.chance.randbytes(50))
        await self.forget_label(upload.id, chance=image.size % 2 == 0)
        self.expected[original_key(upload.id), Drift.OBJECT_WITHOUT_ROW] = Settlement.QUARANTINED

    async def delete_row(self, image: Image) -> None:
        await self.world.execute("DELETE FROM images WHERE id = %s", image.id)
        self.expect(image, Drift.OBJECT_WITHOUT_ROW, Settlement.ADOPTED)

    async def alter_digest(self, image: Image) -> None:
        digest = self.chance.randbytes(32)
        await self.world.execute("UPDATE images SET sha256 = %s WHERE id = %s", digest, image.id)
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MENDED)

    async def alter_length(self, image: Image) -> None:
        await self.world.execute("UPDATE images SET bytes = bytes + 7 WHERE id = %s", image.id)
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MENDED)

    async def alter_etag(self, image: Image) -> None:
        await self.world.execute("UPDATE images SET etag = 'another' WHERE id = %s", image.id)
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.REFRESHED)

    async def alter_owner(self, image: Image) -> None:
        await self.world.execute("UPDATE images SET owner = 'mallory' WHERE id = %s", image.id)
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.MENDED)

    async def alter_type(self, image: Image) -> None:
        await self.world.execute("UPDATE images SET content_type = 'image/gif' WHERE id = %s", image.id)
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.MENDED)

    async def lose_trashed(self, image: Image) -> None:
        async with self.world.database.transaction("local") as tx:
            await trash(tx, "local", image.id)
        await self.world.objects.delete(original_key(image.id))
        self.expect(image, Drift.ROW_WITHOUT_OBJECT, Settlement.MARKED_MISSING)

    async def swap_trashed(self, image: Image) -> None:
        async with self.world.database.transaction("local") as tx:
            await trash(tx, "local", image.id)
        await self.overwrite(image, self.chance.randbytes(90))
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MARKED_CORRUPT)

    async def leave_purged(self, image: Image) -> None:
        async with self.world.database.transaction("local") as tx:
            await trash(tx, "local", image.id)
        await markers.put(self.world.objects, Marker(image.id, 2, datetime.now(UTC), purged=True))
        await self.world.execute("UPDATE images SET purged_at = now() WHERE id = %s", image.id)
        self.expect(image, Drift.DELETED_BYTES_REMAIN, Settlement.DELETED)

    async def return_bytes(self, image: Image) -> None:
        await self.give_up(image, "missing")
        self.expect(image, Drift.OBJECT_RETURNED, Settlement.RECOVERED)

    async def return_strangers(self, image: Image) -> None:
        await self.give_up(image, "corrupt")
        await self.overwrite(image, self.chance.randbytes(80))
        self.expect(image, Drift.OBJECT_RETURNED, Settlement.QUARANTINED)

    async def spoil_label(self, image: Image) -> None:
        etag = (await self.world.objects.relabel(original_key(image.id), LABEL)).etag
        await self.world.execute("UPDATE images SET etag = %s WHERE id = %s", etag, image.id)
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.RESTAMPED)

    async def take_label(self, image: Image) -> None:
        label = json.dumps({"content_type": "image/png", "metadata": {}}).encode()
        etag = (await self.world.objects.relabel(original_key(image.id), label)).etag
        await self.world.execute("UPDATE images SET etag = %s WHERE id = %s", etag, image.id)
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.RESTAMPED)

    async def leave_chunk(self, _image: Image) -> None:
        key = f"incoming/{id_of(ago(days=2))}/0000"
        with in_memory(b"a piece") as body:
            await self.world.objects.put(key, body, content_type="image/png", metadata={})
        self.expected[key, Drift.UPLOAD_LEFTOVER] = Settlement.DELETED

    async def leave_rendition(self, _image: Image) -> None:
        image_id = id_of(ago(days=2))
        key = f"renditions/{image_id.bytes[-1]:02x}/{image_id}/w300"
        with in_memory(b"smaller") as body:
            await self.world.objects.put(key, body, content_type="image/png", metadata={})
        self.expected[key, Drift.RENDITION_WITHOUT_ORIGINAL] = Settlement.DELETED

    async def hold_event(self, image: Image) -> None:
        ((event_id,),) = await self.world.fetch(
            """
            UPDATE events SET created_at = now() - interval '2 hours', published_at = NULL,
                next_attempt_at = now() + interval '5 minutes'
            WHERE image_id = %s RETURNING id
            """,
            image.id,
        )
        self.expected[f"events/{event_id}", Drift.EVENT_UNPUBLISHED] = Settlement.NUDGED

    async def forget_upload(self, _image: Image) -> None:
        """An upload of which nobody has ended, or swept, what is long over."""
        upload_id = id_of(ago(days=2))
        await self.world.execute(
            """
            INSERT INTO uploads (id, owner, kind, max_bytes, filename, tags, attributes, keep_duplicate,
                                 digests, length, expires_at)
            VALUES (%s, 'local', 'tus', 1000, 'a.png', '{}', '{}', false, '{}', 100, now() - interval '1 day')
            """,
            upload_id,
        )
        self.expected[f"uploads/{upload_id}", Drift.UPLOAD_EXPIRED] = Settlement.SWEPT

    async def miscount(self, image: Image) -> None:
        owner = f"counted-{image.id}"
        await self.world.execute(
            "INSERT INTO quota_usage (owner, bytes, images, counted_at) VALUES (%s, 7, 1, now())", owner
        )
        self.expected[f"quotas/{owner}", Drift.QUOTA_DRIFTED] = Settlement.RECOUNTED

    # What only a folder can suffer

    async def flip_silently(self, image: Image) -> None:
        """A bit that turned on the disk: same length, same time."""
        path = self.world.file(image)
        status = path.stat()
        data = bytearray(path.read_bytes())
        data[self.chance.randrange(len(data))] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.MARKED_CORRUPT)

    async def touch(self, image: Image) -> None:
        os.utime(self.world.file(image), (0, self.chance.randrange(10**9)))
        self.expect(image, Drift.CONTENT_DIFFERS, Settlement.REFRESHED)

    async def remove_sidecar(self, image: Image) -> None:
        self.world.sidecar(image).unlink()
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.RESTAMPED)

    async def tear_sidecar(self, image: Image) -> None:
        self.world.sidecar(image).write_bytes(self.world.sidecar(image).read_bytes()[:20])
        self.expect(image, Drift.METADATA_DIFFERS, Settlement.RESTAMPED)

    async def leave_sidecar(self, _image: Image) -> None:
        """A crash between the sidecar and its object."""
        key = original_key(id_of(ago(days=2)))
        path = self.world.root / "metadata" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LABEL)
        os.utime(path, (0, 0))
        self.expected[key, Drift.UNFINISHED_PUT] = Settlement.DELETED

    async def leave_unnamed(self, image: Image) -> None:
        """A crash of a system without unnamed files, twice in one upload."""
        path = self.world.file(image)
        for number in range(2):
            left = path.with_name(f".{path.name}.{number:016x}")
            left.write_bytes(b"half of")
            os.utime(left, (0, 0))
        self.expect(image, Drift.UNFINISHED_PUT, Settlement.DELETED)

    def of_folders(self) -> "list[Callable[[Image], Coroutine[Any, Any, None]]]":
        return [
            *(self.flip_silently, self.touch, self.remove_sidecar, self.tear_sidecar, self.leave_sidecar),
            self.leave_unnamed,
        ]

    def expect(self, image: Image, kind: Drift, action: Settlement) -> None:
        self.expected[original_key(image.id), kind] = action

    async def data(self, image: Image) -> bytes:
        return b"".join([block async for block in self.world.objects.read(original_key(image.id))])

    async def overwrite(self, image: Image, data: bytes, *, cut: bool = False) -> None:
        """Put other bytes into an image's place, under the label that is there."""
        key = original_key(image.id)
        label = await self.world.objects.label(key)
        with in_memory(data[:-9] if cut else data) as body:
            await self.world.objects.put(key, body, content_type="image/png", metadata={})
        await self.world.objects.relabel(key, label)

    async def give_up(self, image: Image, state: str) -> None:
        await self.world.execute(
            "UPDATE images SET state = %s, canonical = false WHERE id = %s", state, image.id
        )

    async def forget_label(self, image_id: UUID, *, chance: bool) -> None:
        if chance:
            await self.world.objects.relabel(original_key(image_id), LABEL)


LABEL = json.dumps({"content_type": "text/plain", "metadata": {"schema": "1", "id": "nobody"}}).encode()
