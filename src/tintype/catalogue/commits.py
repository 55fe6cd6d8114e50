"""Commits: an arrival becomes an image and its event, or is answered with what was there before it."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tintype.catalogue.database import Database
from tintype.catalogue.line import Line
from tintype.catalogue.lookups import Lookups
from tintype.catalogue.rows import image_of_arrival, image_of_snapshot, json_text, snapshot_of
from tintype.catalogue.writer import Writer
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import AttemptTooOld, DatabaseUnavailable, IdempotencyKeyReused, Internal
from tintype.model.upload import Arrival, Duplicate, Idempotency, Outcome, Replayed, Stored, Upload

MAX_MEETINGS = 10
"""How often what an arrival met may be gone again before it can be answered with it."""


@dataclass(frozen=True, slots=True)
class Commits:
    """The last step of an upload, and the look for what a new one may repeat."""

    _database: Database
    _writer: Writer
    _lookups: Lookups

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database) -> AsyncGenerator[Self]:
        """Commit what comes until the end of the block, then what is still waiting."""
        writer, line = Writer.of(database), Line(database)
        running = asyncio.create_task(writer.run(), name="commit-writer")
        try:
            yield cls(database, writer, Lookups(line))
        finally:
            writer.close()
            await running
            line.hang_up()

    async def find_earlier(self, upload: Upload, sha256: bytes) -> Outcome | None:
        """Return what answers this upload without storing it: asked before inspection and PUT.

        That is the answer that its idempotency key was given before, else the owner's image of the same
        bytes; with that image the key is recorded, so that it gets the same answer again.

        Raises `IdempotencyKeyReused` and `DatabaseUnavailable`.
        """
        key = upload.idempotency
        if key is not None and (answer := await self._answer(upload.owner, key)):
            return answer
        if upload.keep_duplicate:
            return None
        image = await self._lookups.find(upload.owner, sha256)
        if image is None or key is None:
            return image and Duplicate(image)
        return await self._remember(key, Duplicate(image))

    async def answers(self, owner: str, key: str) -> bool:
        """Tell whether a request with this idempotency key was answered before, or one file of a form."""
        async with self._database.reading(owner) as tx:
            cursor = await tx.execute(
                "SELECT FROM idempotency WHERE owner = %s AND key = ANY(%s) LIMIT 1",
                [owner, [key, f"{key}#0"]],
            )
            return await cursor.fetchone() is not None

    @contextmanager
    def soon(self) -> Generator[None]:
        """Tell that a commit will follow the block, unless it fails: others may wait a moment for it."""
        self._writer.expect()
        try:
            yield
        finally:
            self._writer.arrive()

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

    async def _answer(self, owner: str, key: Idempotency) -> Replayed | None:
        """Return what the key was answered before."""
        async with self._database.reading(owner) as tx:
            cursor = await tx.execute(
                "SELECT fingerprint, kind, snapshot FROM idempotency WHERE owner = %s AND key = %s",
                [owner, key.key],
                prepare=True,
            )
            row = await cursor.fetchone()
        return _replayed(key, *row) if row else None

    async def _remember(self, key: Idempotency, duplicate: Duplicate) -> Outcome:
        """Record the key's answer and return it, or what the key was answered meanwhile."""
        image = duplicate.image
        async with self._database.transaction(image.owner) as tx:
            cursor = await tx.execute(
                """
                INSERT INTO idempotency (owner, key, fingerprint, image_id, kind, snapshot)
                VALUES (%s, %s, %s, %s, 'duplicate', %s::text::jsonb)
                ON CONFLICT (owner, key) DO NOTHING
                """,
                [image.owner, key.key, key.fingerprint, image.id, json_text(snapshot_of(image))],
            )
        if cursor.rowcount == 1:
            return duplicate
        answer = await self._answer(image.owner, key)
        if answer is None:
            raise Internal("An idempotency key was there and is gone again.")
        return answer

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


def _replayed(key: Idempotency, fingerprint: bytes, kind: str, snapshot: dict[str, Any]) -> Replayed:
    if fingerprint != key.fingerprint:
        raise IdempotencyKeyReused(
            "This Idempotency-Key came with another request before. Take a new key for a new request; repeat "
            "the same request, bytes included, with its own key."
        )
    image = image_of_snapshot(snapshot)
    return Replayed(Stored(image) if kind == "stored" else Duplicate(image))
