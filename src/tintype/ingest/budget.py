"""Bytes in flight: what all uploads together may hold, so that none can exhaust the instance."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tintype.model.errors import Overloaded
from tintype.settings import LimitsSettings

STEP = 1024 * 1024
"""How much a body of unknown length reserves at a time."""


@dataclass(slots=True)
class Budget:
    """Counts bytes of bodies, in memory and in all. One per process; used by its event loop only."""

    limits: LimitsSettings
    spool_dir: Path
    in_flight: int = 0
    in_memory: int = 0
    _free_known: int = field(default=0, init=False)

    def admit(self, declared: int | None) -> "Reservation":
        """Reserve room for a body before any of it is read; raise `Overloaded` where there is none."""
        reservation = Reservation(self)
        reservation.cover(declared if declared is not None else 0)
        return reservation

    def reserve(self, count: int) -> None:
        """Take `count` bytes out of the budget, or raise `Overloaded`."""
        if self.in_flight + count > self.limits.in_flight_bytes:
            raise Overloaded(
                "As many uploads as this instance takes are on their way. Send yours again shortly.",
                retry_after=2,
            )
        self._check_disk(count)
        self.in_flight += count

    def _check_disk(self, count: int) -> None:
        # statvfs for each megabyte, not for each small request: what is known to be free is used up first.
        self._free_known -= count
        if self._free_known > 0:
            return
        free = shutil.disk_usage(self.spool_dir).free - self.limits.min_free_bytes
        if free < count:
            raise Overloaded(
                "The disk for uploads on their way is full. Send yours again later.", retry_after=30
            )
        self._free_known = min(free - count, 16 * STEP)


@dataclass(slots=True)
class Reservation:
    """One body's share of the budget."""

    budget: Budget
    reserved: int = 0
    memory: int = 0

    def cover(self, count: int) -> None:
        """Make sure that `count` bytes in all are reserved."""
        if count > self.reserved:
            more = max(count - self.reserved, 0)
            self.budget.reserve(more)
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
        self.budget.in_flight -= self.reserved
        self.reserved = 0
