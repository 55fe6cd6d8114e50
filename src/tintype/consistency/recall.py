"""Recall: what the journal says of images whose rows are gone or wrong, read in one pass for many of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from tintype.consistency import journal
from tintype.consistency.described import image_of_word
from tintype.consistency.segments import Word
from tintype.model.image import Image
from tintype.objects.info import ObjectInfo
from tintype.objects.store import Objects


@dataclass(slots=True)
class Recall:
    """Lasts as long as a repair's work: it is asked for what never changes, or for rows that are gone."""

    objects: Objects
    spool: Path
    following: Callable[[UUID], Awaitable[Iterable[UUID]]]
    """Tells which images will be asked for after this finding."""
    _asked: frozenset[UUID] = field(default=frozenset(), init=False)
    _words: dict[UUID, Word] = field(default_factory=dict[UUID, Word], init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def image(self, finding_id: UUID, image_id: UUID, info: ObjectInfo) -> Image | None:
        """Return an image as the journal has it last; None when it does not know it."""
        async with self._turn:
            if image_id not in self._asked:
                self._asked = frozenset({image_id, *await self.following(finding_id)})
                self._words = await journal.words_about(self.objects, self._asked, self.spool)
        word = self._words.get(image_id)
        return image_of_word(word, info.etag) if word else None
