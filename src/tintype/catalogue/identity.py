"""The identity that this database shares with its object store."""

from uuid import UUID

from tintype.catalogue.database import Tx, only


async def find(tx: Tx) -> UUID | None:
    """Return the identity, None for a database that has not been paired yet."""
    cursor = await tx.execute("SELECT id FROM identity")
    row = await cursor.fetchone()
    return row[0] if row else None


async def add(tx: Tx, pair: UUID) -> UUID:
    """Record the identity unless there is one already, and return the one that stands."""
    await tx.execute("INSERT INTO identity (id) VALUES (%s) ON CONFLICT (sole) DO NOTHING", [pair])
    cursor = await tx.execute("SELECT id FROM identity")
    (standing,) = await only(cursor)
    return standing
