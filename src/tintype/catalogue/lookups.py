"""Looks for images by their bytes: whatever is asked while one statement runs goes into the next one.

Every upload asks, and nearly always there is nothing. Asked together, eight cost little more than one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from tintype.catalogue.database import anew
from tintype.catalogue.line import Line
from tintype.catalogue.rows import COLUMNS, image_of_row, json_text
from tintype.model.image import Image

MAX_TOGETHER = 200

# LIMIT keeps the planner from anything but one look into the index for each.
_FIND: LiteralString = f"""
    SELECT image.* FROM json_to_recordset($1::json) AS asked (for_owner text, for_sha256 text)
    CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM images
        WHERE owner = for_owner AND sha256 = decode(for_sha256, 'hex') AND canonical LIMIT 1
    ) AS image
"""


@dataclass(frozen=True, slots=True)
class _Question:
    owner: str
    sha256: bytes
    answer: asyncio.Future[Image | None]


@dataclass(slots=True)
class Lookups:
    """The one who asks, for all uploads of this process."""

    line: Line
    _waiting: list[_Question] = field(default_factory=list[_Question])
    _asking: asyncio.Task[None] | None = None

    async def find(self, owner: str, sha256: bytes) -> Image | None:
        """Return the owner's image that answers for these bytes. Raises `DatabaseUnavailable`."""
        question = _Question(owner, sha256, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="lookups")
        return await question.answer

    async def _ask(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
                await self._ask_together(together)
        finally:
            self._asking = None

    async def _ask_together(self, questions: Sequence[_Question]) -> None:
        try:
            found = await self._found(questions)
        except Exception as error:  # noqa: BLE001 # whatever it is, those who wait must hear of it
            for each in questions:
                if not each.answer.done():
                    each.answer.set_exception(anew(error))
            return
        for each in questions:
            if not each.answer.done():  # a request that was cancelled does not wait any more
                each.answer.set_result(found.get((each.owner, each.sha256)))

    async def _found(self, questions: Sequence[_Question]) -> dict[tuple[str, bytes], Image]:
        asked = [{"for_owner": each.owner, "for_sha256": each.sha256.hex()} for each in questions]
        images = [image_of_row(row) for row in await self.line.run(_FIND, json_text(asked))]
        return {(image.owner, image.sha256): image for image in images}
