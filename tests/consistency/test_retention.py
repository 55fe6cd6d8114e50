"""Retention: what everybody has is forgotten, and nothing else."""

from datetime import UTC, datetime

import pytest

from catalogue.arrivals import key
from consistency import bucket_world
from consistency.bucket_world import World
from tintype.catalogue.database import EVERY_OWNER
from tintype.consistency import journal
from tintype.consistency.check import Checker
from tintype.consistency.repair import Repairer
from tintype.consistency.retention import Retention
from tintype.consistency.runs import Runs
from tintype.model.check import Mode, Order
from tintype.model.finding import Finding, Settlement
from tintype.model.image import Image
from tintype.settings import ConsistencySettings, RetentionSettings


async def execute(world: World, statement: str, *values: object) -> list[tuple[object, ...]]:
    async with world.database.transaction(EVERY_OWNER) as tx:
        cursor = await tx.execute(statement, list(values))  # pyright: ignore[reportArgumentType]: a test's own
        return await cursor.fetchall() if cursor.description else []


async def changed(world: World, times: int, owner: str = "local") -> Image:
    """An image with so many events, of a hundred days ago, all published and fanned out."""
    image = await world.store(f"{datetime.now(UTC)}", owner=owner)
    for number in range(times - 1):
        image = await world.change(image, tags=(f"{number}",))
    await execute(
        world, "UPDATE events SET published_at = now(), created_at = created_at - interval '100 days'"
    )
    await execute(world, "UPDATE fan_out SET position = (SELECT max(position) FROM events)")
    return image


async def positions(world: World) -> list[object]:
    return [row[0] for row in await execute(world, "SELECT version FROM events ORDER BY position")]


def retention(world: World, **settings: object) -> Retention:
    return Retention(world.database, world.objects, RetentionSettings.model_validate(settings))


async def repaired(world: World) -> list[Finding]:
    settings = ConsistencySettings(grace_seconds=0.001)
    checker = Checker(world.database, world.objects, settings, world.objects)
    repairer = Repairer(world.database, world.objects, settings, world.spool, None)
    runs = Runs(world.database, world.objects, settings, checker, repairer)
    run = await runs.begin(Order(Mode.FULL, repair=True, confirmed=True))
    await runs.work(run.id)
    return await runs.findings(run.id)


async def test_old_events_go_but_for_each_owners_last(world: World) -> None:
    await changed(world, 4, owner="ada")
    await changed(world, 2, owner="bob")
    await world.journal().flush()

    assert await retention(world).round() == 4

    assert await positions(world) == [4, 2]
    assert not (await journal.standing(world.database, world.objects)).behind
    assert await retention(world).round() == 0


@pytest.mark.parametrize(
    "still",
    [
        "UPDATE events SET published_at = NULL WHERE version = 1",
        "UPDATE events SET created_at = now() WHERE version = 1",
        "UPDATE fan_out SET position = 0",
    ],
)
async def test_what_somebody_is_owed_or_may_ask_for_stays(world: World, still: str) -> None:
    await changed(world, 2)
    await world.journal().flush()
    await execute(world, still)

    assert await retention(world).round() == 0
    assert await positions(world) == [1, 2]


async def test_what_is_not_in_the_journal_stays(world: World) -> None:
    await changed(world, 3)

    assert await retention(world).round() == 0
    await world.journal().flush()
    assert await retention(world).round() == 2


async def test_answers_to_idempotency_keys_are_forgotten_after_a_week(world: World) -> None:
    await world.store("old", idempotency=key("old"))
    await execute(world, "UPDATE idempotency SET created_at = now() - interval '8 days'")
    await world.store("new", idempotency=key("new"))

    assert await retention(world, events_days=10_000).round() == 1
    assert await execute(world, "SELECT key FROM idempotency") == [("new",)]


async def test_an_image_whose_row_is_lost_comes_back_when_its_events_are_long_gone(world: World) -> None:
    lost, trashed = await changed(world, 3), await world.store("in the trash")
    await world.trash(trashed)
    await world.journal().flush()
    before = await bucket_world.export(world.database)
    await execute(world, "DELETE FROM events WHERE image_id = ANY(%s)", [lost.id, trashed.id])
    await execute(world, "DELETE FROM images")

    await repaired(world)

    after = {each["id"]: each for each in await bucket_world.export(world.database)}
    assert after.keys() == {each["id"] for each in before}
    for each in before:
        for name in ("filename", "tags", "state", "exif", "sha256", "deleted_at"):
            assert after[each["id"]][name] == each[name]


async def test_a_row_that_was_altered_is_mended_when_its_events_are_long_gone(world: World) -> None:
    altered = await changed(world, 3)
    await world.store("another")
    await world.journal().flush()
    before = await bucket_world.export(world.database)
    await execute(world, "DELETE FROM events WHERE image_id = %s", altered.id)
    await execute(world, "UPDATE images SET sha256 = sha256(sha256), bytes = 3 WHERE id = %s", altered.id)

    (finding,) = await repaired(world)

    assert (finding.image_id, finding.action) == (altered.id, Settlement.MENDED)
    assert await bucket_world.export(world.database) == before


async def test_an_image_of_many_changes_comes_back_as_it_was_last_when_the_first_are_forgotten(
    world: World,
) -> None:
    image = await changed(world, 20)
    await world.journal().flush()
    image = await world.change(image, tags=("last",))
    await execute(world, "DELETE FROM events WHERE version < 15")
    await execute(world, "DELETE FROM images")

    await repaired(world)

    (after,) = await bucket_world.export(world.database)
    assert (after["tags"], after["version"]) == (["last"], 22)
