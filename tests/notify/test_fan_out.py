"""From the log to deliveries: every event, once for each subscription that wants it."""

import asyncio

import psycopg
import pytest

from happenings import image
from receiver import Receiver
from tintype.catalogue import deliveries, errands, events, subscriptions
from tintype.catalogue.database import EVERY_OWNER
from tintype.catalogue.errands import ErrandKind
from tintype.model.checkpoint import arm, disarm
from tintype.model.event import Kind, event_id
from tintype.model.subscription import Status, Subscription
from tintype.notify.fan_out import fan_out, run_errands
from town import Town


async def planned(town: Town) -> list[tuple[object, ...]]:
    return await town.sql("SELECT subscription_id, id FROM deliveries ORDER BY position")


async def test_each_event_becomes_a_delivery_for_each_subscription_that_wants_it(town: Town) -> None:
    png = await town.subscribe("https://example.org/png", ext=["png"])
    everything = await town.subscribe("https://example.org/all")
    first = await town.happen(extension="png")
    second = await town.happen(extension="jpg")

    for _ in range(2):
        await fan_out(town.database)

    told = {(row[0], row[1]) for row in await planned(town)}
    ids = [event_id(each.id, Kind.UPLOADED, 1) for each in (first, second)]
    assert told == {(png.id, ids[0]), (everything.id, ids[0]), (everything.id, ids[1])}
    assert len(await planned(town)) == 3


async def test_another_owners_events_are_nobodys_elses_news(town: Town, hearing: Subscription) -> None:
    del hearing
    await town.happen(owner="bert")

    await fan_out(town.database)

    assert await planned(town) == []


async def test_what_happened_before_the_address_agreed_is_not_told(town: Town) -> None:
    await town.happen()
    await town.subscribe("https://example.org/late")
    after = await town.happen()

    await fan_out(town.database)

    assert [row[1] for row in await planned(town)] == [event_id(after.id, Kind.UPLOADED, 1)]


@pytest.mark.parametrize("status", [Status.PAUSED, Status.UNSUBSCRIBED])
async def test_who_is_not_active_gets_no_deliveries(town: Town, status: Status) -> None:
    made = await town.subscribe("https://example.org/quiet")
    async with town.database.transaction("local") as tx:
        if status is Status.PAUSED:
            await subscriptions.pause(tx, "local", made.id)
        else:
            locked = await subscriptions.lock(tx, "local", made.id)
            await subscriptions.end(tx, locked, status, "gone")
    await town.happen()

    await fan_out(town.database)

    assert await planned(town) == []


async def test_an_event_that_commits_late_is_not_skipped(town: Town, hearing: Subscription) -> None:
    del hearing
    late = image()
    async with await town.database.connect(EVERY_OWNER) as slow, slow.begun():
        await events.add(slow, Kind.UPLOADED, late)
        early = await town.happen()
        assert (await fan_out(town.database)).more_soon
        assert await planned(town) == []

    await fan_out(town.database)

    ids = [event_id(each.id, Kind.UPLOADED, 1) for each in (late, early)]
    assert [row[1] for row in await planned(town)] == ids


async def test_several_at_once_make_no_delivery_twice(town: Town, hearing: Subscription) -> None:
    del hearing
    for _ in range(30):
        await town.happen()

    await asyncio.gather(*(fan_out(town.database) for _ in range(4)))
    await fan_out(town.database)

    assert len(await planned(town)) == 30


async def test_cut_before_the_commit_it_is_done_anew_and_once(town: Town, hearing: Subscription) -> None:
    del hearing
    await town.happen()

    def cut() -> None:
        raise psycopg.OperationalError("the plug was pulled")

    arm("before-fan-out-commit", cut)
    try:
        with pytest.raises(Exception, match="database does not answer"):
            await fan_out(town.database)
    finally:
        disarm()
    assert await planned(town) == []
    await fan_out(town.database)

    assert len(await planned(town)) == 1


async def test_a_replay_delivers_what_was_delivered_again_under_the_same_id(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    for number in range(3):
        await town.happen(extension="png" if number else "jpg")
    await town.notifier.drain()
    async with town.database.transaction("local") as tx:
        found = await events.page(tx, "local", 0, 10, kinds=["image.uploaded"])
        places = {"after": found[0].position, "until": found[-1].position}
        await errands.add(tx, hearing, ErrandKind.REPLAY, places)

    await town.notifier.drain()

    ids = [call.id for call in receiver.of()]
    assert len(ids) == 5
    assert set(ids[3:]) == {str(event.id) for event in found[1:]}
    async with town.database.reading("local") as tx:
        ledger = await deliveries.page(tx, "local", hearing.id, None, 10)
    assert sorted(entry.attempts for entry in ledger) == [1, 2, 2]


async def test_a_long_replay_goes_on_in_the_next_transaction(
    town: Town, hearing: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tintype.notify.fan_out.BATCH", 2)
    for _ in range(5):
        await town.happen()
    await fan_out(town.database)
    await town.sql("UPDATE deliveries SET state = 'dead', settled_at = now()")
    async with town.database.transaction("local") as tx:
        await errands.add(tx, hearing, ErrandKind.REPLAY, {"after": 0, "until": 2**62})

    await run_errands(town.database)

    assert await town.sql("SELECT count(*) FROM deliveries WHERE state = 'pending'") == [(5,)]
    assert await town.sql("SELECT count(*) FROM errands") == [(0,)]
