"""The rows' side of a check: in the order of the keys, with nothing that a comparison does not need."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.catalogue.rows import COLUMNS, image_of_row
from tintype.model.image import Image, State

Row = tuple[str, int, str]
"""Key, bytes, etag: what a listing says of an object, so that equal pairs fall out by comparing tuples."""

_FIRST = UUID(int=0)
_LAST = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an image's row stands, as far as a check asks."""

    id: UUID
    owner: str
    state: State
    purged: bool
    size: int
    sha256: bytes
    etag: str
    content_type: str

    @property
    def has_bytes(self) -> bool:
        """Whether its object must be there: also that of an image in the trash, until it is purged."""
        return self.state in (State.READY, State.DELETED) and not self.purged


async def rows_between(tx: Tx, shard: int, after: UUID | None, upto: UUID | None, limit: int) -> list[Row]:
    """Return rows of a shard whose objects must be there: ids behind `after` (None: all), up to `upto`."""
    cursor = await tx.execute(
        """
        SELECT 'originals/' || %(name)s || '/' || id, bytes, etag FROM images
        WHERE shard_of(id) = %(shard)s AND id > %(after)s AND id <= %(upto)s
          AND state IN ('ready', 'deleted') AND purged_at IS NULL
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "name": f"{shard:02x}",
            "shard": shard,
            "after": after or _FIRST,
            "upto": upto or _LAST,
            "limit": limit,
        },
        prepare=True,
    )
    return await cursor.fetchall()  # type: ignore[return-value] # the columns of a `Row`


async def standings(tx: Tx, image_ids: Sequence[UUID]) -> dict[UUID, Standing]:
    """Return how these images stand, whatever their state; those without a row are not among them."""
    cursor = await tx.execute(
        """
        SELECT id, owner, state, purged_at IS NOT NULL, bytes, sha256, etag, content_type
        FROM images WHERE id = ANY(%s)
        """,
        [list(image_ids)],
    )
    return {row[0]: _standing(row) for row in await cursor.fetchall()}


async def lock(tx: Tx, image_id: UUID) -> Image | None:
    """Return an image of any state, locked until the transaction ends; None where there is no row."""
    cursor = await tx.execute(f"SELECT {COLUMNS} FROM images WHERE id = %s FOR UPDATE", [image_id])
    row = await cursor.fetchone()
    return image_of_row(row) if row else None


async def find(tx: Tx, image_id: UUID) -> Image | None:
    """Return an image of any state and owner."""
    cursor = await tx.execute(f"SELECT {COLUMNS} FROM images WHERE id = %s", [image_id])
    row = await cursor.fetchone()
    return image_of_row(row) if row else None


async def is_purged(tx: Tx, image_id: UUID) -> bool:
    """Tell whether an image's bytes were to go for good."""
    cursor = await tx.execute("SELECT purged_at IS NOT NULL FROM images WHERE id = %s", [image_id])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def newest(tx: Tx) -> UUID | None:
    """Return the id of the newest row."""
    cursor = await tx.execute("SELECT id FROM images ORDER BY id DESC LIMIT 1")
    row = await cursor.fetchone()
    return row[0] if row else None


async def longest_unverified(
    tx: Tx, limit: int, before: datetime, passed: Sequence[UUID] = ()
) -> list[Standing]:
    """Return ready images whose bytes were not seen since, but for some; those seen longest ago come first.

    They were seen when they were stored, and whenever they were read.
    """
    cursor = await tx.execute(
        """
        SELECT id, owner, state, false, bytes, sha256, etag, content_type FROM images
        WHERE state = 'ready' AND coalesce(last_verified_at, created_at) < %s AND id <> ALL(%s)
        ORDER BY coalesce(last_verified_at, created_at), id LIMIT %s
        """,
        [before, list(passed), limit],
    )
    return [_standing(row) for row in await cursor.fetchall()]


async def mark_verified(tx: Tx, image_ids: Sequence[UUID]) -> None:
    """Record that the bytes of these images were read and are those of their rows."""
    await tx.execute("UPDATE images SET last_verified_at = now() WHERE id = ANY(%s)", [list(image_ids)])


async def oldest_unverified_age(tx: Tx) -> float:
    """Return the seconds since the image that was read longest ago was read, or stored; 0 without images."""
    cursor = await tx.execute(
        """
        SELECT coalesce(extract(epoch FROM now() - min(coalesce(last_verified_at, created_at))), 0)
            ::double precision
        FROM images WHERE state = 'ready'
        """
    )
    (age,) = await only(cursor)
    return age


async def kept_uploads(tx: Tx, upload_ids: Sequence[UUID], grace_seconds: float) -> set[UUID]:
    """Return those uploads whose bytes may still be needed: unfinished ones, and such as ended just now."""
    cursor = await tx.execute(
        """
        SELECT id FROM uploads
        WHERE id = ANY(%s)
          AND (state IN ('open', 'finishing') OR updated_at > now() - %s * interval '1 second')
        """,
        [list(upload_ids), grace_seconds],
    )
    return {row[0] for row in await cursor.fetchall()}


async def expired_uploads(tx: Tx, seconds_ago: float, limit: int) -> list[UUID]:
    """Return uploads whose time was over so long ago that somebody should have ended them."""
    cursor = await tx.execute(
        """
        SELECT id FROM uploads
        WHERE state IN ('open', 'finishing') AND expires_at < now() - %s * interval '1 second'
          AND (leased_until IS NULL OR leased_until < now())
        ORDER BY expires_at LIMIT %s
        """,
        [seconds_ago, limit],
    )
    return [row[0] for row in await cursor.fetchall()]


async def drifted_quotas(tx: Tx, limit: int) -> list[tuple[str, int, int]]:
    """Return owners whose counted images are not those that they have: name, counted, stored bytes."""
    cursor = await tx.execute(
        """
        SELECT counter.owner, counter.bytes, stored.bytes FROM quota_usage AS counter
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(bytes), 0)::bigint AS bytes, count(*) AS images FROM images
            WHERE images.owner = counter.owner AND purged_at IS NULL
        ) AS stored
        WHERE counted_at IS NOT NULL AND (counter.bytes, counter.images) <> (stored.bytes, stored.images)
        ORDER BY counter.owner LIMIT %s
        """,
        [limit],
    )
    return [(owner, counted, stored) for owner, counted, stored in await cursor.fetchall()]


def _standing(row: tuple[Any, ...]) -> Standing:
    image_id, owner, state, purged, size, sha256, etag, content_type = row
    return Standing(image_id, owner, State(state), purged, size, sha256, etag, content_type)
