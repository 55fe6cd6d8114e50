"""Queues and phones that SNS tells: the running service, moto's SNS and SQS, and two owners on one topic."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from aws import Queue, Topic
from identified import first_keys
from pictures import picture
from service import Service
from strict_sns import TOPIC, StrictSns

PATIENCE = 30
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def queue_of(topic: Topic) -> tuple[Queue, str]:
    """A queue that hears nothing yet, and its ARN."""
    url = topic.sqs.create_queue(QueueName=f"queue-{uuid4()}")["QueueUrl"]
    told = topic.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return Queue(topic.sqs, url), told["Attributes"]["QueueArn"]


def heard(queue: Queue, count: int) -> list[str]:
    """The file names that a queue was told of, once there are so many."""
    names: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while len(names) < count:
        assert time.monotonic() < deadline, names
        names += [json.loads(each["Message"])["data"]["filename"] for each in queue.notifications()]
        time.sleep(0.05)
    return names


def test_a_queue_hears_of_its_owner_s_images_as_far_as_its_filter_goes(
    tmp_path: Path, serve: Callable[..., Service], topic: Topic
) -> None:
    anna_key, bert_key, *_ = asyncio.run(first_keys(tmp_path / "data"))
    service = serve(
        tmp_path / "data",
        TINTYPE_IDENTITY__MODE="keys",
        TINTYPE_EVENTS__TOPIC_ARN=topic.arn,
        TINTYPE_EVENTS__ENDPOINT=topic.settings.endpoint,
        **KEYS,
    )
    (queue, arn), (witness, witness_arn), (all_of_anna, all_arn) = (queue_of(topic) for _ in range(3))
    with service.client() as anna, service.client() as bert:
        anna.headers["authorization"] = f"Bearer {anna_key}"
        bert.headers["authorization"] = f"Bearer {bert_key}"
        wanted = {"channel": "sqs", "address": arn, "filter": {"ext": ["png"]}, "kinds": ["image.uploaded"]}
        made = anna.post("/v1/subscriptions", json=wanted)
        assert made.json() | {"status": "active", "delivered_by": "sns"} == made.json(), made.text
        taken = bert.post("/v1/subscriptions", json={"channel": "sqs", "address": arn})
        assert (taken.status_code, taken.json()["code"]) == (409, "subscription_exists")
        everything = {"channel": "sqs", "kinds": ["image.uploaded"]}
        bert.post("/v1/subscriptions", json={**everything, "address": witness_arn})
        anna.post("/v1/subscriptions", json={**everything, "address": all_arn})

        for name, kind in (("one.png", "PNG"), ("two.jpg", "JPEG")):
            anna.post(f"/v1/images?filename={name}", content=picture(kind, seed=9001))
            bert.post(f"/v1/images?filename=bert-{name}", content=picture(kind, seed=9002))
        assert sorted(heard(witness, 2)) == ["bert-one.png", "bert-two.jpg"]
        assert sorted(heard(all_of_anna, 2)) == ["one.png", "two.jpg"]
        assert heard(queue, 1) == ["one.png"]

        path = f"/v1/subscriptions/{made.json()['id']}"
        assert anna.patch(path, json={"status": "paused"}).json()["status"] == "paused"
        anna.post("/v1/images?filename=three.png", content=picture(seed=9003))
        assert heard(all_of_anna, 1) == ["three.png"]
        assert anna.patch(path, json={"status": "active", "filter": {}}).json()["status"] == "active"
        anna.post("/v1/images?filename=four.jpg", content=picture("JPEG", seed=9004))
        assert heard(queue, 1) == ["four.jpg"]
        assert anna.delete(path).status_code == 204
        arns = {
            each.get("Endpoint")
            for each in topic.sns.list_subscriptions_by_topic(TopicArn=topic.arn)["Subscriptions"]
        }
        assert arn not in arns


@pytest.fixture
def on_strict_sns(tmp_path: Path, serve: Callable[..., Service], strict_sns: StrictSns) -> Service:
    return serve(
        tmp_path / "data",
        TINTYPE_EVENTS__TOPIC_ARN=TOPIC,
        TINTYPE_EVENTS__ENDPOINT=strict_sns.url,
        TINTYPE_EVENTS__SYNC_SECONDS="0.2",
        **KEYS,
    )


def test_mail_and_sms_by_sns_agree_before_they_are_told_anything(
    on_strict_sns: Service, strict_sns: StrictSns
) -> None:
    with on_strict_sns.client() as client:
        mail = client.post(
            "/v1/subscriptions", json={"channel": "email", "address": "anna@example.org"}
        ).json()
        assert (mail["status"], mail["delivered_by"]) == ("pending", "sns")
        strict_sns.click("anna@example.org")
        await_status(client, mail["id"], "active")
        strict_sns.leave("anna@example.org")
        await_status(client, mail["id"], "unsubscribed")

        phone = client.post("/v1/subscriptions", json={"channel": "sms", "address": "+4915112345678"}).json()
        deadline = time.monotonic() + PATIENCE
        while not strict_sns.texts:
            assert time.monotonic() < deadline, "no code was sent"
            time.sleep(0.05)
        code = re.search(r"\b\d{6}\b", strict_sns.texts[0][1])
        assert code is not None
        assert {each.protocol for each in strict_sns.listeners.values()} == set()
        confirmed = client.post(f"/v1/subscriptions/{phone['id']}/confirm", json={"code": code[0]})
        assert confirmed.json()["status"] == "active"
        assert strict_sns.of("+4915112345678").policy == {"owner": ["local"]}


def await_status(client: httpx.Client, subscription_id: str, status: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (told := client.get(f"/v1/subscriptions/{subscription_id}").json())["status"] != status:
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
