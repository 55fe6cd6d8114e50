"""Subscriptions at SNS: against moto's server, and against one that has addresses agree first."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from aws import Topic
from strict_sns import StrictSns
from tintype.messaging.sns_subscriptions import NOTHING, SnsSubscriptions
from tintype.model.errors import AddressRefused, CodeInvalid, MessagingUnavailable, SubscriptionExists
from tintype.model.subscription import Channel
from tintype.settings import EventsSettings

POLICY = {"ext": ["png"], "owner": ["anna"]}
MAIL = "anna@example.org"
QUEUE = "arn:aws:sqs:us-east-1:123456789012:images"


@pytest.fixture
def sns(strict_sns: StrictSns) -> Iterator[SnsSubscriptions]:
    subscriptions = SnsSubscriptions(strict_sns.settings)
    yield subscriptions
    subscriptions.close()


@pytest.fixture
def moto_sns(topic: Topic) -> Iterator[SnsSubscriptions]:
    subscriptions = SnsSubscriptions(topic.settings)
    yield subscriptions
    subscriptions.close()


async def test_a_topic_is_needed() -> None:
    with pytest.raises(ValueError, match="TINTYPE_EVENTS__TOPIC_ARN"):
        SnsSubscriptions(EventsSettings())


async def test_a_queue_hears_what_its_policy_matches(moto_sns: SnsSubscriptions, topic: Topic) -> None:
    url = topic.sqs.create_queue(QueueName=f"queue-{uuid4()}")["QueueUrl"]
    arn = topic.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    known = await moto_sns.subscribe(Channel.SQS, arn, POLICY)
    assert not known.pending
    assert await moto_sns.confirmed() == {known.arn}

    def heard() -> int:
        for ext in ("png", "jpg"):
            topic.sns.publish(
                TopicArn=topic.arn,
                Message=ext,
                MessageAttributes={
                    "ext": {"DataType": "String", "StringValue": ext},
                    "owner": {"DataType": "String", "StringValue": "anna"},
                },
            )
        return len(topic.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []))

    assert heard() == 1
    assert await moto_sns.restrict(known.arn, NOTHING)
    assert heard() == 0
    await moto_sns.unsubscribe(known.arn)
    assert await moto_sns.look(known.arn) is None
    assert not await moto_sns.restrict(known.arn, POLICY)
    await moto_sns.unsubscribe(known.arn)


async def test_what_sns_calls_invalid_is_refused_with_its_reason(moto_sns: SnsSubscriptions) -> None:
    with pytest.raises(AddressRefused, match="Invalid SMS endpoint"):
        await moto_sns.subscribe(Channel.SMS, "no number", POLICY)


async def test_a_mail_address_is_pending_until_it_agrees(
    sns: SnsSubscriptions, strict_sns: StrictSns
) -> None:
    known = await sns.subscribe(Channel.EMAIL, MAIL, POLICY)
    assert known.pending
    assert strict_sns.of(MAIL).policy == POLICY
    assert strict_sns.calls[0]["ReturnSubscriptionArn"] == "true"
    assert await sns.confirmed() == set()

    assert (await sns.subscribe(Channel.EMAIL, MAIL, POLICY)).arn == known.arn
    assert strict_sns.of(MAIL).asked == 2

    strict_sns.click(MAIL)
    looked = await sns.look(known.arn)
    assert looked is not None
    assert not looked.pending
    assert await sns.confirmed() == {known.arn}


async def test_the_token_of_the_mail_agrees_and_only_we_end_it_then(
    sns: SnsSubscriptions, strict_sns: StrictSns
) -> None:
    known = await sns.subscribe(Channel.EMAIL, MAIL, POLICY)
    token = strict_sns.of(MAIL).token
    link = f"https://sns.eu-central-1.amazonaws.com/confirmation.html?TopicArn=x&Token={token}&Endpoint=y"
    assert await sns.confirm(link) == known.arn
    assert strict_sns.of(MAIL).authenticated

    with pytest.raises(CodeInvalid, match="does not take the token"):
        await sns.confirm("0" * 64)
    with pytest.raises(CodeInvalid, match="has a link"):
        await sns.confirm("please")


async def test_a_pending_address_with_another_policy_is_taken_over_and_a_confirmed_one_is_not(
    sns: SnsSubscriptions, strict_sns: StrictSns
) -> None:
    first = await sns.subscribe(Channel.EMAIL, MAIL, {"owner": ["bert"]})
    again = await sns.subscribe(Channel.EMAIL, MAIL, POLICY)
    assert (again.arn, again.pending) == (first.arn, True)
    assert strict_sns.of(MAIL).policy == POLICY

    strict_sns.click(MAIL)
    with pytest.raises(SubscriptionExists):
        await sns.subscribe(Channel.EMAIL, MAIL, {"owner": ["bert"]})
    assert strict_sns.of(MAIL).policy == POLICY


async def test_a_pending_address_that_is_given_up_hears_nothing_should_it_agree(
    sns: SnsSubscriptions, strict_sns: StrictSns
) -> None:
    known = await sns.subscribe(Channel.EMAIL, MAIL, POLICY)
    await sns.unsubscribe(known.arn)
    assert strict_sns.of(MAIL).policy == NOTHING


async def test_every_page_of_the_list_is_read(sns: SnsSubscriptions, strict_sns: StrictSns) -> None:
    arns = {(await sns.subscribe(Channel.SQS, f"{QUEUE}-{number}", POLICY)).arn for number in range(5)}
    strict_sns.calls.clear()
    assert await sns.confirmed() == arns
    assert strict_sns.actions() == ["ListSubscriptionsByTopic"] * 3


async def test_throttled_calls_are_repeated_and_then_given_up(
    sns: SnsSubscriptions, strict_sns: StrictSns
) -> None:
    failures = [(400, "Throttling", "Rate exceeded")]
    strict_sns.refuse = lambda _call: failures.pop() if failures else None
    assert (await sns.subscribe(Channel.EMAIL, MAIL, POLICY)).pending

    strict_sns.refuse = lambda _call: (403, "AuthorizationError", "not allowed")
    with pytest.raises(MessagingUnavailable, match="AuthorizationError"):
        await sns.confirmed()
    strict_sns.refuse = lambda _call: (403, "FilterPolicyLimitExceeded", "too many")
    with pytest.raises(MessagingUnavailable, match="200 unless AWS has raised"):
        await sns.subscribe(Channel.SQS, QUEUE, POLICY)


async def test_an_sns_that_is_down_is_unavailable(aws_credentials: None) -> None:  # noqa: ARG001 # sets the environment
    settings = EventsSettings(topic_arn="arn:aws:sns:us-east-1:1:t", endpoint="http://127.0.0.1:9")
    subscriptions = SnsSubscriptions(settings)
    with pytest.raises(MessagingUnavailable):
        await subscriptions.look("arn:aws:sns:us-east-1:1:t:x")
    subscriptions.close()


async def test_a_text_goes_to_one_phone(sns: SnsSubscriptions, strict_sns: StrictSns) -> None:
    await sns.send_text("+4915112345678", "Your code: 123456")
    assert strict_sns.texts == [("+4915112345678", "Your code: 123456")]
