"""An upload: one attempt to store one image, and what became of it."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tintype.model.ids import new_id
from tintype.model.image import Facts, Image


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's promise that requests with this key mean one and the same upload.

    `fingerprint` is a SHA-256 over what was asked, bytes included: the same key with another
    fingerprint is a mistake of the client's.
    """

    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """What a door knows before the bytes are judged. Its id becomes the image's id."""

    owner: str
    filename: str
    declared_type: str | None
    protocol: str
    tags: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    keep_duplicate: bool = False
    """Store the same bytes again instead of answering with the owner's existing image."""
    idempotency: Idempotency | None = None
    room: UUID | None = None
    """What the door reserved of the owner's quota, where there is one."""
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An upload whose object is stored: all that one commit needs."""

    upload: Upload
    facts: Facts
    size: int
    sha256: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The upload became a new image."""

    image: Image


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The owner has these bytes already; this is the image that holds them."""

    image: Image


@dataclass(frozen=True, slots=True)
class Replayed:
    """The idempotency key was used before; the answer is the one given then."""

    outcome: Stored | Duplicate


Outcome = Stored | Duplicate | Replayed
