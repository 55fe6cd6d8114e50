"""Bytes in flight: what all uploads together may hold, so that none can exhaust the instance."""

import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from tintype.model.body import disk_troubled, spooling
from tintype.model.errors import Overloaded
from tintype.settings import LimitsSettings

STEP = 1024 * 1024
"""How much a body of unknown length reserves at a time."""
SHARE = 4
"""How many times as much as is left free one owner may hold: alone 4/5 of all, as one of two 4/9.

So whoever comes finds room, however many bodies the others send: the dynamic thresholds of A. Choudhury
and E. Hahne, IEEE/ACM Transactions on Networking 6 (1998), which need no queue.
"""

KNOWN_SECONDS = 1
"""How long the free room of the disk counts as known."""


@dataclass(slots=True)
class Budget:
    """Counts bytes of bodies, in memory and in all. One per process; used by its event loop only.

    Without owners, all is one's own.
    """

    limits: LimitsSettings
    spool_dir: Path
    in_flight: int = 0
    in_memory: int = 0
    _free_known: int = field(default=0, init=False)
    _free_known_until: float = field(default=0, init=False)
    _held: dict[str, int] = field(default_factory=dict[str, int], init=False)
    """Bytes in flight, by owner."""

    def admit(self, declared: int | None, owner: str = "") -> "Reservation":
        """Reserve room for an owner's body before any of it is read, or raise `Overloaded`."""
        reservation = Reservation(self, owner)
        reservation.cover(declared if declared is not None else 0)
        return reservation

    def reserve(self, owner: str, count: int) -> None:
        """Take `count` bytes out of the budget, or raise `Overloaded`."""
        free = self.limits.in_flight_bytes - self.in_flight - count
        held = self._held.get(owner, 0) + count
        if free < 0 or (owner and held > SHARE * free):
            raise Overloaded(
                "As many uploads as this instance takes are on their way. Send yours again shortly.",
                retry_after=random.randint(1, 5),  # noqa: S311 # so that not all come back at once
            )
        self._check_disk(count)
        self.in_flight += count
        self._held[owner] = held

    def release(self, owner: str, count: int) -> None:
        """Put `count` bytes back."""
        self.in_flight -= count
        self._held[owner] = self._held.get(owner, 0) - count
        if self._held[owner] <= 0:
            del self._held[owner]

    def _check_disk(self, count: int) -> None:
        # statvfs for each megabyte, not for each small request: what is known to be free is used up first,
        # for as long as nothing else has had time to fill the disk.
        self._free_known -= count
        now = time.monotonic()
        if self._free_known > 0 and now < self._free_known_until:
            return
        self._free_known = 0
        with spooling():
            free = shutil.disk_usage(self.spool_dir).free - self.limits.min_free_bytes
        if free < count:
            raise disk_troubled("is full")
        self._free_known = min(free - count, 16 * STEP)
        self._free_known_until = now + KNOWN_SECONDS


@dataclass(slots=True)
class Reservation:
    """One body's share of the budget."""

    budget: Budget
    owner: str = ""
    reserved: int = 0
    memory: int = 0

    def cover(self, count: int) -> None:
        """Make sure that `count` bytes in all are reserved."""
        if count > self.reserved:
            more = max(count - self.reserved, 0)
            self.budget.reserve(self.owner, more)
            self.reserved += more

    def take_memory(self, count: int) -> bool:
        """Ask for `count` more bytes of memory; False sends the body to a file instead."""
        if self.budget.in_memory + count > self.budget.limits.memory_total_bytes:
            return False
        self.budget.in_memory += count
        self.memory += count
        return True

    def give_memory_back(self) -> None:
        """Return the share of memory: the bytes have left for a file."""
        self.budget.in_memory -= self.memory
        self.memory = 0

    def release(self) -> None:
        """Give everything back. Doing so twice is harmless."""
        self.give_memory_back()
        self.budget.release(self.owner, self.reserved)
        self.reserved = 0
