"""Made uploads: what arrives at the catalogue when an image was stored."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tintype.model.ids import new_id
from tintype.model.image import Facts, Format, Image, Location
from tintype.model.upload import Arrival, Idempotency, Outcome, Stored, Upload

FACTS = Facts(
    Format.JPEG,
    width=4000,
    height=3000,
    orientation=6,
    has_alpha=False,
    taken_at=datetime(2026, 5, 1, 12, 30),  # noqa: DTZ001 # a camera's clock has no zone
    camera={"make": "Leica", "iso": 64, "exposure_time": 0.008},
    exif={"Software": "2.0", "Flash": [0, 1]},
    location=Location(41.90342, 12.5, 21),
    thumbhash=b"\x01\x02\x03",
    dominant_color="#8a7f6d",
    phash=-5,
)


def arrival(
    content: str | None = None, facts: Facts = FACTS, size: int = 2_000_000, **asked: object
) -> Arrival:
    """An upload whose object is stored. The same content is the same bytes; None is like no other."""
    upload = replace(Upload("local", "Rome.JPG", "image/jpeg", "raw"), **asked)
    text = content if content is not None else str(upload.id)
    return Arrival(upload, facts, size, hashlib.sha256(text.encode()).digest(), '"etag"')


def key(text: str, asked: str = "the same") -> Idempotency:
    """An idempotency key. Another request under it asks for something else."""
    return Idempotency(text, hashlib.sha256(asked.encode()).digest())


def id_of(moment: datetime) -> UUID:
    """A UUIDv7 of an attempt that began then."""
    milliseconds = round(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | new_id().int & (1 << 80) - 1)


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


def stored(outcome: Outcome) -> Image:
    """The image that was made. Anything but a new image fails the test."""
    assert isinstance(outcome, Stored), outcome
    return outcome.image


def as_found(image: Image) -> Image:
    """An image as the catalogue reads it: without EXIF, which can be long, and location, which is sealed."""
    return replace(image, facts=replace(image.facts, exif={}, location=None))


def ids(images: Iterable[Image]) -> list[UUID]:
    return [image.id for image in images]
