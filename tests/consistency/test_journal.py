"""The journal: late by seconds, never out of order, the same when it is written again."""

import asyncio
from pathlib import Path

import pytest

from consistency.bucket_world import Crash, World, crash
from tintype.catalogue.database import EVERY_OWNER
from tintype.consistency import journal, markers, segments
from tintype.consistency.segments import FAN, Segment, Word
from tintype.model import checkpoint
from tintype.model.errors import StorageUnavailable
from tintype.model.ids import new_id

SMALL = 1000


async def words(world: World) -> list[Word]:
    async with journal.opened(world.objects, world.spool) as kept:
        return list(segments.read(kept.path))


async def test_it_holds_the_newest_state_of_every_image_in_the_order_of_their_keys(world: World) -> None:
    images = [await world.store(f"{number}") for number in range(20)]
    await world.journal().flush()
    await world.change(images[3], tags=("new",))
    await world.journal().flush()

    found = await words(world)

    assert [word.place for word in found] == sorted(segments.place_of(image.id) for image in images)
    assert {word.image_id: word.version for word in found} == {
        image.id: 2 if image is images[3] else 1 for image in images
    }
    assert all(word.content["exif"] == {"Flash": [0, 1], "Software": "2.0"} for word in found)


async def test_written_twice_it_is_the_same(world: World) -> None:
    for number in range(5):
        await world.store(f"{number}")
    assert await world.journal().flush() == 5
    assert await world.journal().flush() == 0
    once = await words(world)
    async with journal.opened(world.objects, world.spool) as kept:
        (segment,) = [Segment.of(key, 0) for key in await world.keys("journal/")]
        assert segment is not None
        await world.journal()._put(Segment(segment.last, 2), kept.path, "")  # noqa: SLF001 # a second writer's

    assert await words(world) == once


@pytest.mark.parametrize("where", ["journal-marked", "journal-written"])
async def test_killed_on_the_way_nothing_is_left_out(world: World, where: str) -> None:
    image = await world.store("one")
    await world.trash(image)
    checkpoint.arm(where, crash)
    with pytest.raises(Crash):
        await world.journal().flush()
    checkpoint.disarm()

    await world.journal().flush()

    (word,) = await words(world)
    assert (word.version, word.content["image"]["state"]) == (2, "deleted")
    marker = await markers.find(world.objects, image.id)
    assert marker is not None
    assert marker.version == 2


async def test_while_its_disk_fails_it_waits_and_leaves_nothing_out(world: World, tmp_path: Path) -> None:
    image = await world.store("one")
    kept = world.journal()
    kept.spool = tmp_path / "disk"
    with pytest.raises(StorageUnavailable):
        await kept.flush()
    kept.spool.mkdir()

    await kept.flush()

    assert [word.image_id for word in await words(world)] == [image.id]


async def test_a_restored_image_loses_its_marker(world: World) -> None:
    image = await world.store("one")
    await world.trash(image)
    await world.journal().flush()
    assert await journal.was_deleted(world.objects, image.id)

    await world.restore(image)
    await world.journal().flush()

    assert not await journal.was_deleted(world.objects, image.id)


async def test_many_small_segments_become_one_and_say_the_same(world: World) -> None:
    keeper = world.journal()
    for number in range(FAN):
        await world.store(f"{number}")
        await keeper.flush()
    before = await words(world)

    assert await keeper.compact()

    assert len(await world.keys("journal/")) == 1
    assert await words(world) == before
    assert not await keeper.compact()


async def test_a_merge_killed_before_its_parts_are_gone_is_finished_by_the_next(world: World) -> None:
    keeper = world.journal()
    for number in range(FAN):
        await world.store(f"{number}")
        await keeper.flush()
    before = await words(world)
    checkpoint.arm("journal-merged", crash)
    with pytest.raises(Crash):
        await keeper.compact()
    checkpoint.disarm()
    assert len(await world.keys("journal/")) == FAN + 1
    assert await words(world) == before

    await keeper.compact()

    assert len(await world.keys("journal/")) == 1
    assert await words(world) == before


async def test_what_it_says_of_purged_images_goes_when_it_is_written_anew(world: World) -> None:
    gone, kept = await world.store("gone", filename="secret.jpg"), await world.store("kept")
    await world.journal().flush()
    await world.trash(gone)
    await world.journal().flush()
    await world.age(gone, days=31)
    await world.purge().round()

    assert await world.journal(rewrite_days=1e-9).compact()

    assert [word.image_id for word in await words(world)] == [kept.id]


async def test_it_keeps_itself_within_seconds_and_deletions_at_once(world: World) -> None:
    keeping = asyncio.create_task(world.journal(seconds=60).keep())
    image = await world.store("one")
    await asyncio.sleep(0.5)
    assert await world.keys("journal/") == []

    await world.trash(image)
    async with asyncio.timeout(10):
        while not await journal.was_deleted(world.objects, image.id):  # noqa: ASYNC110 # the bucket tells nobody
            await asyncio.sleep(0.05)
    await world.store("two")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

    assert len(await words(world)) == 2  # what was waiting is written at the end


async def test_of_two_keepers_one_writes(world: World) -> None:
    keepers = [asyncio.create_task(world.journal(seconds=0.1).keep()) for _ in range(2)]
    for number in range(5):
        await world.store(f"{number}")
        await asyncio.sleep(0.2)
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)

    stretches = [Segment.of(key, 0) for key in await world.keys("journal/")]
    assert segments.is_whole(segments.live(one for one in stretches if one))
    assert len(await words(world)) == 5


async def test_an_event_that_commits_late_is_not_passed_over(world: World) -> None:
    first, second = await world.store("first"), await world.store("second")
    await world.journal().flush()
    async with world.database.transaction(EVERY_OWNER) as tx:
        await tx.execute("SELECT pg_current_xact_id(), nextval('events_position_seq')")
        await world.change(second, tags=("committed before",))
        assert await world.journal().flush() == 0
    await world.change(first, tags=("afterwards",))

    assert await world.journal().flush() == 2
    assert {word.version for word in await words(world)} == {2}


def test_segments_list_newest_first_and_their_names_say_what_they_hold() -> None:
    stretches = [Segment(last, after) for after, last in [(0, 9), (9, 10), (10, 100)]]

    keys = sorted(segment.key for segment in stretches)

    assert [Segment.of(key, 0) for key in keys] == [Segment(100, 10), Segment(10, 9), Segment(9, 0)]
    assert Segment.of("journal/readme.txt", 0) is None


def test_neighbours_of_like_size_merge_and_a_large_one_is_left_alone() -> None:
    large = Segment(1000, 0, 10_000_000)
    small = [Segment(1001 + n, 1000 + n, SMALL) for n in range(FAN)]

    assert segments.to_merge([large, *small]) == small
    assert segments.to_merge([large, *small[1:]]) == []
    assert segments.live([Segment(5, 0), Segment(3, 0), Segment(5, 3)]) == [Segment(5, 0)]
    assert not segments.is_whole([Segment(3, 0), Segment(5, 4)])
    assert not segments.is_whole([Segment(5, 4)])


def test_a_hundred_files_merge_into_one_in_order(tmp_path: Path) -> None:
    images = sorted((new_id() for _ in range(300)), key=segments.place_of)
    paths: list[Path] = []
    for number in range(100):
        paths.append(tmp_path / f"{number}")
        segments.write([Word(image, 1, {"image": {}}) for image in images[number::100]], paths[-1])
    segments.write([Word(images[7], 2, {"image": {"tags": ["new"]}})], tmp_path / "late")

    segments.merge([*paths, tmp_path / "late"], tmp_path / "merged")

    merged = list(segments.read(tmp_path / "merged"))
    assert [word.image_id for word in merged] == images
    assert [word.version for word in merged if word.version > 1] == [2]
