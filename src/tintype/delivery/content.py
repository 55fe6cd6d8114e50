"""Content: which bytes answer a conditional or partial request (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime

from tintype.model.errors import RangeNotSatisfiable, StorageUnavailable
from tintype.model.image import Image, State
from tintype.objects.keys import original_key
from tintype.objects.store import Objects

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Conditions:
    """The request's header fields that decide what is sent; None where one is absent."""

    if_none_match: str | None = None
    if_modified_since: str | None = None
    range: str | None = None
    if_range: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What to send: nothing (the client has it), everything, or `start` up to `end` (exclusive)."""

    unchanged: bool
    partial: bool
    start: int
    end: int


def content_etag(image: Image) -> str:
    """Return the strong entity tag of the bytes: their SHA-256, which no other bytes have."""
    return f'"{image.sha256.hex()}"'


def require_ready(image: Image) -> None:
    """Raise `StorageUnavailable` for an image whose bytes a check found to be lost or changed."""
    if image.state is not State.READY:
        raise StorageUnavailable(
            f"The bytes of this image are {image.state}; they are not delivered until they are recovered.",
            retry_after=300,
        )


def select(image: Image, conditions: Conditions) -> Selection:
    """Decide by the conditions, in the order of RFC 9110, section 13.2.2.

    Raises `RangeNotSatisfiable`. Several ranges at once, and units other than bytes, are answered
    with everything, as section 14.2 allows.
    """
    everything = Selection(unchanged=False, partial=False, start=0, end=image.size)
    if _has_current(image, conditions):
        return Selection(unchanged=True, partial=False, start=0, end=0)
    if conditions.range is None or not _range_applies(image, conditions.if_range):
        return everything
    match = _RANGE.fullmatch(conditions.range.strip())
    if match is None or match.groups() == ("", ""):
        return everything
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return everything
    start = int(first) if first else max(image.size - int(last), 0)
    end = min(int(last) + 1, image.size) if first and last else image.size
    if start >= image.size:
        raise RangeNotSatisfiable(
            f"The image has {image.size} bytes; the range begins at {start}.", details={"size": image.size}
        )
    return Selection(unchanged=False, partial=True, start=start, end=end)


def http_date(moment: datetime) -> str:
    """Return a moment in the form of HTTP (RFC 9110, section 5.6.7)."""
    return format_datetime(moment.replace(microsecond=0), usegmt=True)


async def read(objects: Objects, image: Image, selection: Selection) -> AsyncIterator[bytes]:
    """Return the selected bytes, once the store has answered for them.

    An object that is gone, against its row, is ours to find and not the client's fault:
    `StorageUnavailable`, and the consistency check says more.
    """
    stream = objects.read(original_key(image.id), selection.start, selection.end)
    first = await anext(stream, b"")
    if not first:
        raise StorageUnavailable(
            "The bytes of this image cannot be read just now. Try again later.", retry_after=30
        )

    async def everything() -> AsyncIterator[bytes]:
        yield first
        async for chunk in stream:
            yield chunk

    return everything()


def _has_current(image: Image, conditions: Conditions) -> bool:
    if conditions.if_none_match is not None:
        return matches(conditions.if_none_match, content_etag(image))
    since = _date(conditions.if_modified_since)
    return since is not None and image.created_at.replace(microsecond=0) <= since


def matches(header: str, etag: str) -> bool:
    """Tell whether a list of entity tags names this one, by weak comparison (RFC 9110, section 8.8.3.2)."""
    if header.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == etag for candidate in header.split(","))


def _range_applies(image: Image, if_range: str | None) -> bool:
    """If-Range needs a strong match: a weak tag or another date asks for everything (section 13.1.5)."""
    if if_range is None:
        return True
    if if_range.lstrip().startswith(('"', "W/")):
        return if_range.strip() == content_etag(image)
    return _date(if_range) == image.created_at.replace(microsecond=0)


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else None
