"""The function `notifier`, under Lambda's own runtime client: webhooks are called, nothing stays untold."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from aws import REGION, Topic
from journeys.test_notifications import is_active, subscribe, upload, wait_until
from lambdas.runtime import Function
from pictures import picture
from receiver import Receiver, Reply
from service import Service
from tintype.lambdas.notifier import position_in

HANDLER = "tintype.lambdas.notifier.handler"


@pytest.fixture
def environment(tmp_path: Path, database_url: str, moto_url: str, topic: Topic) -> dict[str, str]:
    return {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_DATA_DIR": str(tmp_path / "data"),
        "TINTYPE_EVENTS__TOPIC_ARN": topic.arn,
        "TINTYPE_EVENTS__ENDPOINT": moto_url,
        "TINTYPE_IMAGING__INSPECT": "header",
        "TINTYPE_WEBHOOKS__ALLOW_PRIVATE": "true",
        "TINTYPE_WEBHOOKS__LEASE_SECONDS": "0.2",
        "TINTYPE_WEBHOOKS__TIMEOUT_SECONDS": "1",
        "TINTYPE_MAIL__TIMEOUT_SECONDS": "1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def function(environment: dict[str, str], tmp_path: Path) -> Iterator[Function]:
    (tmp_path / "data").mkdir(exist_ok=True)
    with Function(HANDLER, environment, tmp_path) as function:
        yield function


def told(topic: Topic, queue: Any) -> list[dict[str, str]]:  # noqa: ANN401 - aws.Queue
    del topic
    return [{"messageId": str(uuid4()), "body": message["Body"]} for message in queue.receive()]


def test_with_every_instance_dead_an_upload_is_announced_and_webhooks_are_called(
    serve: Callable[..., Service],
    topic: Topic,
    environment: dict[str, str],
    receiver: Receiver,
    function: Function,
) -> None:
    data_dir = Path(environment["TINTYPE_DATA_DIR"])
    queue = topic.subscribe({"kind": ["image.uploaded"]}, raw=True)
    service = serve(data_dir, **environment)
    with service.client() as client:
        subscription = subscribe(client, channel="webhook", address=receiver.url)
        wait_until(lambda: is_active(client, subscription))
    service.kill()
    dying = {"TINTYPE_EVENTS__TOPIC_ARN": topic.arn + "-away"}
    receiver.answer = lambda _: Reply(503)
    service = serve(data_dir, **environment | dying)
    with service.client() as client:
        image = upload(client, "a.png", picture(seed=940))
        wait_until(lambda: len(receiver.of()) == 1)
    service.kill()
    receiver.answer = lambda _: Reply()
    assert queue.receive() == []

    wait_until(lambda: function.invoke({"task": "drain"})["left"] == 0)

    (message,) = told(topic, queue)
    assert json.loads(message["body"])["data"]["id"] == image["id"]
    wait_until(lambda: function.invoke({"Records": [message]}) == {"batchItemFailures": []})
    wait_until(lambda: function.invoke({"task": "drain"}) is not None and len(receiver.of()) >= 2)
    again = function.invoke({"Records": [message, message]})

    assert again == {"batchItemFailures": []}
    assert len({call.id for call in receiver.of()}) == 1
    assert len(receiver.of()) == 2


def test_a_message_that_is_none_of_ours_fails_alone(environment: dict[str, str], tmp_path: Path) -> None:
    messages = [
        {"messageId": "good", "body": json.dumps({"Message": json.dumps({"position": 0})})},
        {"messageId": "early", "body": json.dumps({"position": 10**6})},
        {"messageId": "bad", "body": "what?"},
    ]
    with Function(HANDLER, environment, tmp_path, seconds=3) as function:
        answer = function.invoke({"Records": messages})

    assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == ["early", "bad"]


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"position": "7"}', '{"Message": "{}"}', "7", "null"])
def test_only_messages_about_events_have_a_position(body: str) -> None:
    with pytest.raises(ValueError, match=r"message|position|Expecting"):
        position_in(body)
