"""Every I/O can fail once: whichever it is, and however it fails, clients are told the truth.

A story is done once without a fault, which counts its points: each statement to PostgreSQL, each system call
on the disk (objects, spool, outbox), and on AWS each request to S3 and SNS. Then each point has each kind of
fault. The suite takes a few by seed, `make faults` forty of each story, and `make faults SWEEP=all` every
one, in an hour.
"""

import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from aws import Topic
from faults import http_wire, postgres_wire, system_calls
from faults.broken_world import World, living, on_a_laptop, on_aws
from faults.points import KILLS, Kind, Point
from faults.stories import STORIES, Raw, Story, Tus
from faults.table import LONG, Row, record
from postgres import Postgres
from s3_servers import S3Server

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(7200 if LONG else 300),
    pytest.mark.xdist_group("sweep"),
]

GROUPS: list[tuple[type[Story], ...]] = [(each,) for each in STORIES] if LONG else [STORIES]
"""Stories that share a world: to look at all of it costs as much as a dozen runs."""
SEED = int(os.environ.get("TINTYPE_SEED", "35"))
TRIES = 6
"""How often a run is tried until it comes by its point: once as it is, then each time in a new process. Some
come at the first use of something only, or of one in 256 folders."""
REASONS = {
    "disk": system_calls.not_applicable,
    "database": postgres_wire.not_applicable,
    "objects": http_wire.not_applicable,
    "publisher": http_wire.not_applicable,
}

MOST = None if (asked := os.environ.get("SWEEP", "40")) == "all" else int(asked)
"""Runs of one story in the long form; None: all."""

Run = tuple[Point, Kind]
Choice = Callable[[list[Run]], list[Run]]


def name_of(stories: tuple[type[Story], ...]) -> str:
    return stories[0].__name__ if LONG else "sample"


def many(runs: list[Run]) -> list[Run]:
    """Choose all, or by the seed as many as are asked for."""
    return runs if MOST is None else random.Random(SEED).sample(runs, min(MOST, len(runs)))


def sample(survived: int, killed: int) -> Choice:
    """Choose by the seed so many runs that the process survives, and so many others."""
    chance = random.Random(SEED)

    def choose(runs: list[Run]) -> list[Run]:
        kills = [each for each in runs if each[1] in KILLS]
        others = [each for each in runs if each[1] not in KILLS]
        return chance.sample(others, survived) + chance.sample(kills, killed)

    return choose


@pytest.fixture
async def laptop(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with on_a_laptop(database_url, tmp_path) as world, living(world):
        yield world


@pytest.fixture
async def aws(
    database_url: str, tmp_path: Path, moto_s3: S3Server, topic: Topic, aws_credentials: None
) -> AsyncIterator[World]:
    del aws_credentials
    async with on_aws(database_url, tmp_path, moto_s3, topic) as world, living(world):
        yield world


@dataclass
class Sweep:
    """One story, again and again, each time with another fault."""

    world: World
    story: type[Story]
    chosen: Choice
    seeds: "count[int]"
    points: list[Point] = field(default_factory=list[Point])
    runs: list[Run] = field(default_factory=list[Run])
    missed: list[str] = field(default_factory=list[str])

    async def sweep(self) -> None:
        """Count, and then do every run, or a sample of them."""
        await self.tell_once()  # folders are made only once, whatever comes after
        if LONG:  # so that what only the first use in a process does is counted
            await self.world.restart()
        self.points = sorted(set(await self.tell_once()))
        self.runs = self.chosen([each for point in self.points for each in faults_at(point)])
        for point, kind in self.runs:
            if not await self.meet(point, kind):
                self.missed.append(f"{self.story.__name__}: {point}: {kind}")
        while self.world.stock:  # what was harmed and is not repaired would be taken for a loss
            story = self.story(self.world, next(self.seeds))
            await story.ready()
            await story.find_out()

    async def tell_once(self) -> list[Point]:
        """Do the story without a fault, and return what it came by."""
        story = self.story(self.world, next(self.seeds))
        await story.ready()
        await self.world.arm()
        await story.act()
        await self.world.idle()
        points, _ = await self.world.seen()
        await self.world.arm()
        await story.find_out()
        return points

    async def meet(self, point: Point, kind: Kind) -> bool:
        """Do the story until it comes by the point, in a new process if need be."""
        for attempt in range(TRIES):
            if attempt:
                await self.world.restart()
            if await self.run(point, kind):
                return True
        return False

    async def run(self, point: Point, kind: Kind) -> bool:
        """Do the story with one fault; tell whether it came by."""
        story = self.story(self.world, next(self.seeds))
        await story.ready()
        await self.world.arm(point, kind)
        await story.act()
        await self.world.idle()
        if died := await self.world.is_dead():
            await self.world.restart()
        hit = died or (await self.world.seen())[1]
        await self.world.arm()
        await story.find_out()
        return hit


def faults_at(point: Point) -> list[Run]:
    """Return every fault that makes sense at a point."""
    reason = REASONS[point.station]
    return [(point, kind) for kind in Kind if reason(point.operation, kind) is None]


async def sweep(world: World, stories: tuple[type[Story], ...], chosen: Choice, place: str) -> None:
    """Have every I/O of the stories fail, and look whether everybody was told the truth."""
    print(f"TINTYPE_SEED={SEED}")  # noqa: T201 # shown when it fails
    seeds = count(SEED * 10_000)
    sweeps = [Sweep(world, story, chosen, seeds) for story in stories]
    for each in sweeps:
        await each.sweep()
    lies = await world.audit()

    doubled = sum("nobody knows" in lie for lie in lies)
    for each in sweeps:
        story = (each.story.__doc__ or "").rstrip(".")
        record(
            Row(
                f"{story} {place}: any of {len(each.points)} I/Os fails once",
                times=len(each.runs),
                acknowledged=len(world.known),
                lost=len(lies) - doubled,
                duplicated=doubled,
                server_errors=world.refusals,
            )
        )
    assert not lies, "\n".join([*lies, world.log.read_text()[-3000:]])
    assert [missed for each in sweeps for missed in each.missed] == []


@pytest.mark.parametrize("stories", GROUPS, ids=name_of)
async def test_whatever_fails_once_on_a_laptop_clients_are_told_the_truth(
    laptop: World, stories: tuple[type[Story], ...]
) -> None:
    await sweep(laptop, stories, many if LONG else sample(3, 1), "on a laptop")


@pytest.mark.parametrize("stories", GROUPS if LONG else [(Raw,)], ids=name_of)
async def test_whatever_fails_once_on_aws_clients_are_told_the_truth(
    aws: World, stories: tuple[type[Story], ...]
) -> None:
    await sweep(aws, stories, many if LONG else sample(4, 2), "on AWS")


@pytest.mark.skipif(not LONG, reason="each of these has a world of its own")
@pytest.mark.parametrize("story", [Raw, Tus], ids=lambda story: story.__name__)
async def test_whatever_fails_once_at_the_very_first_upload_clients_are_told_the_truth(
    postgres: Postgres, tmp_path: Path, story: type[Story]
) -> None:
    """What is done once in the life of a folder or of a database: folders are made, counters begin."""
    seeds = count(SEED * 10_000)
    async with postgres.clone() as url, on_a_laptop(url, tmp_path / "count") as world, living(world):
        first = Sweep(world, story, many, seeds)
        points = set(await first.tell_once())
        await world.restart()
        points -= set(await first.tell_once())
    runs = many([each for point in sorted(points) for each in faults_at(point)])
    lies: list[str] = []
    refusals = 0
    for number, (point, kind) in enumerate(runs):
        async with postgres.clone() as url, on_a_laptop(url, tmp_path / f"{number}") as world, living(world):
            if not await Sweep(world, story, many, seeds).run(point, kind):
                lies.append(f"{point}: {kind}: did not come by")
            lies += [f"{point}: {kind}: {lie}" for lie in await world.audit()]
            refusals += world.refusals

    text = f"The very first upload ({story.__name__}): any of {len(points)} I/Os fails once"
    record(Row(text, len(runs), len(runs), len(lies), 0, refusals))
    assert points
    assert not lies
