"""A question about an owner's images: which ones, in which order, from which place on."""

import base64
import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from tintype.model.errors import CursorInvalid
from tintype.model.image import Image


class Sort(StrEnum):
    """The orders of a list. Images that are equal in it stand in the order of their ids."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    LARGEST = "-bytes"
    SMALLEST = "bytes"
    BY_NAME = "filename"
    BY_NAME_REVERSED = "-filename"


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """What an image must be to be found; None and empty ask for nothing."""

    extension: str | None = None
    content_type: str | None = None
    tags: tuple[str, ...] = ()
    """All of them."""
    min_bytes: int | None = None
    max_bytes: int | None = None
    """Both bounds belong to the range."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    """Neither moment belongs to the range."""
    text: str | None = None
    """A part of the file name or of a tag, whatever its case."""


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """A page of a list."""

    filter: ImageFilter = ImageFilter()
    sort: Sort = Sort.NEWEST
    limit: int = 50
    trashed: bool = False
    """List the trash instead of what is ready."""
    cursor: str | None = None
    """The `next_cursor` of the page before."""


@dataclass(frozen=True, slots=True)
class Page:
    """Images in the order asked for. `next_cursor` is None on the last page."""

    images: tuple[Image, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends: the last image's value in the order of the list, and its id."""

    value: datetime | int | str
    id: UUID


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of an image; None leaves a thing as it is."""

    filename: str | None = None
    tags: tuple[str, ...] | None = None
    attributes: dict[str, Any] | None = None
    """A merge patch (RFC 7396): null removes a key."""


def place_of(image: Image, sort: Sort) -> Place:
    """Return the image's place in an order."""
    match sort:
        case Sort.NEWEST | Sort.OLDEST:
            return Place(image.created_at, image.id)
        case Sort.LARGEST | Sort.SMALLEST:
            return Place(image.size, image.id)
        case Sort.BY_NAME | Sort.BY_NAME_REVERSED:
            return Place(image.filename, image.id)


def write_cursor(query: ImageQuery, place: Place) -> str:
    """Return a cursor that continues this list after the place, and no other list."""
    value = place.value.isoformat() if isinstance(place.value, datetime) else place.value
    text = orjson.dumps([_digest(query), value, str(place.id)])
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def read_cursor(query: ImageQuery) -> Place | None:
    """Return the place that the query's cursor marks, None for the beginning.

    Raises `CursorInvalid` for a cursor of another list, and for one that is none.
    """
    if query.cursor is None:
        return None
    try:
        padded = query.cursor + "=" * (-len(query.cursor) % 4)
        digest, value, image_id = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        place = Place(_value(query.sort, value), UUID(image_id))
    except (ValueError, TypeError, AttributeError) as error:
        raise CursorInvalid(
            "This is no cursor of Tintype's. Pass the `next_cursor` of a page on as it is."
        ) from error
    if digest != _digest(query):
        raise CursorInvalid(
            "The cursor belongs to a list with other filters or another order. Repeat those of its page, or "
            "begin without a cursor."
        )
    return place


def _digest(query: ImageQuery) -> str:
    # What is not asked for is left out, so that a release with one more filter knows today's cursors.
    wanted = sorted(
        (name, str(value)) for name, value in asdict(query.filter).items() if value not in (None, ())
    )
    asked = repr((wanted, query.sort.value, query.trashed))
    return hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()[:16]


def _value(sort: Sort, value: object) -> datetime | int | str:
    match sort, value:
        case ((Sort.NEWEST | Sort.OLDEST), str()):
            return datetime.fromisoformat(value)
        case ((Sort.LARGEST | Sort.SMALLEST), int()) if not isinstance(value, bool):
            return value
        case ((Sort.BY_NAME | Sort.BY_NAME_REVERSED), str()) if "\0" not in value:
            return value
        case _:
            raise ValueError("the value is not of this order's kind")
