"""Small pictures for mails: made of what is stored, once for all who are told of an image."""

import asyncio
import hashlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image as Pixels

from happenings import image
from pictures import picture
from tintype.imaging.cage import Cage
from tintype.imaging.inspect import Inspector
from tintype.model.body import Body
from tintype.model.image import Image
from tintype.notify.thumbnails import MAX_BYTES, SIDE, Thumbnails
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import ImagingSettings, ObjectsSettings


async def test_a_picture_is_made_once_of_what_is_stored_and_of_nothing_else(tmp_path: Path) -> None:
    objects, settings = Objects.open(ObjectsSettings(), tmp_path), ImagingSettings(workers=1)
    data = picture("PNG", seed=950, size=(1200, 600))
    known = image(size=len(data), sha256=hashlib.sha256(data).digest())

    async def store(one: Image, content: bytes) -> None:
        body = Body(len(content), hashlib.sha256(content).digest(), memory=content)
        await objects.put(original_key(one.id), body, content_type="image/png", metadata={})

    async with Cage.open(settings) as cage:
        thumbnails = Thumbnails(objects, Inspector(settings, cage), asyncio.Semaphore(2))
        assert await thumbnails.make(known) is None, "there is nothing yet"
        await store(known, data)
        small = await thumbnails.make(known)
        assert small is not None
        with Pixels.open(BytesIO(small)) as shown:
            assert (shown.format, shown.size) == ("JPEG", (SIDE, SIDE // 2))

        other = image(size=len(data), sha256=known.sha256)
        await store(other, picture("PNG", seed=951))
        assert await thumbnails.make(other) is None, "these are not its bytes"
        assert await thumbnails.make(replace(known, size=MAX_BYTES + 1)) is None

    assert await thumbnails.make(known) == small, "no decoder is needed any more"
