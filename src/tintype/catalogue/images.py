"""Images: found, listed, chosen at random, changed, put into the trash and brought back.

Every statement takes the owner, and finds nothing of another one's. What changes an image records its
event in the same transaction, which the caller commits.
"""

from random import Random, SystemRandom
from typing import Any, LiteralString, cast
from uuid import UUID

from psycopg import errors

from tintype.catalogue import events
from tintype.catalogue.database import Tx, only
from tintype.catalogue.drawing import draw
from tintype.catalogue.filters import conditions
from tintype.catalogue.rows import COLUMNS, image_of_row, json_text, searchable
from tintype.model.errors import ImageNotFound, PreconditionFailed, RequestInvalid
from tintype.model.event import Kind
from tintype.model.filename import extension_of
from tintype.model.image import Image, Location, State
from tintype.model.labels import attributes_of
from tintype.model.query import (
    Change,
    ImageFilter,
    ImageQuery,
    Page,
    Sort,
    place_of,
    read_cursor,
    write_cursor,
)

_Json = dict[str, object]

_CHANCE = SystemRandom()

# The order of the rows, and what comes behind a place in it. Each has an index: (owner, …, id).
_ORDERS: dict[Sort, tuple[LiteralString, LiteralString]] = {
    Sort.NEWEST: ("created_at DESC, id DESC", "(created_at, id) < (%(value)s, %(id)s)"),
    Sort.OLDEST: ("created_at, id", "(created_at, id) > (%(value)s, %(id)s)"),
    Sort.LARGEST: ("bytes DESC, id DESC", "(bytes, id) < (%(value)s, %(id)s)"),
    Sort.SMALLEST: ("bytes, id", "(bytes, id) > (%(value)s, %(id)s)"),
    Sort.BY_NAME_REVERSED: ("filename DESC, id DESC", "(filename, id) < (%(value)s, %(id)s)"),
    Sort.BY_NAME: ("filename, id", "(filename, id) > (%(value)s, %(id)s)"),
}


async def find(tx: Tx, owner: str, image_id: UUID, *, trashed: bool = False) -> Image | None:
    """Return the image, with `trashed` also one in the trash. It may be `missing` or `corrupt`."""
    cursor = await tx.execute(
        f"SELECT {COLUMNS} FROM images WHERE owner = %s AND id = %s AND purged_at IS NULL "
        "AND (state <> 'deleted' OR %s)",
        [owner, image_id, trashed],
        prepare=True,
    )
    row = await cursor.fetchone()
    return image_of_row(row) if row else None


async def owner_of(tx: Tx, image_id: UUID) -> str | None:
    """Return whose image it is. For whoever shows a link to it that we signed, and for nobody else."""
    cursor = await tx.execute("SELECT owner FROM images WHERE id = %s", [image_id], prepare=True)
    row = await cursor.fetchone()
    return row[0] if row else None


async def find_by_name(tx: Tx, owner: str, filename: str) -> Image | None:
    """Return the newest ready image of exactly that name: the one whose upload began last."""
    cursor = await tx.execute(
        f"""
        SELECT {COLUMNS} FROM images WHERE owner = %s AND filename = %s AND state = 'ready'
        ORDER BY id DESC LIMIT 1
        """,
        [owner, filename],
    )
    row = await cursor.fetchone()
    return image_of_row(row) if row else None


async def page(tx: Tx, owner: str, query: ImageQuery) -> Page:
    """Return a page of the owner's images.

    A cursor marks a place in the order, not a number of rows: whatever arrives or goes between two
    pages, an image that stays is on exactly one of them. Raises `CursorInvalid`.
    """
    terms, values = await conditions(tx, owner, query.filter, trashed=query.trashed)
    order, behind = _ORDERS[query.sort]
    if place := read_cursor(query):
        terms = f"{terms} AND {behind}"
        values |= {"value": place.value, "id": place.id}
    cursor = await tx.execute(
        f"SELECT {COLUMNS} FROM images WHERE {terms} ORDER BY {order} LIMIT %(limit)s",
        {**values, "limit": query.limit + 1},
    )
    images = [image_of_row(row) for row in await cursor.fetchall()]
    shown = tuple(images[: query.limit])
    more = len(images) > query.limit
    return Page(shown, write_cursor(query, place_of(shown[-1], query.sort)) if more else None)


async def random(tx: Tx, owner: str, wanted: ImageFilter, chance: Random = _CHANCE) -> Image | None:
    """Return one ready image, each that the filter lets through as likely as any other."""
    return await draw(tx, owner, wanted, chance)


async def exif(tx: Tx, owner: str, image_id: UUID) -> dict[str, Any]:
    """Return the image's EXIF, without any location. Raises `ImageNotFound`."""
    cursor = await tx.execute(
        "SELECT exif FROM images WHERE owner = %s AND id = %s AND purged_at IS NULL", [owner, image_id]
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found()
    return row[0]


async def location(tx: Tx, owner: str, image_id: UUID) -> Location | None:
    """Return where the picture was taken, None where it does not say. Raises `ImageNotFound`.

    It is sealed: for whoever asks for it with the scope for it, and in no answer else.
    """
    cursor = await tx.execute(
        "SELECT location FROM images WHERE owner = %s AND id = %s AND purged_at IS NULL", [owner, image_id]
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found()
    return None if row[0] is None else Location(**row[0])


async def update(
    tx: Tx, owner: str, image_id: UUID, change: Change, expected_version: int | None = None
) -> Image:
    """Change the image and return it as it is then. A change that changes nothing is no event.

    Raises `ImageNotFound` (the trash is not changed), `PreconditionFailed` when the version is not the
    expected one, and `RequestInvalid` when the attributes grow too large.
    """
    before = await _lock(tx, owner, image_id, expected_version)
    if before.state is State.DELETED:
        raise ImageNotFound("The image is in the trash. Restore it before you change it.")
    filename = before.filename if change.filename is None else change.filename
    tags = before.tags if change.tags is None else change.tags
    attributes = _merged_attributes(before.attributes, change.attributes)
    written = json_text(attributes)
    if (filename, tags, written) == (before.filename, before.tags, json_text(before.attributes)):
        return before
    cursor = await tx.execute(
        f"""
        UPDATE images
        SET filename = %s, extension = %s, tags = %s, attributes = %s::text::jsonb, search = %s,
            version = version + 1, updated_at = now()
        WHERE owner = %s AND id = %s RETURNING {COLUMNS}
        """,
        [
            filename,
            extension_of(filename, before.facts.format),
            list(tags),
            written,
            searchable(filename, tags),
            owner,
            image_id,
        ],
    )
    image = image_of_row(await only(cursor))
    await events.add(tx, Kind.UPDATED, image)
    return image


async def trash(tx: Tx, owner: str, image_id: UUID, expected_version: int | None = None) -> Image:
    """Put the image into the trash and return it; what is there already is returned as it is.

    From the commit on it is not listed, found at random or delivered. Its object stays. Raises
    `ImageNotFound` and `PreconditionFailed`.
    """
    before = await _lock(tx, owner, image_id, expected_version)
    if before.state is State.DELETED:
        return before
    cursor = await tx.execute(
        f"""
        UPDATE images
        SET state = 'deleted', canonical = false, deleted_at = now(),
            version = version + 1, updated_at = now()
        WHERE owner = %s AND id = %s RETURNING {COLUMNS}
        """,
        [owner, image_id],
    )
    image = image_of_row(await only(cursor))
    await let_a_copy_answer(tx, image)
    await events.add(tx, Kind.DELETED, image)
    return image


async def restore(tx: Tx, owner: str, image_id: UUID) -> Image:
    """Bring the image back from the trash and return it; one that is not there is returned as it is.

    Raises `ImageNotFound`.
    """
    before = await _lock(tx, owner, image_id, None)
    if before.state is not State.DELETED:
        return before
    try:
        async with tx.transaction():
            image = await _bring_back(tx, before)
    except errors.UniqueViolation:
        # An upload of the same bytes was being committed: now it is there, and answers for them.
        image = await _bring_back(tx, before)
    await events.add(tx, Kind.RESTORED, image)
    return image


async def _lock(tx: Tx, owner: str, image_id: UUID, expected_version: int | None) -> Image:
    cursor = await tx.execute(
        f"SELECT {COLUMNS} FROM images WHERE owner = %s AND id = %s AND purged_at IS NULL FOR UPDATE",
        [owner, image_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found()
    image = image_of_row(row)
    if expected_version not in (None, image.version):
        raise PreconditionFailed(
            f"You have seen version {expected_version}, the image is at version {image.version}. Read it "
            f"again, and repeat the change if it still makes sense.",
            details={"version": image.version},
        )
    return image


async def let_a_copy_answer(tx: Tx, trashed: Image) -> None:
    """Let the oldest copy answer for the bytes, if there is one and the trashed image did until now."""
    await tx.execute(
        """
        UPDATE images SET canonical = true
        WHERE state = 'ready'
          AND id = (
              SELECT id FROM images
              WHERE owner = %(owner)s AND sha256 = %(sha256)s AND state = 'ready' AND NOT canonical
              ORDER BY id LIMIT 1)
          AND NOT EXISTS (
              SELECT FROM images WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical)
        """,
        {"owner": trashed.owner, "sha256": trashed.sha256},
    )


async def _bring_back(tx: Tx, trashed: Image) -> Image:
    cursor = await tx.execute(
        f"""
        UPDATE images
        SET state = 'ready', deleted_at = NULL, version = version + 1, updated_at = now(),
            canonical = NOT EXISTS (
                SELECT FROM images WHERE owner = %(owner)s AND sha256 = %(sha256)s AND canonical)
        WHERE owner = %(owner)s AND id = %(id)s RETURNING {COLUMNS}
        """,
        {"owner": trashed.owner, "sha256": trashed.sha256, "id": trashed.id},
    )
    return image_of_row(await only(cursor))


def _merged_attributes(attributes: dict[str, Any], patch: dict[str, Any] | None) -> dict[str, Any]:
    if patch is None:
        return attributes
    try:
        return attributes_of(_merged(attributes, patch))
    except RecursionError as error:
        raise RequestInvalid("The attributes are nested too deeply. Send a flatter object.") from error


def _merged(target: object, patch: object) -> object:
    """Apply a JSON merge patch (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(cast("_Json", target)) if isinstance(target, dict) else {}
    for name, value in cast("_Json", patch).items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _not_found() -> ImageNotFound:
    return ImageNotFound(
        "There is no image of this id. Check it; what was deleted for good has no id any more."
    )
