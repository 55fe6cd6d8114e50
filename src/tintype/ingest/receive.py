"""Receiving: chunks in, a `Body` out; memory is bounded whatever the size, SHA-256 runs along."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tintype.ingest.budget import STEP, Budget, Reservation
from tintype.model.body import Body, disk_troubled, spooling
from tintype.model.errors import DigestMismatch, UploadIncomplete, UploadTooLarge
from tintype.settings import LimitsSettings

BLOCK = 256 * 1024
"""How much is hashed and written in one go, off the event loop: fewer hops between threads."""
WINDOW_SECONDS = 30
"""Over how long the least rate is measured: a pause is forgiven, a trickle is not."""

Digests = Mapping[str, bytes]
"""Announced digests by algorithm (`sha-256`, `sha-512`), as RFC 9530 names them."""


class Hash(Protocol):
    """A hash of `hashlib`, which has no public name for its type."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the hash of all bytes so far."""
        ...


@dataclass(slots=True)
class Receiver:
    """Makes an `Incoming` for each body. One per process."""

    limits: LimitsSettings
    spool_dir: Path
    budget: Budget
    threads: ThreadPoolExecutor

    def narrowed(self, max_bytes: int, max_files: int) -> "Receiver":
        """Return a receiver of smaller bodies that shares everything else with this one."""
        limits = self.limits
        smaller = {
            "max_upload_bytes": min(max_bytes, limits.max_upload_bytes),
            "max_files": min(max_files, limits.max_files),
        }
        return replace(self, limits=limits.model_copy(update=smaller))

    def begin(self, declared: int | None, digests: Digests | None = None, owner: str = "") -> "Incoming":
        """Admit a body of the declared length (None: not known yet), before reading any of it.

        It counts as the owner's, who leaves room for others.

        Raises `UploadTooLarge` and `Overloaded`.
        """
        self.check_length(declared)
        is_large = declared is not None and declared > self.limits.memory_bytes
        return Incoming(self, self.budget.admit(declared, owner), dict(digests or {}), is_large)

    def check_length(self, length: int | None) -> None:
        """Raise `UploadTooLarge` for a length over the limit of one image."""
        limit = self.limits.max_upload_bytes
        if length is not None and length > limit:
            raise UploadTooLarge(
                f"An image may have up to {limit} bytes. Send a smaller one, or ask for a higher limit.",
                details={"limit": limit},
            )


@dataclass(slots=True)
class Incoming:
    """One body on its way. `write` each chunk, then `finish`; `close` whatever happens."""

    receiver: Receiver
    reservation: Reservation
    announced: dict[str, bytes]
    is_large: bool = False
    """Its declared length is more than may stay in memory: it goes to a file from its first byte on."""
    length: int = 0
    _hash: Hash = field(default_factory=hashlib.sha256)
    _sha512: Hash | None = None
    _pending: list[bytes] = field(default_factory=list[bytes])
    _pending_bytes: int = 0
    _file: int | None = None
    _writing: Future[None] | None = None
    _body: Body | None = None

    def __post_init__(self) -> None:
        if "sha-512" in self.announced:
            self._sha512 = hashlib.sha512()

    async def write(self, chunk: bytes) -> None:
        """Take the next chunk. Raises `UploadTooLarge` and `Overloaded` (no room, or the disk failed)."""
        length = self.length + len(chunk)
        self.receiver.check_length(length)
        if length > self.reservation.reserved:
            self.reservation.cover(length + STEP)
        self.length = length
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._file is not None:
            if self._pending_bytes >= BLOCK:
                await self._flush()
        elif self._outgrows_memory(len(chunk)):
            await self._spool()

    async def finish(self) -> Body:
        """Return all that `write` has taken.

        Raises `DigestMismatch` when it is not what was announced, and `Overloaded` when the disk lacks some
        of it, now or after a `write` that failed.
        """
        if self._file is not None:
            await self._flush()
            if os.fstat(self._file).st_size != self.length:
                raise disk_troubled("has not taken all of it")
            self._body = Body(self.length, self._hash.digest(), file=self._file)
            self._file = None
        else:
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending = [data]
            await self._flush()
            self._body = Body(self.length, self._hash.digest(), memory=data)
        self._pending = []
        self._verify()
        return self._body

    def close(self) -> None:
        """Let the bytes and their share of the budget go."""
        if self._file is not None:
            _close_after(self._file, self._writing)
            self._file = None
        if self._body is not None:
            self._body.close()
        self._pending = []
        self.reservation.release()

    async def _spool(self) -> None:
        """Go on in an unnamed file: more than may stay in memory has come."""
        with spooling():
            self._file = _unnamed_file(self.receiver.spool_dir)
        await self._flush()
        self.reservation.give_memory_back()

    def _outgrows_memory(self, more: int) -> bool:
        limit = self.receiver.limits.memory_bytes
        return self.length > limit or self.is_large or not self.reservation.take_memory(more)

    async def _flush(self) -> None:
        """Hash what is pending, and write it if there is a file: off the event loop, unless it is little."""
        chunks, size = self._pending, self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if size < BLOCK and self._file is None:
            self._absorb(chunks)
            return
        self._writing = self.receiver.threads.submit(self._absorb, chunks)
        with spooling():
            await asyncio.wrap_future(self._writing)

    def _absorb(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._hash.update(chunk)
            if self._sha512 is not None:
                self._sha512.update(chunk)
            if self._file is not None:
                _write_all(self._file, chunk)

    def _verify(self) -> None:
        found = {"sha-256": self._hash.digest()}
        if self._sha512 is not None:
            found["sha-512"] = self._sha512.digest()
        for algorithm, announced in self.announced.items():
            if found[algorithm] != announced:
                raise DigestMismatch(
                    f"The {algorithm} of the bytes that arrived is not the one announced. Send them again.",
                    details={"algorithm": algorithm},
                )


@asynccontextmanager
async def fast_enough(limits: LimitsSettings, window: float = WINDOW_SECONDS) -> AsyncGenerator["Pace"]:
    """Cut a body that comes slower than `min_bytes_per_second` over a window of so many seconds.

    Raises `UploadIncomplete` where it is cut. One timer for a whole request: a chunk costs an addition.
    """
    needed = limits.min_bytes_per_second * window
    try:
        async with asyncio.timeout(window if needed else None) as deadline:
            yield Pace(deadline, needed, window)
    except TimeoutError as error:
        raise UploadIncomplete(
            f"The body came slower than {limits.min_bytes_per_second} bytes a second. Send it again."
        ) from error


@dataclass(slots=True)
class Pace:
    """Moves the deadline on whenever enough has come."""

    deadline: asyncio.Timeout
    needed: float
    window: float
    came: int = 0

    def add(self, count: int) -> None:
        """Count bytes that came."""
        self.came += count
        if self.needed and self.came >= self.needed:
            self.came = 0
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.window)


def _unnamed_file(folder: Path) -> int:
    """Open a file without a name: a crash leaves nothing behind."""
    if hasattr(os, "O_TMPFILE"):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    descriptor, name = tempfile.mkstemp(dir=folder)  # systems without O_TMPFILE (macOS)
    Path(name).unlink()
    return descriptor


def _close_after(descriptor: int, writing: Future[None] | None) -> None:
    """Close a file once its last write has ended: a cancelled request leaves that write running."""
    if writing is None or writing.done():
        os.close(descriptor)
    else:
        writing.add_done_callback(lambda _: os.close(descriptor))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
