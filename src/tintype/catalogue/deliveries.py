"""Deliveries: made from the log of events, claimed lane by lane, and what became of each attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

from tintype.catalogue.database import Tx, only
from tintype.model.delivery import (
    PATIENCE,
    Attempt,
    Delivery,
    Lane,
    LedgerEntry,
    LoggedAttempt,
    State,
)
from tintype.model.event import Event, Kind
from tintype.model.subscription import Mode

KEEP_DAYS = 30
"""For so long a settled delivery can be looked up and replayed by its place in the ledger."""

LOGGED = 20
"""Attempts of a delivery that its owner is shown; replays can make any number of them."""

_LANE: LiteralString = "owner, subscription_id, fence, failures"
_DELIVERY: LiteralString = """
    d.id, d.kind, d.attempts, d.step, d.bundle, d.created_at,
    e.position, e.id, e.kind, e.image_id, e.owner, e.version, e.payload, e.created_at
"""
_ENTRY: LiteralString = """
    id, kind, position, image_id, state, attempts, created_at, next_attempt_at, settled_at,
    last_status, last_error
"""
# Of one image a subscriber hears in the order of its versions: an earlier delivery holds back the later ones.
_FIRST_OF_ITS_IMAGE: LiteralString = """
    NOT EXISTS (
        SELECT FROM deliveries AS earlier
        WHERE earlier.subscription_id = d.subscription_id AND earlier.image_id = d.image_id
            AND earlier.state = 'pending' AND earlier.position < d.position)
"""
# When a digest goes out: at the full hour, or in the morning (UTC).
_DUE: LiteralString = """
    CASE mode
        WHEN 'hourly' THEN date_trunc('hour', now()) + interval '1 hour'
        WHEN 'daily' THEN date_trunc('day', now() - interval '6 hours') + interval '30 hours'
        ELSE now()
    END
"""


@dataclass(frozen=True, slots=True)
class News:
    """Something that a subscription is to be told."""

    owner: str
    subscription_id: UUID
    id: UUID
    kind: str
    mode: Mode = Mode.AT_ONCE
    event: Event | None = None


async def take_turn(tx: Tx) -> int | None:
    """Return up to where the log was turned into deliveries; None while somebody else is at it.

    Whoever has the turn keeps it until the transaction ends.
    """
    cursor = await tx.execute("SELECT position FROM fan_out WHERE sole FOR UPDATE SKIP LOCKED")
    row = await cursor.fetchone()
    return row[0] if row else None


async def advance(tx: Tx, position: int) -> None:
    """Record up to where the log was turned into deliveries, in the transaction that adds them."""
    await tx.execute("UPDATE fan_out SET position = %s WHERE sole", [position])


async def reached(tx: Tx) -> int:
    """Return up to where the log was turned into deliveries."""
    (position,) = await only(await tx.execute("SELECT position FROM fan_out WHERE sole"))
    return position


async def add(tx: Tx, news: Sequence[News], *, again: bool = False) -> None:
    """Record deliveries to be made. One that there is already stays as it is.

    `again`: one that was settled is made once more, under the same id.
    """
    if not news:
        return
    ordered = sorted(news, key=lambda each: (each.subscription_id, each.id))
    columns = [
        [each.owner for each in ordered],
        [each.subscription_id for each in ordered],
        [each.id for each in ordered],
        [each.event.position if each.event else None for each in ordered],
        [each.event.image_id if each.event else None for each in ordered],
        [each.kind for each in ordered],
        [each.mode.value for each in ordered],
    ]
    await tx.execute(
        f"""
        WITH news AS (
            SELECT owner, subscription_id, id, position, image_id, kind, {_DUE} AS due
            FROM unnest(%s::text[], %s::uuid[], %s::uuid[], %s::bigint[], %s::uuid[], %s::text[], %s::text[])
                AS told (owner, subscription_id, id, position, image_id, kind, mode)
            WHERE EXISTS (SELECT FROM subscriptions AS still WHERE still.id = told.subscription_id)
        ), added AS (
            INSERT INTO deliveries AS known
                (owner, subscription_id, id, position, image_id, kind, next_attempt_at)
            SELECT owner, subscription_id, id, position, image_id, kind, due
            FROM news ORDER BY subscription_id, id
            ON CONFLICT (subscription_id, id) DO UPDATE
                SET state = 'pending', step = 0, bundle = NULL, settled_at = NULL, next_attempt_at = now()
                WHERE %s AND known.state <> 'pending'
            RETURNING owner, subscription_id, next_attempt_at
        )
        INSERT INTO delivery_lanes AS lane (owner, subscription_id, due_at)
        SELECT owner, subscription_id, min(next_attempt_at) FROM added
        GROUP BY owner, subscription_id ORDER BY subscription_id
        ON CONFLICT (subscription_id) DO UPDATE
            SET due_at = greatest(lane.not_before, least(lane.due_at, excluded.due_at))
        """,
        [*columns, again],
    )


async def claim(tx: Tx, limit: int, lease_seconds: float) -> list[Lane]:
    """Take lanes with something due, those first that have waited for longest, for as long as the lease."""
    cursor = await tx.execute(
        f"""
        UPDATE delivery_lanes
        SET leased_until = now() + make_interval(secs => %s), fence = fence + 1
        WHERE subscription_id IN (
            SELECT lane.subscription_id FROM delivery_lanes AS lane
            JOIN subscriptions ON subscriptions.id = lane.subscription_id
            WHERE lane.due_at <= now() AND lane.leased_until <= now()
                AND subscriptions.status IN ('active', 'pending')
            ORDER BY lane.due_at LIMIT %s FOR UPDATE OF lane SKIP LOCKED
        )
        RETURNING {_LANE}
        """,
        [lease_seconds, limit],
    )
    return [Lane(*row) for row in await cursor.fetchall()]


async def soonest(tx: Tx) -> float | None:
    """Return in how many seconds a lane that nobody has is due; None when nothing waits."""
    cursor = await tx.execute(
        """
        SELECT extract(epoch FROM greatest(lane.due_at, lane.leased_until) - clock_timestamp())::float
        FROM delivery_lanes AS lane JOIN subscriptions ON subscriptions.id = lane.subscription_id
        WHERE lane.due_at IS NOT NULL AND subscriptions.status IN ('active', 'pending')
        ORDER BY lane.due_at LIMIT 1
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def hold(tx: Tx, lane: Lane, lease_seconds: float) -> bool:
    """Lock a lane that this worker has, and keep it for another while; False when another one has it."""
    cursor = await tx.execute(
        """
        UPDATE delivery_lanes SET leased_until = now() + make_interval(secs => %s)
        WHERE subscription_id = %s AND fence = %s
        """,
        [lease_seconds, lane.subscription_id, lane.fence],
    )
    return cursor.rowcount > 0


async def due(tx: Tx, lane: Lane, limit: int) -> list[Delivery]:
    """Return what is due in a lane, oldest first, of each image the first."""
    cursor = await tx.execute(
        f"""
        SELECT {_DELIVERY} FROM deliveries AS d LEFT JOIN events AS e ON e.position = d.position
        WHERE d.subscription_id = %s AND d.state = 'pending' AND d.next_attempt_at <= now()
            AND {_FIRST_OF_ITS_IMAGE}
        ORDER BY d.next_attempt_at, d.position LIMIT %s
        """,
        [lane.subscription_id, limit],
    )
    return [_delivery(row) for row in await cursor.fetchall()]


async def bundle(tx: Tx, lane: Lane, new_bundle: UUID, limit: int) -> list[Delivery]:
    """Return what goes into one mail: the mail begun first and not known to be sent, else all that is due."""
    cursor = await tx.execute(
        """
        SELECT bundle FROM deliveries
        WHERE subscription_id = %s AND state = 'pending' AND next_attempt_at <= now() AND bundle IS NOT NULL
        ORDER BY next_attempt_at, position LIMIT 1
        """,
        [lane.subscription_id],
    )
    row = await cursor.fetchone()
    chosen = row[0] if row else new_bundle
    if row is None:
        await tx.execute(
            """
            UPDATE deliveries SET bundle = %(bundle)s
            WHERE subscription_id = %(lane)s AND id IN (
                SELECT id FROM deliveries
                WHERE subscription_id = %(lane)s AND state = 'pending' AND next_attempt_at <= now()
                ORDER BY next_attempt_at, position LIMIT %(limit)s)
            """,
            {"bundle": chosen, "lane": lane.subscription_id, "limit": limit},
        )
    cursor = await tx.execute(
        f"""
        SELECT {_DELIVERY} FROM deliveries AS d LEFT JOIN events AS e ON e.position = d.position
        WHERE d.subscription_id = %s AND d.state = 'pending' AND d.bundle = %s
        ORDER BY d.position
        """,
        [lane.subscription_id, chosen],
    )
    return [_delivery(row) for row in await cursor.fetchall()]


async def record(tx: Tx, lane: Lane, attempts: Sequence[tuple[Attempt, float | None]]) -> None:
    """Record what became of attempts, each with the seconds until its next one; None: there is none."""
    if not attempts:
        return
    columns = [
        [attempt.delivery.id for attempt, _ in attempts],
        [_state(attempt, pause).value for attempt, pause in attempts],
        [pause for _, pause in attempts],
        [attempt.status for attempt, _ in attempts],
        [attempt.error for attempt, _ in attempts],
        [attempt.milliseconds for attempt, _ in attempts],
    ]
    await tx.execute(
        """
        WITH made AS (
            SELECT * FROM unnest(%s::uuid[], %s::text[], %s::float[], %s::int[], %s::text[], %s::int[])
                AS made (id, state, pause, status, error, milliseconds)
        ), changed AS (
            UPDATE deliveries AS d
            SET state = made.state, attempts = attempts + 1, step = step + 1,
                next_attempt_at = now() + make_interval(secs => coalesce(made.pause, 0)),
                settled_at = CASE WHEN made.state <> 'pending' THEN now() END,
                last_status = made.status, last_error = made.error
            FROM made WHERE d.subscription_id = %s AND d.id = made.id AND d.state = 'pending'
            RETURNING d.owner, d.subscription_id, d.id, d.attempts, made.milliseconds, made.status, made.error
        )
        INSERT INTO delivery_attempts
            (owner, subscription_id, delivery_id, number, milliseconds, status, error)
        SELECT * FROM changed
        """,
        [*columns, lane.subscription_id],
    )


async def judge(tx: Tx, lane: Lane, *, failures: int, patience: timedelta = PATIENCE) -> bool:
    """Record how many rounds in a row failed by now; tell whether that has gone on for too long."""
    cursor = await tx.execute(
        """
        UPDATE delivery_lanes
        SET failures = %(failures)s,
            failing_since = CASE WHEN %(failures)s > 0 THEN coalesce(failing_since, now()) END
        WHERE subscription_id = %(lane)s
        RETURNING coalesce(now() - failing_since >= %(patience)s, false)
        """,
        {"failures": failures, "lane": lane.subscription_id, "patience": patience},
    )
    row = await cursor.fetchone()
    return row is not None and row[0]


async def mailed(tx: Tx, lane: Lane) -> int:
    """Record a mail to this address, and return how many there were without an hour's rest between."""
    cursor = await tx.execute(
        """
        UPDATE delivery_lanes
        SET mails = CASE WHEN mailed_at > now() - interval '1 hour' THEN mails + 1 ELSE 1 END,
            mailed_at = now()
        WHERE subscription_id = %s RETURNING mails
        """,
        [lane.subscription_id],
    )
    row = await cursor.fetchone()
    return row[0] if row else 1


async def hurry(tx: Tx, lane: Lane) -> None:
    """Have what failed in a lane due now: its address is back."""
    await tx.execute(
        """
        UPDATE deliveries SET next_attempt_at = now()
        WHERE subscription_id = %s AND state = 'pending' AND next_attempt_at > now() AND step > 0
        """,
        [lane.subscription_id],
    )


async def release(tx: Tx, lane: Lane, rest_seconds: float) -> None:
    """Give a held lane back. It is due with the first of its deliveries, and not before it has rested."""
    # In the lane's lock, which `hold` took, so that news which came meanwhile is seen.
    await tx.execute(
        f"""
        UPDATE delivery_lanes AS lane
        SET leased_until = '-infinity',
            not_before = now() + make_interval(secs => %(rest)s),
            due_at = (
                SELECT greatest(now() + make_interval(secs => %(rest)s), d.next_attempt_at)
                FROM deliveries AS d
                WHERE d.subscription_id = %(lane)s AND d.state = 'pending' AND {_FIRST_OF_ITS_IMAGE}
                ORDER BY d.next_attempt_at, d.position LIMIT 1)
        WHERE subscription_id = %(lane)s AND fence = %(fence)s
        """,
        {"rest": rest_seconds, "lane": lane.subscription_id, "fence": lane.fence},
    )


async def sweep(tx: Tx, limit: int) -> int:
    """Cancel what subscriptions that are over wait for, forget what was settled long ago; return how much."""
    cursor = await tx.execute(
        """
        WITH over AS (
            DELETE FROM delivery_lanes WHERE subscription_id IN (
                SELECT lane.subscription_id FROM delivery_lanes AS lane
                JOIN subscriptions ON subscriptions.id = lane.subscription_id
                WHERE lane.due_at <= now() AND lane.leased_until <= now()
                    AND subscriptions.status NOT IN ('active', 'pending', 'paused')
                ORDER BY lane.due_at LIMIT %s FOR UPDATE OF lane SKIP LOCKED)
            RETURNING subscription_id
        )
        UPDATE deliveries SET state = 'cancelled', settled_at = now()
        FROM over WHERE deliveries.subscription_id = over.subscription_id AND state = 'pending'
        """,
        [limit],
    )
    cancelled = cursor.rowcount
    cursor = await tx.execute(
        """
        DELETE FROM deliveries WHERE (subscription_id, id) IN (
            SELECT subscription_id, id FROM deliveries
            WHERE state <> 'pending' AND settled_at < now() - make_interval(days => %s)
            ORDER BY settled_at LIMIT %s FOR UPDATE SKIP LOCKED)
        """,
        [KEEP_DAYS, limit],
    )
    return cancelled + cursor.rowcount


async def waiting(tx: Tx) -> float | None:
    """Return for how many seconds the lane that is due for longest has waited; None when none is due."""
    cursor = await tx.execute(
        """
        SELECT extract(epoch FROM now() - lane.due_at)::float
        FROM delivery_lanes AS lane JOIN subscriptions ON subscriptions.id = lane.subscription_id
        WHERE lane.due_at <= now() AND subscriptions.status IN ('active', 'pending')
        ORDER BY lane.due_at LIMIT 1
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def page(
    tx: Tx,
    owner: str,
    subscription_id: UUID,
    before: tuple[datetime, UUID] | None,
    limit: int,
    *,
    state: State | None = None,
) -> list[LedgerEntry]:
    """Return a subscription's deliveries, the newest first, from behind one on; of one state, if named."""
    moment, identity = before or (None, None)
    cursor = await tx.execute(
        f"""
        SELECT {_ENTRY} FROM deliveries
        WHERE owner = %(owner)s AND subscription_id = %(subscription)s
            AND (%(moment)s::timestamptz IS NULL OR (created_at, id) < (%(moment)s, %(id)s::uuid))
            AND (%(state)s::text IS NULL OR state = %(state)s)
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
        """,
        {
            "owner": owner,
            "subscription": subscription_id,
            "moment": moment,
            "id": identity,
            "limit": limit,
            "state": state,
        },
    )
    found = await cursor.fetchall()
    attempts = await _attempts(tx, subscription_id, [row[0] for row in found])
    return [
        LedgerEntry(a, b, c, d, State(state), *rest, log=tuple(attempts[a]))
        for a, b, c, d, state, *rest in found
    ]


async def _attempts(
    tx: Tx, subscription_id: UUID, delivery_ids: Sequence[UUID]
) -> dict[UUID, list[LoggedAttempt]]:
    """Return the last attempts at each of these deliveries, oldest first."""
    cursor = await tx.execute(
        """
        SELECT made.delivery_id, made.number, made.at, made.milliseconds, made.status, made.error
        FROM delivery_attempts AS made
        JOIN deliveries AS d ON d.subscription_id = made.subscription_id AND d.id = made.delivery_id
        WHERE made.subscription_id = %s AND made.delivery_id = ANY(%s) AND made.number > d.attempts - %s
        ORDER BY made.number
        """,
        [subscription_id, list(delivery_ids), LOGGED],
    )
    attempts: dict[UUID, list[LoggedAttempt]] = {each: [] for each in delivery_ids}
    for delivery_id, *attempt in await cursor.fetchall():
        attempts[delivery_id].append(LoggedAttempt(*attempt))
    return attempts


def _state(attempt: Attempt, pause: float | None) -> State:
    if attempt.error is None:
        return State.DELIVERED
    return State.DEAD if pause is None else State.PENDING


def _delivery(row: tuple[Any, ...]) -> Delivery:
    identity, kind, attempts, step, bundle_id, created_at, position, event_id, event_kind, *rest = row
    event = None if position is None else Event(position, event_id, Kind(event_kind), *rest)
    return Delivery(identity, kind, event, attempts, step, bundle_id, created_at)
