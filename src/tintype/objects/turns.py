"""Turns: how many bytes may be in use at once; whoever finds none left waits, first come, first served."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tintype.model.errors import Overloaded


class Turns:
    """Counts bytes, for one event loop."""

    def __init__(self, limit: int, patience: float) -> None:
        """Let `limit` bytes be in use at once, and nobody wait longer than `patience` seconds."""
        self._limit = limit
        self._patience = patience
        self._in_use = 0
        self._line = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def turn(self, count: int) -> AsyncGenerator[None]:
        """Hold `count` bytes, or all there are if that is fewer; raise `Overloaded` after a long wait."""
        count = min(count, self._limit)
        await self._take(count)
        try:
            yield
        finally:
            self._in_use -= count
            self._freed.set()

    async def _take(self, count: int) -> None:
        try:
            async with asyncio.timeout(self._patience), self._line:
                while self._in_use + count > self._limit:
                    self._freed.clear()
                    await self._freed.wait()
                self._in_use += count
        except TimeoutError as error:
            raise Overloaded(
                "Too many large images are on their way into the object store. Send yours again shortly.",
                retry_after=2,
            ) from error
