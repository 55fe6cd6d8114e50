"""An image: what its bytes are, what its sender said of it, and the state it is in."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class State(StrEnum):
    """Where an image stands. Only `ready` images are listed, found at random, or delivered."""

    READY = "ready"
    DELETED = "deleted"
    MISSING = "missing"
    CORRUPT = "corrupt"


class Format(StrEnum):
    """The encodings that can be accepted; the value is the media type that we store and serve."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    GIF = "image/gif"
    WEBP = "image/webp"
    AVIF = "image/avif"
    TIFF = "image/tiff"
    HEIC = "image/heic"

    @property
    def extension(self) -> str:
        """The usual file extension, without its dot."""
        return {Format.JPEG: "jpg", Format.TIFF: "tiff"}.get(self, self.name.lower())

    @property
    def label(self) -> str:
        """The name as people write it."""
        return "WebP" if self is Format.WEBP else self.name


@dataclass(frozen=True, slots=True)
class Location:
    """Where a camera says it stood: WGS 84 degrees, metres. Kept sealed: only told on demand."""

    latitude: float
    longitude: float
    altitude: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What inspection found in the bytes. Nothing here was said by the sender.

    `width` and `height` are pixels as stored; `orientation` (EXIF 1 to 8) says how to turn them.
    With header inspection the facts that need decoded pixels or EXIF are None or empty.
    """

    format: Format
    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    has_alpha: bool | None = None
    taken_at: datetime | None = None
    """As the camera's clock had it: without a zone unless the camera recorded one."""
    camera: dict[str, Any] = field(default_factory=dict[str, Any])
    """make, model, lens, exposure_time (s), f_number, iso, focal_length (mm): those present."""
    exif: dict[str, Any] = field(default_factory=dict[str, Any])
    """The rest of EXIF, sanitised for JSON and PostgreSQL, without any location."""
    location: Location | None = None
    thumbhash: bytes | None = None
    dominant_color: str | None = None
    """`#rrggbb`."""
    phash: int | None = None
    """64-bit perceptual hash as a signed integer (PostgreSQL's bigint)."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is stored. `filename`, `declared_type`, `tags`, `attributes` are the sender's."""

    id: UUID
    owner: str
    filename: str
    extension: str
    """Of the file name, in lower case; that of the format where the name has none."""
    declared_type: str | None
    size: int
    """In bytes."""
    sha256: bytes
    etag: str
    """As the object store returned it, so that a LIST proves that the object is unchanged."""
    facts: Facts
    tags: tuple[str, ...]
    attributes: dict[str, Any]
    state: State
    protocol: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    version: int

    @property
    def content_type(self) -> str:
        """What the bytes are, whatever was declared."""
        return self.facts.format.value
