"""The purge: images that were in the trash for long enough lose their bytes, and never come back."""

import asyncio
import math
import time
from dataclasses import dataclass, field
from uuid import UUID

from tintype.catalogue import purges
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.purges import Due
from tintype.consistency import markers
from tintype.consistency.markers import Marker
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import DatabaseUnavailable, StorageUnavailable
from tintype.objects.keys import original_key
from tintype.objects.store import Objects
from tintype.settings import TrashSettings
from tintype.telemetry import Metrics, get_logger

BATCH = 100
AT_ONCE = 8
AGAIN_SECONDS = 2 * 86_400
"""At its start a purge takes away the bytes of so long ago once more: a crash may have kept them."""

_log = get_logger()


@dataclass(slots=True)
class Purge:
    """First the marker in the bucket, then the row, then the bytes; each step can be done again.

    The marker has the row's version. If the image is restored before the row is purged, the row has a
    higher one, and the marker says nothing any more. From the row's commit on nobody can restore the image.
    """

    database: Database
    objects: Objects
    settings: TrashSettings
    metrics: Metrics
    _repeated: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Purge what is due now and then, until cancelled."""
        while True:
            try:
                await self.round()
            except (DatabaseUnavailable, StorageUnavailable) as error:
                _log.warning("purge.waits", reason=str(error.__cause__ or error))
            except Exception:  # noqa: BLE001 - the next round may find the defect gone
                _log.exception("purge.failed")
            await asyncio.sleep(self.settings.every_seconds)

    async def round(self, *, seconds: float = math.inf) -> int:
        """Purge all that is due, and return how many images that was. After so long no more is begun.

        Raises `DatabaseUnavailable` and `StorageUnavailable`; what is left is done next time.
        """
        ends = time.monotonic() + seconds
        if not self._repeated:
            await self._repeat()
        count = 0
        while True:
            async with self.database.reading(EVERY_OWNER) as tx:
                due = await purges.due(tx, self.settings.days, BATCH)
            purged = await self._all(due)
            count += purged
            if len(due) < BATCH or purged == 0 or time.monotonic() >= ends:
                return count

    async def _all(self, due: list[Due]) -> int:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(image: Due) -> bool:
            async with turn:
                return await self._one(image)

        return sum(await asyncio.gather(*map(one, due)))

    async def _one(self, image: Due) -> bool:
        marker = Marker(image.id, image.version, image.deleted_at, purged=True)
        await markers.put(self.objects, marker)
        checkpoint("purge-marked")
        async with self.database.transaction(EVERY_OWNER) as tx:
            purged = await purges.purge(tx, image)
        if not purged:
            return False
        checkpoint("purge-recorded")
        await self._take_bytes(image.id)
        self.metrics.purged.inc()
        _log.info("image.purged", image_id=str(image.id))
        return True

    async def _repeat(self) -> None:
        async with self.database.reading(EVERY_OWNER) as tx:
            recent = await purges.purged_since(tx, AGAIN_SECONDS)
        for image_id in recent:
            await self._take_bytes(image_id)
        self._repeated = True

    async def _take_bytes(self, image_id: UUID) -> None:
        await self.objects.delete(original_key(image_id))
        checkpoint("purge-bytes-gone")
