"""Where a check takes the objects' side from: the store itself, or a list that somebody made of it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from tintype.objects.info import Entry


class Listing(Protocol):
    """Lists keys in the order of their bytes. It may be old: no verdict rests on it alone."""

    def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
        """Yield the objects below a prefix behind a key, all of them, or fail."""
        ...
