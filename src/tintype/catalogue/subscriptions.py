"""Subscriptions: made, found, changed, and what becomes of them."""

from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson
from psycopg.errors import UniqueViolation

from tintype.catalogue import events
from tintype.catalogue.database import Tx, only
from tintype.model.errors import SubscriptionExists, SubscriptionNotFound, SubscriptionState
from tintype.model.event import Kind
from tintype.model.subscription import (
    CONFIRM_SECONDS,
    LIVE,
    Channel,
    Mode,
    Provider,
    Status,
    Subscription,
    address_key,
)

_COLUMNS: LiteralString = """
    id, owner, channel, address, filter, kinds, mode, provider, status, reason, round, asked_at,
    secret, CASE WHEN old_secret_until > now() THEN old_secret END,
    sns_arn, sns_in_step, created_at, updated_at, confirmed_at, version
"""
_LIVE = [str(each) for each in LIVE]


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """What a subscription begins with."""

    id: UUID
    owner: str
    channel: Channel
    address: str
    filter: dict[str, Any]
    kinds: tuple[str, ...]
    mode: Mode
    provider: Provider
    secret: bytes | None = None


async def add(tx: Tx, new: NewSubscription) -> Subscription:
    """Record a subscription that waits to be confirmed.

    Raises `SubscriptionExists` when the address has one: of this owner, or at SNS, of any.
    """
    try:
        async with tx.transaction():
            cursor = await tx.execute(
                f"""
                INSERT INTO subscriptions (
                    id, owner, channel, address, address_key, filter, kinds, mode, provider, status,
                    secret, sns_in_step
                ) VALUES (%s, %s, %s, %s, %s, %s::text::jsonb, %s, %s, %s, 'pending', %s, %s)
                RETURNING {_COLUMNS}
                """,
                [
                    new.id,
                    new.owner,
                    new.channel.value,
                    new.address,
                    address_key(new.channel, new.address),
                    _json(new.filter),
                    list(new.kinds),
                    new.mode.value,
                    new.provider.value,
                    new.secret,
                    new.provider is Provider.TINTYPE,
                ],
            )
            return _subscription(await only(cursor))
    except UniqueViolation as error:
        raise SubscriptionExists(
            "The address has a subscription already. Change it, or delete it first."
        ) from error


async def find(tx: Tx, owner: str, subscription_id: UUID) -> Subscription | None:
    """Return the owner's subscription of that id, unless it was deleted."""
    cursor = await tx.execute(
        f"SELECT {_COLUMNS} FROM subscriptions WHERE owner = %s AND id = %s AND status <> 'deleted'",
        [owner, subscription_id],
    )
    row = await cursor.fetchone()
    return _subscription(row) if row else None


async def lock(tx: Tx, owner: str, subscription_id: UUID) -> Subscription:
    """Return the owner's subscription, which nobody else changes meanwhile. Raises `SubscriptionNotFound`."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM subscriptions
        WHERE owner = %s AND id = %s AND status <> 'deleted' FOR UPDATE
        """,
        [owner, subscription_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise SubscriptionNotFound("There is no subscription of that id. It may have been deleted.")
    return _subscription(row)


async def owner_of(tx: Tx, subscription_id: UUID) -> str | None:
    """Return whose subscription it is: for links, which name the subscription alone."""
    cursor = await tx.execute("SELECT owner FROM subscriptions WHERE id = %s", [subscription_id])
    row = await cursor.fetchone()
    return row[0] if row else None


async def page(tx: Tx, owner: str, before: UUID | None, limit: int) -> list[Subscription]:
    """Return the owner's subscriptions, the newest first, from behind one on."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM subscriptions
        WHERE owner = %(owner)s AND status <> 'deleted'
            AND (%(before)s::uuid IS NULL OR id < %(before)s::uuid)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"owner": owner, "before": before, "limit": limit},
    )
    return [_subscription(row) for row in await cursor.fetchall()]


async def count_live(tx: Tx, owner: str) -> int:
    """Return how many subscriptions the owner has that are not over."""
    cursor = await tx.execute(
        "SELECT count(*) FROM subscriptions WHERE owner = %s AND status = ANY(%s)", [owner, _LIVE]
    )
    (count,) = await only(cursor)
    return count


async def listeners(tx: Tx, owner: str) -> list[Subscription]:
    """Return the active subscriptions of an owner whom this service itself tells."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM subscriptions
        WHERE owner = %s AND status = 'active' AND provider = 'tintype' ORDER BY id
        """,
        [owner],
    )
    return [_subscription(row) for row in await cursor.fetchall()]


async def change(
    tx: Tx, current: Subscription, *, wanted: dict[str, Any], kinds: tuple[str, ...], mode: Mode
) -> Subscription:
    """Give a locked subscription another filter, other kinds, another mode."""
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET filter = %s::text::jsonb, kinds = %s, mode = %s, version = version + 1, updated_at = now(),
            sns_in_step = provider = 'tintype'
        WHERE owner = %s AND id = %s RETURNING {_COLUMNS}
        """,
        [_json(wanted), list(kinds), mode.value, current.owner, current.id],
    )
    return _subscription(await only(cursor))


async def confirm(tx: Tx, owner: str, subscription_id: UUID) -> Subscription | None:
    """Make a pending subscription active, with the event that tells of it, and return it.

    None: there is no subscription of that id that waits for this.
    """
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET status = 'active', reason = NULL, confirmed_at = now(), version = version + 1, updated_at = now(),
            sns_in_step = provider = 'tintype'
        WHERE owner = %s AND id = %s AND status = 'pending' RETURNING {_COLUMNS}
        """,
        [owner, subscription_id],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    confirmed = _subscription(row)
    told = {
        "subscription_id": str(confirmed.id),
        "channel": confirmed.channel.value,
        "summary": f"A subscription by {confirmed.channel.value} was confirmed.",
    }
    await events.add_notice(tx, Kind.SUBSCRIPTION_CONFIRMED, owner, confirmed.id, told)
    return confirmed


async def pause(tx: Tx, owner: str, subscription_id: UUID, reason: str | None = None) -> Subscription:
    """Tell an active subscription nothing more until it is resumed. A paused one stays as it is.

    Raises `SubscriptionNotFound`; `SubscriptionState` for one that was never confirmed, or is over.
    """
    current = await lock(tx, owner, subscription_id)
    if current.status is Status.PAUSED:
        return current
    _require(current, Status.ACTIVE, "paused")
    return await _move(tx, current, Status.PAUSED, reason)


async def resume(tx: Tx, owner: str, subscription_id: UUID) -> Subscription:
    """Tell a paused subscription of new events again. Raises what `pause` raises."""
    current = await lock(tx, owner, subscription_id)
    if current.status is Status.ACTIVE:
        return current
    _require(current, Status.PAUSED, "resumed")
    return await _move(tx, current, Status.ACTIVE, None)


async def end(tx: Tx, current: Subscription, status: Status, reason: str) -> Subscription:
    """Let a locked subscription be over: unsubscribed, or expired. The address can be subscribed anew."""
    return await _move(tx, current, status, reason)


async def remove(tx: Tx, owner: str, subscription_id: UUID) -> None:
    """Forget a subscription; one that SNS has, when SNS has done so. Raises `SubscriptionNotFound`."""
    current = await lock(tx, owner, subscription_id)
    if current.provider is Provider.SNS and (current.status in LIVE or not current.sns_in_step):
        await _move(tx, current, Status.DELETED, None)
    else:
        await forget(tx, owner, subscription_id)


async def forget(tx: Tx, owner: str, subscription_id: UUID) -> None:
    """Forget a subscription, whatever SNS knows of it."""
    await tx.execute("DELETE FROM subscriptions WHERE owner = %s AND id = %s", [owner, subscription_id])


async def ask_again(tx: Tx, current: Subscription) -> Subscription:
    """Begin another round of a locked subscription's confirmation: earlier links and codes end."""
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET round = round + 1, code_attempts = 0, asked_at = now(), updated_at = now(),
            sns_in_step = provider = 'tintype'
        WHERE owner = %s AND id = %s RETURNING {_COLUMNS}
        """,
        [current.owner, current.id],
    )
    return _subscription(await only(cursor))


async def count_attempt(tx: Tx, current: Subscription) -> int:
    """Count a code that somebody tried, and return how many were tried in this round."""
    cursor = await tx.execute(
        "UPDATE subscriptions SET code_attempts = code_attempts + 1 WHERE owner = %s AND id = %s "
        "RETURNING code_attempts",
        [current.owner, current.id],
    )
    (attempts,) = await only(cursor)
    return attempts


async def rotate_secret(tx: Tx, current: Subscription, secret: bytes, overlap_seconds: int) -> Subscription:
    """Give a locked webhook a new secret. The old one signs beside it for a while."""
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET old_secret = secret, old_secret_until = now() + make_interval(secs => %s), secret = %s,
            version = version + 1, updated_at = now()
        WHERE owner = %s AND id = %s RETURNING {_COLUMNS}
        """,
        [overlap_seconds, secret, current.owner, current.id],
    )
    return _subscription(await only(cursor))


async def expire(tx: Tx, limit: int) -> list[Subscription]:
    """End the subscriptions that nobody confirmed in time, oldest first, and return them."""
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET status = 'expired', reason = 'Nobody confirmed it in time.', version = version + 1,
            updated_at = now(), sns_in_step = provider = 'tintype'
        WHERE id IN (
            SELECT id FROM subscriptions
            WHERE status = 'pending' AND asked_at < now() - make_interval(secs => %s)
            ORDER BY asked_at LIMIT %s FOR UPDATE SKIP LOCKED
        )
        RETURNING {_COLUMNS}
        """,
        [CONFIRM_SECONDS, limit],
    )
    return [_subscription(row) for row in await cursor.fetchall()]


async def out_of_step(tx: Tx, limit: int) -> list[Subscription]:
    """Return subscriptions of which SNS has not been told, those first that have waited for longest."""
    cursor = await tx.execute(
        f"SELECT {_COLUMNS} FROM subscriptions WHERE NOT sns_in_step ORDER BY updated_at LIMIT %s", [limit]
    )
    return [_subscription(row) for row in await cursor.fetchall()]


async def at_sns(tx: Tx, after: UUID | None, limit: int) -> list[Subscription]:
    """Return the subscriptions that SNS should have or has, by id, from behind one on."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM subscriptions
        WHERE provider = 'sns' AND status <> 'deleted' AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
        ORDER BY id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [_subscription(row) for row in await cursor.fetchall()]


async def stepped(tx: Tx, current: Subscription, sns_arn: str | None) -> None:
    """Record that SNS knows what the row said when it was read; a newer change stays to be told."""
    if current.status is Status.DELETED:
        await forget(tx, current.owner, current.id)
        return
    await tx.execute(
        """
        UPDATE subscriptions
        SET sns_arn = %(arn)s, sns_in_step = version = %(version)s AND round = %(round)s
        WHERE owner = %(owner)s AND id = %(id)s
        """,
        {
            "arn": sns_arn,
            "version": current.version,
            "round": current.round,
            "owner": current.owner,
            "id": current.id,
        },
    )


async def delayed(tx: Tx, current: Subscription) -> None:
    """Put a subscription that SNS did not take behind the others that wait for it."""
    await tx.execute(
        "UPDATE subscriptions SET updated_at = now() WHERE owner = %s AND id = %s",
        [current.owner, current.id],
    )


async def _move(tx: Tx, current: Subscription, status: Status, reason: str | None) -> Subscription:
    cursor = await tx.execute(
        f"""
        UPDATE subscriptions
        SET status = %s, reason = %s, version = version + 1, updated_at = now(),
            sns_in_step = provider = 'tintype'
        WHERE owner = %s AND id = %s RETURNING {_COLUMNS}
        """,
        [status.value, reason, current.owner, current.id],
    )
    return _subscription(await only(cursor))


def _require(current: Subscription, status: Status, verb: str) -> None:
    if current.status is not status:
        raise SubscriptionState(
            f"The subscription is {current.status}; only {status} ones can be {verb}.",
            details={"subscription_status": str(current.status)},
        )


def _subscription(row: tuple[Any, ...]) -> Subscription:
    (
        identity, owner, channel, address, wanted, kinds, mode, provider, status, reason, number, asked_at,
        secret, old_secret, *rest,
    ) = row  # fmt: skip
    return Subscription(
        identity,
        owner,
        Channel(channel),
        address,
        wanted,
        tuple(kinds),
        Mode(mode),
        Provider(provider),
        Status(status),
        reason,
        number,
        asked_at,
        tuple(bytes(each) for each in (secret, old_secret) if each is not None),
        *rest,
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
