"""Pressure: queues are as long as the wait allows, and nobody is refused for another's queue."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tintype.ingest.pressure import FEW, WINDOW_SECONDS, Pressure
from tintype.model.errors import Overloaded

WAIT = 2.0


@dataclass
class Works:
    """A clock, and uploads that are finished one after the other, each after so many seconds of work."""

    now: float = 50.0
    pressure: Pressure = field(init=False)
    line: list[ExitStack] = field(default_factory=list[ExitStack])

    def __post_init__(self) -> None:
        self.pressure = Pressure(WAIT, lambda: self.now)

    def arrive(self, count: int, owner: str = "anna") -> None:
        for _ in range(count):
            stay = ExitStack()
            stay.enter_context(self.pressure.finishing(owner))
            self.line.append(stay)

    def finish(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.now += seconds
            self.line.pop(0).close()

    def refuses(self, owner: str = "anna") -> bool:
        try:
            self.pressure.check(owner)
        except Overloaded as refusal:
            return refusal.retry_after is not None
        return False


@pytest.fixture
def works() -> Works:
    return Works()


def test_a_first_burst_is_let_in_whole(works: Works) -> None:
    works.arrive(500)

    assert not works.refuses()


def test_a_queue_is_as_long_as_what_is_finished_while_one_waits(works: Works) -> None:
    works.arrive(100)
    for _ in range(300):  # two come while one is finished
        works.finish(1, seconds=0.01)
        for _ in range(2):
            if not works.refuses():
                works.arrive(1)

    assert len(works.line) == pytest.approx(WAIT / 0.01, rel=0.05)


def test_what_was_seen_of_the_pace_holds_for_the_next_burst(works: Works) -> None:
    works.arrive(100)
    works.finish(100, seconds=0.05)
    works.arrive(FEW)

    assert works.refuses()


def test_a_slow_start_is_forgotten_when_it_goes_fast(works: Works) -> None:
    works.arrive(FEW)
    works.now += 1
    assert works.refuses()
    for _ in range(1000):
        works.finish(1, seconds=0.001)
        works.arrive(1)

    assert not works.refuses()


def test_where_nothing_is_finished_any_more_newcomers_are_refused(works: Works) -> None:
    works.arrive(FEW + 200)
    works.finish(200, seconds=0.002)
    assert not works.refuses()
    for _ in range(12):
        works.now += WINDOW_SECONDS
        works.refuses()

    assert works.refuses()


def test_few_may_take_as_long_as_they_want(works: Works) -> None:
    works.arrive(FEW - 1)
    works.now += 100 * WAIT

    assert not works.refuses()


def test_another_owners_queue_is_their_own(works: Works) -> None:
    works.arrive(10 * FEW)
    works.now += WAIT

    assert works.refuses("anna")
    assert not works.refuses("carl")


def test_a_limit_of_nothing_never_refuses() -> None:
    pressure = Pressure(0)
    with ExitStack() as stays:
        for _ in range(1000):
            stays.enter_context(pressure.finishing("anna"))
        pressure.check("anna")
