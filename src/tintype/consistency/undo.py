"""Undo: what a repair did is taken back, as long as nothing else has happened to the same thing since."""

from dataclasses import dataclass
from uuid import UUID

from tintype.catalogue import comparison, findings, mending, quarantined
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.catalogue.locks import alone_with
from tintype.consistency.check import fingerprint
from tintype.consistency.repair import Skip
from tintype.model.event import Kind
from tintype.model.finding import Finding, FindingState, Settlement
from tintype.model.image import Image, State
from tintype.objects.store import Objects


@dataclass(frozen=True, slots=True)
class Undoer:
    """Takes repairs back, one at a time, each alone with its image."""

    database: Database
    objects: Objects

    async def undo(self, finding: Finding) -> None:
        """Bring back what was before a finding was settled, or say in its note why that cannot be."""
        if finding.image_id is None:
            await self._annotate(finding, "This cannot be taken back: it was nothing that could be kept.")
            return
        async with alone_with(self.database, finding.image_id) as alone:
            if not alone:
                return
            async with self.database.reading(EVERY_OWNER) as tx:
                current = await findings.find(tx, finding.id)
            if current is None or current.state is not FindingState.REPAIRED:
                return
            try:
                await self._take_back(current, finding.image_id)
            except Skip as skip:
                await self._annotate(current, f"Not taken back. {skip}")
                return
            async with self.database.transaction(EVERY_OWNER) as tx:
                await findings.undone(tx, current, "Taken back: it is as it was before.")

    async def _take_back(self, finding: Finding, image_id: UUID) -> None:
        match finding.action:
            case Settlement.QUARANTINED:
                await self._return_bytes(finding)
            case Settlement.MARKED_MISSING:
                await self._unmark(finding, image_id)
            case Settlement.MARKED_CORRUPT:
                await self._return_bytes(finding)
                await self._unmark(finding, image_id)
            case Settlement.ADOPTED:
                await self._disown(finding, image_id)
            case Settlement.RECOVERED:
                await self._lose_again(finding, image_id)
            case Settlement.REFRESHED | Settlement.MENDED | Settlement.RESTAMPED:
                await self._write_back(finding, image_id)
            case _:
                raise Skip("What was removed had been deleted before, or can be made again; it is not kept.")

    async def _return_bytes(self, finding: Finding) -> None:
        async with self.database.reading(EVERY_OWNER) as tx:
            held = await quarantined.of_finding(tx, finding.id)
        if held is None:
            raise Skip("The bytes are not in quarantine any more.")
        if await self.objects.head(held.key) is not None:
            raise Skip("There is something in their place by now.")
        await self.objects.copy(held.held_key, held.key)
        async with self.database.transaction(EVERY_OWNER) as tx:
            await quarantined.mark(tx, held.id, "returned")
        await self.objects.delete(held.held_key)

    async def _unmark(self, finding: Finding, image_id: UUID) -> None:
        before = finding.before or {}
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._lock(image_id, tx)
            if before.get("state") == State.DELETED:
                await mending.take_back_giving_up(tx, image_id)
            elif image.state in (State.MISSING, State.CORRUPT):
                await mending.mark(tx, image, State.READY, Kind.RECOVERED)
            else:
                raise Skip("The image is in another state by now.")

    async def _disown(self, finding: Finding, image_id: UUID) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._lock(image_id, tx)
            if image.version != (finding.before or {}).get("adopted"):
                raise Skip("The image was changed since.")
            await mending.remove(tx, image)

    async def _lose_again(self, finding: Finding, image_id: UUID) -> None:
        """Take away what was brought back: it is still kept where it came from."""
        before = finding.before or {}
        state = State(before["state"])
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._lock(image_id, tx)
            if image.state is State.READY and state in (State.MISSING, State.CORRUPT):
                kind = Kind.MISSING if state is State.MISSING else Kind.CORRUPT
                await mending.mark(tx, image, state, kind)
            await mending.refresh(tx, image_id, before["etag"])
            if "recovered" not in before:  # the bytes had come by themselves
                await mending.give_up(tx, image_id)
                return
        digest, _ = await fingerprint(self.objects, finding.key)
        if digest != image.sha256:
            raise Skip("There are other bytes in its place by now.")
        await self.objects.delete(finding.key)
        async with self.database.reading(EVERY_OWNER) as tx:
            replaced = await quarantined.of_finding(tx, finding.id)
        if replaced is not None:
            await self._return_bytes(finding)

    async def _write_back(self, finding: Finding, image_id: UUID) -> None:
        before = finding.before or {}
        etag = before.get("etag", "")
        if "label" in before:
            label = before["label"]
            stored = await self.objects.relabel(
                finding.key, None if label is None else label.encode("latin-1")
            )
            etag = stored.etag
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._lock(image_id, tx)
            if "row" in before:
                await mending.mend(tx, image, before["row"])
            else:
                await mending.refresh(tx, image_id, etag)

    async def _lock(self, image_id: UUID, tx: Tx) -> Image:
        image = await comparison.lock(tx, image_id)
        if image is None:
            raise Skip("The image is gone.")
        return image

    async def _annotate(self, finding: Finding, note: str) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await findings.annotate(tx, finding, note)
