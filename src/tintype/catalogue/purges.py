"""Images that leave the trash for good: their rows stay, and say no more than that."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tintype.catalogue.database import Tx


@dataclass(frozen=True, slots=True)
class Due:
    """An image that has been in the trash for long enough."""

    id: UUID
    version: int
    deleted_at: datetime


async def due(tx: Tx, days: float, limit: int) -> list[Due]:
    """Return images that have been in the trash for so many days, by the database's clock."""
    cursor = await tx.execute(
        """
        SELECT id, version, deleted_at FROM images
        WHERE state = 'deleted' AND purged_at IS NULL AND deleted_at < now() - %s * interval '1 day'
        ORDER BY deleted_at LIMIT %s
        """,
        [days, limit],
    )
    return [Due(*row) for row in await cursor.fetchall()]


async def purge(tx: Tx, image: Due) -> bool:
    """Let the row say no more than that the image is gone. False: it was restored meanwhile."""
    cursor = await tx.execute(
        """
        UPDATE images
        SET purged_at = now(), filename = '', search = '', tags = '{}', attributes = '{}', camera = '{}',
            exif = '{}', location = NULL, taken_at = NULL, taken_offset = NULL, thumbhash = NULL,
            dominant_color = NULL, phash = NULL
        WHERE id = %s AND version = %s AND state = 'deleted' AND purged_at IS NULL
        """,
        [image.id, image.version],
    )
    return cursor.rowcount == 1


async def purged_since(tx: Tx, seconds: float) -> list[UUID]:
    """Return images that were purged within the last seconds: their bytes may still be there."""
    cursor = await tx.execute(
        "SELECT id FROM images WHERE purged_at > now() - %s * interval '1 second' ORDER BY purged_at",
        [seconds],
    )
    return [image_id for (image_id,) in await cursor.fetchall()]
