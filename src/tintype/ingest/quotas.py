"""Quotas: room for an upload is held before it is read, and becomes the image's when that is committed."""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from tintype.catalogue import quotas
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.model.errors import DatabaseUnavailable, Internal, QuotaExceeded, TintypeError
from tintype.model.ids import new_id
from tintype.model.quota import Quota, Usage
from tintype.model.upload import Upload
from tintype.telemetry import get_logger

FRESH_SECONDS = 15.0
"""How long a look for an owner's quota stands: a new one acts within that time on every instance."""
MAX_KNOWN = 10_000
MARGIN_SECONDS = 10 * 60
"""How much longer room is held than a commit accepts its attempt: clocks differ by five minutes at most."""

_IN_DOUBT = (DatabaseUnavailable, Internal)
"""After these it is not known whether the image was stored: its room is held until it expires."""

_LOG = get_logger()


@dataclass(slots=True)
class Quotas:
    """What owners may store, as one process knows it. Who has no quota costs a look into a dictionary."""

    database: Database
    default: Quota
    """Of owners without a quota of their own."""
    fresh_seconds: float = FRESH_SECONDS
    _known: OrderedDict[str, tuple[Quota | None, float]] = field(
        default_factory=OrderedDict[str, tuple[Quota | None, float]]
    )

    _counted_owners: set[str] = field(default_factory=set[str])

    @property
    def _held_seconds(self) -> float:
        return self.database.settings.attempt_seconds + MARGIN_SECONDS

    async def quota_of(self, owner: str) -> Quota | None:
        """Return the quota that limits an owner; None where nothing does."""
        known = self._known.get(owner)
        if known is not None and time.monotonic() - known[1] < self.fresh_seconds:
            return known[0]
        began = time.monotonic()
        async with self.database.reading(owner) as tx:
            found = await quotas.find(tx, owner) or self.default
        quota = found if found.is_limit else None
        self._known[owner] = quota, began
        self._known.move_to_end(owner)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return quota

    async def admit(
        self,
        owner: str,
        declared: int | None,
        *,
        room: UUID | None = None,
        seconds: float | None = None,
    ) -> UUID | None:
        """Hold room for one upload of the declared length (None: not known yet), before any of it is read.

        Returns what names the room (`room` itself where given), for `Upload.room` and `release`; None where
        the owner has no quota. After so many seconds (None: those of one attempt) it is given back by itself.
        Raises `QuotaExceeded`.
        """
        quota = await self.quota_of(owner)
        if quota is None:
            return None
        held = room or new_id()

        async def hold(tx: Tx) -> None:
            usage = await self._usage(tx, owner)
            _check(usage, quota, declared or 0)
            await quotas.reserve(tx, owner, held, size=declared or 0, seconds=seconds or self._held_seconds)

        await self._counted(owner)
        await self.database.run(hold, owner)
        return held

    async def release(self, owner: str, room: UUID | None) -> None:
        """Give room back that no image took. What cannot be given back now expires."""
        if room is None:
            return
        try:
            async with self.database.reading(owner) as tx:
                await quotas.release(tx, owner, room)
        except DatabaseUnavailable as error:
            _LOG.warning("quota.not_released", error=str(error))

    @asynccontextmanager
    async def holding(self, upload: Upload, size: int) -> AsyncGenerator[None]:
        """Hold room for this attempt while the block stores it: out of `upload.room`, as far as that reaches.

        Raises `QuotaExceeded`. When the block fails, the room is given back, unless the image may have been
        stored all the same.
        """
        quota = await self.quota_of(upload.owner)
        if quota is None:
            yield
            return

        async def hold(tx: Tx) -> None:
            usage = await self._usage(tx, upload.owner)
            if upload.room is not None:
                usage = usage.without(*await quotas.shrink(tx, upload.owner, upload.room, size))
            _check(usage, quota, size)
            await quotas.reserve(tx, upload.owner, upload.id, size=size, seconds=self._held_seconds)

        await self._counted(upload.owner)
        await self.database.run(hold, upload.owner)
        try:
            yield
        except TintypeError as error:
            if not isinstance(error, _IN_DOUBT):
                await self.release(upload.owner, upload.id)
            raise
        await self.release(upload.owner, upload.id)

    async def usage_of(self, owner: str) -> Usage | None:
        """Return what an owner has stored, where it is counted: for owners with a quota."""
        if await self.quota_of(owner) is None:
            return None
        await self._counted(owner)
        async with self.database.reading(owner) as tx:
            return await quotas.usage(tx, owner)

    async def give(self, owner: str, quota: Quota) -> Usage:
        """Set an owner's quota, and return what they have stored: from now on it is counted."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            await quotas.put(tx, owner, quota)
        self._known.pop(owner, None)
        if quota.is_limit:
            await self._count(owner)
        async with self.database.reading(EVERY_OWNER) as tx:
            return await quotas.stored(tx, owner)

    async def remove(self, owner: str) -> bool:
        """Take an owner's own quota away, and return whether there was one."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            is_removed = await quotas.remove(tx, owner)
        self._known.pop(owner, None)
        return is_removed

    async def list_all(self) -> list[tuple[str, Quota, Usage]]:
        """Return every owner with a quota of their own, with what they have stored."""
        async with self.database.transaction(EVERY_OWNER) as tx:
            return [(owner, quota, await quotas.stored(tx, owner)) for owner, quota in await quotas.every(tx)]

    async def _counted(self, owner: str) -> None:
        """Make sure that the owner's usage is counted: at the first upload under a quota of the settings."""
        if owner in self._counted_owners:
            return
        await self._count(owner)
        if len(self._counted_owners) < MAX_KNOWN:
            self._counted_owners.add(owner)

    async def _count(self, owner: str) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            is_new = await quotas.begin_to_count(tx, owner)
        if is_new:
            async with self.database.transaction(EVERY_OWNER) as tx:
                await quotas.recount(tx, owner)

    async def _usage(self, tx: Tx, owner: str) -> Usage:
        usage = await quotas.locked(tx, owner)
        if usage is None:
            raise DatabaseUnavailable("The quota is being counted. Send the upload again.", retry_after=1)
        return usage


def _check(usage: Usage, quota: Quota, size: int) -> None:
    """Raise `QuotaExceeded` unless one more image of this size fits."""
    if usage.leaves(quota, size, 1):
        return
    raise QuotaExceeded(
        "There is no room for this upload in the quota. Images in the trash count until they are gone for "
        "good, and uploads on their way count too.",
        details={
            "max_bytes": quota.max_bytes,
            "max_images": quota.max_images,
            "bytes": usage.bytes + usage.reserved_bytes,
            "images": usage.images + usage.reserved_images,
        },
    )
