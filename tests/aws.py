"""AWS without AWS: moto's server as a process on loopback, with SNS, SQS and S3."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import httpx
import pytest

from tintype.settings import EventsSettings

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef

START_SECONDS = 60
REGION = "us-east-1"


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The address of a moto server of this test process's own."""
    with _moto() as url:
        yield url


@pytest.fixture
def fresh_moto_url() -> Iterator[str]:
    """The address of a moto server of one test's own, for who reads all that is in it."""
    with _moto() as url:
        yield url


@contextmanager
def _moto() -> Iterator[str]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [Path(sys.executable).parent / "moto_server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    try:
        _await(f"{url}/moto-api/", server)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 finds in the environment; nothing on this machine is asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@dataclass
class Queue:
    """A queue that hears a topic."""

    client: "SQSClient"
    url: str

    def receive(self) -> "list[MessageTypeDef]":
        """Take all that is there; moto delivers before it answers the publisher."""
        messages: list[MessageTypeDef] = []
        while found := self.client.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            messages += found
            for message in found:
                assert "ReceiptHandle" in message
                self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return messages

    def notifications(self) -> list[dict[str, Any]]:
        """Take all that is there, as SNS wraps it."""
        return [json.loads(message.get("Body", "")) for message in self.receive()]


@dataclass
class Topic:
    """An SNS topic of one test's own."""

    sns: "SNSClient"
    sqs: "SQSClient"
    arn: str
    settings: EventsSettings

    def subscribe(self, policy: dict[str, Any] | None = None, *, raw: bool = False) -> Queue:
        """Give the topic a queue, for what the filter policy matches."""
        url = self.sqs.create_queue(QueueName=f"queue-{uuid4()}")["QueueUrl"]
        attributes = {"RawMessageDelivery": "true"} if raw else {}
        if policy is not None:
            attributes["FilterPolicy"] = json.dumps(policy)
        self.sns.subscribe(
            TopicArn=self.arn,
            Protocol="sqs",
            Endpoint=self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ],
            Attributes=attributes,
        )
        return Queue(self.sqs, url)


@pytest.fixture
def topic(moto_url: str, aws_credentials: None) -> Topic:  # noqa: ARG001 # sets the environment
    """A new topic."""
    sns: SNSClient = boto3.client("sns", region_name=REGION, endpoint_url=moto_url)
    sqs: SQSClient = boto3.client("sqs", region_name=REGION, endpoint_url=moto_url)
    arn = sns.create_topic(Name=f"topic-{uuid4()}")["TopicArn"]
    return Topic(sns, sqs, arn, EventsSettings(topic_arn=arn, endpoint=moto_url, publish_timeout_seconds=30))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "moto's server ended at its start"
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"moto's server does not answer after {START_SECONDS} s")
