"""Probes are bounded, shared, and never in each other's way."""

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from tintype.model.errors import DatabaseUnavailable, StorageUnavailable, WrongPair
from tintype.server.context import Context
from tintype.server.readiness import Probe, Readiness
from tintype.settings import Settings
from tintype.wiring import open_parts


class Part:
    """Something to ask, which answers as it is told to."""

    def __init__(self, answer: Exception | None = None, *, seconds: float = 0, deaf: bool = False) -> None:
        self.answer = answer
        self.seconds = seconds
        self.deaf = deaf
        self.asked = 0

    async def ask(self) -> None:
        self.asked += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            if not self.deaf:
                raise
            await asyncio.sleep(self.seconds)
        if self.answer is not None:
            raise self.answer


async def test_whoever_asks_at_once_shares_one_report() -> None:
    part = Part(seconds=0.05)
    readiness = Readiness({"database": Probe(part.ask)})
    reports = await asyncio.gather(*(readiness.report() for _ in range(50)))
    assert part.asked == 1
    assert all(report is reports[0] for report in reports)
    await asyncio.sleep(1.1)
    await readiness.report()
    assert part.asked == 2


async def test_a_required_part_fails_and_a_shared_one_degrades() -> None:
    database, objects = Part(DatabaseUnavailable("No database.")), Part(StorageUnavailable("No store."))
    report = await Readiness({"database": Probe(database.ask), "objects": Probe(objects.ask)}).report()
    assert (report.failing, report.degraded) == ({"database": "No database."}, {"objects": "No store."})


async def test_an_object_store_that_is_another_one_fails() -> None:
    report = await Readiness({"objects": Probe(Part(WrongPair("Another one.")).ask)}).report()
    assert (report.failing, report.degraded) == ({"objects": "Another one."}, {})


async def test_a_silent_part_is_not_waited_for_and_not_asked_twice() -> None:
    silent = Part(seconds=20, deaf=True)
    probe = Probe(silent.ask)
    began = monotonic()
    for _ in range(3):
        assert str(await probe.failure()) == "No answer within 1 s."
    assert monotonic() - began < 10
    assert silent.asked == 1


async def test_a_part_that_was_silent_is_asked_again() -> None:
    part = Part(seconds=20)
    probe = Probe(part.ask)
    assert await probe.failure() is not None
    part.seconds = 0
    await asyncio.sleep(0.05)  # the first question ends
    assert await probe.failure() is None


async def test_a_defect_of_a_probe_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        await Probe(Part(ZeroDivisionError()).ask).failure()


async def test_a_service_that_drains_is_not_ready(tmp_path: Path) -> None:
    async with open_parts(Settings(data_dir=tmp_path)) as parts:
        context = Context.of(parts)
        context.instance.drain()
        report = await context.readiness.report()
    assert set(report.failing) == {"draining"}
