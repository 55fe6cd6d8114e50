"""Commits: an arrival becomes an image and its event, or is answered with what was there before it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, Self

from tintype.catalogue.database import Database, Tx, only
from tintype.catalogue.rows import (
    COLUMNS,
    image_of_arrival,
    image_of_row,
    image_of_snapshot,
    json_text,
    snapshot_of,
)
from tintype.catalogue.writer import Writer
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import AttemptTooOld, DatabaseUnavailable, IdempotencyKeyReused
from tintype.model.image import Image
from tintype.model.upload import Arrival, Duplicate, Idempotency, Outcome, Replayed, Stored, Upload

MAX_MEETINGS = 10
"""How often what an arrival met may be gone again before it can be answered with it."""

# The key's answer, and the image that answers for the bytes; NULL for a key or a hash finds nothing.
_EARLIER: LiteralString = f"""
    SELECT used.*, twin.* FROM (SELECT) AS nothing
    LEFT JOIN (
        SELECT fingerprint, kind, snapshot FROM idempotency WHERE owner = %(owner)s AND key = %(key)s
    ) AS used ON true
    LEFT JOIN (
        SELECT {COLUMNS} FROM images WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical
    ) AS twin ON true
"""


@dataclass(frozen=True, slots=True)
class Commits:
    """The last step of an upload, and the look for what a new one may repeat."""

    _database: Database
    _writer: Writer

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database) -> AsyncGenerator[Self]:
        """Commit what comes until the end of the block, then what is still waiting."""
        writer = Writer(database)
        running = asyncio.create_task(writer.run(), name="commit-writer")
        try:
            yield cls(database, writer)
        finally:
            writer.close()
            await running

    async def find_earlier(self, upload: Upload, sha256: bytes) -> Outcome | None:
        """Return what answers this upload without storing it: asked before inspection and PUT.

        That is the answer that its idempotency key was given before, else the owner's image of the same
        bytes; with that image the key is recorded, so that it gets the same answer again.

        Raises `IdempotencyKeyReused` and `DatabaseUnavailable`.
        """
        key = upload.idempotency
        if key is None and upload.keep_duplicate:
            return None
        wanted = {
            "owner": upload.owner,
            "key": key.key if key else None,
            "sha256": None if upload.keep_duplicate else sha256,
        }
        async with self._database.reading() as tx:
            while True:
                cursor = await tx.execute(_EARLIER, wanted, prepare=True)
                fingerprint, kind, snapshot, *row = await only(cursor)
                if key is not None and fingerprint is not None:
                    return _replayed(key, fingerprint, kind, snapshot)
                if row[0] is None:
                    return None
                image = image_of_row(tuple(row))
                if key is None or await _record_duplicate(tx, key, image):
                    return Duplicate(image)
                # Another request has just used the key: what it was answered, this one is.

    async def commit(self, arrival: Arrival) -> Outcome:
        """Make the arrival an image: the row, its event and the answer to its key, all or none of them.

        Returns once that is on disk. Raises `AttemptTooOld` for an attempt that began more than an hour
        ago or in the future, by the database's clock; `IdempotencyKeyReused`; `RequestInvalid` for
        values that PostgreSQL cannot keep; `DatabaseUnavailable` when it does not answer, and then it is
        not known whether the image was stored: the same request again finds out.
        """
        checkpoint("before-commit")
        outcome = await self._settle(arrival)
        checkpoint("after-commit")
        return outcome

    async def _settle(self, arrival: Arrival) -> Outcome:
        for _ in range(MAX_MEETINGS):
            verdict = await self._writer.write(arrival)
            match verdict.name:
                case "new" | "known":
                    return Stored(image_of_arrival(arrival, verdict.committed_at))
                case "stale":
                    raise AttemptTooOld(
                        "The upload took longer than an hour, or this instance's clock is wrong. "
                        "Send it again.",
                        retry_after=1,
                    )
                case _:
                    if earlier := await self.find_earlier(arrival.upload, arrival.sha256):
                        return earlier
        raise DatabaseUnavailable(
            "Images of the same bytes come and go faster than this one can be stored. Send it again.",
            retry_after=1,
        )


async def _record_duplicate(tx: Tx, key: Idempotency, image: Image) -> bool:
    """Record that the key was answered with the image; return False if it has an answer already."""
    cursor = await tx.execute(
        """
        INSERT INTO idempotency (owner, key, fingerprint, image_id, kind, snapshot)
        VALUES (%s, %s, %s, %s, 'duplicate', %s::text::jsonb)
        ON CONFLICT (owner, key) DO NOTHING
        """,
        [image.owner, key.key, key.fingerprint, image.id, json_text(snapshot_of(image))],
    )
    return cursor.rowcount == 1


def _replayed(key: Idempotency, fingerprint: bytes, kind: str, snapshot: dict[str, Any]) -> Replayed:
    if fingerprint != key.fingerprint:
        raise IdempotencyKeyReused(
            "This Idempotency-Key came with another request before. Take a new key for a new request; repeat "
            "the same request, bytes included, with its own key."
        )
    image = image_of_snapshot(snapshot)
    return Replayed(Stored(image) if kind == "stored" else Duplicate(image))
