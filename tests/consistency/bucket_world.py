"""A bucket and a database of a test's own, with what happens to images in them."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from tintype.catalogue import images, rebuilding
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency import pair
from tintype.consistency.journal import Journal
from tintype.consistency.purge import Purge
from tintype.consistency.rebuild import Rebuild, Report
from tintype.imaging.inspect import Inspector
from tintype.model.body import Body
from tintype.model.image import Facts, Format, Image, Location
from tintype.model.query import Change
from tintype.model.upload import Arrival, Stored, Upload
from tintype.objects.keys import original_key
from tintype.objects.metadata import describe
from tintype.objects.store import Objects
from tintype.settings import DatabaseSettings, ImagingSettings, JournalSettings, TrashSettings
from tintype.telemetry import Metrics


class Crash(BaseException):
    """The process ends here; nothing catches it."""


def crash() -> None:
    """End the process, at the checkpoint that this is armed at."""
    raise Crash


FACTS = Facts(
    Format.JPEG,
    width=4000,
    height=3000,
    orientation=6,
    has_alpha=False,
    camera={"make": "Leica", "iso": 64},
    exif={"Software": "2.0", "Flash": [0, 1]},
    location=Location(41.9, 12.5, 21.0),
    thumbhash=b"\x01\x02\x03",
    dominant_color="#8a7f6d",
    phash=-5,
)


@dataclass
class World:
    """Both halves, and the verbs of the product that change them."""

    database: Database
    objects: Objects
    commits: Commits
    spool: Path
    metrics: Metrics

    async def store(self, content: str | bytes, facts: Facts = FACTS, **asked: object) -> Image:
        arrival = await self.put(content, facts, **asked)
        outcome = await self.commits.commit(arrival)
        assert isinstance(outcome, Stored)
        return outcome.image

    async def put(self, content: str | bytes, facts: Facts = FACTS, **asked: object) -> Arrival:
        """Store an object, and stop before the commit."""
        data = content if isinstance(content, bytes) else content.encode()
        upload = replace(Upload("local", "Rome.JPG", "image/jpeg", "raw"), **asked)
        body = Body(len(data), hashlib.sha256(data).digest(), memory=data)
        stored = await self.objects.put(
            original_key(upload.id),
            body,
            content_type=facts.format.value,
            metadata=describe(upload, facts, size=body.length, sha256=body.sha256),
        )
        return Arrival(upload, facts, body.length, body.sha256, stored.etag)

    async def change(self, image: Image, **change: object) -> Image:
        async with self.database.transaction(image.owner) as tx:
            return await images.update(tx, image.owner, image.id, replace(Change(), **change))

    async def trash(self, image: Image) -> Image:
        async with self.database.transaction(image.owner) as tx:
            return await images.trash(tx, image.owner, image.id)

    async def restore(self, image: Image) -> Image:
        async with self.database.transaction(image.owner) as tx:
            return await images.restore(tx, image.owner, image.id)

    async def find(self, image: Image) -> Image | None:
        async with self.database.transaction(image.owner) as tx:
            return await images.find(tx, image.owner, image.id, trashed=True)

    async def age(self, image: Image, days: float) -> None:
        """Let an image have been in the trash for so much longer."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            await tx.execute(
                "UPDATE images SET deleted_at = deleted_at - %s * interval '1 day' WHERE id = %s",
                [days, image.id],
            )

    def journal(self, **settings: object) -> Journal:
        return Journal(
            self.database, self.objects, JournalSettings.model_validate(settings), self.spool, self.metrics
        )

    def purge(self, days: float = 30) -> Purge:
        return Purge(self.database, self.objects, TrashSettings(days=days), self.metrics)

    async def keys(self, prefix: str) -> list[str]:
        return [info.key async for page in self.objects.list(prefix) for info in page]


async def export(database: Database) -> list[dict[str, Any]]:
    async with database.reading(EVERY_OWNER) as tx:
        return await rebuilding.export(tx, UUID(int=0), 100_000)


async def rebuild(
    database: Database,
    objects: Objects,
    spool: Path,
    *,
    quick: bool = True,
    restored: bool = False,
    batch: int = 5,
) -> Report:
    inspector = None if quick else Inspector(ImagingSettings(), None)
    fence = DatabaseSettings().attempt_seconds
    work = Rebuild(database, objects, inspector, spool, fence, restored=restored, batch=batch)
    return await work.run(lambda _part, _counts: None)


@asynccontextmanager
async def opened(database: Database, objects: Objects, spool: Path) -> AsyncGenerator[World]:
    await pair.claim(database, objects)
    async with Commits.open(database) as commits:
        yield World(database, objects, commits, spool, Metrics())
