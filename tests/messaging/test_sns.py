"""Publishing to SNS: what filters and subscribers see, and what happens when it does not work."""

import json
import threading
from dataclasses import replace

import pytest
from pydantic import ValidationError

from aws import Topic
from happenings import message, messages
from scripted_sns import ScriptedSns, failure
from tintype.messaging.sns import CALLS_AT_ONCE, MAX_BATCH_BYTES, SnsPublisher
from tintype.model.event import Kind
from tintype.model.ids import new_id
from tintype.model.image import Facts, Format
from tintype.settings import EventsSettings

ARN = "arn:aws:sns:eu-west-1:123456789012:images"


def publisher(scripted: ScriptedSns, timeout: float = 30) -> SnsPublisher:
    return SnsPublisher(EventsSettings(topic_arn=ARN, endpoint=scripted.url, publish_timeout_seconds=timeout))


async def test_a_queue_receives_the_subject_the_body_and_the_attributes(topic: Topic) -> None:
    queue = topic.subscribe()
    told = message(3, tags=("travel", "Rome"))

    await SnsPublisher(topic.settings).publish([told])

    (notification,) = queue.notifications()
    assert notification["Subject"] == "Image uploaded: Rome.JPG"
    assert notification["Message"] == told.default
    assert notification["MessageAttributes"] == {
        "kind": {"Type": "String", "Value": "image.uploaded"},
        "ext": {"Type": "String", "Value": "jpg"},
        "content_type": {"Type": "String", "Value": "image/jpeg"},
        "bytes": {"Type": "Number", "Value": "2345678"},
        "width": {"Type": "Number", "Value": "4000"},
        "height": {"Type": "Number", "Value": "3000"},
        "tags": {"Type": "String.Array", "Value": '["travel","Rome"]'},
        "owner": {"Type": "String", "Value": "local"},
    }


async def test_raw_delivery_gives_the_bare_body_and_no_more_attributes_than_a_queue_takes(
    topic: Topic,
) -> None:
    queue = topic.subscribe(raw=True)
    told = message()

    await SnsPublisher(topic.settings).publish([told])

    (received,) = queue.receive()
    assert received.get("Body") == told.default
    assert 0 < len(received.get("MessageAttributes", {})) <= 10


@pytest.mark.parametrize(
    "policy",
    [
        {"ext": ["png"]},
        {"kind": [{"prefix": "image.del"}]},
        {"tags": ["cat"]},
        {"tags": [{"exists": True}], "owner": ["zoo"]},
        {"bytes": [{"numeric": ["<", 1000]}]},
        {"width": [{"numeric": [">=", 100, "<=", 200]}], "height": [{"numeric": ["=", 80]}]},
        {"content_type": [{"anything-but": ["image/jpeg"]}]},
    ],
)
async def test_a_filter_policy_selects_by_each_attribute(topic: Topic, policy: dict[str, object]) -> None:
    queue = topic.subscribe(policy)
    wanted = message(
        2,
        Kind.DELETED,
        filename="cat.png",
        extension="png",
        owner="zoo",
        tags=("animal", "cat"),
        size=999,
        facts=Facts(Format.PNG, width=120, height=80),
    )

    await SnsPublisher(topic.settings).publish([message(1, tags=()), wanted, message(3, tags=("dog",))])

    assert [json.loads(each["Message"])["position"] for each in queue.notifications()] == [2]


async def test_an_image_without_tags_is_found_by_their_absence(topic: Topic) -> None:
    queue = topic.subscribe({"tags": [{"exists": False}]})

    await SnsPublisher(topic.settings).publish([message(1, tags=()), message(2)])

    assert [json.loads(each["Message"])["position"] for each in queue.notifications()] == [1]


async def test_each_protocol_gets_its_own_words_and_machines_the_default(scripted: ScriptedSns) -> None:
    told = message()

    await publisher(scripted).publish([told])

    assert scripted.message() == {"default": told.default, "email": told.email, "sms": told.sms}
    assert scripted.calls[0]["PublishBatchRequestEntries.member.1.MessageStructure"] == "json"
    assert scripted.calls[0]["TopicArn"] == ARN


async def test_ten_travel_in_one_call(scripted: ScriptedSns) -> None:
    await publisher(scripted).publish(messages(25))

    assert sorted(len(scripted.entries(call)) for call in range(len(scripted.calls))) == [5, 10, 10]


async def test_long_messages_travel_in_calls_that_sns_accepts(scripted: ScriptedSns) -> None:
    long = [replace(each, default=json.dumps("é" * 30_000, ensure_ascii=False)) for each in messages(10)]

    report = await publisher(scripted).publish(long)

    assert report.taken == set(range(1, 11))
    assert sorted(len(scripted.entries(call)) for call in range(len(scripted.calls))) == [2, 4, 4]
    for call in scripted.calls:
        assert sum(len(text.encode()) for name, text in call.items() if "member" in name) < 262_144
    assert MAX_BATCH_BYTES < 262_144


async def test_a_number_beyond_what_policies_compare_becomes_the_largest_they_do(
    scripted: ScriptedSns,
) -> None:
    await publisher(scripted).publish([message(size=7 * 10**9)])

    (call,) = scripted.calls
    assert "1000000000" in call.values()


async def test_a_batch_that_fails_for_one_message_is_sent_again_one_by_one(scripted: ScriptedSns) -> None:
    def answer(ids: list[str]) -> tuple[int, str] | None:
        return failure(400, "InvalidParameter", "Invalid parameter: Subject") if "3" in ids else None

    scripted.answer = answer

    report = await publisher(scripted).publish(messages(5))

    assert report.taken == {1, 2, 4, 5}
    assert report.refused == {3: "InvalidParameter: Invalid parameter: Subject"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (failure(403, "AuthorizationError", "not allowed"), "AuthorizationError: not allowed"),
        (failure(404, "NotFound", "Topic does not exist"), "NotFound: Topic does not exist"),
        (failure(400, "Throttled", "Rate exceeded"), "Throttled: Rate exceeded"),
        (failure(500, "InternalError", "try later"), "InternalError: try later"),
        ((200, "<html>a captive portal"), "ResponseParserError: "),
    ],
)
async def test_a_failure_that_concerns_all_is_one_call_and_reported_for_all(
    scripted: ScriptedSns, answer: tuple[int, str], reason: str
) -> None:
    scripted.answer = lambda _ids: answer

    report = await publisher(scripted).publish(messages(25))

    assert len(scripted.calls) == 1, "the log of events is the retry, nobody else repeats"
    assert report.refused.keys() == set(range(1, 26))
    assert all(each.startswith(reason) for each in report.refused.values())


async def test_what_was_taken_before_a_failure_stays_taken(scripted: ScriptedSns) -> None:
    scripted.answer = lambda ids: failure(500, "InternalError", "") if "11" in ids else None

    report = await publisher(scripted).publish(messages(25))

    assert report.taken == {*range(1, 11), *range(21, 26)}, "the call beside it was not hurt"
    assert report.refused.keys() == set(range(11, 21))


async def test_after_the_first_call_several_go_out_together(scripted: ScriptedSns) -> None:
    together = threading.Barrier(CALLS_AT_ONCE, timeout=20)
    scripted.answer = lambda ids: None if "1" in ids else (together.wait(), None)[1]

    report = await publisher(scripted).publish(messages(10 * (CALLS_AT_ONCE + 1)))

    assert len(report.taken) == 10 * (CALLS_AT_ONCE + 1)
    assert "1" in scripted.entries(0)


async def test_those_of_one_image_go_out_one_by_one_in_their_order(scripted: ScriptedSns) -> None:
    image_id = new_id()

    await publisher(scripted).publish(
        [message(number, Kind.UPDATED, id=image_id, version=number) for number in range(1, 51)]
    )

    told = [int(position) for call in range(5) for position in scripted.entries(call)]
    assert told == list(range(1, 51))


async def test_a_message_that_the_answer_does_not_name_counts_as_refused(topic: Topic) -> None:
    nameless = replace(message(2), subject="x" * 101)  # moto swallows it

    report = await SnsPublisher(topic.settings).publish([message(1), nameless])

    assert report.taken == {1}
    assert report.refused.keys() == {2}


async def test_an_endpoint_that_never_answers_is_given_up_within_the_timeout(scripted: ScriptedSns) -> None:
    release = threading.Event()

    def answer(_ids: list[str]) -> None:
        release.wait(30)

    scripted.answer = answer

    report = await publisher(scripted, timeout=0.2).publish(messages(25))

    release.set()
    assert report.refused == dict.fromkeys(range(1, 26), "SNS did not answer within 0.2 s.")


async def test_without_credentials_everything_is_refused(
    scripted: ScriptedSns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    report = await publisher(scripted).publish([message()])

    assert report.refused == {1: "NoCredentialsError: Unable to locate credentials"}


def test_a_fifo_topic_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValidationError, match="name a standard topic"):
        EventsSettings(topic_arn=f"{ARN}.fifo")


def test_a_publisher_without_a_topic_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="TINTYPE_EVENTS__TOPIC_ARN"):
        SnsPublisher(EventsSettings())
