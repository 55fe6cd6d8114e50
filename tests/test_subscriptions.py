"""Subscriptions on a real database: who agrees to what, and what SNS is told of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from strict_sns import StrictSns
from tintype.catalogue import errands, events, subscriptions
from tintype.catalogue.confirmations import MAX_ASKED
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.catalogue.errands import Errand, ErrandKind
from tintype.messaging.sns_subscriptions import NOTHING, SnsSubscriptions
from tintype.model.errors import (
    AddressAskedOften,
    AddressRefused,
    ChannelUnavailable,
    CodeInvalid,
    PolicyInvalid,
    SubscriptionExists,
    SubscriptionNotFound,
    SubscriptionState,
    TicketExpired,
    TicketInvalid,
    TicketUsed,
)
from tintype.model.event import Kind
from tintype.model.subscription import Channel, Mode, Provider, Status, Subscription
from tintype.model.subscription_links import confirm_url, confirmation_code, unsubscribe_url
from tintype.subscriptions import MAX_CODE_ATTEMPTS, Change, InStep, Subscriptions, Wanted

LOCAL = {
    Channel.EMAIL: Provider.TINTYPE,
    Channel.SMS: Provider.TINTYPE,
    Channel.WEBHOOK: Provider.TINTYPE,
}
ON_AWS = {**LOCAL, Channel.EMAIL: Provider.SNS, Channel.SMS: Provider.SNS, Channel.SQS: Provider.SNS}
QUEUE = "arn:aws:sqs:eu-central-1:123456789012:images"
PHONE = "+4915112345678"


async def anywhere(_url: str) -> None:
    """Every address will do."""


async def nowhere(_url: str) -> None:
    raise AddressRefused("not there")


@pytest.fixture
async def local(database: Database) -> Subscriptions:
    return await Subscriptions.open(database, LOCAL, anywhere, None)


@pytest.fixture
async def on_aws(database: Database, strict_sns: StrictSns) -> AsyncIterator[Subscriptions]:
    sns = SnsSubscriptions(strict_sns.settings)
    yield await Subscriptions.open(database, ON_AWS, anywhere, sns)
    sns.close()


def by_mail(address: str = "anna@example.org", mode: Mode = Mode.AT_ONCE) -> Wanted:
    return Wanted(Channel.EMAIL, address, {"ext": ["png"]}, ("image.uploaded",), mode)


def wanted(channel: Channel, address: str) -> Wanted:
    return Wanted(channel, address, {}, (), Mode.AT_ONCE)


def token_of(url: str) -> str:
    return url.partition("token=")[2]


def link(use: Subscriptions, subscription: Subscription) -> str:
    return token_of(confirm_url(use.secret, "", subscription))


def way_out(use: Subscriptions, subscription: Subscription) -> str:
    return token_of(unsubscribe_url(use.secret, "", subscription))


async def promised(database: Database) -> list[Errand]:
    async with database.transaction(EVERY_OWNER) as tx:
        return await errands.claim(tx, 100)


async def confirmed(use: Subscriptions, made: Subscription) -> Subscription:
    return await use.confirm_by_link(link(use, made))


async def round_of(use: Subscriptions) -> None:
    await InStep(use.database, use.sns).round()


async def older(database: Database, subscription: Subscription, age: timedelta) -> Subscription:
    """Have the confirmation been asked for so long ago."""
    async with database.transaction(EVERY_OWNER) as tx:
        await tx.execute(
            "UPDATE subscriptions SET asked_at = asked_at - %s WHERE id = %s", [age, subscription.id]
        )
    return replace(subscription, asked_at=subscription.asked_at - age)


async def test_an_address_is_told_nothing_before_it_agrees(local: Subscriptions, database: Database) -> None:
    made = await local.create("anna", by_mail())
    assert (made.status, made.provider) == (Status.PENDING, Provider.TINTYPE)
    assert [(each.kind, each.subscription_id) for each in await promised(database)] == [
        (ErrandKind.CONFIRMATION, made.id)
    ]
    async with database.reading("anna") as tx:
        assert await subscriptions.listeners(tx, "anna") == []

    agreed = await confirmed(local, made)
    assert agreed.status is Status.ACTIVE
    assert agreed.confirmed_at is not None
    async with database.reading("anna") as tx:
        assert await subscriptions.listeners(tx, "anna") == [agreed]
        (event,) = await events.page(tx, "anna", 0, 10)
    assert (event.kind, event.payload["subscription_id"]) == (Kind.SUBSCRIPTION_CONFIRMED, str(made.id))


async def test_a_link_confirms_once(local: Subscriptions) -> None:
    made = await local.create("anna", by_mail())
    await confirmed(local, made)
    with pytest.raises(TicketUsed, match="nothing left to do"):
        await confirmed(local, made)


async def test_two_who_follow_a_link_at_once_confirm_once(local: Subscriptions, database: Database) -> None:
    made = await local.create("anna", by_mail())
    outcomes = await asyncio.gather(*(confirmed(local, made) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, Subscription) for each in outcomes) == 1
    assert {type(each) for each in outcomes} <= {Subscription, TicketUsed}
    async with database.reading("anna") as tx:
        assert len(await events.page(tx, "anna", 0, 10)) == 1


async def test_a_link_ends_after_two_days_and_with_a_newer_one(
    local: Subscriptions, database: Database
) -> None:
    made = await local.create("anna", by_mail())
    again = await local.ask_again("anna", made.id)
    with pytest.raises(TicketExpired, match="newer message"):
        await confirmed(local, made)

    old = await older(database, again, timedelta(hours=49))
    with pytest.raises(TicketExpired, match="48 hours"):
        await confirmed(local, old)
    await round_of(local)
    assert (await local.find("anna", made.id)).status is Status.EXPIRED
    with pytest.raises(TicketExpired):
        await confirmed(local, again)


async def test_a_link_that_is_not_ours_does_nothing(local: Subscriptions) -> None:
    made = await local.create("anna", by_mail())
    good = link(local, made)
    for text in (
        "",
        ".",
        good[:-1],
        good + "x",
        "u" + good[1:],
        good.replace(made.id.hex, uuid4().hex),
        good.upper(),
    ):
        with pytest.raises(TicketInvalid):
            await local.confirm_by_link(text)
    with pytest.raises(TicketInvalid):
        await local.confirm_by_link(way_out(local, made))
    with pytest.raises(TicketInvalid):
        await local.unsubscribe_by_link(good)
    assert (await local.find("anna", made.id)).status is Status.PENDING


async def test_whoever_leaves_has_left_however_often(local: Subscriptions) -> None:
    made = await confirmed(local, await local.create("anna", by_mail()))
    for _ in range(2):
        await local.unsubscribe_by_link(way_out(local, made))
    left = await local.find("anna", made.id)
    assert (left.status, left.reason) == (Status.UNSUBSCRIBED, "The receiver unsubscribed.")
    with pytest.raises(SubscriptionState):
        await local.change("anna", made.id, Change(paused=False))
    with pytest.raises(TicketUsed, match="given up"):
        await confirmed(local, made)

    anew = await local.create("anna", by_mail())
    assert anew.status is Status.PENDING
    await local.remove("anna", made.id)
    await local.unsubscribe_by_link(way_out(local, made))


async def test_an_address_has_one_subscription_of_an_owner_however_it_is_written(
    local: Subscriptions,
) -> None:
    await local.create("anna", by_mail("Anna@Example.org"))
    with pytest.raises(SubscriptionExists):
        await local.create("anna", by_mail("anna@EXAMPLE.org"))
    await local.create("bert", by_mail("anna@example.org"))
    await local.create("anna", wanted(Channel.SMS, "+49 151 1234-5678"))
    with pytest.raises(SubscriptionExists):
        await local.create("anna", wanted(Channel.SMS, PHONE))


async def test_nobody_can_have_an_address_asked_all_day(local: Subscriptions) -> None:
    made = await local.create("anna", by_mail("anna@example.org"))
    for _ in range(MAX_ASKED - 2):
        await local.ask_again("anna", made.id)
    await local.create("bert", by_mail("anna+list@example.org"))
    with pytest.raises(AddressAskedOften) as refused:
        await local.create("carl", by_mail("Anna+other@example.org"))
    assert 0 < (refused.value.retry_after or 0) <= 24 * 3600
    with pytest.raises(AddressAskedOften):
        await local.ask_again("anna", made.id)
    assert await local.page("carl", None, 10) == []
    await local.create("carl", by_mail("carl@example.org"))


async def test_a_phone_agrees_by_its_code_and_codes_cannot_be_guessed(local: Subscriptions) -> None:
    made = await local.create("anna", wanted(Channel.SMS, PHONE))
    code = confirmation_code(local.secret, made)
    assert len(code) == 6
    assert code.isdigit()
    wrong = f"{(int(code) + 1) % 10**6:06}"
    for _ in range(MAX_CODE_ATTEMPTS):
        with pytest.raises(CodeInvalid, match="not the code"):
            await local.confirm_by_code("anna", made.id, wrong)
    with pytest.raises(CodeInvalid, match="too often"):
        await local.confirm_by_code("anna", made.id, code)

    again = await local.ask_again("anna", made.id)
    newer = confirmation_code(local.secret, again)
    assert newer != code
    assert (await local.confirm_by_code("anna", made.id, f" {newer} ")).status is Status.ACTIVE
    with pytest.raises(SubscriptionState):
        await local.confirm_by_code("anna", made.id, newer)


async def test_a_webhook_has_a_secret_and_two_for_a_day_after_a_rotation(local: Subscriptions) -> None:
    made = await local.create("anna", wanted(Channel.WEBHOOK, "https://example.org/hook"))
    (first,) = made.secrets
    rotated = await local.rotate_secret("anna", made.id)
    assert rotated.secrets[1] == first
    assert len({*rotated.secrets}) == 2
    challenge = confirmation_code(local.secret, rotated)
    assert len(challenge) > 40
    assert (await local.confirm_by_code("anna", made.id, challenge)).status is Status.ACTIVE
    with pytest.raises(SubscriptionState, match="Only webhooks"):
        await local.rotate_secret("anna", (await local.create("anna", by_mail())).id)


async def test_a_webhook_that_leads_inside_is_refused(database: Database) -> None:
    use = await Subscriptions.open(database, LOCAL, nowhere, None)
    with pytest.raises(AddressRefused):
        await use.create("anna", wanted(Channel.WEBHOOK, "https://example.org/hook"))
    assert await use.page("anna", None, 10) == []


async def test_what_the_service_cannot_do_is_refused(local: Subscriptions) -> None:
    with pytest.raises(ChannelUnavailable, match="SNS topic"):
        await local.create("anna", wanted(Channel.SQS, QUEUE))
    with pytest.raises(PolicyInvalid):
        await local.create("anna", replace(by_mail(), filter={"colour": ["red"]}))


async def test_a_subscription_is_paused_resumed_and_changed(local: Subscriptions, database: Database) -> None:
    made = await local.create("anna", by_mail())
    with pytest.raises(SubscriptionState):
        await local.change("anna", made.id, Change(paused=True))
    await confirmed(local, made)
    paused = await local.change("anna", made.id, Change(paused=True))
    assert paused.status is Status.PAUSED
    async with database.reading("anna") as tx:
        assert await subscriptions.listeners(tx, "anna") == []
    changed = await local.change(
        "anna", made.id, Change(paused=False, filter={"ext": ["gif"]}, kinds=(), mode=Mode.DAILY)
    )
    assert (changed.status, changed.filter, changed.kinds, changed.mode) == (
        Status.ACTIVE,
        {"ext": ["gif"]},
        (),
        Mode.DAILY,
    )
    assert changed.policy == {"ext": ["gif"], "owner": ["anna"]}
    with pytest.raises(PolicyInvalid):
        await local.change("anna", made.id, Change(filter={"ext": ["GIF"]}))
    assert await local.change("anna", made.id, Change()) == changed


async def test_an_owner_reaches_no_other_s_subscription(local: Subscriptions) -> None:
    made = await confirmed(local, await local.create("anna", by_mail()))
    for act in (
        local.find("bert", made.id),
        local.change("bert", made.id, Change(paused=True)),
        local.remove("bert", made.id),
        local.ask_again("bert", made.id),
        local.confirm_by_code("bert", made.id, "1"),
        local.test("bert", made.id),
        local.replay("bert", made.id, after=0, since=None),
        local.rotate_secret("bert", made.id),
    ):
        with pytest.raises(SubscriptionNotFound):
            await act
    assert await local.page("bert", None, 10) == []
    assert await local.find("anna", made.id) == made


async def test_tests_and_replays_are_promised_once_until_they_begin(
    local: Subscriptions, database: Database
) -> None:
    made = await local.create("anna", by_mail())
    with pytest.raises(SubscriptionState):
        await local.test("anna", made.id)
    await confirmed(local, made)
    await local.test("anna", made.id)
    with pytest.raises(SubscriptionState, match="on its way"):
        await local.test("anna", made.id)

    after, until = await local.replay(
        "anna", made.id, after=None, since=datetime.now(UTC) + timedelta(hours=1)
    )
    assert after == until > 0
    with pytest.raises(SubscriptionState, match="already"):
        await local.replay("anna", made.id, after=0, since=None)
    tasks = {each.kind: each.detail for each in await promised(database)}
    assert tasks[ErrandKind.REPLAY] == {"after": after, "until": until}
    async with database.transaction(EVERY_OWNER) as tx:
        await errands.done(tx, [each.id for each in await errands.claim(tx, 100)])
    assert await local.replay("anna", made.id, after=0, since=None) == (0, until)


async def test_pages_are_the_newest_first(local: Subscriptions) -> None:
    made = [await local.create("anna", by_mail(f"{number}@example.org")) for number in range(5)]
    first = await local.page("anna", None, 3)
    second = await local.page("anna", first[-1].id, 3)
    assert [each.id for each in first + second] == [each.id for each in reversed(made)]


# At SNS


async def test_sns_asks_a_mail_address_and_we_learn_that_it_agreed(
    on_aws: Subscriptions, strict_sns: StrictSns, database: Database
) -> None:
    made = await on_aws.create("anna", by_mail())
    assert (made.status, made.provider, made.sns_in_step) == (Status.PENDING, Provider.SNS, True)
    listener = strict_sns.of("anna@example.org")
    assert listener.policy == {"ext": ["png"], "owner": ["anna"], "kind": ["image.uploaded"]}
    assert await promised(database) == []

    await on_aws.ask_again("anna", made.id)
    assert listener.asked == 2
    await round_of(on_aws)
    assert (await on_aws.find("anna", made.id)).status is Status.PENDING
    strict_sns.click("anna@example.org")
    await round_of(on_aws)
    assert (await on_aws.find("anna", made.id)).status is Status.ACTIVE
    async with database.reading("anna") as tx:
        assert await subscriptions.listeners(tx, "anna") == []  # SNS tells it, never we
        (event,) = await events.page(tx, "anna", 0, 10)
    assert event.kind is Kind.SUBSCRIPTION_CONFIRMED


async def test_the_link_of_sns_s_mail_confirms_through_us(
    on_aws: Subscriptions, strict_sns: StrictSns
) -> None:
    made = await on_aws.create("anna", by_mail())
    await on_aws.create("anna", by_mail("bert@example.org"))
    with pytest.raises(CodeInvalid, match="another subscription"):
        await on_aws.confirm_by_code("anna", made.id, strict_sns.of("bert@example.org").token)
    agreed = await on_aws.confirm_by_code("anna", made.id, strict_sns.of("anna@example.org").token)
    assert agreed.status is Status.ACTIVE
    assert strict_sns.of("anna@example.org").authenticated


async def test_who_leaves_at_sns_has_left_here(on_aws: Subscriptions, strict_sns: StrictSns) -> None:
    made = await on_aws.create("anna", by_mail())
    strict_sns.click("anna@example.org")
    await round_of(on_aws)
    strict_sns.leave("anna@example.org")
    await round_of(on_aws)
    left = await on_aws.find("anna", made.id)
    assert (left.status, left.reason) == (Status.UNSUBSCRIBED, "The receiver unsubscribed at SNS.")


async def test_a_queue_agrees_at_once_and_a_phone_by_its_code_first(
    on_aws: Subscriptions, strict_sns: StrictSns, database: Database
) -> None:
    queue = await on_aws.create("anna", wanted(Channel.SQS, QUEUE))
    assert queue.status is Status.ACTIVE
    phone = await on_aws.create("anna", wanted(Channel.SMS, PHONE))
    assert phone.status is Status.PENDING
    assert {each.protocol for each in strict_sns.listeners.values()} == {"sqs"}
    assert [each.subscription_id for each in await promised(database)] == [phone.id]

    await on_aws.confirm_by_code("anna", phone.id, confirmation_code(on_aws.secret, phone))
    assert strict_sns.of(PHONE).policy == {"owner": ["anna"]}
    await round_of(on_aws)
    assert strict_sns.of(QUEUE).policy == {"owner": ["anna"]}


async def test_sns_is_told_of_changes_pauses_and_ends(on_aws: Subscriptions, strict_sns: StrictSns) -> None:
    made = await on_aws.create("anna", wanted(Channel.SQS, QUEUE))
    await on_aws.change("anna", made.id, Change(filter={"ext": ["gif"]}))
    assert strict_sns.of(QUEUE).policy == {"ext": ["gif"], "owner": ["anna"]}
    await on_aws.change("anna", made.id, Change(paused=True))
    assert strict_sns.of(QUEUE).policy == NOTHING
    await on_aws.change("anna", made.id, Change(paused=False))
    assert strict_sns.of(QUEUE).policy == {"ext": ["gif"], "owner": ["anna"]}
    await on_aws.remove("anna", made.id)
    assert strict_sns.listeners == {}
    with pytest.raises(SubscriptionNotFound):
        await on_aws.find("anna", made.id)
    await on_aws.create("bert", wanted(Channel.SQS, QUEUE))


async def test_what_sns_could_not_be_told_it_is_told_later(
    on_aws: Subscriptions, strict_sns: StrictSns, database: Database
) -> None:
    strict_sns.refuse = lambda _call: (403, "AuthorizationError", "not now")
    made = await on_aws.create("anna", by_mail())
    gone = await on_aws.create("anna", by_mail("bert@example.org"))
    await on_aws.remove("anna", gone.id)
    assert (made.status, made.sns_in_step, strict_sns.listeners) == (Status.PENDING, False, {})
    with suppress(Exception):
        await round_of(on_aws)

    strict_sns.refuse = lambda _call: None
    await round_of(on_aws)
    assert [each.endpoint for each in strict_sns.listeners.values()] == ["anna@example.org"]
    async with database.reading(EVERY_OWNER) as tx:
        assert await subscriptions.out_of_step(tx, 10) == []
        assert [each.id for each in await subscriptions.at_sns(tx, None, 10)] == [made.id]


async def test_an_address_that_sns_refuses_leaves_nothing_behind(
    on_aws: Subscriptions, strict_sns: StrictSns
) -> None:
    strict_sns.refuse = lambda _call: (400, "InvalidParameter", "Invalid parameter: Endpoint")
    with pytest.raises(AddressRefused, match="Endpoint"):
        await on_aws.create("anna", by_mail())
    assert await on_aws.page("anna", None, 10) == []


async def test_sns_knows_an_address_once_whoever_s_it_is(on_aws: Subscriptions) -> None:
    await on_aws.create("anna", by_mail())
    with pytest.raises(SubscriptionExists):
        await on_aws.create("bert", by_mail())


async def test_sns_sends_no_digests_tests_or_replays(on_aws: Subscriptions) -> None:
    with pytest.raises(ChannelUnavailable, match="Digests"):
        await on_aws.create("anna", by_mail(mode=Mode.DAILY))
    made = await on_aws.create("anna", wanted(Channel.SQS, QUEUE))
    for act in (on_aws.test("anna", made.id), on_aws.replay("anna", made.id, after=0, since=None)):
        with pytest.raises(ChannelUnavailable, match="alike"):
            await act
    with pytest.raises(ChannelUnavailable, match="Digests"):
        await on_aws.change("anna", made.id, Change(mode=Mode.HOURLY))


async def test_what_nobody_confirms_at_sns_is_over_after_two_days(
    on_aws: Subscriptions, strict_sns: StrictSns, database: Database
) -> None:
    made = await on_aws.create("anna", by_mail())
    await older(database, made, timedelta(hours=49))
    await round_of(on_aws)
    assert (await on_aws.find("anna", made.id)).status is Status.EXPIRED
    assert strict_sns.of("anna@example.org").policy == NOTHING  # should it still agree
    await on_aws.create("bert", by_mail())
