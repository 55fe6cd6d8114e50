"""Repair: each finding looked at again, then settled so that it can be undone.

A finding is a hint with an age. Nothing is done on its word: both sides are read anew under the image's
lock, absence is a definite 404 on the very key, and what takes something away looks once more in the
transaction that records it. Bytes are moved into quarantine before they leave their place.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from tintype.catalogue import comparison, events, findings, mending, quarantined, quotas, rebuilding
from tintype.catalogue.comparison import Standing
from tintype.catalogue.database import EVERY_OWNER, Database, Tx
from tintype.catalogue.locks import alone_with
from tintype.catalogue.quarantined import Held
from tintype.catalogue.rows import image_of_snapshot
from tintype.consistency import markers
from tintype.consistency.check import fingerprint, strangeness
from tintype.consistency.described import image_of_object
from tintype.consistency.recall import Recall
from tintype.model.check import Order
from tintype.model.checkpoint import checkpoint
from tintype.model.event import Kind
from tintype.model.finding import Drift, Finding, FindingState, Settlement
from tintype.model.ids import began_at
from tintype.model.image import Image, State
from tintype.model.upload import Upload
from tintype.objects.info import Fragment, ObjectInfo, Version
from tintype.objects.keys import original_key, parse_original_key
from tintype.objects.label import write_label
from tintype.objects.metadata import describe, parse
from tintype.objects.store import Objects
from tintype.settings import ConsistencySettings

_NAMESPACE = UUID("7b1f0f5e-6f0e-5c47-9a56-0b6f6d0a51c3")
"""For locks on what is no image."""


_WOULD = {
    Settlement.ADOPTED: "make its row anew",
    Settlement.DELETED: "delete it",
    Settlement.MARKED_CORRUPT: "mark the image as corrupt and put the bytes into quarantine",
    Settlement.MARKED_MISSING: "mark the image as missing",
    Settlement.MENDED: "correct the row",
    Settlement.NUDGED: "offer it again",
    Settlement.QUARANTINED: "put it into quarantine",
    Settlement.RECOUNTED: "count anew",
    Settlement.RECOVERED: "bring the image back",
    Settlement.REFRESHED: "give the row the new ETag",
    Settlement.RESTAMPED: "write the metadata anew",
    Settlement.SWEPT: "end it",
}


class Skip(Exception):
    """The finding is no longer true, or nothing can be done about it; the sentence says which."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a finding, once it has been seen to be true."""

    action: Settlement
    note: str
    act: Callable[[], Awaitable[None]]
    """Does it, and records it. Raises `Skip` when it is not true any more at the last look."""


@dataclass(frozen=True, slots=True)
class Repairer:
    """Settles findings, one at a time, each alone with its image."""

    database: Database
    objects: Objects
    settings: ConsistencySettings
    spool: Path
    sweep: Callable[[], Awaitable[object]] | None
    """Ends uploads whose time is over; None: that is left to the service."""

    async def settle(self, finding: Finding, order: Order, recall: Recall) -> None:
        """Look again at an open finding, and do what it needs. Raises `StorageUnavailable`."""
        subject = finding.image_id or uuid5(_NAMESPACE, finding.key)
        async with alone_with(self.database, subject) as alone:
            if not alone:
                return  # another worker is at it
            async with self.database.reading(EVERY_OWNER) as tx:
                current = await findings.find(tx, finding.id)
            if current is None or current.state is not FindingState.OPEN:
                return
            try:
                plan = await self._plan(finding, order, recall)
                if order.dry_run:
                    await self._annotate(finding, f"A repair would {_WOULD[plan.action]}. {plan.note}")
                    return
                checkpoint("before-repair")
                await plan.act()
            except Skip as skip:
                if not order.dry_run:
                    await self._record(finding, None, str(skip))
                else:
                    await self._annotate(finding, f"A repair would skip this. {skip}")

    async def _plan(self, finding: Finding, order: Order, recall: Recall) -> Plan:
        image_id = finding.image_id
        planners = {
            Drift.ROW_WITHOUT_OBJECT: self._missing,
            Drift.CONTENT_DIFFERS: partial(self._changed, recall),
            Drift.METADATA_DIFFERS: partial(self._strange, recall),
            Drift.OBJECT_RETURNED: self._returned,
            Drift.DELETED_BYTES_REMAIN: self._deleted,
        }
        if image_id is not None and finding.kind is Drift.OBJECT_WITHOUT_ROW:
            return await self._orphan(finding, image_id, order, recall)
        if image_id is not None and finding.kind in planners:
            return await planners[finding.kind](finding, image_id)
        return await self._aside(finding)

    # Objects without a row

    async def _orphan(self, finding: Finding, image_id: UUID, order: Order, recall: Recall) -> Plan:
        info = await self._present(finding.key)
        if await self._standing(image_id) is not None:
            raise Skip("There is a row for this object by now.")
        now = await self.database.now()
        if began_at(image_id) > now - timedelta(seconds=self.settings.grace_seconds):
            raise Skip("The object is young: its row may still come.")
        marker = await markers.find(self.objects, image_id)
        if marker is not None and marker.purged:
            return Plan(
                Settlement.DELETED,
                "It was deleted for good before.",
                lambda: self._delete_orphan(finding, image_id),
            )
        image = await self._as_told(image_id, info, await recall.image(finding.id, image_id, info))
        if image is None and order.adopting:
            image = image_of_object(info)
        if image is not None and marker is not None and marker.version >= image.version:
            image = replace(image, state=State.DELETED, deleted_at=marker.deleted_at, version=marker.version)
        if image is None:
            return Plan(
                Settlement.QUARANTINED,
                "An upload that nobody was told of.",
                lambda: self._quarantine_orphan(finding, image_id, info),
            )
        digest, size = await fingerprint(self.objects, finding.key)
        if (digest, size) != (image.sha256, image.size):
            raise Skip("The log knows this image, with other bytes. Nothing is done; look at it yourself.")
        return Plan(
            Settlement.ADOPTED,
            "The upload was acknowledged, and its row is gone: the image is made anew.",
            lambda: self._adopt(finding, replace(image, etag=info.etag)),
        )

    async def _as_told(self, image_id: UUID, info: ObjectInfo, kept: Image | None) -> Image | None:
        """Return the image as the log of events has it last, or else the journal, where the log goes on.

        It was acknowledged if either knows it.
        """
        async with self.database.reading(EVERY_OWNER) as tx:
            history = await mending.told(tx, image_id, kept.version if kept else 1)
        if history:
            _, payload = history[-1]
            image = image_of_snapshot({**payload, "etag": info.etag})
            if kept is not None:  # only the journal has what events do not tell
                facts = replace(image.facts, exif=kept.facts.exif, location=kept.facts.location)
                image = replace(image, facts=facts)
        elif kept is not None:
            image = kept
        else:
            return None
        if image.state is State.DELETED:
            return image
        return replace(image, state=State.READY)

    async def _adopt(self, finding: Finding, image: Image) -> None:
        if image.state is State.READY:
            image = replace(image, version=image.version + 1)
        async with self.database.transaction(EVERY_OWNER) as tx:
            if not await rebuilding.put(tx, [image]):
                raise Skip("There is a row for this object by now.")
            if image.state is State.READY:
                await events.add(tx, Kind.RECOVERED, image)
            before = {"adopted": image.version}
            await findings.settle(tx, finding, Settlement.ADOPTED, "The image has its row again.", before)

    async def _quarantine_orphan(self, finding: Finding, image_id: UUID, info: ObjectInfo) -> None:
        async def still_without_row(tx: Tx) -> None:
            if await comparison.find(tx, image_id) is not None:
                raise Skip("A row came while the object was copied; nothing was taken away.")

        await self._quarantine(finding, info, still_without_row, Settlement.QUARANTINED)

    async def _delete_orphan(self, finding: Finding, image_id: UUID) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            if await comparison.find(tx, image_id) is not None:
                raise Skip("There is a row for this object by now.")
            await self.objects.delete(finding.key)
            await findings.settle(tx, finding, Settlement.DELETED, "What was deleted stays deleted.")

    # Rows without an object

    async def _missing(self, finding: Finding, image_id: UUID) -> Plan:
        standing = await self._with_bytes(image_id)
        if await self.objects.head(finding.key) is not None:
            raise Skip("The object is there.")
        if sources := await self._sources(standing):
            return Plan(
                Settlement.RECOVERED,
                "The same bytes are kept elsewhere.",
                lambda: self._bring_back(finding, standing, sources),
            )
        if standing.state is State.DELETED:
            return Plan(
                Settlement.MARKED_MISSING,
                "The image is in the trash, and cannot be restored any more.",
                lambda: self._give_up(finding, image_id),
            )
        return Plan(
            Settlement.MARKED_MISSING, "The bytes are lost.", lambda: self._mark_missing(finding, image_id)
        )

    async def _mark_missing(self, finding: Finding, image_id: UUID) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._locked(tx, image_id, State.READY)
            await self._absent(finding.key)
            await mending.mark(tx, image, State.MISSING, Kind.MISSING)
            before = {"state": State.READY.value}
            await findings.settle(
                tx,
                finding,
                Settlement.MARKED_MISSING,
                "The image is marked as missing; its owner is told.",
                before,
            )

    async def _give_up(self, finding: Finding, image_id: UUID) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await self._locked(tx, image_id, State.DELETED)
            await self._absent(finding.key)
            await mending.give_up(tx, image_id)
            before = {"state": State.DELETED.value}
            await findings.settle(
                tx, finding, Settlement.MARKED_MISSING, "The image cannot leave the trash any more.", before
            )

    async def _bring_back(
        self, finding: Finding, standing: Standing, sources: Sequence[Version | Held]
    ) -> None:
        await self._absent(finding.key)
        if await self._recover(finding, standing, sources):
            return
        if standing.state is State.DELETED:
            await self._give_up(finding, standing.id)
        else:
            await self._mark_missing(finding, standing.id)

    async def _recover(self, finding: Finding, standing: Standing, sources: Sequence[Version | Held]) -> bool:
        """Put kept bytes into their place, and let the row know their ETag; False when none are right.

        What a copy says of itself is no proof: its bytes are read.
        """
        for source in sources:
            if isinstance(source, Version):
                stored = await self.objects.recover(finding.key, source)
            else:
                stored = await self.objects.copy(source.held_key, finding.key)
            digest, _ = await fingerprint(self.objects, finding.key)
            if digest == standing.sha256:
                await self._record_recovery(finding, standing, source, stored.etag)
                return True
            await self.objects.delete(finding.key)  # it is still where it was copied from
        return False

    async def _record_recovery(
        self, finding: Finding, standing: Standing, source: Version | Held, etag: str
    ) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await comparison.lock(tx, standing.id)
            if image is None:
                raise Skip("The image is gone.")
            await mending.refresh(tx, standing.id, etag)
            if image.state in (State.MISSING, State.CORRUPT):
                await mending.mark(tx, image, State.READY, Kind.RECOVERED)
            before = {"recovered": _name_of(source), "state": image.state.value, "etag": standing.etag}
            await findings.settle(tx, finding, Settlement.RECOVERED, "The bytes are back.", before)

    async def _sources(self, standing: Standing) -> list[Version | Held]:
        """Return where the same bytes are kept: older versions, then quarantine."""
        key, wanted = original_key(standing.id), standing.sha256.hex()
        found: list[Version | Held] = [
            version
            for version in await self.objects.versions(key)
            if (version.size, version.sha256) == (standing.size, wanted)
        ]
        async with self.database.reading(EVERY_OWNER) as tx:
            held = await quarantined.of_image(tx, standing.id)
        for each in held:
            info = await self.objects.head(each.held_key)
            if (
                each.key == key
                and info is not None
                and (info.size, info.sha256) == (standing.size, standing.sha256)
            ):
                found.append(each)
        return found

    # Bytes or metadata that differ

    async def _changed(self, recall: Recall, finding: Finding, image_id: UUID) -> Plan:
        standing = await self._with_bytes(image_id)
        info = await self._present(finding.key)
        digest, size = await fingerprint(self.objects, finding.key)
        if digest == standing.sha256 and size == standing.size:
            if info.etag == standing.etag:
                raise Skip("The bytes are those of the row.")
            return Plan(
                Settlement.REFRESHED,
                "The bytes are right; the store has another ETag for them.",
                lambda: self._refresh(finding, standing, info),
            )
        if truth := await self._truth_against_row(finding, (digest, size), info, recall):
            return Plan(
                Settlement.MENDED,
                "The bytes are those that the log tells of; the row is wrong.",
                lambda: self._mend(finding, standing, truth),
            )
        sources = await self._sources(standing)
        if sources:
            return Plan(
                Settlement.RECOVERED,
                "The bytes are others; the right ones are kept elsewhere.",
                lambda: self._replace(finding, standing, info, sources),
            )
        return Plan(
            Settlement.MARKED_CORRUPT,
            "The bytes are not those of the image.",
            lambda: self._mark_corrupt(finding, standing, info),
        )

    async def _truth_against_row(
        self, finding: Finding, seen: tuple[bytes, int], info: ObjectInfo, recall: Recall
    ) -> dict[str, Any] | None:
        """Return what the row should say, where the bytes and the log agree against it.

        What the log has forgotten the journal tells.
        """
        image_id = parse_original_key(info.key)
        if image_id is None:
            return None
        async with self.database.reading(EVERY_OWNER) as tx:
            history = await mending.told(tx, image_id)
        if history:
            told = {name: history[0][1][name] for name in ("owner", "sha256", "bytes", "content_type")}
        elif kept := await recall.image(finding.id, image_id, info):
            told = {
                "owner": kept.owner,
                "sha256": kept.sha256.hex(),
                "bytes": kept.size,
                "content_type": kept.content_type,
            }
        else:
            return None
        digest, size = seen
        agree = (told["sha256"], told["bytes"]) == (digest.hex(), size)
        return {**told, "etag": info.etag} if agree else None

    async def _refresh(self, finding: Finding, standing: Standing, info: ObjectInfo) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await self._unchanged(tx, standing)
            await mending.refresh(tx, standing.id, info.etag)
            await findings.settle(
                tx, finding, Settlement.REFRESHED, "The row has the new ETag.", {"etag": standing.etag}
            )

    async def _mend(self, finding: Finding, standing: Standing, truth: dict[str, Any]) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._unchanged(tx, standing)
            await mending.mend(tx, image, truth)
            before = {
                "owner": standing.owner,
                "sha256": standing.sha256.hex(),
                "bytes": standing.size,
                "content_type": standing.content_type,
                "etag": standing.etag,
            }
            await findings.settle(tx, finding, Settlement.MENDED, "The row is right again.", {"row": before})

    async def _replace(
        self, finding: Finding, standing: Standing, info: ObjectInfo, sources: Sequence[Version | Held]
    ) -> None:
        async def still_wrong(tx: Tx) -> None:
            await self._unchanged(tx, standing)

        await self._quarantine(finding, info, still_wrong, None)
        if await self._recover(finding, standing, sources):
            return
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._unchanged(tx, standing)
            before = await self._give_bytes_up(tx, image)
            note = "Neither these bytes nor any that are kept are those of the image."
            await findings.settle(tx, finding, Settlement.MARKED_CORRUPT, note, before)

    async def _give_bytes_up(self, tx: Tx, image: Image) -> dict[str, Any]:
        if image.state is State.READY:
            await mending.mark(tx, image, State.CORRUPT, Kind.CORRUPT)
        else:
            await mending.give_up(tx, image.id)
        return {"state": image.state.value}

    async def _mark_corrupt(self, finding: Finding, standing: Standing, info: ObjectInfo) -> None:
        async def mark(tx: Tx) -> None:
            await self._give_bytes_up(tx, await self._unchanged(tx, standing))

        before = {"state": standing.state.value}
        await self._quarantine(finding, info, mark, Settlement.MARKED_CORRUPT, before)

    async def _strange(self, recall: Recall, finding: Finding, image_id: UUID) -> Plan:
        standing = await self._with_bytes(image_id)
        info = await self._present(finding.key)
        if strangeness(info, standing) is None:
            raise Skip("The metadata fit the row.")
        digest, size = await fingerprint(self.objects, finding.key)
        told = parse(info.metadata)
        truth = await self._truth_against_row(finding, (digest, size), info, recall)
        if truth and told and told.sha256 == digest and _row_differs(standing, truth):
            return Plan(
                Settlement.MENDED,
                "The object and the log agree; the row is wrong.",
                lambda: self._mend(finding, standing, truth),
            )
        if digest != standing.sha256:
            return await self._changed(recall, finding, image_id)
        return Plan(
            Settlement.RESTAMPED,
            "The bytes are right; what is written about them is not.",
            lambda: self._restamp(finding, standing),
        )

    async def _restamp(self, finding: Finding, standing: Standing) -> None:
        async with self.database.reading(EVERY_OWNER) as tx:
            image = await comparison.find(tx, standing.id)
            history = await mending.told(tx, standing.id)
        if image is None:
            raise Skip("The image is gone.")
        if history:  # as it was uploaded; what was changed since is not in the object
            told = image_of_snapshot({**history[0][1], "etag": image.etag})
            image = replace(image, filename=told.filename, tags=told.tags, attributes=told.attributes)
        label = await self.objects.label(finding.key)
        before = {"label": None if label is None else label.decode("latin-1"), "etag": standing.etag}
        async with self.database.transaction(EVERY_OWNER) as tx:
            await findings.remember(tx, finding, before)
        stored = await self.objects.relabel(finding.key, _label_of(image))
        async with self.database.transaction(EVERY_OWNER) as tx:
            await self._unchanged(tx, standing)
            await mending.refresh(tx, standing.id, stored.etag)
            await findings.settle(
                tx, finding, Settlement.RESTAMPED, "The object describes itself again.", before
            )

    # Images that were given up, and deleted ones

    async def _returned(self, finding: Finding, image_id: UUID) -> Plan:
        standing = await self._standing(image_id)
        if standing is None or standing.state not in (State.MISSING, State.CORRUPT):
            raise Skip("The image is not missing any more.")
        info = await self._present(finding.key)
        digest, _ = await fingerprint(self.objects, finding.key)
        if digest == standing.sha256:
            return Plan(
                Settlement.RECOVERED, "The bytes are back.", lambda: self._welcome(finding, standing, info)
            )
        return Plan(
            Settlement.QUARANTINED,
            "There are bytes in the image's place that are not its own.",
            lambda: self._quarantine_stranger(finding, standing, info),
        )

    async def _welcome(self, finding: Finding, standing: Standing, info: ObjectInfo) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._locked(tx, standing.id, standing.state)
            await mending.refresh(tx, image.id, info.etag)
            await mending.mark(tx, replace(image, etag=info.etag), State.READY, Kind.RECOVERED)
            before = {"state": standing.state.value, "etag": standing.etag}
            await findings.settle(tx, finding, Settlement.RECOVERED, "The image is ready again.", before)

    async def _quarantine_stranger(self, finding: Finding, standing: Standing, info: ObjectInfo) -> None:
        async def still_given_up(tx: Tx) -> None:
            await self._locked(tx, standing.id, standing.state)

        await self._quarantine(finding, info, still_given_up, Settlement.QUARANTINED)

    async def _deleted(self, finding: Finding, image_id: UUID) -> Plan:
        standing = await self._standing(image_id)
        if standing is None or not standing.purged:
            raise Skip("The image is not deleted for good.")
        info = await self._present(finding.key)
        marker = await markers.find(self.objects, image_id)
        if marker is not None and marker.purged:
            return Plan(
                Settlement.DELETED, "What was deleted stays deleted.", lambda: self._purge(finding, image_id)
            )
        # Nobody deleted it for good: it is in the trash, and a repair once found its bytes gone.
        digest, _ = await fingerprint(self.objects, finding.key)
        if digest == standing.sha256:
            return Plan(
                Settlement.RECOVERED,
                "The bytes of an image in the trash are back.",
                lambda: self._welcome_to_trash(finding, standing, info),
            )
        return Plan(
            Settlement.QUARANTINED,
            "There are bytes in the image's place that are not its own.",
            lambda: self._quarantine_stranger(finding, standing, info),
        )

    async def _welcome_to_trash(self, finding: Finding, standing: Standing, info: ObjectInfo) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            image = await self._locked(tx, standing.id, State.DELETED)
            await mending.refresh(tx, image.id, info.etag)
            await mending.take_back_giving_up(tx, image.id)
            before = {"state": State.DELETED.value, "etag": standing.etag}
            note = "The image can leave the trash again."
            await findings.settle(tx, finding, Settlement.RECOVERED, note, before)

    async def _purge(self, finding: Finding, image_id: UUID) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await self._locked(tx, image_id, State.DELETED)
            if not await comparison.is_purged(tx, image_id):
                raise Skip("The image is not deleted for good.")
            await self.objects.delete(finding.key)
            await findings.settle(tx, finding, Settlement.DELETED, "The bytes are gone for good.")

    # What is no image

    async def _aside(self, finding: Finding) -> Plan:
        match finding.kind:
            case Drift.UPLOAD_LEFTOVER:
                upload_id = UUID(finding.key.split("/")[1])
                if await self._is_kept(upload_id):
                    raise Skip("The upload goes on.")
                return Plan(Settlement.DELETED, "Its upload has ended.", lambda: self._remove(finding))
            case Drift.RENDITION_WITHOUT_ORIGINAL:
                if finding.image_id and _is_shown(await self._standing(finding.image_id)):
                    raise Skip("There is an original for it.")
                return Plan(Settlement.DELETED, "It can be made again.", lambda: self._remove(finding))
            case Drift.UNFINISHED_PUT:
                await self._see_that_nobody_goes_on(finding)
                return Plan(Settlement.DELETED, "Nobody finishes it.", lambda: self._discard(finding))
            case Drift.UPLOAD_EXPIRED:
                return Plan(Settlement.SWEPT, "Its time is over.", lambda: self._end_uploads(finding))
            case Drift.EVENT_UNPUBLISHED:
                return Plan(Settlement.NUDGED, "It is offered again.", lambda: self._nudge(finding))
            case Drift.QUOTA_DRIFTED:
                return Plan(Settlement.RECOUNTED, "It is counted anew.", lambda: self._recount(finding))
            case _:
                raise Skip("There is nothing that could be done about this.")

    async def _see_that_nobody_goes_on(self, finding: Finding) -> None:
        if finding.image_id is None:
            return
        if await self._is_kept(finding.image_id):
            raise Skip("The upload goes on.")
        if finding.details["labels"] and await self._standing(finding.image_id) is not None:
            raise Skip("What it belongs to is there.")

    async def _remove(self, finding: Finding) -> None:
        await self.objects.delete(finding.key)
        await self._record(finding, Settlement.DELETED, "It is gone.")

    async def _discard(self, finding: Finding) -> None:
        now = await self.database.now()
        for token in finding.details["tokens"]:
            await self.objects.discard(Fragment(finding.key, token, now))
        for token in finding.details["labels"]:
            await self.objects.discard(Fragment(finding.key, token, now, is_label=True))
        await self._record(finding, Settlement.DELETED, "It is gone.")

    async def _end_uploads(self, finding: Finding) -> None:
        if self.sweep is None:
            raise Skip("The service ends it when it runs.")
        await self.sweep()
        await self._record(finding, Settlement.SWEPT, "Uploads whose time is over were ended.")

    async def _nudge(self, finding: Finding) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            waiting = await events.nudge(tx, [UUID(finding.key.partition("/")[2])])
            if not waiting:
                raise Skip("The event is published by now.")
            await findings.settle(tx, finding, Settlement.NUDGED, "The event is due now.")

    async def _recount(self, finding: Finding) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            if await quotas.recount(tx, finding.details["owner"]) is None:
                raise Skip("This owner's images are not counted.")
            await findings.settle(tx, finding, Settlement.RECOUNTED, "The counter is right again.")

    # What all of them need

    async def _quarantine(
        self,
        finding: Finding,
        info: ObjectInfo,
        agree: Callable[[Tx], Awaitable[None]],
        action: Settlement | None,
        before: dict[str, Any] | None = None,
    ) -> None:
        """Copy an object into quarantine, then remove it where it was, unless `agree` objects at the last.

        Without an action the finding stays open: something is still to be done about it.
        """
        async with self.database.transaction(EVERY_OWNER) as tx:
            held = await quarantined.begin(tx, finding, info.key, info.size)
        await self.objects.copy(info.key, held.held_key)
        checkpoint("after-quarantine-copy")
        async with self.database.transaction(EVERY_OWNER) as tx:
            await agree(tx)
            last = await self.objects.head(info.key)
            if last is None or (last.size, last.etag) != (info.size, info.etag):
                raise Skip("The object changed while it was copied; nothing was taken away.")
            await quarantined.mark(tx, held.id, "held")
            if action is not None:
                note = f"The bytes are held for {self.settings.quarantine_days:g} days."
                if action is Settlement.MARKED_CORRUPT:
                    note = f"The image is marked as corrupt; its owner is told. {note}"
                await findings.settle(tx, finding, action, note, before)
            await self.objects.delete(info.key)
            checkpoint("after-quarantine-delete")

    async def _present(self, key: str) -> ObjectInfo:
        info = await self.objects.head(key)
        if info is None:
            raise Skip("The object is gone.")
        return info

    async def _absent(self, key: str) -> None:
        if await self.objects.head(key) is not None:
            raise Skip("The object is there after all.")

    async def _standing(self, image_id: UUID) -> Standing | None:
        async with self.database.reading(EVERY_OWNER) as tx:
            return (await comparison.standings(tx, [image_id])).get(image_id)

    async def _with_bytes(self, image_id: UUID) -> Standing:
        standing = await self._standing(image_id)
        if standing is None or not standing.has_bytes:
            raise Skip("The image was deleted, or given up, since.")
        return standing

    async def _locked(self, tx: Tx, image_id: UUID, state: State) -> Image:
        image = await comparison.lock(tx, image_id)
        if image is None or image.state is not state:
            raise Skip("The image is in another state by now.")
        return image

    async def _unchanged(self, tx: Tx, standing: Standing) -> Image:
        image = await self._locked(tx, standing.id, standing.state)
        if (image.sha256, image.size, image.etag) != (standing.sha256, standing.size, standing.etag):
            raise Skip("The row has changed since.")
        if await comparison.is_purged(tx, image.id) != standing.purged:
            raise Skip("The image was deleted for good since.")
        return image

    async def _is_kept(self, upload_id: UUID) -> bool:
        async with self.database.reading(EVERY_OWNER) as tx:
            return bool(await comparison.kept_uploads(tx, [upload_id], self.settings.grace_seconds))

    async def _record(self, finding: Finding, action: Settlement | None, note: str) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await findings.settle(tx, finding, action, note)

    async def _annotate(self, finding: Finding, note: str) -> None:
        async with self.database.transaction(EVERY_OWNER) as tx:
            await findings.annotate(tx, finding, note)


def _name_of(source: Version | Held) -> str:
    return source.id if isinstance(source, Version) else source.held_key


def _row_differs(standing: Standing, truth: dict[str, Any]) -> bool:
    row = (standing.owner, standing.sha256.hex(), standing.size, standing.content_type)
    return row != (truth["owner"], truth["sha256"], truth["bytes"], truth["content_type"])


def _is_shown(standing: Standing | None) -> bool:
    return standing is not None and standing.state is State.READY


def _label_of(image: Image) -> bytes:
    """Return what is written about an image's object when it is uploaded."""
    upload = Upload(
        id=image.id,
        owner=image.owner,
        filename=image.filename,
        declared_type=image.declared_type,
        protocol=image.protocol,
        tags=image.tags,
        attributes=image.attributes,
    )
    metadata = describe(upload, image.facts, size=image.size, sha256=image.sha256)
    return write_label(image.content_type, metadata)
