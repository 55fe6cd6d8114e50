"""An event: a change that was committed, told at least once under one id for ever."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5


class Kind(StrEnum):
    """What happened: to an image, or to something else, of which a notice tells."""

    UPLOADED = "image.uploaded"
    UPDATED = "image.updated"
    DELETED = "image.deleted"
    RESTORED = "image.restored"
    MISSING = "image.missing"
    CORRUPT = "image.corrupt"
    RECOVERED = "image.recovered"
    SUBSCRIPTION_CONFIRMED = "subscription.confirmed"
    SUBSCRIPTION_PAUSED = "subscription.paused"
    CONSISTENCY_FINISHED = "consistency.finished"

    @property
    def about_image(self) -> bool:
        """Whether the payload is an image (`image_payload`); any other one is a notice's."""
        return self.value.startswith("image.")


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the log. `position` orders the log; `id` is what receivers remember."""

    position: int
    id: UUID
    kind: Kind
    image_id: UUID | None
    """None: a notice, which concerns no image."""
    owner: str
    version: int
    """The image's version after the change; a receiver ignores one lower than it has seen."""
    payload: dict[str, Any]
    """The image as it was then (`image_payload`), in JSON types. A notice's own fields beside its
    `summary`, one sentence for people."""
    created_at: datetime


def event_id(subject: UUID, kind: Kind, version: int) -> UUID:
    """Return the event's id: the same change has the same id, however often it is committed.

    The subject is the image, or what else the event is about.
    """
    return uuid5(subject, f"{kind}:{version}")
