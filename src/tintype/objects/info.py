"""What a store says of its objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

SHA256 = "sha256"
"""The metadata entry that every object carries: the SHA-256 of its bytes, in hex."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The store has the bytes, whole and durable."""

    etag: str
    """Without quotes. `head` and `list` say the same for as long as the bytes stay as they are."""
    size: int
    """In bytes."""


Entry = tuple[str, int, str]
"""Key, bytes and ETag of an object, as a listing for upkeep has them: a million are made in a second."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What is left of a put that was neither finished nor taken back."""

    key: str
    """Where the object was to be."""
    token: str
    began: datetime
    """By the store's clock."""
    is_label: bool = False
    """Whether it is what is written about an object, and would be of use if that came back."""


@dataclass(frozen=True, slots=True)
class Version:
    """An older version of an object."""

    id: str
    size: int
    sha256: str
    """In hex, as the object itself says; empty where it says nothing."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object. A listing leaves `metadata` empty: it would cost a request for each object."""

    key: str
    size: int
    etag: str
    modified: datetime
    """By the store's clock. Only a listing may know fractions of a second."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def sha256(self) -> bytes | None:
        """The digest that the object was stored with; None in a listing, and for an object not of ours."""
        try:
            return bytes.fromhex(self.metadata.get(SHA256, "")) or None
        except ValueError:
            return None

    def holds(self, size: int, metadata: Mapping[str, str]) -> bool:
        """Tell whether this is the object that was to be stored: its length, id and SHA-256, all of it."""
        return self.size == size and metadata.items() <= self.metadata.items()
