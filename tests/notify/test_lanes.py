"""Deliveries: in order for each image, recorded, tried again, given up, and shared by many workers."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from happenings import image
from receiver import Call, Receiver, Reply, confirming
from tintype.catalogue import deliveries, errands, events, subscriptions
from tintype.catalogue.database import EVERY_OWNER
from tintype.catalogue.errands import ErrandKind
from tintype.catalogue.mailboxes import AT_ONCE, EVERY
from tintype.messaging.post import NotTaken
from tintype.model.delivery import RETRY_SECONDS, LedgerEntry, State
from tintype.model.event import Kind
from tintype.model.subscription import Channel, Mode, Status, Subscription
from tintype.notify.lanes import MAIL_REST_SECONDS
from town import OPERATOR, Town


async def ledger(town: Town, subscription: Subscription) -> list[LedgerEntry]:
    async with town.database.reading("local") as tx:
        return list(reversed(await deliveries.page(tx, "local", subscription.id, None, 200)))


async def status_of(town: Town, subscription: Subscription) -> Subscription:
    async with town.database.reading("local") as tx:
        found = await subscriptions.find(tx, "local", subscription.id)
    assert found is not None
    return found


async def wait(town: Town) -> list[float]:
    """Return in how many seconds each pending delivery is tried again."""
    rows = await town.sql(
        "SELECT extract(epoch FROM next_attempt_at - now())::float FROM deliveries WHERE state = 'pending'"
    )
    return [row[0] for row in rows]


async def test_what_happens_is_told_once_and_recorded(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    picture = await town.happen()

    await town.notifier.drain()
    await town.notifier.drain()

    (call,) = receiver.of()
    (entry,) = await ledger(town, hearing)
    assert call.told["data"]["id"] == str(picture.id)
    assert call.id == call.told["id"] == str(entry.id)
    assert (entry.state, entry.attempts, entry.last_status) == (State.DELIVERED, 1, 200)


async def test_of_one_image_later_news_wait_for_earlier_ones_and_others_do_not(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    del hearing
    first = await town.happen()
    await town.happen(Kind.UPDATED, id=first.id, version=2)
    await town.happen(Kind.DELETED, id=first.id, version=3)
    other = await town.happen()
    stubborn = {"answers": [Reply(500)]}

    def answer(call: Call) -> Reply:
        if call.told["data"]["id"] == str(first.id) and stubborn["answers"]:
            return stubborn["answers"].pop()
        return Reply()

    receiver.answer = answer
    await town.notifier.drain()
    heard = Counter(call.told["data"]["id"] for call in receiver.calls)
    assert heard == {str(first.id): 1, str(other.id): 1}

    await town.later()
    await town.notifier.drain()

    versions = [
        call.told["data"]["version"] for call in receiver.calls if call.told["data"]["id"] == str(first.id)
    ]
    assert versions == [1, 1, 2, 3]


async def test_a_failure_is_tried_again_by_the_plan_and_given_up_after_it(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(500)
    await town.happen()
    await town.notifier.drain()

    for planned in RETRY_SECONDS:
        (seconds,) = await wait(town)
        assert 0.85 * planned < seconds < 1.25 * planned
        await town.later()
        await town.notifier.drain()

    (entry,) = await ledger(town, hearing)
    assert (entry.state, entry.attempts) == (State.DEAD, len(RETRY_SECONDS) + 1)
    assert entry.last_error == "HTTP 500"
    tries = range(1, len(RETRY_SECONDS) + 2)
    assert [(each.number, each.status, each.error) for each in entry.log] == [
        (number, 500, "HTTP 500") for number in tries
    ]
    assert [each.at for each in entry.log] == sorted(each.at for each in entry.log)
    async with town.database.reading("local") as tx:
        assert await deliveries.page(tx, "local", hearing.id, None, 10, state=State.DEAD) == [entry]
        assert await deliveries.page(tx, "local", hearing.id, None, 10, state=State.DELIVERED) == []
    assert len({call.id for call in receiver.calls}) == 1
    assert len({call.headers["webhook-signature"] for call in receiver.calls}) >= 1


async def test_a_receiver_that_asks_for_a_pause_gets_it(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    del hearing
    receiver.answer = lambda _: Reply(429, {"retry-after": "1000"})
    await town.happen()
    await town.notifier.drain()
    await town.happen()
    await town.notifier.drain()

    assert len(receiver.calls) == 1, "the second one waits with the first"
    ((rest,),) = await town.sql("SELECT extract(epoch FROM not_before - now())::float FROM delivery_lanes")
    assert 990 < rest <= 1000
    assert max(await wait(town)) > 990


async def test_a_receiver_that_is_down_is_asked_with_one_message_and_told_all_when_it_is_back(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(503)
    for _ in range(6):
        await town.happen()
    await town.notifier.drain()
    first_round = len(receiver.calls)
    for _ in range(3):
        await town.sql("UPDATE delivery_lanes SET due_at = now(), not_before = now()")
        await town.notifier.drain()
    assert first_round == 4
    assert len(receiver.calls) - first_round <= 3

    receiver.answer = confirming
    await town.sql("UPDATE delivery_lanes SET due_at = now(), not_before = now()")
    await town.sql(
        "UPDATE deliveries SET next_attempt_at = now() "
        "WHERE id = (SELECT id FROM deliveries ORDER BY position LIMIT 1)"
    )
    await town.notifier.drain()

    assert {entry.state for entry in await ledger(town, hearing)} == {State.DELIVERED}


async def test_gone_ends_it_at_once_and_says_so(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(410)
    await town.happen()
    await town.notifier.drain()
    await town.happen()
    await town.notifier.drain()

    now = await status_of(town, hearing)
    assert (now.status, len(receiver.calls)) == (Status.PAUSED, 1)
    assert "wants no more messages" in str(now.reason)
    ((kind, payload),) = await town.sql("SELECT kind, payload FROM events WHERE kind = 'subscription.paused'")
    assert kind == "subscription.paused"
    assert payload["subscription_id"] == str(hearing.id)


async def test_a_day_of_failures_pauses_the_subscription(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(500)
    await town.happen()
    await town.notifier.drain()
    assert (await status_of(town, hearing)).status is Status.ACTIVE

    await town.sql("UPDATE delivery_lanes SET failing_since = now() - interval '25 hours'")
    await town.later()
    await town.notifier.drain()

    paused = await status_of(town, hearing)
    assert paused.status is Status.PAUSED
    assert "for a day" in str(paused.reason)
    (notice,) = town.box.letters
    assert (notice.to, notice.subject) == (OPERATOR, "A subscription was paused")
    assert f"The webhook subscription of {receiver.url} was paused" in notice.text
    assert f"PATCH to http://here/v1/subscriptions/{hearing.id}" in notice.text
    assert notice.unsubscribe_url is None


async def test_the_mailbox_of_its_owner_hears_that_a_subscription_was_paused(
    town: Town, receiver: Receiver
) -> None:
    await town.subscribe("ada@example.org", Channel.EMAIL, owner="ada", kinds=("subscription.paused",))
    await town.subscribe("bob@example.org", Channel.EMAIL, owner="bob", kinds=("subscription.paused",))
    await town.subscribe(receiver.url, owner="ada")
    receiver.answer = lambda _: Reply(500)
    await town.happen(owner="ada")
    await town.notifier.drain()
    await town.sql("UPDATE delivery_lanes SET failing_since = now() - interval '25 hours'")
    await town.later()
    await town.notifier.drain()
    await town.notifier.drain()

    told = {letter.to: letter for letter in town.box.letters}
    assert told.keys() == {OPERATOR, "ada@example.org"}
    assert told["ada@example.org"].subject.startswith("Subscription paused: The webhook subscription of")
    assert "It is of ada." in told[OPERATOR].text


async def test_a_success_within_the_day_begins_it_anew(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(500)
    await town.happen()
    await town.notifier.drain()
    receiver.answer = confirming
    await town.later()
    await town.notifier.drain()

    assert await town.sql("SELECT failures, failing_since FROM delivery_lanes") == [(0, None)]
    assert (await status_of(town, hearing)).status is Status.ACTIVE


async def test_resumed_it_gets_what_waited(town: Town, hearing: Subscription, receiver: Receiver) -> None:
    receiver.answer = lambda _: Reply(500)
    await town.happen()
    await town.notifier.drain()
    async with town.database.transaction("local") as tx:
        await subscriptions.pause(tx, "local", hearing.id)
    receiver.answer = confirming
    await town.later()
    await town.notifier.drain()
    assert len(receiver.calls) == 1

    async with town.database.transaction("local") as tx:
        await subscriptions.resume(tx, "local", hearing.id)
    await town.notifier.drain()

    assert [entry.state for entry in await ledger(town, hearing)] == [State.DELIVERED]


async def test_many_workers_share_the_work_and_nothing_is_told_twice(town: Town, receiver: Receiver) -> None:
    for number in range(3):
        await town.subscribe(f"{receiver.url}/{number}")
    for _ in range(20):
        await town.happen()

    await asyncio.gather(*(town.another().drain() for _ in range(4)))
    await town.notifier.drain()

    heard = Counter(call.id for call in receiver.calls)
    assert len(heard) == 20
    assert set(heard.values()) == {3}


async def test_a_dead_workers_lane_is_taken_over_when_its_lease_is_over(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    del hearing
    await town.happen()
    await town.notifier.fan_out_until(1)
    async with town.database.transaction(EVERY_OWNER) as tx:
        (abandoned,) = await deliveries.claim(tx, 10, 30)
    await town.another().drain()
    assert receiver.calls == []

    await town.sql("UPDATE delivery_lanes SET leased_until = now()")
    await town.another().drain()

    assert len(receiver.calls) == 1
    async with town.database.transaction(EVERY_OWNER) as tx:
        assert not await deliveries.hold(tx, abandoned, 30), "who comes back late has lost the lane"


async def test_news_that_come_while_a_lane_is_served_are_not_forgotten(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    del hearing
    await town.happen()
    await town.notifier.fan_out_until(1)
    async with town.database.transaction(EVERY_OWNER) as tx:
        (lane,) = await deliveries.claim(tx, 10, 30)
    await town.happen()
    await town.notifier.fan_out_until(2)
    async with town.database.transaction(EVERY_OWNER) as tx:
        assert await deliveries.hold(tx, lane, 30)
        await deliveries.release(tx, lane, 0)

    await town.notifier.drain()

    assert len(receiver.calls) == 2


async def test_what_a_subscription_that_is_over_waits_for_is_cancelled(
    town: Town, hearing: Subscription
) -> None:
    await town.happen()
    await town.notifier.fan_out_until(1)
    async with town.database.transaction("local") as tx:
        locked = await subscriptions.lock(tx, "local", hearing.id)
        await subscriptions.end(tx, locked, Status.UNSUBSCRIBED, "by link")
    await town.notifier.drain()

    async with town.database.transaction(EVERY_OWNER) as tx:
        assert await deliveries.sweep(tx, 100) == 1

    assert [entry.state for entry in await ledger(town, hearing)] == [State.CANCELLED]


async def test_what_was_settled_a_month_ago_is_forgotten(town: Town, hearing: Subscription) -> None:
    await town.happen()
    await town.notifier.drain()
    await town.sql("UPDATE deliveries SET settled_at = now() - interval '31 days'")

    async with town.database.transaction(EVERY_OWNER) as tx:
        assert await deliveries.sweep(tx, 100) == 1

    assert await ledger(town, hearing) == []


# Confirmations and tests


async def ask(town: Town, subscription: Subscription, kind: ErrandKind) -> None:
    async with town.database.transaction("local") as tx:
        await errands.add(tx, subscription, kind)
    await town.notifier.drain()


async def test_a_webhook_agrees_by_answering_with_the_challenge(town: Town, receiver: Receiver) -> None:
    made = await town.subscribe(receiver.url, confirmed=False)

    await ask(town, made, ErrandKind.CONFIRMATION)

    (call,) = receiver.of("subscription.verification")
    assert call.told["data"]["subscription_id"] == str(made.id)
    assert (await status_of(town, made)).status is Status.ACTIVE


@pytest.mark.parametrize("body", [b"", b"ok", b'{"challenge": "guess"}', b"[1]", b"\xff"])
async def test_any_other_answer_is_no_agreement(town: Town, receiver: Receiver, body: bytes) -> None:
    receiver.answer = lambda _: Reply(body=body)
    made = await town.subscribe(receiver.url, confirmed=False)

    await ask(town, made, ErrandKind.CONFIRMATION)

    assert (await status_of(town, made)).status is Status.PENDING
    (entry,) = await ledger(town, made)
    assert entry.last_error == "the answer was not the challenge"


async def test_a_test_message_says_that_it_is_one(
    town: Town, hearing: Subscription, receiver: Receiver
) -> None:
    await ask(town, hearing, ErrandKind.TEST)

    (call,) = receiver.calls
    assert call.told["type"] == "subscription.test"
    assert call.told["data"]["subscription_id"] == str(hearing.id)
    assert call.told["data"]["unsubscribe_url"].startswith(
        "http://here/v1/subscriptions/unsubscribe?token=u."
    )
    assert UUID(call.id)


async def test_an_address_that_became_private_is_not_called(town: Town) -> None:
    guarded = await town.subscribe("ftp://127.0.0.1/hook")
    await town.happen()

    await town.notifier.drain()

    (entry,) = await ledger(town, guarded)
    assert "complete URL" in str(entry.last_error)


# Mails


async def test_a_burst_is_one_mail_and_then_there_is_peace(town: Town) -> None:
    await town.subscribe("ada@example.org", Channel.EMAIL)
    await town.happen()
    await town.notifier.drain()
    rest = await town.sql("SELECT extract(epoch FROM not_before - mailed_at)::int FROM delivery_lanes")
    assert rest == [(MAIL_REST_SECONDS[1],)]
    await town.sql(
        "UPDATE delivery_lanes SET not_before = now() + interval '1 hour'"
    )  # a burst takes its time
    async with town.database.transaction(EVERY_OWNER) as tx:
        for _ in range(1000):
            await events.add(tx, Kind.UPLOADED, image())
    await town.notifier.drain()
    assert len(town.box.letters) == 1

    for _ in range(3):
        await town.later()
        await town.notifier.drain()

    first, *folded = town.box.letters
    assert first.subject == "Image uploaded: Rome.JPG"
    assert [letter.subject for letter in folded] == ["500 images uploaded", "500 images uploaded"]
    assert "And 480 more." in folded[0].text


async def test_a_digest_waits_for_its_hour(town: Town) -> None:
    hourly = await town.subscribe("ada@example.org", Channel.EMAIL, mode=Mode.HOURLY)
    daily = await town.subscribe("bob@example.org", Channel.EMAIL, mode=Mode.DAILY)
    for _ in range(3):
        await town.happen()
    await town.notifier.drain()

    assert town.box.letters == []
    rows: dict[UUID, Any] = dict(
        await town.sql(
            "SELECT subscription_id, max(next_attempt_at) FROM deliveries GROUP BY subscription_id"
        )
    )
    ((now,),) = await town.sql("SELECT now()")
    assert (rows[hourly.id] - now).total_seconds() <= 3600
    assert (rows[hourly.id].minute, rows[daily.id].hour, rows[daily.id].minute) == (0, 6, 0)
    assert (rows[daily.id] - now).total_seconds() <= 86400

    await town.later()
    await town.notifier.drain()
    assert sorted(letter.to for letter in town.box.letters) == ["ada@example.org", "bob@example.org"]


async def test_a_mail_that_may_have_been_sent_is_sent_again_as_the_same_mail(town: Town) -> None:
    await town.subscribe("ada@example.org", Channel.EMAIL)
    for _ in range(3):
        await town.happen()
    town.box.refusal = NotTaken("the answer was lost")
    await town.notifier.drain()
    town.box.refusal = None
    await town.happen()
    await town.later()
    await town.notifier.drain()
    await town.later()
    await town.notifier.drain()

    lost, again, rest = town.box.letters
    assert lost.message_id == again.message_id != rest.message_id
    assert (again.subject, rest.subject) == ("3 images uploaded", "Image uploaded: Rome.JPG")


async def test_a_mailbox_that_does_not_exist_is_left_alone(town: Town) -> None:
    nobody = await town.subscribe("nobody@example.org", Channel.EMAIL)
    town.box.refusal = NotTaken("the mail server refused the address (550)", status=550, for_ever=True)
    await town.happen()

    await town.notifier.drain()

    assert (await status_of(town, nobody)).status is Status.PAUSED
    (entry,) = await ledger(town, nobody)
    assert (entry.state, entry.last_status) == (State.DEAD, 550)


async def test_a_mailbox_that_agreed_with_many_owners_is_not_flooded(town: Town) -> None:
    owners = [f"owner-{number}" for number in range(AT_ONCE + 2)]
    for number, owner in enumerate(owners):
        await town.subscribe(f"Ada+{number}@example.org", Channel.EMAIL, owner=owner)
        await town.happen(owner=owner)

    await town.notifier.drain()
    assert len(town.box.letters) == AT_ONCE
    rests = await town.sql(
        "SELECT extract(epoch FROM due_at - now())::float FROM delivery_lanes WHERE due_at > now()"
    )
    assert len(rests) == 2
    assert all(590 < rest <= EVERY.total_seconds() for (rest,) in rests)

    await town.later()
    await town.notifier.drain()
    assert len(town.box.letters) == AT_ONCE, "the mailbox is still full"
    await town.sql("UPDATE mailboxes SET empty_at = empty_at - interval '20 minutes'")
    await town.later()
    await town.notifier.drain()
    assert len(town.box.letters) == len(owners), "and nothing is lost"


async def test_a_mail_that_did_not_go_out_does_not_count(town: Town) -> None:
    await town.subscribe("ada@example.org", Channel.EMAIL)
    await town.happen()
    town.box.refusal = NotTaken("the mail server could not be used")
    await town.notifier.drain()

    assert await town.sql("SELECT empty_at <= now() FROM mailboxes") == [(True,)]


async def test_a_mail_asks_to_confirm_with_a_link_and_no_way_to_leave(town: Town) -> None:
    made = await town.subscribe("ada@example.org", Channel.EMAIL, confirmed=False)

    await ask(town, made, ErrandKind.CONFIRMATION)

    (letter,) = town.box.letters
    assert "http://here/v1/subscriptions/confirm?token=c." in letter.text
    assert letter.unsubscribe_url is None
