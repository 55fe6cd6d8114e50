"""The function `complete`, under Lambda's own runtime client: S3's events become images, once."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest

from aws import REGION, Topic
from journeys.test_direct import begin, complete, send
from lambdas.runtime import Function
from pictures import picture
from service import COMMAND, Service
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.lambdas.complete import keys_in

HANDLER = "tintype.lambdas.complete.handler"


@dataclass(frozen=True)
class Estate:
    """A service and the function on one bucket and one database; S3 tells a queue of what arrives."""

    service: Service
    function: Function
    s3: Any
    sqs: Any
    bucket: str
    queue_url: str

    def messages(self) -> list[dict[str, Any]]:
        """Take what S3 told, as Lambda hands it on."""
        found = self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        for each in found:
            self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=each["ReceiptHandle"])
        return [{"messageId": each["MessageId"], "body": each["Body"]} for each in found]

    def deliver(self) -> list[str]:
        """Have the function work on what S3 told; return the messages that are to come again."""
        answer = self.function.invoke({"Records": self.messages()})
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]

    def images(self) -> list[dict[str, Any]]:
        with self.service.client() as client:
            return client.get("/v1/images").json()["data"]

    def incoming(self) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="photos/incoming/")
        return [each["Key"] for each in listed.get("Contents", [])]


@pytest.fixture(params=["unversioned", "versioned"])
async def estate(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    serve: Callable[..., Service],
    moto_url: str,
    topic: Topic,
) -> AsyncIterator[Estate]:
    async with EmbeddedPostgres.run(tmp_path / "elsewhere") as postgres:
        bucket = f"tintype-{uuid4()}"
        settings = {
            "TINTYPE_OBJECTS__URL": f"s3://{bucket}/photos",
            "TINTYPE_OBJECTS__ENDPOINT": moto_url,
            "TINTYPE_OBJECTS__REGION": REGION,
            "TINTYPE_DATABASE__URL": postgres.url,
            "TINTYPE_EVENTS__TOPIC_ARN": topic.arn,
            "TINTYPE_EVENTS__ENDPOINT": moto_url,
            "TINTYPE_LIMITS__SWEEP_SECONDS": "0.3",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        s3 = boto3.client("s3", region_name=REGION, endpoint_url=moto_url)
        s3.create_bucket(Bucket=bucket)
        if request.param == "versioned":
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        queue_url = topic.sqs.create_queue(QueueName=f"arrivals-{uuid4()}")["QueueUrl"]
        arn = topic.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        rules = [{"Key": {"FilterRules": [{"Name": "prefix", "Value": "photos/incoming/"}]}}]
        s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={
                "QueueConfigurations": [
                    {"QueueArn": arn["QueueArn"], "Events": ["s3:ObjectCreated:*"], "Filter": rules[0]}
                ]
            },
        )
        migrate = [*COMMAND[: COMMAND.index("serve")], "migrate"]
        await asyncio.to_thread(subprocess.run, migrate, env=settings, check=True)
        service = await asyncio.to_thread(serve, tmp_path / "data", **settings)
        own = {"TINTYPE_DATA_DIR": str(tmp_path / "function")}
        with Function(HANDLER, settings | own, tmp_path) as function:
            yield Estate(service, function, s3, topic.sqs, bucket, queue_url)


def insist(begun: dict[str, Any], data: bytes) -> None:
    """Send the bytes until they are taken: moto fails at times at an object that is copied just then."""
    ends = time.monotonic() + 10
    while (answer := send(begun, data)).status_code == 500:
        assert time.monotonic() < ends
    assert answer.status_code == 200


async def test_what_s3_tells_of_becomes_an_image(estate: Estate) -> None:
    await asyncio.to_thread(tell, estate)


def tell(estate: Estate) -> None:
    data = picture(seed=7501)
    with estate.service.client() as client:
        begun = begin(client, data)
        form = begin(client, picture(seed=7502), "post")
        html = begin(client, b"<html>" * 50)
        racing = begin(client, picture(seed=7503))
        assert send(begun, data).status_code == 200
        assert send(form, picture(seed=7502)).status_code == 204
        assert send(html, b"<html>" * 50).status_code == 200
        assert begun["request"]["url"].startswith(
            f"{estate.s3.meta.endpoint_url}/{estate.bucket}/photos/incoming/"
        )

        assert estate.deliver() == [], "S3's test message is among them"

        assert len(estate.images()) == 2
        image = complete(client, begun)
        assert (image.status_code, image.json()["sha256"]) in {
            (201, each["sha256"]) for each in estate.images()
        }
        assert complete(client, html).json()["code"] == "unsupported_type"

        # The function and the client at the same moment, and the event twice.
        assert send(racing, picture(seed=7503)).status_code == 200
        messages = estate.messages()
        with ThreadPoolExecutor(2) as threads:
            twice = threads.submit(estate.function.invoke, {"Records": messages * 2})
            answers = [complete(client, racing) for _ in range(3)]
            assert twice.result() == {"batchItemFailures": []}
        assert {answer.status_code for answer in answers} == {201}
        assert len(estate.images()) == 3

        # Written over while it is checked and copied: what is kept is what was checked.
        good, evil = picture(seed=7506), b"<html>".ljust(len(picture(seed=7506)))
        contested = begin(client, good)
        send(contested, good)
        with ThreadPoolExecutor(1) as threads:
            writing = [threads.submit(insist, contested, each) for each in [good, evil] * 6]
            outcome = complete(client, contested)
        for each in writing:
            each.result()
        assert estate.deliver() == []
        assert outcome.status_code in {201, 415}
        if outcome.status_code == 201:
            assert client.get(outcome.json()["url"]).content == good
        count = len(estate.images())
        assert count == 3 + (outcome.status_code == 201)

        # What comes after the end is never attached, and goes away; nor is a key of nobody's.
        assert send(begun, picture(seed=7504)[: len(data)].ljust(len(data))).status_code == 200
        estate.s3.put_object(Bucket=estate.bucket, Key=f"photos/incoming/{uuid4()}/direct", Body=b"x")
        assert estate.deliver() == []
        assert complete(client, begun).json() == image.json()
        assert not [key for key in estate.incoming() if begun["id"] in key]
        assert len(estate.images()) == count

        # A message that is none comes again, and its neighbours are not held up.
        late = begin(client, picture(seed=7505))
        send(late, picture(seed=7505))
        good = estate.messages()
        bad = [{"messageId": "poison", "body": "{}"}, {"messageId": "rubbish", "body": "\u0000"}]
        answer = estate.function.invoke({"Records": [bad[0], *good, bad[1]]})
        assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == ["poison", "rubbish"]
        assert len(estate.images()) == count + 1
        assert {httpx.get(estate.service.base + each["url"]).status_code for each in estate.images()} == {200}


def told(*keys: str) -> str:
    return json.dumps({"Records": [{"s3": {"object": {"key": key}}} for key in keys]})


def test_keys_are_decoded_as_s3_encodes_them() -> None:
    assert keys_in(told("a+b/%C3%A9%2B", "incoming%2Fx")) == ["a b/é+", "incoming/x"]
    assert keys_in('{"Service":"Amazon S3","Event":"s3:TestEvent"}') == []


@pytest.mark.parametrize("body", ["", "[]", "{}", "null", '{"Records":[{}]}', '{"Records":3}'])
def test_what_is_no_notification_is_said_to_be_none(body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        keys_in(body)
