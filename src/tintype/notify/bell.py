"""One ear for a whole process: whoever waits for events is woken by the same connection."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from tintype.catalogue import events
from tintype.catalogue.database import Database
from tintype.model.errors import DatabaseUnavailable

RETRY_SECONDS = 1
GATHER_SECONDS = 0.05
"""Between two rings. Whoever hears one looks for all there is; a lone event does not wait."""


class Bell:
    """Rings at each transaction that adds events. A hint to look: who waits also looks by itself."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._ears: set[asyncio.Event] = set()

    async def run(self) -> None:
        """Listen until cancelled, anew whenever the connection is lost."""
        while True:
            try:
                async with self._db.listening(events.CHANNEL) as listener:
                    self.ring()  # something may have been missed
                    while True:
                        if await listener.wait(60):
                            self.ring()
                            await asyncio.sleep(GATHER_SECONDS)
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    def ring(self) -> None:
        """Wake everybody who listens."""
        for ear in self._ears:
            ear.set()

    @contextmanager
    def heard(self) -> Generator[asyncio.Event]:
        """Give an event that is set at each ring; the listener clears it."""
        ear = asyncio.Event()
        self._ears.add(ear)
        try:
            yield ear
        finally:
            self._ears.discard(ear)


async def wait_for(ear: asyncio.Event, seconds: float) -> None:
    """Wait until a bell has rung since the last wait, no longer than the seconds."""
    try:
        async with asyncio.timeout(seconds):
            await ear.wait()
    except TimeoutError:
        pass
    ear.clear()
