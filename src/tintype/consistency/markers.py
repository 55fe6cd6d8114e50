"""Markers: what the bucket itself keeps of deletions, a small object for each image in the trash or gone."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

import orjson

from tintype.model.body import Body
from tintype.objects.keys import deleted_key
from tintype.objects.store import Objects

HIGHEST = 1_000_000
"""What an unreadable marker claims as version: more than an image comes to by itself."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The image was deleted at that version. One whose version is higher was restored since.

    A `purged` one loses its bytes, and nothing that runs afterwards may bring it back.
    """

    image_id: UUID
    version: int
    deleted_at: datetime
    purged: bool = False


async def find(objects: Objects, image_id: UUID) -> Marker | None:
    """Return the marker of an image, None only when the store says for certain that there is none.

    Raises `StorageUnavailable`. One that cannot be read counts as what it most likely is, a deletion: a
    person can restore an image, and nobody can take back that it was shown again.
    """
    info = await objects.head(deleted_key(image_id))
    if info is None:
        return None
    try:
        return Marker(
            image_id,
            int(info.metadata["version"]),
            datetime.fromisoformat(info.metadata["deleted-at"]),
            purged=info.metadata.get("purged") == "yes",
        )
    except (KeyError, ValueError):
        return Marker(image_id, HIGHEST, deleted_at=info.modified)


async def put(objects: Objects, marker: Marker) -> None:
    """Leave a marker; it says the same in its metadata, for a HEAD, and in its bytes, for people."""
    metadata = {
        "version": str(marker.version),
        "deleted-at": marker.deleted_at.isoformat(),
        "purged": "yes" if marker.purged else "no",
    }
    data = orjson.dumps({"image_id": str(marker.image_id), **metadata}, option=orjson.OPT_INDENT_2)
    with Body(len(data), sha256(data).digest(), memory=data) as body:
        await objects.put(
            deleted_key(marker.image_id), body, content_type="application/json", metadata=metadata
        )


async def remove(objects: Objects, image_id: UUID) -> None:
    """Remove the marker of an image that was restored."""
    await objects.delete(deleted_key(image_id))
