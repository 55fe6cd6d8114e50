"""The database is lost, and the bucket alone brings everything back that it promises to keep."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from consistency import bucket_world
from consistency.bucket_world import FACTS, Crash, World, export, rebuild
from pictures import picture
from postgres import Postgres
from s3_servers import S3Server
from tintype.catalogue.database import Database
from tintype.consistency import journal, markers, pair
from tintype.consistency.markers import Marker
from tintype.model import checkpoint
from tintype.model.errors import WrongPair
from tintype.model.ids import new_id
from tintype.model.image import Format, State
from tintype.objects.keys import deleted_key, original_key
from tintype.objects.store import Objects
from tintype.settings import DatabaseSettings, ObjectsSettings


@pytest.fixture(params=["folder", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    settings = ObjectsSettings()
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("moto_s3")
        settings = server.new_bucket()
    objects = Objects.open(settings, tmp_path)
    yield objects
    await objects.aclose()


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.clone())
        yield await stack.enter_async_context(Database.open(url, DatabaseSettings()))


def id_of(moment: datetime) -> UUID:
    return UUID(int=round(moment.timestamp() * 1000) << 80 | new_id().int & (1 << 80) - 1)


async def live_through_a_lot(world: World) -> None:
    """Uploads, copies, edits, deletions and restores, of several owners."""
    for number in range(12):
        await world.store(f"plain {number}", owner=f"owner-{number % 3}", tags=("a", f"t{number}"))
    copy = await world.store("twice")
    await world.store("twice", keep_duplicate=True)
    edited = await world.store("edited")
    await world.change(edited, tags=("città", "eterna"), attributes={"album": {"name": "Rome"}})
    await world.change(edited, filename="naïve — 漢字.jpeg")
    trashed = await world.store("trashed", owner="owner-1")
    await world.trash(trashed)
    back = await world.store("trashed and restored")
    await world.trash(back)
    await world.restore(back)
    often = await world.store("in the trash again")
    await world.trash(often)
    await world.restore(often)
    await world.trash(often)
    await world.trash(copy)
    long = {"note": "x" * 3000}
    await world.store("too long for metadata", attributes=long, filename="ü" * 200 + ".jpg")
    gone = await world.store("purged")
    await world.trash(gone)
    await world.journal().flush()
    await world.age(gone, days=40)
    await world.trash(await world.store("in the trash for a moment only"))


async def test_what_a_lost_database_held_is_rebuilt_to_the_letter(
    database: Database, objects: Objects, empty: Database, tmp_path: Path
) -> None:
    async with bucket_world.opened(database, objects, tmp_path) as world:
        await live_through_a_lot(world)
        await world.purge(days=35).round()
        await world.journal().flush()
        before = await export(world.database)

    report = await rebuild(empty, objects, tmp_path)

    after = await export(empty)
    assert [(each["id"], each["state"]) for each in after] == [(each["id"], each["state"]) for each in before]
    assert after == before
    assert report.counts["purged"] == 1
    assert await pair.claim(empty, objects) == await objects.read_identity()


async def test_the_log_goes_on_where_the_journal_ends(world: World, empty: Database, tmp_path: Path) -> None:
    await world.change(await world.store("one"), tags=("x",))
    await world.journal().flush()
    await rebuild(empty, world.objects, tmp_path)

    async with bucket_world.opened(empty, world.objects, tmp_path) as again:
        image = await again.store("two")
        assert await again.journal().flush() == 1
        (first, *_) = [image for image in await export(empty) if image["tags"] == ["x"]]
        assert first["version"] == 2
        assert (await journal.standing(empty, world.objects)).behind is False

    async with world.database.reading("local") as tx:
        cursor = await tx.execute("SELECT max(position) FROM events")
        (before,) = await cursor.fetchone() or (0,)
    assert ((await journal.standing(empty, world.objects)).journal or 0) > before
    assert image.version == 1


async def test_changes_of_the_last_seconds_are_lost_and_nothing_else(
    world: World, empty: Database, tmp_path: Path
) -> None:
    image = await world.store("kept", attributes={"a": 1})
    await world.journal().flush()
    await world.change(image, attributes={"a": 2})
    late = await world.store("not in the journal", tags=("late",))

    await rebuild(empty, world.objects, tmp_path)

    kept, new = await export(empty)
    assert kept["attributes"] == {"a": 1}
    assert (new["id"], new["tags"], new["filename"], new["version"]) == (
        str(late.id),
        ["late"],
        "Rome.JPG",
        1,
    )
    assert abs(datetime.fromisoformat(new["created_at"]) - late.created_at) < timedelta(seconds=5)
    assert new["exif"] == {}


async def test_without_a_journal_the_bytes_tell_what_metadata_do_not(
    world: World, empty: Database, tmp_path: Path
) -> None:
    plain = replace(FACTS, exif={}, location=None, camera={}, thumbhash=None, dominant_color=None, phash=None)
    png = replace(plain, format=Format.PNG, width=64, height=48, orientation=1, taken_at=None)
    await world.store(picture("PNG", seed=4711), png, filename="a.png")
    (before,) = await export(world.database)

    report = await rebuild(empty, world.objects, tmp_path, quick=False)

    (after,) = await export(empty)
    moments = ("created_at", "updated_at")
    assert {k: v for k, v in after.items() if k not in moments} == {
        k: v for k, v in before.items() if k not in moments
    }
    assert report.counts["from_objects"] == 1


async def test_bytes_that_are_not_what_was_stored_are_rebuilt_as_corrupt(
    world: World, empty: Database, tmp_path: Path
) -> None:
    image = await world.store(picture("PNG", seed=4712), replace(FACTS, format=Format.PNG))
    (tmp_path / "objects" / original_key(image.id)).write_bytes(b"something else")

    await rebuild(empty, world.objects, tmp_path, quick=False)

    (after,) = await export(empty)
    assert after["state"] == "corrupt"


async def test_an_object_that_was_never_acknowledged_does_not_become_an_image(
    world: World, empty: Database, tmp_path: Path
) -> None:
    await world.put("its commit never came", id=id_of(datetime.now(UTC) - timedelta(hours=3)))
    young = await world.put("its commit may have come after the journal's last word")
    image = await world.store("acknowledged")
    await world.journal().flush()

    report = await rebuild(empty, world.objects, tmp_path)

    assert {each["id"] for each in await export(empty)} == {str(image.id), str(young.upload.id)}
    assert report.counts["unacknowledged"] == 1


async def test_a_journal_with_a_hole_proves_nothing_about_what_is_not_in_it(
    world: World, empty: Database, tmp_path: Path
) -> None:
    await world.put("perhaps in the hole", id=id_of(datetime.now(UTC) - timedelta(hours=3)))
    for number in range(3):
        await world.store(f"{number}")
        await world.journal().flush()
    _, middle, _ = await world.keys("journal/")
    await world.objects.delete(middle)

    report = await rebuild(empty, world.objects, tmp_path)

    assert report.images == 4


async def test_a_row_without_its_object_is_rebuilt_as_missing(
    world: World, empty: Database, tmp_path: Path
) -> None:
    image = await world.store("lost")
    await world.journal().flush()
    await world.objects.delete(original_key(image.id))

    report = await rebuild(empty, world.objects, tmp_path)

    (after,) = await export(empty)
    assert (after["id"], after["state"]) == (str(image.id), "missing")
    assert report.counts["missing"] == 1


async def test_foreign_objects_and_those_that_cannot_be_read_are_counted_and_left(
    world: World, empty: Database, tmp_path: Path
) -> None:
    await world.store("ours")
    folder = tmp_path / "objects" / "originals"
    (folder / "00" / "readme.txt").parent.mkdir(exist_ok=True)
    (folder / "00" / "readme.txt").write_text("hello")
    stray = original_key(new_id())
    (tmp_path / "objects" / stray).parent.mkdir(exist_ok=True)
    (tmp_path / "objects" / stray).write_bytes(b"no sidecar")

    report = await rebuild(empty, world.objects, tmp_path)

    assert (report.images, report.counts["foreign"], report.counts["unreadable"]) == (1, 1, 1)


async def test_a_deletion_that_only_its_marker_knows_holds(
    world: World, empty: Database, tmp_path: Path
) -> None:
    image = await world.store("deleted a moment before the end")
    await world.journal().flush()
    trashed = await world.trash(image)
    assert trashed.deleted_at is not None
    await markers.put(world.objects, Marker(image.id, trashed.version, trashed.deleted_at))

    await rebuild(empty, world.objects, tmp_path)

    (after,) = await export(empty)
    assert (after["state"], after["version"]) == ("deleted", 2)


async def test_an_unreadable_marker_counts_as_a_deletion(
    world: World, empty: Database, tmp_path: Path
) -> None:
    image = await world.store("one")
    path = tmp_path / "objects" / deleted_key(image.id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"?")

    await rebuild(empty, world.objects, tmp_path)

    (after,) = await export(empty)
    assert after["state"] == "deleted"
    async with bucket_world.opened(empty, world.objects, tmp_path) as again:
        await again.restore(image)
        await again.journal().flush()
    assert await world.keys("deleted/") == []


@pytest.mark.parametrize("when", [1, 2, 5])
async def test_a_rebuild_that_was_killed_goes_on(
    world: World, empty: Database, tmp_path: Path, when: int
) -> None:
    for number in range(30):
        await world.store(f"{number}")
    await world.journal().flush()
    before = await export(world.database)
    passed = 0

    def crash_once() -> None:
        nonlocal passed
        passed += 1
        if passed == when:
            raise Crash

    checkpoint.arm("rebuild-recorded", crash_once)
    with pytest.raises(Crash):
        await rebuild(empty, world.objects, tmp_path)
    with pytest.raises(WrongPair, match="tintype rebuild"):
        await pair.claim(empty, world.objects)

    report = await rebuild(empty, world.objects, tmp_path)

    assert report.resumed
    assert report.images == 30
    assert await export(empty) == before


async def test_a_database_that_holds_images_is_not_filled(world: World, tmp_path: Path) -> None:
    await world.store("one")

    with pytest.raises(WrongPair, match="an empty one"):
        await rebuild(world.database, world.objects, tmp_path)


async def test_from_an_empty_place_nothing_is_rebuilt(
    empty: Database, folder: Objects, tmp_path: Path
) -> None:
    with pytest.raises(WrongPair, match="mounted"):
        await rebuild(empty, folder, tmp_path)


async def test_a_restored_database_is_noticed_and_brought_up_to_date(
    database_url: str, postgres: Postgres, folder: Objects, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(database_url, DatabaseSettings()))
        world = await stack.enter_async_context(bucket_world.opened(database, folder, tmp_path))
        edited, trashed, purged = [await world.store(text) for text in ("edited", "trashed", "purged")]
        await world.store("untouched")
        await world.journal().flush()
        backup = await _backup(database_url, postgres, stack)
        await world.change(edited, tags=("after", "the", "backup"))
        await world.trash(trashed)
        await world.trash(purged)
        await world.age(purged, days=31)
        await world.purge().round()
        await world.store("new")
        await world.journal().flush()
        before = await export(database)

        with pytest.raises(WrongPair, match="rebuild --restored"):
            await pair.claim(backup, folder)
        await rebuild(backup, folder, tmp_path, restored=True)

        after = await export(backup)
        assert after == before
        await pair.claim(backup, folder)


async def _backup(url: str, postgres: Postgres, stack: AsyncExitStack) -> Database:
    """Return the database as a backup has it: the rows and the log, copied."""
    copy = await stack.enter_async_context(postgres.clone())
    tables = ["images", "events", "identity"]
    async with (
        await psycopg.AsyncConnection.connect(
            url.replace("//tintype", "//postgres"), autocommit=True
        ) as source,
        await psycopg.AsyncConnection.connect(
            copy.replace("//tintype", "//postgres"), autocommit=True
        ) as target,
    ):
        for table in tables:
            async with (
                source.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as out,
                target.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as into,
            ):
                async for data in out:
                    await into.write(data)
        await target.execute("SELECT setval('events_position_seq', max(position)) FROM events")
    return await stack.enter_async_context(Database.open(copy, DatabaseSettings()))


async def test_the_bucket_alone_answers_for_single_images(world: World, tmp_path: Path) -> None:
    edited = await world.change(await world.store("one"), tags=("new",))
    await world.journal().flush()
    young = await world.store("two")

    found = await journal.images_in_bucket(world.objects, [edited.id, young.id, new_id()], tmp_path)

    assert found.keys() == {edited.id, young.id}
    assert found[edited.id].tags == ("new",)
    assert found[edited.id].facts.exif == FACTS.exif
    assert found[young.id].state is State.READY
    assert not await journal.was_deleted(world.objects, edited.id)
