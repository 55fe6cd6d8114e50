"""The bytes of one image, arrived whole: in memory when small, in an unnamed file when large."""

import mmap
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Self


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
