"""Lanes: places to decode in, given out so that no owner waits behind all that another one has sent.

Fair queueing by time: each owner is charged for the seconds that their pictures took, and the next
free place goes to whoever was charged least. One who comes back is not owed for the time away.
"""

import asyncio
from collections import deque

from tintype.imaging.headers import Header
from tintype.model.image import Format

HEAVY_SECONDS = 1.0
"""Of decoding, as foreseen: longer ones have a lane of their own, so that the others never wait behind them.
A photograph of 12 megapixels takes 0.05 as a JPEG and 0.8 as AVIF."""

_NANOSECONDS: dict[Format, float] = {
    Format.JPEG: 4,
    Format.PNG: 28,
    Format.GIF: 13,
    Format.WEBP: 40,
    Format.AVIF: 67,
    Format.TIFF: 19,
    Format.HEIC: 67,
}
"""For a pixel, as measured on a noisy photograph. What counts is the order of magnitude."""
_NANOSECONDS_A_SCAN = 0.7
"""For a pixel and each further pass of a progressive JPEG."""
_ENTRANCE_SECONDS = 0.001
"""Charged at once: an owner with many pictures at work was charged for none of them yet."""
_DEEP = 8
"""Bits of a channel, above which a pixel takes half as long again."""


def expected_seconds(header: Header) -> float:
    """Return about how long a decoder will take, from what the header tells."""
    each = _NANOSECONDS[header.format] * (1.5 if header.bits > _DEEP else 1)
    each += _NANOSECONDS_A_SCAN * (header.scans - 1)
    return header.pixels * each / 1e9


class Lane:
    """Counts places, for one event loop."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._charged: dict[str, float] = {}
        """Seconds, of owners who have a place or wait for one."""
        self._holding: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._floor = 0.0
        """Where an owner begins: at what the one who was last let in had been charged."""

    @property
    def is_full(self) -> bool:
        """Whether who comes now has to wait."""
        return self._free == 0

    def enter(self, owner: str) -> None:
        """Take a place that is free."""
        self._free -= 1
        self._floor = self._charged.setdefault(owner, self._floor)
        self._holding[owner] = self._holding.get(owner, 0) + 1
        self._charged[owner] += _ENTRANCE_SECONDS

    async def wait(self, owner: str) -> None:
        """Take a place when it is this owner's turn. Who is cancelled has none."""
        turn = asyncio.get_running_loop().create_future()
        self._charged.setdefault(owner, self._floor)
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._withdraw(owner, turn)
            else:  # the place came in the same moment
                self.leave(owner, 0)
            raise

    def leave(self, owner: str, seconds: float) -> None:
        """Give the place back after so many seconds; the next one in turn has it at once."""
        self._charged[owner] += seconds
        self._holding[owner] -= 1
        self._free += 1
        while self._free and self._waiting:
            following = min(self._waiting, key=self._charged.__getitem__)
            turn = self._next_of(following)
            if not turn.done():  # else its caller was cancelled, and does not know yet
                self.enter(following)
                turn.set_result(None)
        self._forget_idle(owner)

    def _next_of(self, owner: str) -> asyncio.Future[None]:
        line = self._waiting[owner]
        turn = line.popleft()
        if not line:
            del self._waiting[owner]
        return turn

    def _withdraw(self, owner: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(owner)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[owner]
        self._forget_idle(owner)

    def _forget_idle(self, owner: str) -> None:
        if not self._holding.get(owner) and owner not in self._waiting:
            self._holding.pop(owner, None)
            self._charged.pop(owner, None)
