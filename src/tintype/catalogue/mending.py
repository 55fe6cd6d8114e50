"""What repairs do to rows, and what the log has to say about them."""

from itertools import count
from typing import Any
from uuid import UUID

from tintype.catalogue import events
from tintype.catalogue.database import Tx
from tintype.catalogue.images import let_a_copy_answer
from tintype.catalogue.rows import COLUMNS, image_of_row
from tintype.model.event import Kind, event_id
from tintype.model.image import Image, State

_VERSIONS = 8
"""Looked up at once: few images have more. Every version of an image has one event, whose id tells which."""


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


async def give_up(tx: Tx, image_id: UUID) -> None:
    """Record that an image in the trash has no bytes to come back with."""
    await tx.execute("UPDATE images SET purged_at = now() WHERE id = %s AND state = 'deleted'", [image_id])


async def take_back_giving_up(tx: Tx, image_id: UUID) -> None:
    """Let an image in the trash be restored again."""
    await tx.execute("UPDATE images SET purged_at = NULL WHERE id = %s AND state = 'deleted'", [image_id])


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


async def told(tx: Tx, image_id: UUID, since: int = 1) -> list[tuple[Kind, dict[str, Any]]]:
    """Return what the log says of an image from a version on, version by version, each with its payload.

    Found by the ids that the events must have, so that the log needs no index for it. The log forgets
    the oldest ones first; of an image that it has forgotten from there on this tells nothing.
    """
    history: list[tuple[Kind, dict[str, Any]]] = []
    kinds = [kind for kind in Kind if kind.about_image]
    for first in count(since, _VERSIONS):
        wanted = {
            event_id(image_id, kind, version): kind
            for version in range(first, first + _VERSIONS)
            for kind in kinds
        }
        cursor = await tx.execute(
            "SELECT id, payload, version FROM events WHERE id = ANY(%s) ORDER BY version", [list(wanted)]
        )
        found = await cursor.fetchall()
        history += [(wanted[identity], payload) for identity, payload, _ in found]
        if not found or found[-1][2] < first + _VERSIONS - 1:
            break
    return history
