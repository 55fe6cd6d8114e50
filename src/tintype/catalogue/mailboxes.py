"""How many mails a mailbox gets: it may have agreed with many owners, and is still one person's."""

from datetime import timedelta

from tintype.catalogue.database import Tx, only

AT_ONCE = 20
"""Mails, from all owners together, after a long silence."""
EVERY = timedelta(minutes=10)
"""Then one in so long. One owner alone rests longer between two mails, and never meets this."""
SWEPT_AT_ONCE = 100


async def take(tx: Tx, address_sha256: bytes) -> float:
    """Count a mail that is about to go out; return 0, or in how many seconds there is room for it.

    A leaky bucket in one timestamp: when the last of the mails will have leaked out of it.
    """
    values = {"address": address_sha256, "every": EVERY, "room": EVERY * (AT_ONCE - 1)}
    cursor = await tx.execute(
        """
        INSERT INTO mailboxes AS known (address_sha256, empty_at) VALUES (%(address)s, now() + %(every)s)
        ON CONFLICT (address_sha256) DO UPDATE SET empty_at = greatest(known.empty_at, now()) + %(every)s
            WHERE known.empty_at <= now() + %(room)s
        """,
        values,
    )
    if cursor.rowcount:
        return 0
    # The conflict has locked the row: it is as full now as it was then.
    cursor = await tx.execute(
        """
        SELECT extract(epoch FROM empty_at - now() - %(room)s)::double precision
        FROM mailboxes WHERE address_sha256 = %(address)s
        """,
        values,
    )
    (seconds,) = await only(cursor)
    return seconds


async def give_back(tx: Tx, address_sha256: bytes) -> None:
    """Take back that a mail was counted: it did not go out."""
    await tx.execute(
        "UPDATE mailboxes SET empty_at = empty_at - %s WHERE address_sha256 = %s", [EVERY, address_sha256]
    )


async def sweep(tx: Tx) -> None:
    """Forget some of the mailboxes that are empty."""
    await tx.execute(
        """
        DELETE FROM mailboxes WHERE address_sha256 IN (
            SELECT address_sha256 FROM mailboxes WHERE empty_at < now()
            ORDER BY empty_at LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        [SWEPT_AT_ONCE],
    )
