"""Identifiers: UUIDv7 (RFC 9562), so that an id tells when its attempt began."""

import time
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat

AHEAD_MS = 1_000
"""How far the clock may be set back before ids follow it."""
NS_IN_MS = 1_000_000


def new_id() -> UUID:
    """Return a fresh UUIDv7. One attempt to store one image has one id, used once.

    Ids of a process rise, even within a millisecond, and while the clock is set back a little. After a
    clock that ran far ahead was set right they would stay ahead, and every attempt would look as if it
    began in the future: then the clock counts.
    """
    fresh = uuid_utils.compat.uuid7()
    now = time.time_ns()
    if (fresh.int >> 80) - now // NS_IN_MS <= AHEAD_MS:
        return fresh
    return uuid_utils.compat.uuid7(nanoseconds=now)


def began_at(attempt: UUID) -> datetime:
    """Return the moment that a UUIDv7 carries (RFC 9562, section 5.7), to the millisecond."""
    return datetime.fromtimestamp((attempt.int >> 80) / 1000, UTC)
