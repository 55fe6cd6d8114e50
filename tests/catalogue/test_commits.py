"""Commits: one image and one event for each arrival, whatever is lost, doubled or cut on the way."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalogue.arrivals import FACTS, ago, arrival, as_found, id_of, key, stored
from faults.proxy import Proxy
from tintype.catalogue import events, images
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.catalogue.migrations import migrate
from tintype.model import checkpoint
from tintype.model.errors import (
    AttemptTooOld,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    Internal,
    RequestInvalid,
    ShuttingDown,
    StorageUnavailable,
    TintypeError,
)
from tintype.model.event import Event, Kind, event_id
from tintype.model.image import Facts, Format, Image
from tintype.model.payload import image_payload
from tintype.model.upload import Arrival, Duplicate, Outcome, Replayed, Stored
from tintype.settings import DatabaseSettings


async def everything(database: Database, owner: str = "local") -> tuple[set[UUID], list[Event]]:
    """The ids of all images, and the log."""
    async with database.transaction(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT id FROM images WHERE owner = %s", [owner])
        return {row[0] for row in await cursor.fetchall()}, await events.page(tx, owner, 0, 10_000)


async def found(database: Database, image_id: UUID) -> Image | None:
    async with database.reading(EVERY_OWNER) as tx:
        return await images.find(tx, "local", image_id)


def image_in(outcome: Outcome) -> Image:
    match outcome:
        case Replayed(outcome=first):
            return first.image
        case _:
            return outcome.image


async def attempt(commits: Commits, one: Arrival) -> Outcome | TintypeError:
    """What an upload does: look for what it repeats, then commit."""
    try:
        return await commits.find_earlier(one.upload, one.sha256) or await commits.commit(one)
    except TintypeError as error:
        return error


async def attempt_without_looking(commits: Commits, one: Arrival) -> Outcome | TintypeError:
    try:
        return await commits.commit(one)
    except TintypeError as error:
        return error


# What a commit makes


async def test_an_arrival_becomes_the_image_that_is_found(commits: Commits, database: Database) -> None:
    image = stored(await commits.commit(arrival(tags=("a", "b"), attributes={"album": {"name": "Rome"}})))

    assert await found(database, image.id) == as_found(image)


@pytest.mark.parametrize(
    "facts",
    [
        Facts(Format.PNG, 1, 1),
        replace(FACTS, taken_at=ago(days=1)),
        replace(FACTS, phash=2**63 - 1, has_alpha=None, camera={}, exif={}, location=None),
    ],
)
async def test_facts_are_kept_as_they_are(commits: Commits, database: Database, facts: Facts) -> None:
    image = stored(await commits.commit(arrival(facts=facts)))

    assert await found(database, image.id) == as_found(image)


async def test_the_event_is_committed_with_the_image_and_carries_it_as_it_is(
    commits: Commits, database: Database
) -> None:
    image = stored(await commits.commit(arrival()))

    _, (event,) = await everything(database)
    assert event.id == event_id(image.id, Kind.UPLOADED, 1)
    assert (event.kind, event.image_id, event.owner, event.version) == (Kind.UPLOADED, image.id, "local", 1)
    assert event.payload == image_payload(image)
    assert event.created_at == image.created_at


async def test_a_commit_wakes_whoever_listens(commits: Commits, database: Database) -> None:
    async with database.listening(events.CHANNEL) as listener:
        await commits.commit(arrival())
        assert await listener.wait(10)


async def test_the_location_is_kept_and_neither_found_nor_told(commits: Commits, database: Database) -> None:
    image = stored(await commits.commit(arrival()))

    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT location FROM images WHERE id = %s", [image.id])
        assert await cursor.fetchone() == ({"latitude": 41.90342, "longitude": 12.5, "altitude": 21},)
        read = await images.find(tx, "local", image.id)
    assert read is not None
    assert read.facts.location is None
    _, (event,) = await everything(database)
    assert "41.90342" not in str(event.payload)


async def test_many_at_once_are_all_committed_each_with_its_event(
    commits: Commits, database: Database
) -> None:
    made = [stored(each) for each in await asyncio.gather(*(commits.commit(arrival()) for _ in range(250)))]

    ids, log = await everything(database)
    assert ids == {image.id for image in made}
    assert len(log) == len(ids)
    assert {event.image_id for event in log} == ids


async def test_whose_bytes_are_being_stored_is_waited_for_a_moment(commits: Commits) -> None:
    async def follow() -> Outcome:
        with commits.soon():
            await asyncio.sleep(0)  # the other one is in the queue by now, and would be on its way
            await asyncio.sleep(0)
        return await commits.commit(arrival())

    async def together() -> bool:
        outcomes = await asyncio.gather(follow(), commits.commit(arrival()))
        return len({image_in(outcome).created_at for outcome in outcomes}) == 1  # of one transaction

    assert any([await together() for _ in range(50)])


async def test_whose_bytes_were_not_stored_after_all_holds_nobody_up(commits: Commits) -> None:
    await commits.commit(arrival())

    with pytest.raises(StorageUnavailable), commits.soon():
        raise StorageUnavailable("It does not answer.")
    with commits.soon():
        stored(await commits.commit(arrival()))


async def test_both_points_at_which_a_crash_must_be_survivable_are_passed(commits: Commits) -> None:
    passed: list[str] = []
    for name in ("before-commit", "after-commit"):
        checkpoint.arm(name, lambda name=name: passed.append(name))

    await commits.commit(arrival())

    assert passed == ["before-commit", "after-commit"]


# The same bytes again


async def test_the_same_bytes_of_the_same_owner_are_answered_with_the_image_that_has_them(
    commits: Commits, database: Database
) -> None:
    image = stored(await commits.commit(arrival("a")))
    again = arrival("a", filename="other.jpg")

    assert await commits.find_earlier(again.upload, again.sha256) == Duplicate(as_found(image))
    assert await commits.commit(again) == Duplicate(as_found(image))
    ids, log = await everything(database)
    assert (ids, len(log)) == ({image.id}, 1)


async def test_the_same_bytes_of_another_owner_are_another_image(commits: Commits) -> None:
    await commits.commit(arrival("a"))
    other = arrival("a", owner="other")

    assert await commits.find_earlier(other.upload, other.sha256) is None
    stored(await commits.commit(other))


async def test_bytes_are_kept_twice_when_that_is_asked_for(commits: Commits, database: Database) -> None:
    first = stored(await commits.commit(arrival("a")))
    second = arrival("a", keep_duplicate=True)

    assert await commits.find_earlier(second.upload, second.sha256) is None
    copy = stored(await commits.commit(second))

    assert {first.id, copy.id} == (await everything(database))[0]
    assert image_in(await commits.commit(arrival("a"))).id == first.id


async def test_an_image_that_was_first_of_its_bytes_answers_for_them_even_if_copies_were_allowed(
    commits: Commits,
) -> None:
    first = stored(await commits.commit(arrival("a", keep_duplicate=True)))

    assert await commits.commit(arrival("a")) == Duplicate(as_found(first))


async def test_bytes_in_the_trash_can_be_uploaded_again(commits: Commits, database: Database) -> None:
    image = stored(await commits.commit(arrival("a")))
    async with database.transaction(EVERY_OWNER) as tx:
        await images.trash(tx, "local", image.id)

    stored(await commits.commit(arrival("a")))


async def test_of_many_with_the_same_bytes_at_once_in_two_processes_one_is_stored(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(Database.open(database_url, DatabaseSettings())) for _ in "ab"
        ]
        writers = [await stack.enter_async_context(Commits.open(each)) for each in databases]
        outcomes = await asyncio.gather(
            *(commits.commit(arrival(str(content))) for content in range(5) for commits in writers * 5)
        )
        ids, log = await everything(databases[0])

    kinds = Counter(type(each) for each in outcomes)
    assert kinds == {Stored: 5, Duplicate: 45}
    assert {image_in(each).id for each in outcomes} == ids
    assert len(log) == 5


# Idempotency keys


async def test_a_key_is_answered_with_what_it_was_answered_before(
    commits: Commits, database: Database
) -> None:
    image = stored(await commits.commit(arrival("a", idempotency=key("k"))))
    async with database.transaction(EVERY_OWNER) as tx:
        await images.trash(tx, "local", image.id)

    again = arrival("a", idempotency=key("k"))
    assert await commits.find_earlier(again.upload, again.sha256) == Replayed(Stored(as_found(image)))
    assert await commits.commit(again) == Replayed(Stored(as_found(image)))
    ids, log = await everything(database)
    assert (ids, len(log)) == ({image.id}, 2)


async def test_a_key_with_another_request_is_refused_and_the_first_stays(
    commits: Commits, database: Database
) -> None:
    await commits.commit(arrival("a", idempotency=key("k")))
    other = arrival("b", idempotency=key("k", asked="something else"))

    with pytest.raises(IdempotencyKeyReused):
        await commits.find_earlier(other.upload, other.sha256)
    with pytest.raises(IdempotencyKeyReused):
        await commits.commit(other)
    ids, log = await everything(database)
    assert (len(ids), len(log)) == (1, 1)


async def test_a_key_belongs_to_its_owner(commits: Commits) -> None:
    await commits.commit(arrival("a", idempotency=key("k")))

    stored(await commits.commit(arrival("a", owner="other", idempotency=key("k", asked="something else"))))


async def test_a_key_that_came_with_a_duplicate_is_answered_the_same_again(
    commits: Commits, database: Database
) -> None:
    image = stored(await commits.commit(arrival("a")))
    one = arrival("a", idempotency=key("k"))
    assert await commits.find_earlier(one.upload, one.sha256) == Duplicate(as_found(image))
    async with database.transaction(EVERY_OWNER) as tx:
        await images.trash(tx, "local", image.id)

    again = arrival("a", idempotency=key("k"))
    assert await commits.find_earlier(again.upload, again.sha256) == Replayed(Duplicate(as_found(image)))
    other = arrival("b", idempotency=key("k", asked="something else"))
    with pytest.raises(IdempotencyKeyReused):
        await commits.find_earlier(other.upload, other.sha256)


async def test_of_fifty_with_the_same_key_at_once_in_two_processes_one_is_stored(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(Database.open(database_url, DatabaseSettings())) for _ in "ab"
        ]
        writers = [await stack.enter_async_context(Commits.open(each)) for each in databases]
        outcomes = await asyncio.gather(
            *(commits.commit(arrival(idempotency=key("k"))) for commits in writers * 25)
        )
        ids, log = await everything(databases[0])

    assert Counter(type(each) for each in outcomes) == {Stored: 1, Replayed: 49}
    assert {image_in(each).id for each in outcomes} == ids
    assert len(log) == 1


# One after another, all at once


CONTENTS = st.sampled_from("ab")
KEYS = st.none() | st.tuples(st.sampled_from("kl"), st.sampled_from("xy"))
ASKED = st.lists(st.tuples(CONTENTS, KEYS, st.booleans()), min_size=1, max_size=5)
Asked = tuple[str, tuple[str, str] | None, bool]
"""The bytes, a key and what is asked under it, and whether to keep a duplicate."""


def expected(asked: Sequence[Asked], order: Sequence[int]) -> list[str]:
    """What uploads that come one after another are answered, and with which one's image."""
    first_of: dict[str, int] = {}
    answers: dict[str, tuple[str, str]] = {}
    told: list[str] = [""] * len(asked)
    for number in order:
        content, asked_key, keep = asked[number]
        if asked_key and asked_key[0] in answers:
            request, answer = answers[asked_key[0]]
            told[number] = f"replayed {answer}" if request == asked_key[1] else "refused"
            continue
        if content in first_of and not keep:
            answer = f"duplicate {first_of[content]}"
        else:
            first_of.setdefault(content, number)
            answer = f"stored {number}"
        if asked_key:
            answers[asked_key[0]] = (asked_key[1], answer)
        told[number] = answer
    return told


def named(outcome: Outcome | TintypeError, numbers: dict[UUID, int]) -> str:
    match outcome:
        case Stored(image):
            return f"stored {numbers[image.id]}"
        case Duplicate(image):
            return f"duplicate {numbers[image.id]}"
        case Replayed(first):
            return f"replayed {named(first, numbers)}"
        case IdempotencyKeyReused():
            return "refused"
        case error:
            raise error


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=ASKED)
async def test_arrivals_at_the_same_time_are_answered_as_if_they_had_come_one_after_another(
    commits: Commits, database: Database, asked: list[Asked]
) -> None:
    owner = str(id_of(ago()))
    arrivals = [
        arrival(content, owner=owner, keep_duplicate=keep, idempotency=asked_key and key(*asked_key))
        for content, asked_key, keep in asked
    ]

    outcomes = await asyncio.gather(*(attempt_without_looking(commits, each) for each in arrivals))

    numbers = {each.upload.id: number for number, each in enumerate(arrivals)}
    told = [named(each, numbers) for each in outcomes]
    assert told in [expected(asked, order) for order in permutations(range(len(asked)))]
    ids, log = await everything(database, owner)
    assert {event.image_id for event in log} == ids
    assert len(log) == len(ids) == sum(answer.startswith("stored") for answer in told)


# The fence


@pytest.mark.parametrize("age", [{"minutes": 59}, {"minutes": -4}])
async def test_an_attempt_within_the_hour_is_committed(commits: Commits, age: dict[str, float]) -> None:
    stored(await commits.commit(arrival(id=id_of(ago(**age)))))


@pytest.mark.parametrize("age", [{"minutes": 61}, {"days": 3}, {"minutes": -6}, {"days": -3}])
async def test_an_attempt_of_long_ago_or_of_the_future_is_refused_and_no_other_with_it(
    commits: Commits, database: Database, age: dict[str, float]
) -> None:
    others = [arrival() for _ in range(3)]
    late = arrival(id=id_of(ago(**age)))

    answers = await asyncio.gather(*(attempt(commits, each) for each in [others[0], late, *others[1:]]))

    assert isinstance(answers[1], AttemptTooOld)
    ids, log = await everything(database)
    assert ids == {each.upload.id for each in others}
    assert len(log) == 3


# One that PostgreSQL refuses


@pytest.mark.parametrize(
    ("spoiled", "error"),
    [
        (arrival(tags=("a\0b",)), RequestInvalid),
        (arrival(attributes={"a": "\0"}), RequestInvalid),
        (arrival(facts=replace(FACTS, exif={"a": "\0"})), RequestInvalid),
        (arrival(filename="\ud800.jpg"), RequestInvalid),
        (arrival(size=2**63), RequestInvalid),
        (arrival(facts=replace(FACTS, width=2**31)), RequestInvalid),
        (arrival(size=0), Internal),
    ],
)
async def test_an_arrival_that_postgresql_refuses_takes_no_other_with_it(
    commits: Commits, database: Database, spoiled: Arrival, error: type[TintypeError]
) -> None:
    spoiled = replace(spoiled, upload=replace(spoiled.upload, id=id_of(ago())))
    others = [arrival() for _ in range(5)]

    answers = await asyncio.gather(*(attempt(commits, each) for each in [*others[:3], spoiled, *others[3:]]))

    assert isinstance(answers[3], error)
    assert sum(isinstance(each, Stored) for each in answers) == 5
    assert (await everything(database))[0] == {each.upload.id for each in others}


# Answers that are lost


async def test_when_the_answer_to_a_commit_is_lost_it_is_run_again_and_knows_its_own_image(
    proxy: Proxy, database: Database
) -> None:
    async with Database.open(proxy.url, DatabaseSettings()) as behind, Commits.open(behind) as commits:
        await commits.commit(arrival())
        proxy.fail(lose_answer=b"unheard")
        one = arrival(filename="unheard.jpg", idempotency=key("k"))
        committing = asyncio.gather(commits.commit(one), commits.commit(arrival()))
        await proxy.has_lost.wait()
        proxy.fail()

        outcome, other = await committing

        assert stored(outcome).id == one.upload.id
        assert await found(database, one.upload.id) == as_found(stored(outcome))
    ids, log = await everything(database)
    assert len(ids) == len(log) == 3
    assert stored(other).id in ids


async def test_when_a_commit_never_arrived_it_is_run_again(proxy: Proxy, database: Database) -> None:
    async with Database.open(proxy.url, DatabaseSettings()) as behind, Commits.open(behind) as commits:
        await commits.commit(arrival())
        proxy.fail(lose_question=b"unheard")
        committing = asyncio.create_task(commits.commit(arrival(filename="unheard.jpg")))
        await proxy.has_lost.wait()
        proxy.fail()

        stored(await committing)

    ids, log = await everything(database)
    assert len(ids) == len(log) == 2


async def test_a_commit_that_stays_in_doubt_is_unavailable_and_the_retry_finds_what_it_made(
    proxy: Proxy, database: Database
) -> None:
    settings = DatabaseSettings(acquire_timeout_seconds=0.2, commit_timeout_seconds=0.5)
    async with Database.open(proxy.url, settings) as behind, Commits.open(behind) as commits:
        await commits.commit(arrival())
        proxy.fail(lose_answer=b"unheard")
        one = arrival("a", filename="unheard.jpg", idempotency=key("k"))

        assert isinstance(await attempt(commits, one), DatabaseUnavailable)

        proxy.fail()
        again = arrival("a", filename="unheard.jpg", idempotency=key("k"))
        answer = await attempt(commits, again)
    assert isinstance(answer, Replayed)
    assert image_in(answer).id == one.upload.id
    ids, log = await everything(database)
    assert len(ids) == len(log) == 2


async def test_what_was_never_sent_does_not_wait_behind_what_is_in_doubt(
    proxy: Proxy, database: Database
) -> None:
    settings = DatabaseSettings(acquire_timeout_seconds=0.2, commit_timeout_seconds=60)
    async with Database.open(proxy.url, settings) as behind, Commits.open(behind) as commits:
        await commits.commit(arrival())
        proxy.fail(lose_answer=b"unheard")
        doubtful = asyncio.create_task(commits.commit(arrival(filename="unheard.jpg")))
        await proxy.has_lost.wait()
        proxy.fail(refusing=True)

        with pytest.raises(DatabaseUnavailable):
            await commits.commit(arrival())
        assert not doubtful.done()

        proxy.fail()
        stored(await doubtful)
    ids, log = await everything(database)
    assert len(ids) == len(log) == 2


async def test_a_database_that_is_away_is_unavailable_and_commits_go_on_when_it_is_back(proxy: Proxy) -> None:
    settings = DatabaseSettings(
        acquire_timeout_seconds=0.1, commit_timeout_seconds=600
    )  # nothing is in doubt
    async with Database.open(proxy.url, settings) as behind, Commits.open(behind) as commits:
        await commits.commit(arrival())
        proxy.fail(refusing=True)
        proxy.cut()

        with pytest.raises(DatabaseUnavailable) as away:
            await commits.commit(arrival())
        assert away.value.retry_after is not None

        proxy.fail()
        stored(await commits.commit(arrival()))


async def test_a_database_that_says_nothing_any_more_leaves_no_upload_waiting(proxy: Proxy) -> None:
    hasty = {"statement_timeout_seconds": 0.2, "silence_seconds": 0.2, "acquire_timeout_seconds": 0.1}
    settings = DatabaseSettings.model_validate(hasty | {"commit_timeout_seconds": 1})
    async with Database.open(proxy.url, settings) as behind, Commits.open(behind) as commits:
        first = arrival()
        await commits.find_earlier(first.upload, first.sha256)
        await commits.commit(first)
        proxy.fail(silent=True)

        one = arrival(idempotency=key("k"))
        async with asyncio.timeout(10):
            for ask in (attempt, attempt_without_looking):
                assert isinstance(await ask(commits, one), DatabaseUnavailable)
            # The look for the same bytes goes over a line of its own.
            assert isinstance(await attempt(commits, arrival()), DatabaseUnavailable)

        proxy.fail()
        stored(await commits.commit(arrival()))


async def more(answered: list[UUID], count: int) -> None:
    """Return when so many more are answered."""
    wanted = len(answered) + count
    while len(answered) < wanted:  # noqa: ASYNC110 # the list tells nobody
        await asyncio.sleep(0.01)


async def test_a_server_killed_in_the_middle_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    answered: list[UUID] = []

    async def upload(commits: Commits, until: asyncio.Event) -> None:
        while not until.is_set():
            outcome = await attempt(commits, arrival())
            if isinstance(outcome, Stored):
                answered.append(outcome.image.id)

    async with EmbeddedPostgres.run(tmp_path) as server:
        await migrate(server.url)
        async with (
            Database.open(server.url, DatabaseSettings()) as database,
            Commits.open(database) as commits,
        ):
            enough = asyncio.Event()
            uploads = [asyncio.create_task(upload(commits, enough)) for _ in range(8)]
            await more(answered, 50)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await more(answered, 50)
            enough.set()
            await asyncio.gather(*uploads)

    async with (
        EmbeddedPostgres.run(tmp_path) as server,
        Database.open(server.url, DatabaseSettings()) as database,
    ):
        ids, log = await everything(database)
    assert set(answered) <= ids
    assert len(answered) == len(set(answered))
    assert Counter(event.image_id for event in log) == Counter(ids)


# Waiting, cancelled, closed


async def test_a_request_that_is_cancelled_while_it_waits_disturbs_no_other_and_is_committed_all_the_same(
    commits: Commits, database: Database
) -> None:
    arrivals = [arrival() for _ in range(5)]
    tasks = [asyncio.create_task(commits.commit(each)) for each in arrivals]
    await asyncio.sleep(0)
    tasks[2].cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert sum(isinstance(each, Stored) for each in outcomes) == 4
    stored(await commits.commit(arrival()))
    assert {each.upload.id for each in arrivals} <= (await everything(database))[0]


async def test_closing_commits_what_waits_and_takes_nothing_new(database: Database) -> None:
    async with Commits.open(database) as commits:
        tasks = [asyncio.create_task(commits.commit(arrival())) for _ in range(150)]
        await asyncio.sleep(0)

    assert all(isinstance(each, Stored) for each in await asyncio.gather(*tasks))
    with pytest.raises(ShuttingDown):
        await commits.commit(arrival())


async def test_while_another_process_commits_the_same_bytes_the_writer_waits_and_then_sees_them(
    commits: Commits, database: Database
) -> None:
    first, second = arrival("a"), arrival("a")
    async with Commits.open(database) as other:
        async with database.transaction(EVERY_OWNER) as tx:
            await tx.execute("LOCK TABLE events IN SHARE MODE")  # holds both commits at their events
            tasks = [asyncio.create_task(each) for each in (commits.commit(first), other.commit(second))]
            await waiting(database, 2)
        outcomes = await asyncio.gather(*tasks)

    assert Counter(type(each) for each in outcomes) == {Stored: 1, Duplicate: 1}


async def test_bytes_that_another_transaction_does_not_let_go_hold_up_no_other_image(
    commits: Commits, database: Database
) -> None:
    held = stored(await commits.commit(arrival("held")))
    async with database.transaction(EVERY_OWNER) as tx:
        await images.trash(tx, "local", held.id)  # and then nothing for a long time
        again, *others = await asyncio.gather(
            *(attempt_without_looking(commits, each) for each in (arrival("held"), arrival(), arrival()))
        )

    assert isinstance(again, DatabaseUnavailable)
    assert all(isinstance(each, Stored) for each in others)


async def waiting(database: Database, count: int) -> None:
    """Return when that many of the database's connections wait."""
    while True:
        async with database.reading(EVERY_OWNER) as tx:
            cursor = await tx.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)"
            )
            if await cursor.fetchone() == (count,):
                return
        await asyncio.sleep(0.01)
