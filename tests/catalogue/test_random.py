"""One image at random: each as likely as any other, whatever gaps there are between their keys."""

import asyncio
import math
import random
from collections import Counter

from catalogue.arrivals import arrival, stored
from tintype.catalogue import images
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import Database
from tintype.catalogue.drawing import GAUGE, SLOTS
from tintype.model.image import Image
from tintype.model.query import ImageFilter


async def store(commits: Commits, count: int) -> list[Image]:
    outcomes = await asyncio.gather(
        *(
            commits.commit(
                arrival(filename=f"{n}.{'png' if n % 5 else 'jpg'}", tags=("third",) * (n % 3 == 0))
            )
            for n in range(count)
        )
    )
    return [stored(each) for each in outcomes]


async def place(database: Database, made: list[Image]) -> None:
    """Give the images the random keys of a seed, and some of them keys right at the edge."""
    chance = random.Random(11)
    async with database.transaction("local") as tx:
        for number, image in enumerate(made):
            key = number / 1e6 if number < SLOTS // 2 else chance.random()
            await tx.execute("UPDATE images SET random_key = %s WHERE id = %s", [key, image.id])


async def drawn(database: Database, count: int, wanted: ImageFilter = ImageFilter()) -> Counter[str]:  # noqa: B008
    chance = random.Random(5)
    names: Counter[str] = Counter()
    async with database.reading("local") as tx:
        for _ in range(count):
            image = await images.random(tx, "local", wanted, chance)
            assert image is not None
            names[image.filename] += 1
    return names


def assert_uniform(counts: Counter[str], names: list[str]) -> None:
    """Pearson's chi-square test, with the Wilson and Hilferty approximation of its distribution.

    A fair draw fails it with a probability of one in a hundred thousand; the seeds are fixed.
    """
    assert set(counts) <= set(names)
    expected = counts.total() / len(names)
    square = sum((counts[name] - expected) ** 2 / expected for name in names)
    freedom = len(names) - 1
    deviation = ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(deviation) < 4.3, f"chi-square {square:.0f} with {freedom} degrees of freedom"


async def test_among_many_each_is_as_likely_as_the_others(commits: Commits, database: Database) -> None:
    made = await store(commits, 100)
    await place(database, made)
    assert len(made) > GAUGE

    assert_uniform(await drawn(database, 1500), [image.filename for image in made])


async def test_among_few_each_is_as_likely_as_the_others(commits: Commits, database: Database) -> None:
    made = await store(commits, 20)

    assert_uniform(await drawn(database, 300), [image.filename for image in made])


async def test_a_filter_leaves_those_that_pass_as_likely_as_each_other(
    commits: Commits, database: Database
) -> None:
    made = await store(commits, 400)
    await place(database, made)

    counts = await drawn(database, 700, ImageFilter(extension="png", tags=("third",)))

    passing = [image.filename for image in made if image.extension == "png" and image.tags]
    assert len(passing) > GAUGE
    assert_uniform(counts, passing)


async def test_the_only_one_is_always_drawn_and_nothing_is_drawn_from_nothing(
    commits: Commits, database: Database
) -> None:
    async with database.reading("local") as tx:
        assert await images.random(tx, "local", ImageFilter()) is None

    (only,) = await store(commits, 1)

    assert await drawn(database, 5) == {only.filename: 5}
