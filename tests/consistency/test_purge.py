"""The purge: what is over is gone for good, wherever it was interrupted, and nothing else is."""

from pathlib import Path

import pytest

from consistency import bucket_world
from consistency.bucket_world import Crash, World, crash, export, rebuild
from postgres import Postgres
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.consistency import markers
from tintype.model import checkpoint
from tintype.model.errors import ImageNotFound
from tintype.model.image import Image
from tintype.objects.keys import original_key
from tintype.settings import DatabaseSettings


async def over(world: World, content: str = "over", days: float = 31) -> Image:
    """An image that has been in the trash for so long."""
    image = await world.trash(await world.store(content, tags=("private",)))
    await world.age(image, days)
    return image


async def has_bytes(world: World, image: Image) -> bool:
    return await world.objects.head(original_key(image.id)) is not None


async def test_after_thirty_days_in_the_trash_the_bytes_go_and_a_marker_stays(world: World) -> None:
    old, young = await over(world), await over(world, "young", days=29)

    assert await world.purge().round() == 1

    assert not await has_bytes(world, old)
    assert await has_bytes(world, young)
    marker = await markers.find(world.objects, old.id)
    assert marker is not None
    assert marker.purged
    assert await world.find(old) is None
    with pytest.raises(ImageNotFound):
        await world.restore(old)
    await world.restore(young)


async def test_a_purged_row_says_nothing_of_its_image_any_more(world: World) -> None:
    image = await over(world)
    await world.purge().round()

    async with world.database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute(
            "SELECT filename, tags, attributes, exif, location, camera, phash FROM images WHERE id = %s",
            [image.id],
        )
        assert await cursor.fetchone() == ("", [], {}, {}, None, {}, None)


@pytest.mark.parametrize("where", ["purge-marked", "purge-recorded", "purge-bytes-gone"])
async def test_killed_anywhere_it_is_finished_by_the_next_start(world: World, where: str) -> None:
    images = [await over(world, f"{number}") for number in range(3)]
    checkpoint.arm(where, crash)
    with pytest.raises((Crash, BaseExceptionGroup)):
        await world.purge().round()
    checkpoint.disarm()

    await world.purge().round()

    for image in images:
        assert not await has_bytes(world, image)
        assert await world.find(image) is None


@pytest.mark.parametrize("where", ["purge-marked", "purge-recorded", "purge-bytes-gone"])
async def test_killed_anywhere_and_the_database_lost_it_is_not_shown_again(
    world: World, postgres: Postgres, tmp_path: Path, where: str
) -> None:
    image = await over(world)
    await world.journal().flush()
    checkpoint.arm(where, crash)
    with pytest.raises(Crash):
        await world.purge().round()
    checkpoint.disarm()

    async with postgres.clone() as url, Database.open(url, DatabaseSettings()) as empty:
        await rebuild(empty, world.objects, tmp_path)
        assert {each["state"] for each in await export(empty)} <= {"deleted"}
        async with bucket_world.opened(empty, world.objects, tmp_path) as again:
            await again.purge(days=0).round()
            assert await again.find(image) is None
            assert not await has_bytes(again, image)


async def test_an_image_restored_at_the_last_moment_stays(
    world: World, postgres: Postgres, tmp_path: Path
) -> None:
    image = await over(world)
    checkpoint.arm("purge-marked", crash)
    with pytest.raises(Crash):
        await world.purge().round()
    checkpoint.disarm()

    await world.restore(image)
    assert await world.purge().round() == 0
    await world.journal().flush()

    assert await has_bytes(world, image)
    assert await markers.find(world.objects, image.id) is None
    async with postgres.clone() as url, Database.open(url, DatabaseSettings()) as empty:
        await rebuild(empty, world.objects, tmp_path)
        (after,) = await export(empty)
        assert after["state"] == "ready"
