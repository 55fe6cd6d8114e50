"""What is forgotten by and by: answers to idempotency keys, and events that everybody has."""

from dataclasses import dataclass

from tintype.catalogue.database import Tx, only


@dataclass(frozen=True, slots=True)
class Forgotten:
    """One look along the log."""

    count: int
    upto: int | None
    """The last old event that was looked at; None: there is none behind it."""


async def forget_answers(tx: Tx, days: float, limit: int) -> int:
    """Remove answers to idempotency keys that were given longer ago, the oldest first; return how many."""
    cursor = await tx.execute(
        """
        DELETE FROM idempotency WHERE (owner, key) IN (
            SELECT owner, key FROM idempotency
            WHERE created_at < now() - %s * interval '1 day' ORDER BY created_at LIMIT %s)
        """,
        [days, limit],
    )
    return cursor.rowcount


async def handed_over(tx: Tx) -> int:
    """Return up to which position nobody has anything to deliver any more."""
    cursor = await tx.execute(
        """
        SELECT least(
            (SELECT position FROM fan_out),
            (SELECT min(position) - 1 FROM deliveries WHERE state = 'pending'))
        """
    )
    (position,) = await only(cursor)
    return position or 0


async def forget_events(tx: Tx, days: float, *, after: int, upto: int, limit: int) -> Forgotten:
    """Look at so many events behind a position, and remove those that are old and published, up to another.

    Each owner's last event stays: by it readers know how far the log has come.
    """
    cursor = await tx.execute(
        """
        WITH old AS (
            SELECT position, owner, published_at, created_at < now() - %(days)s * interval '1 day' AS is_old
            FROM events WHERE position > %(after)s ORDER BY position LIMIT %(limit)s),
        gone AS (
            DELETE FROM events USING old
            WHERE events.position = old.position AND is_old AND old.published_at IS NOT NULL
              AND old.position <= %(upto)s
              AND EXISTS (
                  SELECT FROM events AS later
                  WHERE later.owner = old.owner AND later.position > old.position)
            RETURNING events.position)
        SELECT (SELECT count(*) FROM gone), (SELECT max(position) FROM old WHERE is_old)
        """,
        {"days": days, "after": after, "upto": upto, "limit": limit},
    )
    return Forgotten(*await only(cursor))
