"""The log of events as the journal in the bucket keeps it: by position, and never with a gap."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tintype.catalogue.database import Tx, only


@dataclass(frozen=True, slots=True)
class Entry:
    """An event about an image. EXIF and location, which can be long, come with those that begin a row."""

    position: int
    kind: str
    image_id: UUID
    version: int
    payload: dict[str, Any]
    created_at: datetime
    etag: str | None
    exif: dict[str, Any] | None
    location: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is not in the journal yet."""

    oldest_age: float
    """In seconds, by the database's clock; 0 when nothing waits."""
    urgent: bool
    """Whether a deletion is among it."""


async def waiting(tx: Tx, position: int) -> Waiting:
    """Return what waits behind a position."""
    cursor = await tx.execute(
        """
        SELECT
            coalesce(extract(epoch FROM clock_timestamp() - (
                SELECT created_at FROM events WHERE position > %(position)s ORDER BY position LIMIT 1
            )), 0)::double precision,
            EXISTS (
                SELECT FROM (
                    SELECT kind FROM events WHERE position > %(position)s ORDER BY position LIMIT 1000
                ) AS behind
                WHERE kind = 'image.deleted')
        """,
        {"position": position},
    )
    age, urgent = await only(cursor)
    return Waiting(max(age, 0.0), urgent)


async def behind(tx: Tx, position: int, limit: int) -> tuple[list[Entry], int]:
    """Return events about images behind a position, and the position that was read up to.

    Only up to where no running transaction can still fill a place (see `events.page`): whoever goes on
    from there misses nothing.
    """
    cursor = await tx.execute(
        """
        SELECT event.position, kind, image_id, event.version, payload, event.created_at,
            image.etag,
            CASE WHEN kind IN ('image.uploaded', 'image.recovered') THEN image.exif END,
            CASE WHEN kind IN ('image.uploaded', 'image.recovered') THEN image.location END
        FROM events AS event
        LEFT JOIN images AS image ON image.id = event.image_id AND image.purged_at IS NULL
        WHERE event.position > %s AND event.txid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY event.position LIMIT %s
        """,
        [position, limit],
    )
    rows = await cursor.fetchall()
    about_images = [Entry(*row) for row in rows if row[2] is not None]
    return about_images, rows[-1][0] if rows else position


async def last_known(tx: Tx) -> int:
    """Return the newest position that this database knows of: of an event, or of a rebuild."""
    cursor = await tx.execute(
        """
        SELECT greatest(
            coalesce((SELECT max(position) FROM events), 0),
            coalesce((SELECT position FROM rebuilds WHERE finished_at IS NOT NULL), 0))
        """
    )
    (position,) = await only(cursor)
    return position


async def go_on_behind(tx: Tx, position: int) -> None:
    """Let the next event take a place behind this one."""
    await tx.execute(
        """
        SELECT setval('events_position_seq', %(position)s) WHERE %(position)s > 0
            AND %(position)s > coalesce(pg_sequence_last_value('events_position_seq'), 0)
        """,
        {"position": position},
    )


async def try_to_be_alone(connection: Tx) -> bool:
    """Tell whether this connection is the one that keeps the journal, until it closes.

    For economy only: two that write the same stretch write the same words.
    """
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [_KEEPER])
    (alone,) = await only(cursor)
    return alone


_KEEPER = 0x4A4F55524E414C  # "JOURNAL"
