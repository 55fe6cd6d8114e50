"""Locks on an image that hold longer than a transaction: for repairs, which move bytes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

from tintype.catalogue.database import EVERY_OWNER, Database, only

_SPACE = 0x54494E54
"""Apart from other advisory locks of this database."""


@asynccontextmanager
async def alone_with(database: Database, image_id: UUID) -> AsyncGenerator[bool]:
    """Tell whether nobody else repairs this image, and keep it so until the end of the block.

    The lock is the session's: it holds a connection of the pool, and ends with it at the latest.
    Requests do not ask for it; what they do is seen by looking again in each transaction.
    """
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s::text, %s))", [image_id, _SPACE]
        )
        (taken,) = await only(cursor)
        try:
            yield taken
        finally:
            if taken:
                await tx.execute(
                    "SELECT pg_advisory_unlock(hashtextextended(%s::text, %s))", [image_id, _SPACE]
                )
