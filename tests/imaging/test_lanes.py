"""Decoders are shared: by owners in turn, and never for long by what takes long."""

import asyncio
from collections.abc import Awaitable, Callable

import psutil
import pytest

from bodies import in_memory
from made_images import encoded, gradient, slow_png
from tintype.imaging.inspect import Inspector
from tintype.imaging.lanes import Lane
from tintype.imaging.process import LOW_PRIORITY
from worker_processes import busy_worker, ended, settled, workers

OpenCage = Callable[..., Awaitable[Inspector]]

SMALL = encoded(gradient(64, 48), "PNG")
BOMB = slow_png()
"""Some seconds of decoding, as its header tells."""
LARGE = {"max_pixels": 1_000_000_000}


async def come(lane: Lane, owner: str, order: list[str]) -> None:
    """Take a place, tell so, and keep it."""
    if lane.is_full:
        await lane.wait(owner)
    else:
        lane.enter(owner)
    order.append(owner)


async def queued(lane: Lane, owners: list[str], order: list[str]) -> list[asyncio.Task[None]]:
    """Have all of them come, one after the other."""
    tasks = [asyncio.create_task(come(lane, owner, order)) for owner in owners]
    await asyncio.sleep(0)
    return tasks


async def let_go(lane: Lane, order: list[str], seconds: float = 1) -> None:
    """Let each one go that has a place, in the order in which they came in."""
    for owner in order:
        lane.leave(owner, seconds)
        await asyncio.sleep(0)


async def test_the_modest_do_not_wait_behind_all_that_a_greedy_owner_sent() -> None:
    lane, order = Lane(2), list[str]()

    await queued(lane, ["greedy"] * 200 + ["modest"], order)
    await let_go(lane, order)

    assert order.index("modest") == 2
    assert order.count("greedy") == 200
    assert not lane.is_full


async def test_owners_get_the_same_time_however_much_they_send_and_however_long_it_takes() -> None:
    lane, order = Lane(1), list[str]()
    await queued(lane, ["slow"] * 20 + ["fast"] * 20, order)

    for owner in order:
        if len(order) == 24:
            break
        lane.leave(owner, 5 if owner == "slow" else 1)
        await asyncio.sleep(0)

    assert order.count("fast") == pytest.approx(5 * order.count("slow"), abs=5)


async def test_an_owner_who_was_away_is_not_owed_for_it() -> None:
    lane, order = Lane(1), list[str]()
    await queued(lane, ["steady"] * 10, order)
    for _ in range(5):
        lane.leave("steady", 10)
        await asyncio.sleep(0)

    await queued(lane, ["back"] * 10, order)
    for place in range(5, 13):
        lane.leave(order[place], 10)
        await asyncio.sleep(0)

    assert order[6:14].count("back") == 4


async def test_who_stops_waiting_takes_no_place_along() -> None:
    lane, order = Lane(1), list[str]()
    _, second, third = await queued(lane, ["a", "b", "c"], order)
    second.cancel()
    await asyncio.sleep(0)

    lane.leave("a", 1)
    third.cancel()  # in the moment in which its turn has come
    await asyncio.gather(second, third, return_exceptions=True)

    assert not lane.is_full


async def test_small_pictures_pass_while_bombs_are_decoded_and_wait(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2, **LARGE)
    assert await settled(3)
    bombs = [asyncio.create_task(inspector.inspect(in_memory(BOMB), "greedy")) for _ in range(50)]
    await busy_worker()

    found = [await inspector.inspect(in_memory(SMALL), "modest") for _ in range(20)]

    assert [facts.width for facts in found] == [64] * 20
    assert sum(task.done() for task in bombs) <= 1
    for each in bombs:
        each.cancel()
    await asyncio.gather(*bombs, return_exceptions=True)


async def test_what_takes_long_has_a_low_priority(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2, **LARGE)
    assert await settled(3)
    bomb = asyncio.create_task(inspector.inspect(in_memory(BOMB)))

    heavy = await busy_worker()

    assert heavy.nice() == LOW_PRIORITY
    assert sorted(worker.nice() for worker in workers()) == [psutil.Process().nice()] * 2 + [LOW_PRIORITY]
    bomb.cancel()


async def test_a_picture_that_takes_longer_than_its_header_told_moves_over(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1, wall_seconds=30)
    assert await settled(2)
    ordinary = next(worker for worker in workers() if worker.nice() < LOW_PRIORITY)
    ordinary.suspend()
    hidden = asyncio.create_task(inspector.inspect(in_memory(SMALL), "greedy"))
    await asyncio.sleep(0.1)

    found = await inspector.inspect(in_memory(SMALL), "modest")

    assert found.width == 64
    assert not hidden.done()
    assert ordinary.nice() == LOW_PRIORITY
    ordinary.resume()
    assert (await hidden).width == 64
    for _ in range(200):
        if ended(ordinary):
            break
        await asyncio.sleep(0.02)
    assert await settled(2)
