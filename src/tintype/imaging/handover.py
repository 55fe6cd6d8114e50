"""How the bytes of an image reach a worker: through memory that both sides map, or as a descriptor.

Small bodies are copied into memory that stays mapped (100 KB: about 10 us). A descriptor of fresh
memory costs ten times that, in page faults on both sides; it is for what does not fit. A body in
a spool file is not copied at all.
"""

import mmap
import os
import tempfile
from types import TracebackType
from typing import Self

from tintype.imaging.worker.job import SHARED_BYTES
from tintype.model.body import Body


class Shared:
    """Memory of one worker, into which only its parent writes."""

    def __init__(self) -> None:
        self.descriptor = _unnamed_memory()
        os.ftruncate(self.descriptor, SHARED_BYTES)
        self._memory = mmap.mmap(self.descriptor, SHARED_BYTES)

    def take(self, body: Body) -> bool:
        """Copy a body in, if it is in memory and fits."""
        if body.memory is None or body.length > SHARED_BYTES:
            return False
        self._memory[: body.length] = body.memory
        return True

    def close(self) -> None:
        """Let the memory go. Closing twice is harmless."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self.descriptor)


class Handle:
    """A descriptor from which a worker reads a body; closed on this side after it was sent."""

    def __init__(self, body: Body) -> None:
        self.descriptor = _read_only(body.file) if body.file is not None else _copied(body.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)


def _read_only(descriptor: int) -> int:
    """Open the spool file once more, so that a worker cannot write into what was hashed already."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc: macOS
        return os.dup(descriptor)


def _copied(data: bytes) -> int:
    descriptor = _unnamed_memory()
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def _unnamed_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("image", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())
