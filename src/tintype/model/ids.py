"""Identifiers: UUIDv7 (RFC 9562), so that an id tells when its attempt began."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Return a fresh UUIDv7. One attempt to store one image has one id, used once."""
    return uuid_utils.compat.uuid7()


def began_at(attempt: UUID) -> datetime:
    """Return the moment that a UUIDv7 carries (RFC 9562, section 5.7), to the millisecond."""
    return datetime.fromtimestamp((attempt.int >> 80) / 1000, UTC)
