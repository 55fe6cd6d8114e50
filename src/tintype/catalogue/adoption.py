"""Rows that come from elsewhere than an upload: made anew, mended, or marked by a repair."""

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from tintype.catalogue import events
from tintype.catalogue.database import Tx
from tintype.catalogue.images import let_a_copy_answer
from tintype.catalogue.rows import COLUMNS, image_of_row, json_text, searchable, taken_columns
from tintype.model.event import Kind, event_id
from tintype.model.image import Image, State

_VERSIONS = 50
"""Looked up at once. Every version of an image has one event, whose id tells which."""

_COLUMNS: LiteralString = """
    id, owner, state, canonical, version, filename, extension, declared_type, content_type, bytes, sha256,
    etag, width, height, frames, orientation, has_alpha, taken_at, taken_offset, camera, exif, location,
    thumbhash, dominant_color, phash, tags, attributes, search, protocol, created_at, updated_at, deleted_at
"""


async def adopt(tx: Tx, images: Sequence[Image]) -> list[UUID]:
    """Make rows of these images, as they are, and return the ids of those that had none.

    Of the same owner's ready images with the same bytes one answers for them: the first, unless there
    is one already. No event is recorded.
    """
    adopted: list[UUID] = []
    for image in images:
        cursor = await tx.execute(
            f"""
            INSERT INTO images ({_COLUMNS})
            SELECT %(id)s, %(owner)s, %(state)s,
                %(state)s = 'ready' AND NOT EXISTS (
                    SELECT FROM images
                    WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical),
                %(version)s, %(filename)s, %(extension)s, %(declared_type)s, %(content_type)s, %(bytes)s,
                %(sha256)s, %(etag)s, %(width)s, %(height)s, %(frames)s, %(orientation)s, %(has_alpha)s,
                %(taken_at)s, %(taken_offset)s, %(camera)s::text::jsonb, %(exif)s::text::jsonb,
                %(location)s::text::jsonb, %(thumbhash)s, %(dominant_color)s, %(phash)s, %(tags)s,
                %(attributes)s::text::jsonb, %(search)s, %(protocol)s, %(created_at)s, %(updated_at)s,
                %(deleted_at)s
            ON CONFLICT (id) DO NOTHING
            """,
            _values(image),
        )
        if cursor.rowcount:
            adopted.append(image.id)
    return adopted


async def remove(tx: Tx, image: Image) -> bool:
    """Take back an adoption. False: the image has changed since, and stays."""
    cursor = await tx.execute("DELETE FROM images WHERE id = %s AND version = %s", [image.id, image.version])
    if cursor.rowcount:
        await let_a_copy_answer(tx, image)
    return cursor.rowcount == 1


async def mark(tx: Tx, image: Image, state: State, kind: Kind) -> Image:
    """Give a locked image another state, with its event."""
    cursor = await tx.execute(
        f"""
        UPDATE images
        SET state = %(state)s, version = version + 1, updated_at = now(),
            canonical = %(state)s = 'ready' AND NOT EXISTS (
                SELECT FROM images WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical
                AND id <> %(id)s)
        WHERE id = %(id)s RETURNING {COLUMNS}
        """,
        {"state": state.value, "owner": image.owner, "sha256": image.sha256, "id": image.id},
    )
    row = await cursor.fetchone()
    marked = image if row is None else image_of_row(row)
    if state is not State.READY:
        await let_a_copy_answer(tx, image)
    await events.add(tx, kind, marked)
    return marked


async def refresh(tx: Tx, image_id: UUID, etag: str) -> None:
    """Give a row the ETag that its object has now. Nobody sees it, so there is no event."""
    await tx.execute("UPDATE images SET etag = %s WHERE id = %s", [etag, image_id])


async def mend(tx: Tx, image: Image, truth: dict[str, Any]) -> None:
    """Give a row the owner, digest, length, type and ETag that it should have."""
    await tx.execute(
        """
        UPDATE images
        SET owner = %(owner)s, sha256 = %(sha256)s, bytes = %(bytes)s, content_type = %(content_type)s,
            etag = %(etag)s,
            canonical = state = 'ready' AND NOT EXISTS (
                SELECT FROM images WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical
                AND id <> %(id)s)
        WHERE id = %(id)s
        """,
        {**truth, "sha256": bytes.fromhex(truth["sha256"]), "id": image.id},
    )


async def told(tx: Tx, image_id: UUID) -> list[tuple[Kind, dict[str, Any]]]:
    """Return what the log says of an image, version by version, each with its payload.

    Found by the ids that the events must have, so that the log needs no index for it.
    """
    history: list[tuple[Kind, dict[str, Any]]] = []
    kinds = [kind for kind in Kind if kind.about_image]
    while True:
        first = len(history) + 1
        wanted = {
            event_id(image_id, kind, version): kind
            for version in range(first, first + _VERSIONS)
            for kind in kinds
        }
        cursor = await tx.execute(
            "SELECT id, payload FROM events WHERE id = ANY(%s) ORDER BY version", [list(wanted)]
        )
        found = await cursor.fetchall()
        history += [(wanted[identity], payload) for identity, payload in found]
        if len(found) < _VERSIONS:
            return history


def _values(image: Image) -> dict[str, Any]:
    facts = image.facts
    taken_at, taken_offset = taken_columns(facts.taken_at)
    location = facts.location
    return {
        "id": image.id,
        "owner": image.owner,
        "state": image.state.value,
        "version": image.version,
        "filename": image.filename,
        "extension": image.extension,
        "declared_type": image.declared_type,
        "content_type": image.content_type,
        "bytes": image.size,
        "sha256": image.sha256,
        "etag": image.etag,
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "orientation": facts.orientation,
        "has_alpha": facts.has_alpha,
        "taken_at": taken_at,
        "taken_offset": taken_offset,
        "camera": json_text(facts.camera),
        "exif": json_text(facts.exif),
        "location": None if location is None else json_text(location),
        "thumbhash": facts.thumbhash,
        "dominant_color": facts.dominant_color,
        "phash": facts.phash,
        "tags": list(image.tags),
        "attributes": json_text(image.attributes),
        "search": searchable(image.filename, image.tags),
        "protocol": image.protocol,
        "created_at": image.created_at,
        "updated_at": image.updated_at,
        "deleted_at": image.deleted_at,
    }
