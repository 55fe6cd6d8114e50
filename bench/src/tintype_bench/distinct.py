"""One photograph in as many different files as are asked for, without copying its bytes."""

import itertools
import uuid
from collections.abc import Iterator


class Distinct:
    """Yields files that decode to the same pixels and have a SHA-256 that was never seen before.

    A comment segment after SOI (ITU-T T.81, B.2.4.5) makes the difference.
    """

    COST = 4 + 32
    """What a file has more than the photograph, in bytes."""

    def __init__(self, photo: bytes) -> None:
        self._soi, self._rest = photo[:2], memoryview(photo)[2:]
        self._run = uuid.uuid4().bytes
        self._numbers = itertools.count()
        self.length = len(photo) + self.COST

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        return self

    def __next__(self) -> tuple[bytes, memoryview]:
        """Return a file in two pieces: a few bytes of its own, and those that all share."""
        comment = self._run + next(self._numbers).to_bytes(16)
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2) + comment
        return self._soi + segment, self._rest
