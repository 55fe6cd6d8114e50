"""Direct uploads: bytes that clients put into the store themselves are read, judged, and become images.

Who asked for the signature is who uploads: that stands in the session, whoever tells us that the
bytes are there. Three may tell it, at once or never: the client, an event of the store's, the sweep.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from tintype.catalogue import uploads
from tintype.catalogue.database import EVERY_OWNER
from tintype.ingest.quotas import Quotas
from tintype.ingest.receive import Incoming, Receiver
from tintype.ingest.sessions import Sessions
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import (
    ObjectMissing,
    PartsInvalid,
    TintypeError,
    UploadNotFound,
    UploadTooLarge,
    UploadUnfinished,
)
from tintype.model.identity import Grant
from tintype.model.session import Opening, Session, SessionKind, SessionState
from tintype.objects.direct import MAX_PARTS, DirectUploads, FormInstruction, Instruction, Part, Terms
from tintype.objects.keys import direct_key, parse_direct_key
from tintype.objects.store import Objects
from tintype.settings import LimitsSettings
from tintype.telemetry import get_logger

DIRECT_KINDS = frozenset({SessionKind.PUT, SessionKind.POST, SessionKind.MULTIPART})
OCTETS = "application/octet-stream"

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Begun:
    """A session for a direct upload, and what its client is to do: nothing yet for one in parts."""

    session: Session
    instruction: Instruction | FormInstruction | None


@dataclass(frozen=True, slots=True)
class Direct:
    """The verbs. One per process."""

    sessions: Sessions
    place: DirectUploads
    objects: Objects
    receiver: Receiver
    quotas: Quotas
    limits: LimitsSettings

    async def open(self, opening: Opening, base_url: str) -> Begun:
        """Begin a session, and sign what its client is to send.

        Raises `QuotaExceeded`, what `Sessions.open` raises, and `StorageUnavailable`. A quota is only looked
        at here: room is held while the bytes are finished.
        """
        room = await self.quotas.admit(opening.owner, opening.length)
        await self.quotas.release(opening.owner, room)
        # One in parts lives as others do: each of its parts is signed anew.
        lifetime = None if opening.kind is SessionKind.MULTIPART else self.limits.direct_ttl_seconds
        session = await self.sessions.open(opening, lifetime)
        key = direct_key(session.id)
        terms = self._terms(session, base_url)
        if session.kind is SessionKind.PUT:
            return Begun(session, await self.place.sign_put(key, terms))
        if session.kind is SessionKind.POST:
            return Begun(session, await self.place.sign_post(key, terms))
        parts_id = await self.place.begin_parts(key, terms.content_type)
        checkpoint("parts-begun")
        async with self.sessions.database.reading(session.owner) as tx:
            await uploads.set_target(tx, session, {"parts_id": parts_id})
        return Begun(await self.find(session.owner, session.id), None)

    async def find(self, owner: str, session_id: UUID, grant: Grant | None = None) -> Session:
        """Return a direct upload of the owner's. Raises `UploadNotFound` and `UploadGone`."""
        session = await self.sessions.find(owner, session_id, grant)
        if session.kind not in DIRECT_KINDS:
            raise UploadNotFound("There is no direct upload of that id: its bytes come through us.")
        return session

    async def sign_part(self, session: Session, number: int, base_url: str) -> Instruction:
        """Return what the client sends a part with. Raises `PartsInvalid` and `UploadGone`."""
        if not 1 <= number <= MAX_PARTS:
            raise PartsInvalid(f"Parts are numbered from 1 to {MAX_PARTS}.")
        parts_id, terms = _parts_id(session), self._terms(session, base_url)
        return await self.place.sign_part(direct_key(session.id), parts_id, number, terms)

    async def list_parts(self, session: Session) -> list[Part]:
        """Return the parts that have arrived. Raises `PartsInvalid` and `UploadGone`."""
        return await self.place.list_parts(direct_key(session.id), _parts_id(session))

    async def complete(self, session: Session, parts: Sequence[Part] = ()) -> Session:
        """Make an image of what is in the store; again, and by several at once, is the same image.

        Raises `UploadUnfinished` when there is nothing yet, and what `Sessions.finish` raises.
        """
        if session.state is SessionState.DONE:
            return session
        if session.state is SessionState.REJECTED:
            raise session.rejection()
        key = direct_key(session.id)
        if session.kind is SessionKind.MULTIPART and parts:
            await self.place.complete_parts(key, _parts_id(session), parts)
            checkpoint("parts-completed")
        return await self._finish(session, key)

    async def arrived(self, key: str) -> None:
        """Take note that something lies under a key, by an event of the store's.

        Any key and any number of times: what is not a direct upload that is under way becomes nothing,
        and what came too late is removed. Raises what passes (`StorageUnavailable`, `DatabaseUnavailable`
        …): then the event is to come again.
        """
        session_id = parse_direct_key(key)
        if session_id is None:
            return
        async with self.sessions.database.reading(EVERY_OWNER) as tx:
            session = await uploads.find_any(tx, session_id)
        if session is None or not session.is_unfinished or session.is_overdue:
            await self._settle_late(session, key)
            return
        with suppress(UploadUnfinished):  # gone again: somebody has finished it meanwhile
            await self._told(session)

    async def settle(self, session: Session) -> None:
        """Finish a session whose time is over, if its bytes are there: nobody told of them."""
        if session.kind is SessionKind.MULTIPART and "parts_id" in session.target:
            # Parts that nobody put together are given up; without any, there may be the whole.
            await self.place.abort_parts(direct_key(session.id), _parts_id(session))
        with suppress(UploadUnfinished):
            await self._told(session)

    async def abort(self, session: Session) -> None:
        """Give an upload up. What still arrives is removed. Raises `UploadBusy`."""
        await self.sessions.abort(session)
        if "parts_id" in session.target:
            await self.place.abort_parts(direct_key(session.id), _parts_id(session))
        await self.sessions.pieces.clear(session)

    async def _settle_late(self, session: Session | None, key: str) -> None:
        """Remove what came after the end. It is never attached to anything."""
        if session is not None and session.is_unfinished:
            return  # it is over, and nobody said so yet: the sweep looks at it
        await self.objects.delete(key)
        _LOG.info("upload.late", upload_id=key.split("/")[1])

    async def _told(self, session: Session) -> None:
        """Finish a session that nobody waits for: what is wrong with the bytes is kept as its result."""
        try:
            await self._finish(session, direct_key(session.id))
        except TintypeError as error:
            if (await self._now(session)).is_unfinished:
                raise
            _LOG.info("upload.refused", upload_id=str(session.id), problem=error.code)

    async def _now(self, session: Session) -> Session:
        async with self.sessions.database.reading(EVERY_OWNER) as tx:
            return await uploads.find_any(tx, session.id) or session

    async def _finish(self, session: Session, key: str) -> Session:
        info = await self.objects.head(key)
        if info is None:
            # Also of one whose time is over: whoever ends it has to know that there is nothing to finish.
            if (await self._now(session)).is_unfinished:
                raise UploadUnfinished("Nothing has arrived yet. Send the bytes first, as you were told.")
            return await self.sessions.settled(session)  # whoever finished it has removed the bytes
        checkpoint("direct-found")
        try:
            incoming = self._begin(session, info.size)
        except UploadTooLarge as error:
            await self.sessions.reject(session, error)
            raise
        try:
            await self._read(key, incoming)
            checkpoint("direct-read")
            return await self.sessions.finish(session, await self._verified(session, incoming))
        finally:
            incoming.close()

    def _begin(self, session: Session, size: int) -> Incoming:
        receiver = self.receiver.narrowed(session.max_bytes, 1)
        return receiver.begin(size, session.digests, session.owner)

    async def _read(self, key: str, incoming: Incoming) -> None:
        """Read the object once. What is judged and what is stored are these bytes.

        Whoever has the signature may overwrite the object at any moment: what it holds a moment later
        is of no interest. One answer of the store's has the bytes of one version.
        """
        try:
            async for block in self.objects.read(key):
                await incoming.write(block)
        except ObjectMissing as error:
            raise UploadUnfinished(
                "What had arrived is gone again. Ask what became of the upload."
            ) from error

    async def _verified(self, session: Session, incoming: Incoming) -> Body:
        try:
            return await incoming.finish()
        except TintypeError as error:
            await self.sessions.reject(session, error)
            raise

    def _terms(self, session: Session, base_url: str) -> Terms:
        exact = session.length
        return Terms(
            content_type=session.declared_type or OCTETS,
            min_bytes=1 if exact is None else exact,
            max_bytes=session.max_bytes if exact is None else exact,
            sha256=session.digests.get("sha-256"),
            expires_in=self.limits.direct_ttl_seconds,
            base_url=base_url,
        )


def _parts_id(session: Session) -> str:
    parts_id = session.target.get("parts_id")
    if not isinstance(parts_id, str):
        raise PartsInvalid("This upload is not one in parts.")
    return parts_id
