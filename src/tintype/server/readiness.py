"""Readiness: whether this instance can take an upload now, and if not, why not."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from uuid import UUID

from tintype.catalogue import identity
from tintype.catalogue.database import EVERY_OWNER
from tintype.model.errors import NotReady, TintypeError, WrongPair
from tintype.server.instance import Instance
from tintype.telemetry import get_logger
from tintype.wiring import Parts

PROBE_SECONDS = 1.0
"""What one probe may take; one that takes longer has failed."""
CLOCK_SECONDS = 300.0
"""How far the machine's clock may be from the database's: a commit refuses what began further ahead."""
FRESH_SECONDS = 1.0
"""How long a report stands: whoever asks more often gets the same one, and reaches nothing."""

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Report:
    """What the probes found: a sentence for each part that failed.

    A `failing` part takes the instance out of service. A `degraded` one does not: every instance
    shares the object store, and taking all of them out would make its failure a larger one of ours.
    """

    failing: Mapping[str, str]
    degraded: Mapping[str, str]


@dataclass(slots=True)
class Probe:
    """Asks one part. `ask` returns when the part works, and raises `TintypeError` with the reason if not."""

    ask: Callable[[], Coroutine[None, None, None]]
    _asking: asyncio.Task[None] | None = field(default=None, init=False)

    async def failure(self) -> TintypeError | None:
        """Return why the part does not work, within `PROBE_SECONDS`.

        A question that is not answered is not waited for, not even for the end of its cancellation,
        which a silent database can delay; and it is not asked again before it has ended.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.ask())
            self._asking.add_done_callback(_heard)
        if not self._asking.cancelling():
            await asyncio.wait({self._asking}, timeout=PROBE_SECONDS)
        if not self._asking.done():
            if not self._asking.cancelling():
                self._asking.cancel()
            return NotReady(f"No answer within {PROBE_SECONDS:g} s.")
        error = self._asking.exception()
        if error is None or isinstance(error, TintypeError):
            return error
        raise error


@dataclass(slots=True)
class Readiness:
    """Runs the probes together, at most once in `FRESH_SECONDS`, whoever asks."""

    probes: Mapping[str, Probe]
    _report: Report | None = field(default=None, init=False)
    _reported_at: float = field(default=0.0, init=False)
    _running: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def forget(self) -> None:
        """Find out anew, however lately somebody asked."""
        self._report = None

    async def report(self) -> Report:
        """Return what was found at most `FRESH_SECONDS` ago."""
        async with self._running:
            if self._report is None or monotonic() - self._reported_at >= FRESH_SECONDS:
                self._report, self._reported_at = await self._find_out(), monotonic()
            return self._report

    async def _find_out(self) -> Report:
        found = await asyncio.gather(*(probe.failure() for probe in self.probes.values()))
        failures = {name: error for name, error in zip(self.probes, found, strict=True) if error is not None}
        degraded = {
            name: str(error)
            for name, error in failures.items()
            if name == "objects" and not isinstance(error, WrongPair)
        }
        if "database" in failures:
            failures.pop("clock", None)  # it is the database that is asked for the time
        failing = {name: str(error) for name, error in failures.items() if name not in degraded}
        return Report(failing, degraded)


def readiness_of(parts: Parts, instance: Instance) -> Readiness:
    """Return the probes of a service.

    The instance is ready when it is not draining, the database answers and is the one that the service
    started with, its clock agrees with the machine's, there is room to spool, and the object store has not
    become another one (an empty mount, another bucket), over which images would be scattered. A store that
    does not answer degrades every instance alike, and takes none of them out.
    """
    spool, least = parts.receiver.spool_dir, parts.settings.limits.min_free_bytes

    async def staying() -> None:
        if instance.draining:
            raise NotReady("The instance is draining: it finishes what it has, and ends.")

    async def database() -> None:
        async with parts.database.reading(EVERY_OWNER) as tx:
            found = await identity.find(tx)
        _check_pair("The database", found, parts.pair)

    trusted = _Clock()

    async def clock() -> None:
        began = time()
        there = (await parts.database.now()).timestamp()
        # The question was answered at some moment between its beginning and now.
        ahead = began - there if began > there else min(0.0, time() - there)
        parts.metrics.clock_ahead_seconds.set(ahead)
        trusted.check(ahead)

    async def objects() -> None:
        found = await parts.objects.read_identity()
        _check_pair(parts.objects.location, found, parts.pair)

    async def room() -> None:
        _check_room(spool, least)

    asked = {"draining": staying, "database": database, "clock": clock, "objects": objects, "spool": room}
    return Readiness({name: Probe(ask) for name, ask in asked.items()})


def _check_pair(place: str, found: UUID | None, expected: UUID) -> None:
    if found != expected:
        raise WrongPair(f"{place} belongs to {found or 'nobody'}; the service started with {expected}.")


@dataclass(slots=True)
class _Clock:
    """Whether the machine's clock is right, as far as is known. The log has each change."""

    is_right: bool = True

    def check(self, ahead: float) -> None:
        was_right, self.is_right = self.is_right, abs(ahead) <= CLOCK_SECONDS
        if self.is_right:
            if not was_right:
                _LOG.warning("clock.right", ahead_seconds=round(ahead))
            return
        if was_right:
            _LOG.error("clock.wrong", ahead_seconds=round(ahead))
        raise NotReady(
            f"This machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
            f"database's. Commits refuse what it begins; set it right."
        )


def _check_room(spool: Path, least: int) -> None:
    try:
        free = shutil.disk_usage(spool).free
    except OSError as error:
        raise NotReady(f"The spool cannot be reached: {error.strerror}.") from error
    if free < least:
        raise NotReady(f"The spool's disk has {free} bytes left; uploads need {least}.")


def _heard(asking: asyncio.Task[None]) -> None:
    """Take note of how a question ended, though perhaps nobody waits for the answer any more."""
    if not asking.cancelled():
        asking.exception()
