"""Images as the bucket alone describes them: by a word of the journal, by metadata, by the bytes."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tintype.catalogue.rows import image_of_arrival, image_of_snapshot
from tintype.consistency.segments import Word
from tintype.imaging.inspect import Inspector
from tintype.model.body import Body
from tintype.model.errors import Overloaded, StorageUnavailable, TintypeError
from tintype.model.ids import began_at
from tintype.model.image import Image, Location, State
from tintype.model.upload import Arrival
from tintype.objects.info import ObjectInfo
from tintype.objects.keys import parse_original_key
from tintype.objects.metadata import parse
from tintype.objects.store import Objects


def image_of_word(word: Word, etag: str) -> Image:
    """Return the image as the journal has it last; `etag` is taken where the journal knows none."""
    content = word.content
    image = image_of_snapshot({**content["image"], "etag": content.get("etag", etag)})
    facts = replace(image.facts, exif=content.get("exif", {}), location=_location(content.get("location")))
    return replace(image, facts=facts, version=word.version)


def image_of_object(info: ObjectInfo) -> Image | None:
    """Return the image that an object's metadata describe, None for metadata that are not of ours.

    As it was uploaded: without EXIF and location, which are in the bytes. The moment of its commit is not
    in the bucket; the object was stored a moment before.
    """
    description = parse(info.metadata)
    if description is None or description.upload.id != parse_original_key(info.key):
        return None
    arrival = Arrival(
        upload=description.upload,
        facts=description.facts,
        size=description.size,
        sha256=description.sha256,
        etag=info.etag,
    )
    return image_of_arrival(arrival, max(info.modified, began_at(description.upload.id)))


async def inspected(image: Image, key: str, objects: Objects, inspector: Inspector, spool: Path) -> Image:
    """Return the image with all that its bytes tell, which are read for it; `corrupt` when they are others.

    Raises `StorageUnavailable`.
    """
    digest, length = hashlib.sha256(), 0
    with tempfile.TemporaryFile(dir=spool) as file:
        async for block in objects.read(key):
            digest.update(block)
            length += len(block)
            file.write(block)
        file.flush()
        if digest.digest() != image.sha256:
            return replace(image, state=State.CORRUPT)
        try:
            facts = await inspector.inspect(Body(length, image.sha256, file=file.fileno()))
        except (Overloaded, StorageUnavailable):
            raise
        except TintypeError:
            return image  # accepted once, by other limits: what its metadata say still holds
    return replace(image, facts=facts)


def _location(value: dict[str, Any] | None) -> Location | None:
    return Location(**value) if value else None
