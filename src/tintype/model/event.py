"""An event: a change that was committed, told at least once under one id for ever."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5


class Kind(StrEnum):
    """What happened to an image."""

    STORED = "image.stored"
    UPDATED = "image.updated"
    DELETED = "image.deleted"
    RESTORED = "image.restored"


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the log. `position` orders the log; `id` is what receivers remember."""

    position: int
    id: UUID
    kind: Kind
    image_id: UUID
    owner: str
    version: int
    """The image's version after the change; a receiver ignores one lower than it has seen."""
    payload: dict[str, Any]
    """The image as it was then (`image_payload`), in JSON types."""
    created_at: datetime


def event_id(image_id: UUID, kind: Kind, version: int) -> UUID:
    """Return the event's id: the same change has the same id, however often it is committed."""
    return uuid5(image_id, f"{kind}:{version}")
