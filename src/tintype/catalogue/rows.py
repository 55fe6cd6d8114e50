"""An image as a row, and an answered image as the snapshot that repeats it."""

import base64
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, LiteralString
from uuid import UUID

import orjson

from tintype.model.errors import RequestInvalid
from tintype.model.filename import extension_of
from tintype.model.image import Facts, Format, Image, State
from tintype.model.payload import image_payload
from tintype.model.upload import Arrival

Row = tuple[Any, ...]

COLUMNS: LiteralString = """
    id, owner, filename, extension, declared_type, bytes, sha256, etag,
    content_type, width, height, frames, orientation, has_alpha, taken_at, taken_offset, camera,
    thumbhash, dominant_color, phash,
    tags, attributes, state, protocol, created_at, updated_at, deleted_at, version
"""
"""What an `Image` is read from. EXIF can be long and the location is sealed: neither is among them."""


def image_of_row(row: Row) -> Image:
    """Return the image of a row of `COLUMNS`."""
    (
        *sent, sha256, etag,
        content_type, width, height, frames, orientation, has_alpha, taken_at, taken_offset, camera,
        thumbhash, dominant_color, phash,
        tags, attributes, state, protocol, created_at, updated_at, deleted_at, version,
    ) = row  # fmt: skip
    identity, owner, filename, extension, declared_type, size = sent
    facts = Facts(
        Format(content_type),
        width,
        height,
        frames,
        orientation,
        has_alpha,
        _taken_at(taken_at, taken_offset),
        camera,
        thumbhash=thumbhash,
        dominant_color=dominant_color,
        phash=phash,
    )
    return Image(
        identity,
        owner,
        filename,
        extension,
        declared_type,
        size,
        sha256,
        etag,
        facts,
        tuple(tags),
        attributes,
        State(state),
        protocol,
        created_at,
        updated_at,
        deleted_at,
        version,
    )


def image_of_arrival(arrival: Arrival, created_at: datetime) -> Image:
    """Return the image that an arrival becomes when it is committed at that moment."""
    upload = arrival.upload
    return Image(
        id=upload.id,
        owner=upload.owner,
        filename=upload.filename,
        extension=extension_of(upload.filename, arrival.facts.format),
        declared_type=upload.declared_type,
        size=arrival.size,
        sha256=arrival.sha256,
        etag=arrival.etag,
        facts=arrival.facts,
        tags=upload.tags,
        attributes=upload.attributes,
        state=State.READY,
        protocol=upload.protocol,
        created_at=created_at,
        updated_at=created_at,
        deleted_at=None,
        version=1,
    )


def snapshot_of(image: Image) -> dict[str, Any]:
    """Return what `image_of_snapshot` makes the image of again: its payload, and the etag."""
    return {**image_payload(image), "etag": image.etag}


def image_of_snapshot(snapshot: dict[str, Any]) -> Image:
    """Return the image as it was answered."""
    return Image(
        id=UUID(snapshot["id"]),
        owner=snapshot["owner"],
        filename=snapshot["filename"],
        extension=snapshot["extension"],
        declared_type=snapshot["declared_type"],
        size=snapshot["bytes"],
        sha256=bytes.fromhex(snapshot["sha256"]),
        etag=snapshot["etag"],
        facts=_facts_of_snapshot(snapshot),
        tags=tuple(snapshot["tags"]),
        attributes=snapshot["attributes"],
        state=State(snapshot["state"]),
        protocol=snapshot["protocol"],
        created_at=datetime.fromisoformat(snapshot["created_at"]),
        updated_at=datetime.fromisoformat(snapshot["updated_at"]),
        deleted_at=_moment(snapshot["deleted_at"]),
        version=snapshot["version"],
    )


def json_text(value: object) -> str:
    """Return JSON text, the same for the same value. Raises `RequestInvalid` for what JSON cannot hold."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError as error:
        raise RequestInvalid(
            "The file name, a tag, an attribute or the image's metadata cannot be written as JSON: a broken "
            "Unicode character, a number out of range, or too deep a nesting. Change it and try again."
        ) from error


def searchable(filename: str, tags: Iterable[str]) -> str:
    """Return what `q` looks into: the name and the tags, a line each, folded."""
    return folded("\n".join([filename, *tags]))


def folded(text: str) -> str:
    """Return text without the differences that a search ignores: case, and width or form of letters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def taken_columns(taken_at: datetime | None) -> tuple[datetime | None, int | None]:
    """Return the camera's clock, and the minutes that its zone is east of UTC where it has one."""
    if taken_at is None:
        return None, None
    offset = taken_at.utcoffset()
    return taken_at.replace(tzinfo=None), None if offset is None else round(offset.total_seconds() / 60)


def _taken_at(clock: datetime | None, offset: int | None) -> datetime | None:
    if clock is None or offset is None:
        return clock
    return clock.replace(tzinfo=timezone(timedelta(minutes=offset)) if offset else UTC)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _facts_of_snapshot(snapshot: dict[str, Any]) -> Facts:
    thumbhash, phash = snapshot["thumbhash"], snapshot["phash"]
    return Facts(
        format=Format(snapshot["content_type"]),
        width=snapshot["width"],
        height=snapshot["height"],
        frames=snapshot["frames"],
        orientation=snapshot["orientation"],
        has_alpha=snapshot["has_alpha"],
        taken_at=_moment(snapshot["taken_at"]),
        camera=snapshot["camera"],
        thumbhash=None if thumbhash is None else base64.b64decode(thumbhash),
        dominant_color=snapshot["dominant_color"],
        phash=None if phash is None else int.from_bytes(bytes.fromhex(phash), signed=True),
    )
