"""The bytes of one image, arrived whole: in memory when small, in an unnamed file when large."""

import errno
import mmap
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tintype.model.errors import Overloaded

_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class Body:
    """Bytes with their length and SHA-256. Exactly one of `memory` and `file` holds them.

    `file` is a descriptor of an unlinked file: a crash leaves nothing behind, and `os.pread`
    reads it without a shared position. Whoever opened the body closes it.
    """

    length: int
    sha256: bytes
    memory: bytes | None = None
    file: int | None = None

    def read(self, start: int = 0, count: int = -1) -> bytes:
        """Return `count` bytes from `start` (-1: up to the end), or fewer at the end."""
        end = self.length if count < 0 else min(self.length, start + count)
        if self.memory is not None:
            return self.memory[start:end]
        return self._pread(start, end)

    def view(self) -> bytes | mmap.mmap:
        """Return everything as one buffer, without copying a large file into memory."""
        if self.memory is not None:
            return self.memory
        return mmap.mmap(self._descriptor(), self.length, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Let the bytes go. Closing twice is harmless."""
        if self.file is not None:
            os.close(self.file)
        self.file, self.memory = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pread(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        while start < end:
            with spooling():
                piece = os.pread(self._descriptor(), end - start, start)
                if not piece:
                    raise EOFError(f"the spool file ends at {start}, {end} was promised")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def _descriptor(self) -> int:
        if self.file is None:
            raise ValueError("this body is closed")
        return self.file


@contextmanager
def spooling() -> Generator[None]:
    """Turn what the disk of unnamed files says into `Overloaded`: later, or elsewhere, it goes right."""
    try:
        yield
    except (OSError, EOFError) as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        raise disk_troubled("is full" if is_full else f"failed: {error}") from error


def disk_troubled(how: str) -> Overloaded:
    """Return what an upload is told for which the disk has no room, or no word."""
    return Overloaded(f"The disk for uploads on their way {how}. Send yours again later.", retry_after=30)
