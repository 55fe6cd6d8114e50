"""A delivery: one event, or something else to say, for one subscription."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from tintype.model.event import Event

CONFIRMATION = "confirmation"
TEST = "test"

RETRY_SECONDS = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 7 * 3600)
"""Standard Webhooks' plan, as far as it goes in a day: what is not delivered after it is dead."""

PATIENCE = timedelta(hours=24)
"""For so long an address may fail without any success before its subscription is paused."""


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Given up after the last attempt. A replay brings it back."""
    CANCELLED = "cancelled"
    """Its subscription ended first."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be told, and how often that was tried."""

    id: UUID
    """The event's id; for what is no event, an id of its own. The same for each attempt."""
    kind: str
    event: Event | None
    """None: a confirmation or a test."""
    attempts: int
    step: int
    """How many of `RETRY_SECONDS` are behind it."""
    bundle: UUID | None
    """The mail that it goes into: fixed before the first attempt, so that a second one is the same mail."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one attempt at one delivery."""

    delivery: Delivery
    milliseconds: int
    error: str | None = None
    """None: it was delivered."""
    status: int | None = None
    """The receiver's HTTP or SMTP status, when it had one."""
    retry_seconds: float | None = None
    """How long the receiver wants to be left alone."""
    hopeless: bool = False
    """The receiver will never take this."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A subscription with deliveries due, held by one worker for a while."""

    owner: str
    subscription_id: UUID
    fence: int
    failures: int
    """Rounds in a row in which nothing got through."""


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """An attempt as its owner sees it."""

    number: int
    at: datetime
    milliseconds: int
    status: int | None
    error: str | None
    """None: it was delivered."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A delivery as its owner sees it."""

    id: UUID
    kind: str
    position: int | None
    image_id: UUID | None
    state: State
    attempts: int
    created_at: datetime
    next_attempt_at: datetime
    settled_at: datetime | None
    last_status: int | None
    last_error: str | None
    log: tuple[LoggedAttempt, ...]
    """The last attempts, oldest first."""
