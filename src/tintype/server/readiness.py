"""Readiness: whether this instance can take an upload now, and if not, why not."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from uuid import UUID

from tintype.catalogue import identity
from tintype.model.errors import NotReady, StorageUnavailable, TintypeError, WrongPair
from tintype.server.instance import Instance
from tintype.wiring import Parts

PROBE_SECONDS = 1.0
"""What one probe may take; one that takes longer has failed."""
FRESH_SECONDS = 1.0
"""How long a report stands: whoever asks more often gets the same one, and reaches nothing."""

Probe = Callable[[], Awaitable[None]]
"""Returns when its part works, raises `TintypeError` with the reason when it does not."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the probes found: a sentence for each part that failed.

    A `failing` part takes the instance out of service. A `degraded` one does not: every instance
    shares it, and taking all of them out would turn its failure into ours (reliability.md, B10).
    """

    failing: Mapping[str, str]
    degraded: Mapping[str, str]


@dataclass(slots=True)
class Readiness:
    """Runs the probes together, at most once in `FRESH_SECONDS`, whoever asks."""

    required: Mapping[str, Probe]
    shared: Mapping[str, Probe]
    _report: Report | None = field(default=None, init=False)
    _reported_at: float = field(default=0.0, init=False)
    _running: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def report(self) -> Report:
        """Return what was found at most `FRESH_SECONDS` ago."""
        async with self._running:
            if self._report is None or monotonic() - self._reported_at >= FRESH_SECONDS:
                failing, degraded = await asyncio.gather(_failures(self.required), _failures(self.shared))
                self._report, self._reported_at = Report(failing, degraded), monotonic()
            return self._report


def readiness_of(parts: Parts, instance: Instance) -> Readiness:
    """Return the probes of a service.

    Required are: the instance is not draining, the database answers and is the one that the service
    started with, there is room to spool. The object store is shared, unless it turns out to be another
    one than at the start (an empty mount, another bucket): then writing to it would scatter images.
    """
    spool, least = parts.receiver.spool_dir, parts.settings.limits.min_free_bytes

    async def database() -> None:
        async with parts.database.transaction() as tx:
            _same("database", await identity.find(tx), parts.pair)

    async def pair() -> None:
        try:
            found = await parts.objects.read_identity()
        except StorageUnavailable:
            return  # `objects` tells it
        _same(parts.objects.location, found, parts.pair)

    async def room() -> None:
        _check_room(spool, least)

    async def staying() -> None:
        if instance.draining:
            raise NotReady("The instance is draining: it finishes what it has and ends.")

    return Readiness(
        required={"draining": staying, "database": database, "pair": pair, "spool": room},
        shared={"objects": parts.objects.probe},
    )


def _same(name: str, found: UUID | None, expected: UUID) -> None:
    if found != expected:
        raise WrongPair(f"The {name} belongs to {found or 'nobody'}; the service started with {expected}.")


def _check_room(spool: Path, least: int) -> None:
    try:
        free = shutil.disk_usage(spool).free
    except OSError as error:
        raise NotReady(f"The spool cannot be reached: {error.strerror}.") from error
    if free < least:
        raise NotReady(f"The spool's disk has {free} bytes left; uploads need {least}.")


async def _failures(probes: Mapping[str, Probe]) -> dict[str, str]:
    found = await asyncio.gather(*(_failure(probe) for probe in probes.values()))
    return {name: reason for name, reason in zip(probes, found, strict=True) if reason is not None}


async def _failure(probe: Probe) -> str | None:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await probe()
    except TimeoutError:
        return f"No answer within {PROBE_SECONDS:g} s."
    except TintypeError as error:
        return str(error)
    return None
