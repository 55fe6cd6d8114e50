"""What every publisher promises, whoever it hands messages to."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aws import Topic
from happenings import ids, message, messages
from tintype.messaging.local import LocalPublisher
from tintype.messaging.publisher import Message, Publisher, Report
from tintype.messaging.sns import SnsPublisher
from tintype.model.event import Kind


@dataclass
class Listener:
    """A publisher with someone at its other end."""

    publisher: Publisher
    heard: Callable[[], list[dict[str, Any]]]
    """The bodies for machines that arrived since it was last asked."""
    spoil: Callable[[Message], Message]
    """Make one message impossible to publish."""
    down: Publisher
    """The same kind of publisher, of which the other end is gone."""


@pytest.fixture
def local(tmp_path: Path) -> Listener:
    outbox = tmp_path / "outbox"

    def heard() -> list[dict[str, Any]]:
        paths = sorted(path for path in outbox.glob("*.json") if path.is_file())
        bodies = [json.loads(path.read_text()) for path in paths]
        for path in paths:
            path.unlink()
        return bodies

    def spoil(unlucky: Message) -> Message:
        (outbox / f"{unlucky.position:012d}-{unlucky.id}.json").mkdir(parents=True)
        return unlucky

    blocked = tmp_path / "blocked"
    blocked.touch()
    return Listener(LocalPublisher(outbox), heard, spoil, LocalPublisher(blocked / "outbox"))


@pytest.fixture
def sns(topic: Topic) -> Listener:
    queue = topic.subscribe()

    def heard() -> list[dict[str, Any]]:
        return [json.loads(notification["Message"]) for notification in queue.notifications()]

    def spoil(unlucky: Message) -> Message:
        return replace(unlucky, default="x" * 300_000)

    closed = topic.settings.model_copy(update={"endpoint": "http://127.0.0.1:1"})
    return Listener(SnsPublisher(topic.settings), heard, spoil, SnsPublisher(closed))


@pytest.fixture(params=["local", "sns"])
def listener(request: pytest.FixtureRequest) -> Listener:
    return request.getfixturevalue(request.param)


async def test_what_is_taken_arrives_with_the_whole_body_for_machines(listener: Listener) -> None:
    told = message(7, Kind.DELETED)

    report = await listener.publisher.publish([told])

    assert report == Report(taken=frozenset({7}))
    assert listener.heard() == [json.loads(told.default)]


async def test_nothing_to_publish_is_no_trouble(listener: Listener) -> None:
    assert await listener.publisher.publish([]) == Report()


async def test_more_messages_than_one_call_takes_all_arrive_once(listener: Listener) -> None:
    many = messages(25)

    report = await listener.publisher.publish(many)

    assert report == Report(taken=frozenset(range(1, 26)))
    assert sorted(ids(listener.heard())) == sorted(each.id for each in many)


async def test_the_same_message_again_is_taken_again_under_the_same_id(listener: Listener) -> None:
    told = message()

    first = await listener.publisher.publish([told])
    second = await listener.publisher.publish([told])

    assert first == second == Report(taken=frozenset({1}))
    assert set(ids(listener.heard())) == {told.id}


async def test_a_message_that_is_refused_holds_back_no_other(listener: Listener) -> None:
    before, unlucky, after = messages(3)

    report = await listener.publisher.publish([before, listener.spoil(unlucky), after])

    assert report.taken == {1, 3}
    assert list(report.refused) == [2]
    assert report.refused[2], "a reason is given"
    assert ids(listener.heard()) == [before.id, after.id]


async def test_a_publisher_that_is_down_refuses_everything_and_raises_nothing(listener: Listener) -> None:
    report = await listener.down.publish(messages(25))

    assert report.taken == frozenset()
    assert report.refused.keys() == set(range(1, 26))
    assert all(report.refused.values())


async def test_characters_of_all_kinds_arrive_as_they_were(listener: Listener) -> None:
    told = message(
        filename="naïve 猫 \U0001f408 \uffff\u2028.png",
        tags=('"quoted"', "back\\slash", "\ufffe"),
        attributes={"n": 10**40},
    )

    await listener.publisher.publish([told])

    (heard,) = listener.heard()
    assert heard["data"]["filename"] == "naïve 猫 \U0001f408 \uffff\u2028.png"
    assert heard["data"]["tags"] == ['"quoted"', "back\\slash", "\ufffe"]
    assert heard["data"]["attributes"] == {"n": 10**40}
