"""The log of committed changes, which is also the outbox: what is not published yet waits in it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.catalogue.rows import json_text
from tintype.model.event import Event, Kind, event_id
from tintype.model.image import Image
from tintype.model.payload import image_payload

CHANNEL = "tintype_events"
"""Notified by every transaction that adds an event. A hint to look, nothing more."""
LONGEST_PAUSE_SECONDS = 300
MAX_POSITION = 2**63 - 1

_COLUMNS: LiteralString = "position, id, kind, image_id, owner, version, payload, created_at"


async def add(tx: Tx, kind: Kind, image: Image) -> None:
    """Record what became of an image, in the transaction that changed it."""
    await tx.execute(
        """
        INSERT INTO events (id, kind, image_id, owner, version, payload)
        VALUES (%s, %s, %s, %s, %s, %s::text::jsonb)
        """,
        [
            event_id(image.id, kind, image.version),
            kind.value,
            image.id,
            image.owner,
            image.version,
            json_text(image_payload(image)),
        ],
    )
    await tx.execute("SELECT pg_notify(%s, '')", [CHANNEL])


async def add_notice(
    tx: Tx, kind: Kind, owner: str, subject: UUID, payload: dict[str, Any], *, version: int = 1
) -> None:
    """Record what concerns no image, once for a kind, subject and version.

    The payload's `summary` is one sentence for people.
    """
    await tx.execute(
        """
        INSERT INTO events (id, kind, owner, version, payload) VALUES (%s, %s, %s, %s, %s::text::jsonb)
        ON CONFLICT (id) DO NOTHING
        """,
        [event_id(subject, kind, version), kind.value, owner, version, json_text(payload)],
    )
    await tx.execute("SELECT pg_notify(%s, '')", [CHANNEL])


async def claim(tx: Tx, limit: int, since: datetime | None = None) -> list[Event]:
    """Lock the events that have been due for longest, so that two relays never send the same one at once.

    The locks, and so the claim, end with the transaction: publish and `mark_published` within it.

    `since` passes over what was due before. While any transaction is open elsewhere, PostgreSQL cannot
    forget what was published under it, and whoever begins at the oldest walks past all of that.
    """
    # In the order of its index, also when the log has grown by a hundred thousand since it was analysed.
    await tx.execute("SET LOCAL enable_sort = off")
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM events
        WHERE published_at IS NULL AND next_attempt_at <= now()
            AND next_attempt_at >= coalesce(%s, timestamptz '-infinity')
        ORDER BY next_attempt_at, position LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        [since, limit],
    )
    return [_event(row) for row in await cursor.fetchall()]


async def mark_published(tx: Tx, positions: Sequence[int]) -> None:
    """Record that the publisher took these."""
    await tx.execute(
        "UPDATE events SET published_at = now(), attempts = attempts + 1, last_error = NULL "
        "WHERE position = ANY(%s)",
        [list(positions)],
    )


async def postpone(tx: Tx, position: int, error: str) -> int:
    """Record that the publisher did not take an event, and return how often that was tried by now.

    It is due again after a pause at random within 1 s, 2 s, 4 s, … up to five minutes (full jitter), so
    that events which failed together do not come back together.
    """
    cursor = await tx.execute(
        """
        UPDATE events
        SET attempts = attempts + 1,
            last_error = %s,
            next_attempt_at = now() + interval '1 second' * random() * least(%s, 2 ^ least(attempts, 20))
        WHERE position = %s RETURNING attempts
        """,
        [error, LONGEST_PAUSE_SECONDS, position],
    )
    (attempts,) = await only(cursor)
    return attempts


async def unpublished(tx: Tx, older_than_seconds: float, limit: int) -> list[UUID]:
    """Return the ids of events that have waited for longer, the oldest first."""
    cursor = await tx.execute(
        """
        SELECT id FROM events
        WHERE published_at IS NULL AND created_at < now() - %s * interval '1 second'
        ORDER BY created_at LIMIT %s
        """,
        [older_than_seconds, limit],
    )
    return [row[0] for row in await cursor.fetchall()]


async def nudge(tx: Tx, event_ids: Sequence[UUID]) -> int:
    """Have events offered again at once; return how many are not published."""
    cursor = await tx.execute(
        "UPDATE events SET next_attempt_at = now() WHERE id = ANY(%s) AND published_at IS NULL",
        [list(event_ids)],
    )
    await tx.execute("SELECT pg_notify(%s, '')", [CHANNEL])
    return cursor.rowcount


async def oldest_unpublished_age(tx: Tx) -> float | None:
    """Return for how many seconds the oldest unpublished event has waited, None when none waits."""
    cursor = await tx.execute(
        """
        SELECT extract(epoch FROM clock_timestamp() - created_at)::double precision
        FROM events WHERE published_at IS NULL ORDER BY created_at LIMIT 1
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def newest_position(tx: Tx, owner: str) -> int:
    """Return where the owner's log ends, as `page` shows it; 0 for an empty one."""
    cursor = await tx.execute(
        """
        SELECT coalesce(max(position), 0) FROM events
        WHERE owner = %s AND txid < pg_snapshot_xmin(pg_current_snapshot())
        """,
        [owner],
    )
    (position,) = await only(cursor)
    return position


async def position_before(tx: Tx, owner: str, moment: datetime) -> int:
    """Return the position behind which all of the owner's events since a moment stand.

    Places are taken when a transaction writes, and times are of its beginning: an event may stand behind
    one that is younger. So it is looked for from an hour before, which no transaction takes.
    """
    cursor = await tx.execute(
        """
        WITH long_before AS (
            SELECT coalesce(max(position), 0) AS position FROM events
            WHERE owner = %(owner)s AND created_at < %(moment)s - interval '1 hour'
        )
        SELECT coalesce(min(position) FILTER (WHERE created_at >= %(moment)s) - 1, max(position), 0)
        FROM events
        WHERE owner = %(owner)s AND position >= (SELECT position FROM long_before)
        """,
        {"owner": owner, "moment": moment},
    )
    (position,) = await only(cursor)
    return position


async def page(
    tx: Tx, owner: str, after: int, limit: int, *, kinds: Sequence[str] = (), until: int | None = None
) -> list[Event]:
    """Return the owner's events behind a position, in the order of the log; of these kinds if any is named.

    A transaction may commit after another one that took a later place. So the log is shown only up to
    where no transaction can still fill a place: below the oldest transaction that is running. Whoever
    reads on from the last position never misses an event.
    """
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM events
        WHERE owner = %(owner)s AND position > %(after)s AND position <= %(until)s
            AND txid < pg_snapshot_xmin(pg_current_snapshot())
            AND (%(kinds)s::text[] = '{{}}' OR kind = ANY(%(kinds)s))
        ORDER BY position LIMIT %(limit)s
        """,
        {
            "owner": owner,
            "after": after,
            "until": MAX_POSITION if until is None else until,
            "kinds": list(kinds),
            "limit": limit,
        },
    )
    return [_event(row) for row in await cursor.fetchall()]


async def settled(tx: Tx, after: int, limit: int) -> list[Event]:
    """Return events of all owners behind a position, as `page` does of one."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM events
        WHERE position > %s AND txid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY position LIMIT %s
        """,
        [after, limit],
    )
    return [_event(row) for row in await cursor.fetchall()]


async def horizon(tx: Tx, owner: str) -> int:
    """Return the owner's last position that `page` shows; 0 where it shows none."""
    cursor = await tx.execute(
        """
        SELECT position FROM events
        WHERE owner = %s AND txid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY position DESC LIMIT 1
        """,
        [owner],
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def newest(tx: Tx) -> int:
    """Return the last position of the log, which readers may not be shown yet; 0 when it is empty."""
    cursor = await tx.execute("SELECT position FROM events ORDER BY position DESC LIMIT 1")
    row = await cursor.fetchone()
    return row[0] if row else 0


def _event(row: tuple[Any, ...]) -> Event:
    position, identity, kind, *rest = row
    return Event(position, identity, Kind(kind), *rest)
