"""Small pictures for mails, made in the cage like everything that is decoded."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from uuid import UUID

from tintype.imaging.inspect import Inspector
from tintype.model.body import Body
from tintype.model.errors import TintypeError
from tintype.model.image import Image
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.telemetry import get_logger

MAX_BYTES = 16 * 1024 * 1024
"""Of an original that is read for its picture; a mail about a larger one goes without."""
SIDE = 480
AT_ONCE = 2
KEPT = 100
"""Pictures, of some 30 KB, for the other subscribers who are told of the same images."""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Makes pictures, few at a time: uploads come first."""

    objects: Objects
    inspector: Inspector
    turns: asyncio.Semaphore
    kept: dict[UUID, bytes] = field(default_factory=dict[UUID, bytes])

    async def make(self, image: Image) -> bytes | None:
        """Return a small JPEG; None for an image that is too large, gone, or cannot be had now."""
        if image.size > MAX_BYTES:
            return None
        async with self.turns:
            if (picture := self.kept.get(image.id)) is None:
                picture = await self._make(image)
            if picture is not None:
                self.kept[image.id] = picture
            if len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
            return picture

    async def _make(self, image: Image) -> bytes | None:
        try:
            data = b"".join([chunk async for chunk in self.objects.read(original_key(image.id))])
            if hashlib.sha256(data).digest() != image.sha256:
                return None
            body = Body(len(data), image.sha256, memory=data)
            return await self.inspector.render(body, SIDE, image.owner)
        except TintypeError as error:
            _log.info("thumbnail.failed", image_id=image.id, reason=error.code)
            return None
