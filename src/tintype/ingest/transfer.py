"""A transfer: the bytes of one request on their way into an upload session.

They are kept here until the request ends, so that an upload that comes in one go is stored in one go.
What takes longer is made durable as it comes: a process that dies loses seconds of it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Protocol

from tintype.ingest.pieces import Local, Pieces
from tintype.ingest.receive import Hash, Incoming, fast_enough
from tintype.model.errors import TintypeError, UploadMoved, UploadTooLarge
from tintype.model.session import Session

DURABLE_SECONDS = 2.0
"""So much of a transfer may be lost with the process."""
DURABLE_BYTES = 512 * 1024
"""Less than this is not worth a piece of its own, however long it took."""
MAX_PIECE = 64 * 1024 * 1024


class Expectation(Protocol):
    """A digest that was announced for the bytes of one request."""

    hash: Hash

    def verify(self) -> None:
        """Raise unless the bytes are those announced."""
        ...


@dataclass(slots=True)
class Transfer:
    """`receive` what comes; then the session is ended with it, or `keep` saves what came."""

    pieces: Pieces
    session: Session
    start: int
    expected: tuple[Expectation, ...] = ()
    local: list[Local] = field(default_factory=list[Local])
    """What is not durable yet, in order."""
    at: int = field(init=False)
    """Where in the whole the next byte goes."""
    is_superseded: bool = False
    _open: list[Incoming] = field(default_factory=list[Incoming])
    _current: Incoming | None = None
    _task: asyncio.Task[object] | None = None
    _waits: bool = False
    _arrived: bool = False
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _durable_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def __post_init__(self) -> None:
        self.at = self.start

    async def receive(self, chunks: AsyncGenerator[bytes]) -> None:
        """Take all bytes of the request.

        Raises `UploadTooLarge` for one byte too many, `UploadMoved` when a newer request takes over,
        what the digests raise, and what the chunks raise. Then what came is still here.
        """
        self._task = asyncio.current_task()
        async with aclosing(chunks), fast_enough(self.pieces.limits) as pace:
            while (chunk := await self._next(chunks)) is not None:
                pace.add(len(chunk))
                await self._write(chunk)
        await self._close_piece()
        self._arrived = True
        for each in self.expected:
            each.verify()

    async def keep(self) -> Session:
        """Make durable what came, of a request that ended early too, and return the session.

        Raises `UploadMoved` when somebody else went on with the session, and what `Pieces.keep` raises.
        """
        await self._close_piece()
        while self.local:
            grown = await self.pieces.keep(self.session, self.local[0])
            if grown is None:
                self.local.clear()
                raise UploadMoved("A newer request goes on with this upload. Ask with HEAD where it stands.")
            self.session = grown
            self.local.pop(0)
            self._open.pop(0).close()
        self._durable_at = asyncio.get_running_loop().time()
        return self.session

    async def save_what_came(self) -> None:
        """Keep what came of a request that was cut. With a digest for all of it, a piece proves nothing."""
        if not self._arrived and not self.expected:
            with suppress(TintypeError):  # the client is gone, and asks where the upload stands
                await self.keep()

    async def supersede(self, seconds: float) -> None:
        """Have the request end with what has come, and wait for it up to so many seconds."""
        self.is_superseded = True
        if self._waits and self._task is not None:
            self._task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    def close(self) -> None:
        """Let the bytes go that are here."""
        for each in self._open:
            each.close()
        self._over.set()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Wait for bytes: the only moment at which a newer request may interrupt."""
        self._waits = not self.is_superseded
        try:
            if not self.is_superseded:
                return await anext(chunks, None)
        except asyncio.CancelledError:
            if not self.is_superseded or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._waits = False
        raise UploadMoved("A newer request goes on with this upload. Ask with HEAD where it stands.")

    async def _write(self, chunk: bytes) -> None:
        check_end(self.session, self.at + len(chunk))
        for each in self.expected:
            each.hash.update(chunk)
        if self._current is None:
            self._current = self.pieces.receiver.begin(None, owner=self.session.owner)
            self._open.append(self._current)
        await self._current.write(chunk)
        self.at += len(chunk)
        if self._current.length >= DURABLE_BYTES and self._is_time(self._current.length):
            await self._close_piece()
            if not self.expected:
                await self.keep()

    def _is_time(self, length: int) -> bool:
        waited = asyncio.get_running_loop().time() - self._durable_at
        return (waited >= DURABLE_SECONDS and not self.expected) or length >= MAX_PIECE

    async def _close_piece(self) -> None:
        current, self._current = self._current, None
        if current is not None and current.length:
            self.local.append(Local(self.at - current.length, await current.finish()))


def check_end(session: Session, end: int) -> None:
    """Raise `UploadTooLarge` for bytes beyond the session's length, or beyond its limit."""
    if session.length is not None and end > session.length:
        raise UploadTooLarge(
            f"The upload was announced with {session.length} bytes; these would make it {end}.",
            details={"limit": session.length},
        )
    check_limit(session.max_bytes, end)


def check_limit(limit: int, length: int | None) -> None:
    """Raise `UploadTooLarge` for a length over the limit."""
    if length is not None and length > limit:
        raise UploadTooLarge(
            f"An image may have up to {limit} bytes here. Send a smaller one, or ask for a higher limit.",
            details={"limit": limit},
        )
