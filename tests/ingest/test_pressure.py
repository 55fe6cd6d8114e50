"""Pressure: bursts pass, queues that stay are seen, and nobody is refused for another's queue."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tintype.ingest.pressure import FEW, Pressure
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


def test_a_burst_is_let_in_whole(works: Works) -> None:
    works.arrive(500)

    assert not works.refuses()
    works.finish(490, seconds=0.001)
    assert not works.refuses()


def test_a_queue_that_stays_refuses_until_somebody_finds_it_short(works: Works) -> None:
    works.arrive(100)
    while not works.refuses():
        works.finish(1, seconds=0.1)
        works.arrive(1)
        assert works.now < 100
    works.finish(len(works.line) - FEW, seconds=0.1)  # nobody new: the queue gets short
    for _ in range(80):
        works.arrive(1)
        works.finish(1, seconds=0.1)

    assert not works.refuses()


def test_where_nothing_is_finished_at_all_newcomers_are_refused(works: Works) -> None:
    works.arrive(FEW)
    works.now += WAIT
    assert works.refuses()


def test_few_may_take_as_long_as_they_want(works: Works) -> None:
    works.arrive(FEW - 1)
    works.now += 100 * WAIT

    assert not works.refuses()


def test_another_owners_queue_is_their_own(works: Works) -> None:
    works.arrive(100)
    works.arrive(FEW + 1, "bert")
    works.now += WAIT
    works.line.pop().close()

    assert works.refuses("anna")
    assert not works.refuses("carl")


def test_what_is_over_is_forgotten(works: Works) -> None:
    works.arrive(100)
    works.now += 3 * WAIT
    assert works.refuses()
    works.finish(100, seconds=0)

    works.arrive(FEW)
    assert not works.refuses()


def test_a_limit_of_nothing_never_refuses() -> None:
    pressure = Pressure(0)
    with ExitStack() as stays:
        for _ in range(1000):
            stays.enter_context(pressure.finishing("anna"))
        pressure.check("anna")
