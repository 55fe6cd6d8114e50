"""Quotas of owners, what they have stored, and room for uploads on their way.

Usage is counted for owners who have a quota, or once had one: by triggers (0008_quotas.sql), in the
transaction that stores or removes an image, so that no counter can miss one. Who has a quota is looked
up before an upload; for all others nothing is reserved and no counter is written.
"""

from typing import LiteralString
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.model.quota import Quota, Usage

# What an image takes of its owner's quota: its bytes, until they are gone for good. The trash counts.
_STORED: LiteralString = """
    SELECT coalesce(sum(bytes), 0)::bigint, count(*) FROM images WHERE owner = %s AND purged_at IS NULL
"""


async def find(tx: Tx, owner: str) -> Quota | None:
    """Return the owner's own quota."""
    cursor = await tx.execute(
        "SELECT max_bytes, max_images FROM quotas WHERE owner = %s", [owner], prepare=True
    )
    row = await cursor.fetchone()
    return Quota(*row) if row else None


async def every(tx: Tx) -> list[tuple[str, Quota]]:
    """Return all owners with a quota of their own."""
    cursor = await tx.execute("SELECT owner, max_bytes, max_images FROM quotas ORDER BY owner")
    return [(owner, Quota(max_bytes, max_images)) for owner, max_bytes, max_images in await cursor.fetchall()]


async def put(tx: Tx, owner: str, quota: Quota) -> None:
    """Give the owner this quota, in place of the one there was."""
    await tx.execute(
        """
        INSERT INTO quotas (owner, max_bytes, max_images) VALUES (%s, %s, %s)
        ON CONFLICT (owner) DO UPDATE
        SET max_bytes = excluded.max_bytes, max_images = excluded.max_images, updated_at = now()
        """,
        [owner, quota.max_bytes, quota.max_images],
    )


async def remove(tx: Tx, owner: str) -> bool:
    """Take the owner's own quota away. Return whether there was one. What is stored stays counted."""
    cursor = await tx.execute("DELETE FROM quotas WHERE owner = %s", [owner])
    return cursor.rowcount == 1


async def begin_to_count(tx: Tx, owner: str) -> bool:
    """Have what changes from now on counted; return whether what was there before is still to be.

    Who stores an image at this moment may not have seen the counter. So the transaction waits until
    all those have ended, for milliseconds, and none begins before it is committed. `recount`, in another
    transaction, then finds the rest.
    """
    cursor = await tx.execute(
        "SELECT counted_at IS NOT NULL FROM quota_usage WHERE owner = %s", [owner], prepare=True
    )
    row = await cursor.fetchone()
    if row is not None:
        (is_counted,) = row
        return not is_counted
    await tx.execute("LOCK TABLE images IN SHARE MODE")
    await tx.execute("INSERT INTO quota_usage (owner) VALUES (%s) ON CONFLICT DO NOTHING", [owner])
    return True


async def recount(tx: Tx, owner: str) -> tuple[Usage, Usage] | None:
    """Count anew what the owner has stored; return the usage as it was, and as it is.

    None for an owner whose usage is not counted. The owner's uploads wait meanwhile at their commit; what
    they add is not in this count, and is added to it afterwards.
    """
    found = await _lock(tx, owner)
    if found is None:
        return None
    before, _ = found
    cursor = await tx.execute(_STORED, [owner])
    size, images = await only(cursor)
    await tx.execute(
        "UPDATE quota_usage SET bytes = %s, images = %s, counted_at = now() WHERE owner = %s",
        [size, images, owner],
    )
    return before, Usage(size, images, before.reserved_bytes, before.reserved_images)


async def usage(tx: Tx, owner: str) -> Usage | None:
    """Return what the owner has, reservations included; None where it is not counted."""
    cursor = await tx.execute(
        """
        SELECT counter.bytes, counter.images, coalesce(sum(held.bytes), 0)::bigint,
               coalesce(sum(held.images), 0)::bigint
        FROM quota_usage AS counter
        LEFT JOIN quota_reservations AS held ON held.owner = counter.owner AND held.expires_at > now()
        WHERE counter.owner = %s AND counter.counted_at IS NOT NULL
        GROUP BY counter.owner
        """,
        [owner],
    )
    row = await cursor.fetchone()
    return Usage(*row) if row else None


async def stored(tx: Tx, owner: str) -> Usage:
    """Count what the owner has stored, whether or not it is counted all the time."""
    cursor = await tx.execute(_STORED, [owner])
    return Usage(*await only(cursor))


async def locked(tx: Tx, owner: str) -> Usage | None:
    """Return what the owner has, and let nobody else reserve or store until the transaction ends.

    None where it is not counted yet: `begin_to_count`, then `recount`. What has expired is forgotten.
    """
    found = await _lock(tx, owner)
    if found is None:
        return None
    usage, is_counted = found
    await tx.execute(
        "DELETE FROM quota_reservations WHERE owner = %s AND expires_at <= now()", [owner], prepare=True
    )
    return usage if is_counted else None


async def reserve(tx: Tx, owner: str, attempt: UUID, *, size: int, seconds: float) -> None:
    """Hold room for an attempt at one image; its image takes the room's place when it is stored."""
    await tx.execute(
        """
        INSERT INTO quota_reservations (id, owner, bytes, images, expires_at)
        VALUES (%s, %s, %s, 1, now() + make_interval(secs => %s))
        """,
        [attempt, owner, size, seconds],
        prepare=True,
    )


async def shrink(tx: Tx, owner: str, held: UUID, size: int) -> tuple[int, int]:
    """Take the room of one image out of what is held; return how many bytes and images that was."""
    cursor = await tx.execute(
        """
        WITH before AS (
            SELECT id, bytes, images FROM quota_reservations WHERE owner = %(owner)s AND id = %(id)s
            FOR UPDATE)
        UPDATE quota_reservations AS held
        SET bytes = before.bytes - least(before.bytes, %(size)s), images = greatest(before.images - 1, 0)
        FROM before WHERE held.id = before.id
        RETURNING before.bytes - held.bytes, before.images - held.images
        """,
        {"owner": owner, "id": held, "size": size},
        prepare=True,
    )
    row = await cursor.fetchone()
    return row or (0, 0)


async def release(tx: Tx, owner: str, attempt: UUID) -> None:
    """Give room back. That of a stored image has gone already."""
    await tx.execute(
        "DELETE FROM quota_reservations WHERE owner = %s AND id = %s", [owner, attempt], prepare=True
    )


async def _lock(tx: Tx, owner: str) -> tuple[Usage, bool] | None:
    cursor = await tx.execute(
        "SELECT bytes, images, counted_at IS NOT NULL FROM quota_usage WHERE owner = %s FOR UPDATE",
        [owner],
        prepare=True,
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    # A statement of its own: it sees what was committed while the first one waited for the lock.
    cursor = await tx.execute(
        """
        SELECT coalesce(sum(bytes), 0)::bigint, coalesce(sum(images), 0)::bigint FROM quota_reservations
        WHERE owner = %s AND expires_at > now()
        """,
        [owner],
        prepare=True,
    )
    size, images, is_counted = row
    held_bytes, held_images = await only(cursor)
    return Usage(size, images, held_bytes, held_images), is_counted
