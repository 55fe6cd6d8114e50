"""Pieces: the durable bytes of an upload session, kept one by one and put together at the end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from tintype.catalogue import uploads
from tintype.catalogue.database import Database
from tintype.ingest.receive import Incoming, Receiver
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import DigestMismatch, Internal
from tintype.model.session import Piece, Session
from tintype.objects.keys import incoming_prefix, piece_key
from tintype.objects.store import Objects
from tintype.settings import LimitsSettings

SMALL_BYTES = 64 * 1024
"""A piece of up to this many bytes is kept in the catalogue itself: durable in the very commit that moves
the offset, where an object would cost a request of its own, and on S3 the price of one."""
PAGE = 16
"""Pieces that are read from the catalogue at once: a megabyte, if all of them are small."""
AT_ONCE_BYTES = 4 * 1024 * 1024
"""Objects that are read side by side, so that many of them do not cost many round trips."""
BLOCK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Local:
    """Bytes of a session that are here, and not durable."""

    start: int
    body: Body


@dataclass(frozen=True, slots=True)
class Pieces:
    """Keeps them and reads them. One per process."""

    database: Database
    objects: Objects
    receiver: Receiver
    limits: LimitsSettings

    async def keep(self, session: Session, local: Local) -> Session | None:
        """Make bytes durable at the session's end, and return it; None when somebody else was faster.

        What was put into the store in vain is swept with the session. Raises `StorageUnavailable` and
        `DatabaseUnavailable`: then the bytes may be durable or not, and the session tells.
        """
        body, key, data = local.body, None, None
        if body.length <= SMALL_BYTES:
            data = body.read()
        else:
            key = piece_key(session.id, local.start, session.fence)
            await self.objects.put(
                key, body, content_type="application/octet-stream", metadata={"upload": str(session.id)}
            )
        checkpoint("piece-put")
        piece = Piece(local.start, body.length, key, data)
        async with self.database.reading(session.owner) as tx:
            grown = await uploads.append(tx, session, piece, self.limits.upload_ttl_seconds)
        checkpoint("piece-kept")
        return grown

    @asynccontextmanager
    async def whole(self, session: Session, local: Sequence[Local] = ()) -> AsyncGenerator[Body]:
        """Return all bytes of a session: its durable ones, then those that are here.

        Raises `DigestMismatch` when they are not those that were announced at the beginning.
        """
        if len(local) == 1 and local[0].start == 0 and session.digests.keys() <= {"sha-256"}:
            body = local[0].body
            if session.digests.get("sha-256", body.sha256) != body.sha256:
                raise DigestMismatch(
                    "The sha-256 of the bytes that arrived is not the one announced. Send them again.",
                    details={"algorithm": "sha-256"},
                )
            yield body
            return
        length = session.length if session.length is not None else session.received
        incoming = self.receiver.begin(length, session.digests, session.owner)
        try:
            for part in session.parts or (session.id,):
                await self._copy_durable(session.owner, part, incoming)
            for each in local:
                for start in range(0, each.body.length, BLOCK):
                    await incoming.write(each.body.read(start, BLOCK))
            if incoming.length != length:
                raise Internal(f"An upload of {length} bytes was put together with {incoming.length}.")
            yield await incoming.finish()
        finally:
            incoming.close()

    async def clear(self, session: Session) -> None:
        """Remove what an ended session left in the object store, and its pieces in the catalogue."""
        async for page in self.objects.list(incoming_prefix(session.id)):
            for each in page:
                await self.objects.delete(each.key)
        async with self.database.transaction(session.owner) as tx:
            await uploads.forget_pieces(tx, session.owner, session.id)
            await uploads.note_swept(tx, session)

    async def _copy_durable(self, owner: str, session_id: UUID, incoming: Incoming) -> None:
        at = 0
        while True:
            async with self.database.reading(owner) as tx:
                page = await uploads.pieces(tx, owner, session_id, at, PAGE)
            for group in _grouped(page):
                if len(group) == 1 and group[0].key is not None:
                    async for block in self.objects.read(group[0].key):
                        await incoming.write(block)
                    continue
                for data in await asyncio.gather(*map(self._read, group)):
                    await incoming.write(data)
            if len(page) < PAGE:
                return
            at = page[-1].start + page[-1].length

    async def _read(self, piece: Piece) -> bytes:
        if piece.key is None:
            return piece.data or b""
        return b"".join([block async for block in self.objects.read(piece.key)])


def _grouped(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return pieces in groups that may be in memory together; a large one is alone, and is streamed."""
    groups: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        if piece.length > room:
            groups.append([])
            room = AT_ONCE_BYTES
        groups[-1].append(piece)
        room -= piece.length
    return groups
