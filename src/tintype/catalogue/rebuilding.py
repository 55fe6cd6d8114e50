"""Rows made anew from what the bucket keeps, and how far that has come."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tintype.catalogue import history, identity
from tintype.catalogue.database import Tx, only
from tintype.catalogue.rows import COLUMNS, json_text, searchable, snapshot_of, taken_columns
from tintype.catalogue.rows import image_of_row as _image_of_row
from tintype.model.image import Image, Location, State


@dataclass(frozen=True, slots=True)
class Progress:
    """Every image whose key comes up to `cursor` has its row."""

    pair: UUID
    cursor: str
    position: int
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


async def is_empty(tx: Tx) -> bool:
    """Tell whether the database holds no image, and belongs to no bucket."""
    cursor = await tx.execute("SELECT NOT EXISTS (SELECT FROM images) AND NOT EXISTS (SELECT FROM identity)")
    (empty,) = await only(cursor)
    return empty


async def progress(tx: Tx) -> Progress | None:
    """Return how far a rebuild came that was not finished; None when none is under way."""
    cursor = await tx.execute("SELECT pair, cursor, position, counts FROM rebuilds WHERE finished_at IS NULL")
    row = await cursor.fetchone()
    return Progress(*row) if row else None


async def begin(tx: Tx, pair: UUID, position: int) -> None:
    """Record that a rebuild begins, from a journal up to that position."""
    await tx.execute(
        """
        INSERT INTO rebuilds (pair, position) VALUES (%(pair)s, %(position)s)
        ON CONFLICT (sole) DO UPDATE SET pair = %(pair)s, cursor = '', counts = '{}', position = %(position)s,
            started_at = now(), finished_at = NULL
        """,
        {"pair": pair, "position": position},
    )


async def advance(tx: Tx, cursor: str, counts: Mapping[str, int]) -> None:
    """Record how far the rebuild has come, in the transaction that adds the rows up to there."""
    await tx.execute("UPDATE rebuilds SET cursor = %s, counts = %s", [cursor, json_text(dict(counts))])


async def finish(tx: Tx, pair: UUID, position: int) -> None:
    """Let the database be the bucket's other half from here on."""
    await identity.add(tx, pair)
    await history.go_on_behind(tx, position)
    await tx.execute("UPDATE rebuilds SET finished_at = now(), position = %s", [position])


async def put(tx: Tx, images: Sequence[Image]) -> int:
    """Give each image its row, in place of an older version's, and return how many got one.

    Rows of the same or a newer version stay. Of an owner's ready images with the same bytes one answers for
    them. No event is recorded: nothing happened to these images.
    """
    first: dict[tuple[str, bytes], UUID] = {}
    for image in sorted(images, key=lambda each: each.id):
        if image.state is State.READY:
            first.setdefault((image.owner, image.sha256), image.id)
    answering = set(first.values())
    rows = json_text([{**_row(image), "answers": image.id in answering} for image in images])
    versions = {image.id: image.version for image in images}
    cursor = await tx.execute("SELECT id, version FROM images WHERE id = ANY(%s)", [list(versions)])
    older = [image_id for image_id, version in await cursor.fetchall() if version < versions[image_id]]
    await remove(tx, older)
    cursor = await tx.execute(
        """
        INSERT INTO images (
            id, owner, state, canonical, version, filename, extension, declared_type, content_type, bytes,
            sha256, etag, width, height, frames, orientation, has_alpha, taken_at, taken_offset, camera, exif,
            location, thumbhash, dominant_color, phash, tags, attributes, search, protocol,
            created_at, updated_at, deleted_at)
        SELECT
            id, owner, state,
            answers AND (
                SELECT count(*) FROM images AS one
                WHERE one.owner = given.owner AND one.sha256 = decode(given.sha256, 'hex') AND one.canonical
            ) = 0,
            version, filename, extension, declared_type, content_type, bytes,
            decode(sha256, 'hex'), etag, width, height, frames, orientation, has_alpha, taken_at,
            taken_offset, camera, exif, location, decode(thumbhash, 'base64'), dominant_color, phash,
            tags, attributes, search, protocol, created_at, updated_at, deleted_at
        FROM json_to_recordset(%s::text::json) AS given (
            id uuid, owner text, state text, answers boolean, version integer, filename text, extension text,
            declared_type text, content_type text, bytes bigint, sha256 text, etag text, width integer,
            height integer, frames integer, orientation smallint, has_alpha boolean, taken_at timestamp,
            taken_offset integer, camera jsonb, exif jsonb, location jsonb, thumbhash text,
            dominant_color text, phash bigint, tags text[], attributes jsonb, search text, protocol text,
            created_at timestamptz, updated_at timestamptz, deleted_at timestamptz)
        ON CONFLICT (id) DO NOTHING
        """,
        [rows],
    )
    return cursor.rowcount


async def remove(tx: Tx, image_ids: Collection[UUID]) -> None:
    """Remove the rows of images whose bytes are gone for good."""
    await tx.execute("DELETE FROM images WHERE id = ANY(%s)", [list(image_ids)])


async def export(tx: Tx, after: UUID, limit: int) -> list[dict[str, Any]]:
    """Return what a rebuild brings back, in JSON types, of images behind one, in the order of their ids."""
    cursor = await tx.execute(
        f"""
        SELECT exif, location, {COLUMNS} FROM images
        WHERE id > %s AND purged_at IS NULL ORDER BY id LIMIT %s
        """,
        [after, limit],
    )
    return [
        {**snapshot_of(_image_of_row(tuple(row))), "exif": exif, "location": location}
        for exif, location, *row in await cursor.fetchall()
    ]


def _row(image: Image) -> dict[str, Any]:
    facts = image.facts
    taken_at, taken_offset = taken_columns(facts.taken_at)
    location = facts.location
    return {
        **snapshot_of(image),
        "phash": facts.phash,
        "taken_at": taken_at,
        "taken_offset": taken_offset,
        "exif": facts.exif,
        "location": _location(location) if location else None,
        "search": searchable(image.filename, image.tags),
    }


def _location(location: Location) -> dict[str, float | None]:
    return {
        "latitude": location.latitude,
        "longitude": location.longitude,
        "altitude": location.altitude,
    }
