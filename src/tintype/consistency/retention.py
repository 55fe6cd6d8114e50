"""Retention: the catalogue does not keep for ever what nobody asks for any more."""

from dataclasses import dataclass

from tintype.catalogue import retention
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency import journal
from tintype.objects.store import Objects
from tintype.settings import RetentionSettings

BATCH = 1_000
MOST_BATCHES = 50
"""In one round: the next one follows in minutes."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Forgets in small batches, so that nobody waits for it."""

    database: Database
    objects: Objects
    settings: RetentionSettings

    async def round(self) -> int:
        """Forget what is old; return how many rows that was.

        An event goes only when it is published, delivered to all who are owed it, and in the journal.
        Raises `DatabaseUnavailable` and `StorageUnavailable`.
        """
        return await self._forget_answers() + await self._forget_events()

    async def _forget_answers(self) -> int:
        count = 0
        for _ in range(MOST_BATCHES):
            async with self.database.transaction(EVERY_OWNER) as tx:
                gone = await retention.forget_answers(tx, self.settings.idempotency_days, BATCH)
            count += gone
            if gone < BATCH:
                break
        return count

    async def _forget_events(self) -> int:
        newest = await journal.newest_segment(self.objects)
        async with self.database.reading(EVERY_OWNER) as tx:
            upto = min(newest.last if newest else 0, await retention.handed_over(tx))
        count, after = 0, 0
        for _ in range(MOST_BATCHES):
            async with self.database.transaction(EVERY_OWNER) as tx:
                looked = await retention.forget_events(
                    tx, self.settings.events_days, after=after, upto=upto, limit=BATCH
                )
            count += looked.count
            if looked.upto is None or looked.upto >= upto:
                break
            after = looked.upto
        return count
