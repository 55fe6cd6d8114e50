"""How often an address was asked to confirm: nobody can have a stranger mailed all day long."""

from datetime import timedelta

from tintype.catalogue.database import Tx, only

MAX_ASKED = 5
"""Times in `WINDOW`, whichever owners ask, and for whichever channel."""
WINDOW = timedelta(days=1)
SWEPT_AT_ONCE = 100


async def count(tx: Tx, address_sha256: bytes) -> int | None:
    """Count that an address is asked now; return None, or in how many seconds it may be asked again."""
    cursor = await tx.execute(
        """
        INSERT INTO confirmations_asked AS known (address_sha256) VALUES (%(address)s)
        ON CONFLICT (address_sha256) DO UPDATE SET
            since = CASE WHEN known.since < now() - %(window)s THEN now() ELSE known.since END,
            asked = CASE WHEN known.since < now() - %(window)s THEN 1 ELSE known.asked + 1 END
        RETURNING asked, ceil(extract(epoch FROM since + %(window)s - now()))::integer
        """,
        {"address": address_sha256, "window": WINDOW},
    )
    asked, seconds = await only(cursor)
    return None if asked <= MAX_ASKED else max(1, seconds)


async def sweep(tx: Tx) -> None:
    """Forget some of the addresses that were not asked lately: as many as keep up with new ones."""
    await tx.execute(
        """
        DELETE FROM confirmations_asked WHERE address_sha256 IN (
            SELECT address_sha256 FROM confirmations_asked WHERE since < now() - %s
            ORDER BY since LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        [WINDOW, SWEPT_AT_ONCE],
    )
