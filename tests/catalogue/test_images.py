"""Images: listed without a gap, changed with their event, and never another owner's."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from catalogue.arrivals import FACTS, arrival, as_found, ids, stored
from tintype.catalogue import events, images
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.rows import folded
from tintype.model.errors import CursorInvalid, ImageNotFound, PreconditionFailed, RequestInvalid
from tintype.model.event import Event, Kind, event_id
from tintype.model.ids import new_id
from tintype.model.image import Format, Image, State
from tintype.model.payload import image_payload
from tintype.model.query import Change, ImageFilter, ImageQuery, Sort
from tintype.model.upload import Arrival, Duplicate


async def store(commits: Commits, *arrivals: Arrival) -> list[Image]:
    outcomes = await asyncio.gather(*(commits.commit(each) for each in arrivals))
    return [as_found(stored(each)) for each in outcomes]


async def log_of(database: Database, image: Image) -> list[Event]:
    async with database.transaction("local") as tx:
        return [each for each in await events.page(tx, image.owner, 0, 10_000) if each.image_id == image.id]


async def walk(database: Database, query: ImageQuery, owner: str = "local") -> list[Image]:
    """All pages of a list."""
    found: list[Image] = []
    while True:
        async with database.reading("local") as tx:
            page = await images.page(tx, owner, query)
        assert len(page.images) <= query.limit
        found.extend(page.images)
        if page.next_cursor is None:
            return found
        query = replace(query, cursor=page.next_cursor)


@pytest.fixture
async def image(commits: Commits) -> Image:
    (image,) = await store(
        commits, arrival("a", tags=("holiday",), attributes={"album": "Rome", "n": {"a": 1}})
    )
    return image


# Found


async def test_an_image_is_found_by_its_id(database: Database, image: Image) -> None:
    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) == image
        assert await images.find(tx, "local", new_id()) is None


async def test_an_image_in_the_trash_is_found_only_by_who_asks_for_it(
    database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        trashed = await images.trash(tx, "local", image.id)

    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) is None
        assert await images.find(tx, "local", image.id, trashed=True) == trashed


async def test_the_newest_of_a_name_is_found_by_it(commits: Commits, database: Database) -> None:
    for _ in range(3):
        await store(commits, arrival(filename="same.png"))
    (newest,) = await store(commits, arrival(filename="same.png"))
    (trashed,) = await store(commits, arrival(filename="same.png"))

    async with database.transaction("local") as tx:
        await images.trash(tx, "local", trashed.id)
        assert await images.find_by_name(tx, "local", "same.png") == newest
        assert await images.find_by_name(tx, "local", "SAME.png") is None


async def test_exif_is_read_by_itself(database: Database, image: Image) -> None:
    async with database.reading("local") as tx:
        assert await images.exif(tx, "local", image.id) == FACTS.exif
        with pytest.raises(ImageNotFound):
            await images.exif(tx, "local", new_id())


# Isolation


async def test_nothing_reaches_another_owners_image(database: Database, image: Image) -> None:
    async with database.transaction("local") as tx:
        assert await images.find(tx, "other", image.id, trashed=True) is None
        assert await images.find_by_name(tx, "other", image.filename) is None
        assert (await images.page(tx, "other", ImageQuery())).images == ()
        assert (await images.page(tx, "other", ImageQuery(ImageFilter(tags=("holiday",))))).images == ()
        assert await images.random(tx, "other", ImageFilter()) is None
        assert await events.page(tx, "other", 0, 10) == []
        for refused in (
            images.exif(tx, "other", image.id),
            images.update(tx, "other", image.id, Change(filename="mine.jpg")),
            images.trash(tx, "other", image.id),
            images.restore(tx, "other", image.id),
        ):
            with pytest.raises(ImageNotFound):
                await refused

    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) == image


async def test_an_owner_whose_name_continues_another_ones_shares_no_tag_with_it(
    commits: Commits, database: Database
) -> None:
    await store(commits, arrival(owner="local", tags=("x\x1fy",)), arrival(owner="local\x1fx", tags=("z",)))

    async with database.reading("local") as tx:
        page = await images.page(tx, "local\x1fx", ImageQuery(ImageFilter(tags=("y",))))
    assert page.images == ()


# Changed


async def test_a_change_is_made_with_its_event(database: Database, image: Image) -> None:
    change = Change(filename="Milano.PNG", tags=("x", "y"), attributes={"album": None, "n": {"b": 2}})
    async with database.transaction("local") as tx:
        changed = await images.update(tx, "local", image.id, change)

    assert changed == replace(
        image,
        filename="Milano.PNG",
        extension="png",
        tags=("x", "y"),
        attributes={"n": {"a": 1, "b": 2}},
        version=2,
        updated_at=changed.updated_at,
    )
    assert changed.updated_at > image.updated_at
    _stored, event = await log_of(database, image)
    assert (event.id, event.version) == (event_id(image.id, Kind.UPDATED, 2), 2)
    assert event.payload == image_payload(changed)


async def test_what_a_change_renames_and_labels_is_found_under_the_new_words(
    database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        await images.update(tx, "local", image.id, Change(filename="Milano.PNG", tags=("Città",)))

    for text, found in (("rome", []), ("holiday", []), ("MILANO", [image.id]), ("città", [image.id])):
        assert ids(await walk(database, ImageQuery(ImageFilter(text=text)))) == found
    assert ids(await walk(database, ImageQuery(ImageFilter(tags=("Città",), extension="png")))) == [image.id]


@pytest.mark.parametrize(
    "change",
    [
        Change(),
        Change(filename="Rome.JPG"),
        Change(tags=("holiday",)),
        Change(attributes={"album": "Rome", "x": None}),
    ],
)
async def test_a_change_that_changes_nothing_is_no_event(
    database: Database, image: Image, change: Change
) -> None:
    async with database.transaction("local") as tx:
        assert await images.update(tx, "local", image.id, change) == image

    assert len(await log_of(database, image)) == 1


async def test_a_number_becomes_a_truth_when_that_is_asked_for(database: Database, image: Image) -> None:
    async with database.transaction("local") as tx:
        await images.update(tx, "local", image.id, Change(attributes={"n": {"a": True}}))

    async with database.reading("local") as tx:
        found = await images.find(tx, "local", image.id)
    assert found is not None
    assert found.attributes["n"]["a"] is True


# RFC 7396, appendix A: the cases whose target and patch are objects.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
async def test_attributes_are_patched_by_the_rules_of_a_merge_patch(
    commits: Commits, database: Database, target: dict[str, object], patch: dict[str, object], result: object
) -> None:
    (image,) = await store(commits, arrival(attributes=target))

    async with database.transaction("local") as tx:
        assert (await images.update(tx, "local", image.id, Change(attributes=patch))).attributes == result


async def test_attributes_cannot_grow_without_an_end(database: Database, image: Image) -> None:
    async def grow() -> None:
        for number in range(10):
            async with database.transaction("local") as tx:
                await images.update(tx, "local", image.id, Change(attributes={f"key{number}": "x" * 2000}))

    with pytest.raises(RequestInvalid):
        await grow()


async def test_a_version_that_is_not_the_current_one_changes_nothing(
    database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        changed = await images.update(tx, "local", image.id, Change(filename="a.jpg"), expected_version=1)
        for refused in (
            images.update(tx, "local", image.id, Change(filename="b.jpg"), expected_version=1),
            images.trash(tx, "local", image.id, expected_version=1),
        ):
            with pytest.raises(PreconditionFailed):
                await refused

    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) == changed


async def test_of_two_that_change_the_version_they_have_both_seen_one_is_refused(
    database: Database, image: Image
) -> None:
    async def rename(name: str) -> str:
        try:
            async with database.transaction("local") as tx:
                await images.update(tx, "local", image.id, Change(filename=name), expected_version=1)
        except PreconditionFailed:
            return "refused"
        return "changed"

    assert sorted(await asyncio.gather(rename("a.jpg"), rename("b.jpg"))) == ["changed", "refused"]


async def test_a_change_that_is_rolled_back_leaves_no_event(database: Database, image: Image) -> None:
    async def change_and_fail() -> None:
        async with database.transaction("local") as tx:
            await images.trash(tx, "local", image.id)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await change_and_fail()
    assert len(await log_of(database, image)) == 1
    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) == image


# The trash


async def test_the_trash_takes_an_image_with_one_event_however_often_it_is_asked(
    database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        first = await images.trash(tx, "local", image.id)
    async with database.transaction("local") as tx:
        again = await images.trash(tx, "local", image.id)

    assert first == again
    assert (first.state, first.version, first.deleted_at) == (State.DELETED, 2, first.updated_at)
    _stored, event = await log_of(database, image)
    assert event.payload == image_payload(first)
    assert event.kind is Kind.DELETED


async def test_what_is_in_the_trash_is_in_no_list_but_its_own(database: Database, image: Image) -> None:
    async with database.transaction("local") as tx:
        trashed = await images.trash(tx, "local", image.id)
        assert await images.find_by_name(tx, "local", image.filename) is None
        assert await images.random(tx, "local", ImageFilter()) is None

    for sort in Sort:
        assert await walk(database, ImageQuery(sort=sort)) == []
        assert await walk(database, ImageQuery(sort=sort, trashed=True)) == [trashed]
        assert await walk(database, ImageQuery(ImageFilter(tags=("holiday",)), sort, trashed=True)) == [
            trashed
        ]


async def test_what_is_in_the_trash_is_not_changed(database: Database, image: Image) -> None:
    async with database.transaction("local") as tx:
        await images.trash(tx, "local", image.id)
        with pytest.raises(ImageNotFound, match="trash"):
            await images.update(tx, "local", image.id, Change(filename="a.jpg"))


async def test_a_restored_image_is_as_it_was_and_told_of_once(database: Database, image: Image) -> None:
    async with database.transaction("local") as tx:
        await images.trash(tx, "local", image.id)
    async with database.transaction("local") as tx:
        restored = await images.restore(tx, "local", image.id)
        assert await images.restore(tx, "local", image.id) == restored

    assert restored == replace(image, version=3, updated_at=restored.updated_at)
    assert [event.kind for event in await log_of(database, image)] == [
        Kind.UPLOADED,
        Kind.DELETED,
        Kind.RESTORED,
    ]
    async with database.reading("local") as tx:
        assert await images.find(tx, "local", image.id) == restored


async def test_a_restored_image_whose_bytes_came_again_lives_beside_the_newer_one(
    commits: Commits, database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        await images.trash(tx, "local", image.id)
    (newer,) = await store(commits, arrival("a"))
    async with database.transaction("local") as tx:
        await images.restore(tx, "local", image.id)

    assert set(ids(await walk(database, ImageQuery()))) == {image.id, newer.id}
    assert await commits.commit(arrival("a")) == Duplicate(newer)


async def test_restoring_while_the_same_bytes_are_being_committed_keeps_both(
    commits: Commits, database: Database, image: Image
) -> None:
    async with database.transaction("local") as tx:
        await images.trash(tx, "local", image.id)
    newer = new_id()

    async def restore() -> None:
        async with database.transaction("local") as tx:
            await images.restore(tx, "local", image.id)

    async with database.transaction(EVERY_OWNER) as tx:
        changes = {"id": str(newer), "state": "ready", "canonical": True, "deleted_at": None}
        await tx.execute(
            "INSERT INTO images SELECT (jsonb_populate_record(images, %s)).* FROM images WHERE id = %s",
            [Jsonb(changes), image.id],
        )
        restoring = asyncio.create_task(restore())
        await waits(database)
    await restoring

    assert set(ids(await walk(database, ImageQuery()))) == {image.id, newer}
    answer = await commits.commit(arrival("a"))
    assert isinstance(answer, Duplicate)
    assert answer.image.id == newer


async def waits(database: Database) -> None:
    """Return when a connection waits for another one."""
    while True:
        async with database.reading("local") as tx:
            cursor = await tx.execute(
                "SELECT 1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)"
            )
            if await cursor.fetchone():
                return
        await asyncio.sleep(0.01)


async def test_when_the_image_that_answers_for_its_bytes_goes_a_copy_takes_its_place(
    commits: Commits, database: Database, image: Image
) -> None:
    (copy,) = await store(commits, arrival("a", keep_duplicate=True))
    async with database.transaction("local") as tx:
        await images.trash(tx, "local", image.id)

    assert await commits.commit(arrival("a")) == Duplicate(copy)


# Lists


async def test_pages_follow_each_other_without_gap_or_repetition(
    commits: Commits, database: Database
) -> None:
    made = await store(
        commits, *(arrival(size=1 + number % 3, filename=f"{number % 4}.jpg") for number in range(23))
    )
    orders = {
        Sort.NEWEST: sorted(made, key=lambda each: (each.created_at, each.id), reverse=True),
        Sort.OLDEST: sorted(made, key=lambda each: (each.created_at, each.id)),
        Sort.LARGEST: sorted(made, key=lambda each: (each.size, each.id), reverse=True),
        Sort.SMALLEST: sorted(made, key=lambda each: (each.size, each.id)),
        Sort.BY_NAME: sorted(made, key=lambda each: (each.filename, each.id)),
        Sort.BY_NAME_REVERSED: sorted(made, key=lambda each: (each.filename, each.id), reverse=True),
    }

    for sort, expected in orders.items():
        for limit in (1, 5, 22, 23, 100):
            assert await walk(database, ImageQuery(sort=sort, limit=limit)) == expected


@pytest.mark.parametrize("sort", list(Sort))
async def test_a_list_is_stable_while_images_arrive_and_go(
    commits: Commits, database: Database, sort: Sort
) -> None:
    chance = random.Random(7)

    def more(count: int) -> list[Arrival]:
        return [
            arrival(size=chance.randint(1, 9), filename=f"{chance.randint(1, 9)}.jpg") for _ in range(count)
        ]

    made = await store(commits, *more(40))
    stay, go = made[:30], made[30:]
    query, seen = ImageQuery(sort=sort, limit=4), list[Image]()
    while True:
        async with database.transaction("local") as tx:
            page = await images.page(tx, "local", query)
            if go:
                await images.trash(tx, "local", go.pop().id)
        seen.extend(page.images)
        if page.next_cursor is None or len(seen) > 200:
            break
        await store(commits, *more(2))
        query = replace(query, cursor=page.next_cursor)

    assert len(ids(seen)) == len(set(ids(seen)))
    assert {image.id for image in stay} <= set(ids(seen))


@dataclass(frozen=True)
class Shelf:
    """Many images that differ in all that can be asked for."""

    database: Database
    images: list[Image]


NAMES = ["Rome.jpg", "roma.JPG", "Straße.png", "a_b%c.gif", "İstanbul.jpg", "\uff32ome.webp", "100%.png", "x"]
TAGS = ["holiday", "Rome", "100%", "x_y", "città", "ß"]
FORMATS = [Format.JPEG, Format.PNG, Format.GIF]
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def shelf(commits: Commits, database: Database) -> Shelf:
    chance = random.Random(3)
    arrivals = [
        arrival(
            filename=chance.choice(NAMES),
            tags=tuple(chance.sample(TAGS, chance.randint(0, 3))),
            size=chance.randint(1, 20),
            facts=replace(FACTS, format=chance.choice(FORMATS)),
        )
        for _ in range(300)
    ]
    made = await store(commits, *arrivals)
    async with database.transaction("local") as tx:
        for number, image in enumerate(made):
            created_at = START + timedelta(days=chance.randint(0, 20))
            made[number] = replace(image, created_at=created_at)
            await tx.execute("UPDATE images SET created_at = %s WHERE id = %s", [created_at, image.id])
    return Shelf(database, made)


def passes(image: Image, wanted: ImageFilter) -> bool:
    """What a filter means."""
    words = [image.filename, *image.tags]
    return (
        wanted.extension in (None, image.extension)
        and wanted.content_type in (None, image.content_type)
        and set(wanted.tags) <= set(image.tags)
        and (wanted.min_bytes is None or image.size >= wanted.min_bytes)
        and (wanted.max_bytes is None or image.size <= wanted.max_bytes)
        and (wanted.created_after is None or image.created_at > wanted.created_after)
        and (wanted.created_before is None or image.created_at < wanted.created_before)
        and (wanted.text is None or any(folded(wanted.text) in folded(word) for word in words))
    )


MOMENTS = st.integers(-1, 21).map(lambda days: START + timedelta(days=days))
TEXTS = st.sampled_from(
    ["", "ROM", "strasse", "STRASSE", "%", "_", "a_b", "100%", "i", "città", "ome", "zzz", "\\"]
)
FILTERS = st.builds(
    ImageFilter,
    extension=st.none() | st.sampled_from(["jpg", "png", "gif", "webp", "none"]),
    content_type=st.none() | st.sampled_from([each.value for each in FORMATS] + ["image/avif"]),
    tags=st.lists(st.sampled_from([*TAGS, "none"]), max_size=2).map(tuple),
    min_bytes=st.none() | st.integers(0, 21) | st.just(2**70),
    max_bytes=st.none() | st.integers(0, 21) | st.just(2**70),
    created_after=st.none() | MOMENTS,
    created_before=st.none() | MOMENTS,
    text=st.none() | TEXTS,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=FILTERS, sort=st.sampled_from(Sort), limit=st.integers(1, 60))
async def test_a_filter_lets_through_what_it_says_and_nothing_else(
    shelf: Shelf, wanted: ImageFilter, sort: Sort, limit: int
) -> None:
    found = await walk(shelf.database, ImageQuery(wanted, sort, limit))

    assert sorted(ids(found)) == sorted(each.id for each in shelf.images if passes(each, wanted))
    async with shelf.database.reading("local") as tx:
        drawn = await images.random(tx, "local", wanted, random.Random(limit))
    assert (drawn in found) if found else (drawn is None)


# Cursors


async def test_a_cursor_continues_only_its_own_list(commits: Commits, database: Database) -> None:
    await store(commits, *(arrival() for _ in range(3)))
    query = ImageQuery(ImageFilter(extension="jpg"), limit=1)
    async with database.reading("local") as tx:
        cursor = (await images.page(tx, "local", query)).next_cursor
        assert cursor is not None
        assert len((await images.page(tx, "local", replace(query, limit=9, cursor=cursor))).images) == 2
        for other in (
            replace(query, sort=Sort.OLDEST, cursor=cursor),
            replace(query, filter=ImageFilter(), cursor=cursor),
            replace(query, trashed=True, cursor=cursor),
        ):
            with pytest.raises(CursorInvalid, match="other filters or another order"):
                await images.page(tx, "local", other)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cursor=st.text(max_size=60) | st.sampled_from(["W10", "bnVsbA", "WzEsMiwzXQ", "e30"]),
    sort=st.sampled_from(Sort),
)
async def test_a_cursor_that_tintype_did_not_make_is_refused(
    database: Database, cursor: str, sort: Sort
) -> None:
    async with database.reading("local") as tx:
        with pytest.raises(CursorInvalid):
            await images.page(tx, "local", ImageQuery(sort=sort, cursor=cursor))


# Statements have their indexes


async def test_no_statement_reads_a_table_through(database: Database, image: Image) -> None:
    everything = ImageFilter(
        extension="jpg",
        content_type="image/jpeg",
        tags=("holiday",),
        min_bytes=1,
        max_bytes=10**9,
        created_after=START,
        created_before=START + timedelta(days=10_000),
        text="rome",
    )
    async with database.transaction("local") as tx:
        for sort in Sort:
            for wanted in (ImageFilter(), everything):
                await images.page(tx, "local", ImageQuery(wanted, sort))
                await images.page(tx, "local", ImageQuery(wanted, sort, trashed=True))
        await images.random(tx, "local", everything)
        await images.find_by_name(tx, "local", "Rome.JPG")
        await images.update(tx, "local", image.id, Change(filename="a.jpg"))
        await images.trash(tx, "local", image.id)
        await images.restore(tx, "local", image.id)
        await events.page(tx, "local", 0, 10)
        await tx.execute("SELECT pg_stat_force_next_flush()")
    async with database.transaction(EVERY_OWNER) as tx:
        claimed = await events.claim(tx, 10)
        await events.mark_published(tx, positions(claimed[1:]))
        await events.postpone(tx, claimed[0].position, "down")
        await events.oldest_unpublished_age(tx)
        await events.page(tx, "local", 0, 10)
        await tx.execute("SELECT pg_stat_force_next_flush()")
    async with database.reading("local") as tx:
        await tx.execute("SELECT pg_stat_clear_snapshot()")
        cursor = await tx.execute("SELECT relname, seq_scan FROM pg_stat_user_tables WHERE seq_scan > 0")
        assert [row for row in await cursor.fetchall() if row[0] in ("images", "events", "idempotency")] == []


def positions(log: Sequence[Event]) -> list[int]:
    return [event.position for event in log]
