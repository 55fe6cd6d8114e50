"""Errands: what a transaction promised to do for a subscription, done after it by whoever delivers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from tintype.catalogue.database import Tx
from tintype.model.subscription import Subscription

CHANNEL = "tintype_events"
"""The events' own: notified by every transaction that adds an errand. A hint to look, nothing more."""


class ErrandKind(StrEnum):
    """What is to be done."""

    CONFIRMATION = "confirmation"
    TEST = "test"
    REPLAY = "replay"
    """`detail` has the positions `after` (not itself) and `until` (itself)."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A row of the list."""

    id: int
    owner: str
    subscription_id: UUID
    kind: ErrandKind
    detail: dict[str, Any]


async def add(
    tx: Tx, subscription: Subscription, kind: ErrandKind, detail: dict[str, Any] | None = None
) -> None:
    """Promise something in this transaction."""
    await tx.execute(
        "INSERT INTO errands (owner, subscription_id, kind, detail) VALUES (%s, %s, %s, %s::text::jsonb)",
        [subscription.owner, subscription.id, kind.value, orjson.dumps(detail or {}).decode()],
    )
    await tx.execute("SELECT pg_notify(%s, '')", [CHANNEL])


async def is_waiting(tx: Tx, subscription: Subscription, kind: ErrandKind) -> bool:
    """Tell whether an errand of this kind is still to be done for a subscription."""
    cursor = await tx.execute(
        "SELECT FROM errands WHERE owner = %s AND subscription_id = %s AND kind = %s LIMIT 1",
        [subscription.owner, subscription.id, kind.value],
    )
    return cursor.rowcount > 0


async def claim(tx: Tx, limit: int) -> list[Errand]:
    """Lock the oldest errands until the transaction ends, so that two workers never do the same one."""
    cursor = await tx.execute(
        """
        SELECT id, owner, subscription_id, kind, detail FROM errands
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        [limit],
    )
    return [Errand(a, b, c, ErrandKind(kind), detail) for a, b, c, kind, detail in await cursor.fetchall()]


async def done(tx: Tx, errands: Sequence[int]) -> None:
    """Strike these from the list."""
    await tx.execute("DELETE FROM errands WHERE id = ANY(%s)", [list(errands)])
