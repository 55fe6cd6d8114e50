"""Turns: bytes in use at once, first come, first served."""

import asyncio

import pytest

from tintype.model.errors import Overloaded
from tintype.objects.turns import Turns


async def test_as_much_as_there_is_can_be_in_use_at_once() -> None:
    turns = Turns(10, patience=0.05)

    async with turns.turn(4), turns.turn(6):
        with pytest.raises(Overloaded):
            async with turns.turn(1):
                pass
    async with turns.turn(10):
        pass


async def test_more_than_there_is_means_all_of_it() -> None:
    turns = Turns(10, patience=0.05)

    async with turns.turn(1000):
        with pytest.raises(Overloaded):
            async with turns.turn(1):
                pass


async def test_a_small_one_does_not_overtake_a_large_one() -> None:
    turns = Turns(10, patience=10)
    order: list[str] = []

    async def use(name: str, count: int) -> None:
        async with turns.turn(count):
            order.append(name)
            await asyncio.sleep(0)

    async with turns.turn(5):
        waiting = [asyncio.create_task(use("large", 8)), asyncio.create_task(use("small", 1))]
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(*waiting)

    assert order == ["large", "small"]


async def test_whoever_stops_waiting_takes_nothing() -> None:
    turns = Turns(10, patience=10)

    async def use() -> None:
        async with turns.turn(10):
            pass

    async with turns.turn(10):
        waiting = asyncio.create_task(use())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    await use()
