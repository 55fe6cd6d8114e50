"""Quarantine: what repairs took out of its place, and where it is held."""

from dataclasses import dataclass
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.model.finding import Finding
from tintype.model.ids import new_id


@dataclass(frozen=True, slots=True)
class Held:
    """An object in quarantine."""

    id: UUID
    key: str
    held_key: str
    size: int


async def begin(tx: Tx, finding: Finding, key: str, size: int) -> Held:
    """Record that an object is about to be moved, so that a crash leaves nothing unknown behind."""
    held_id = new_id()
    shard = f"{held_id.bytes[-1]:02x}"
    held = Held(held_id, key, f"quarantine/{shard}/{held_id}", size)
    await tx.execute(
        """
        INSERT INTO quarantine (id, finding_id, image_id, key, held_key, bytes, state)
        VALUES (%s, %s, %s, %s, %s, %s, 'moving')
        """,
        [held.id, finding.id, finding.image_id, key, held.held_key, size],
    )
    return held


async def mark(tx: Tx, held_id: UUID, state: str) -> None:
    """Record where an object is now: `held`, `returned`, `expired`."""
    await tx.execute("UPDATE quarantine SET state = %s WHERE id = %s", [state, held_id])


async def of_image(tx: Tx, image_id: UUID) -> list[Held]:
    """Return what is held of an image, the newest first."""
    cursor = await tx.execute(
        """
        SELECT id, key, held_key, bytes FROM quarantine
        WHERE image_id = %s AND state IN ('moving', 'held') ORDER BY id DESC
        """,
        [image_id],
    )
    return [Held(*row) for row in await cursor.fetchall()]


async def of_finding(tx: Tx, finding_id: UUID) -> Held | None:
    """Return what was taken away for a finding, if only perhaps: its copy is there, or never was made."""
    cursor = await tx.execute(
        """
        SELECT id, key, held_key, bytes FROM quarantine
        WHERE finding_id = %s AND state IN ('moving', 'held') ORDER BY id DESC LIMIT 1
        """,
        [finding_id],
    )
    row = await cursor.fetchone()
    return Held(*row) if row else None


async def outdated(tx: Tx, days: float, limit: int) -> list[Held]:
    """Return what has been held, or on its way, for longer than that."""
    cursor = await tx.execute(
        """
        SELECT id, key, held_key, bytes FROM quarantine
        WHERE state IN ('moving', 'held') AND moved_at < now() - %s * interval '1 day'
        ORDER BY moved_at LIMIT %s
        """,
        [days, limit],
    )
    return [Held(*row) for row in await cursor.fetchall()]


async def held_bytes(tx: Tx) -> int:
    """Return how many bytes are in quarantine."""
    cursor = await tx.execute(
        "SELECT coalesce(sum(bytes), 0)::bigint FROM quarantine WHERE state IN ('moving', 'held')"
    )
    (total,) = await only(cursor)
    return total
