"""The same program on S3, a PostgreSQL of its operator's, and SNS: three settings, no other difference."""

import asyncio
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import boto3
import httpx

from aws import REGION, Queue, Topic
from mail_server import MailServer
from pictures import picture
from service import COMMAND, Service
from tintype.catalogue.embedded import EmbeddedPostgres

PUBLIC = "https://images.example"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


async def test_an_image_travels_over_s3_postgresql_and_sns(
    tmp_path: Path, serve: Callable[..., Service], moto_url: str, topic: Topic, mail_server: MailServer
) -> None:
    async with EmbeddedPostgres.run(tmp_path / "elsewhere") as postgres:
        settings = {
            "TINTYPE_OBJECTS__URL": f"s3://tintype-{uuid4()}/photos",
            "TINTYPE_OBJECTS__ENDPOINT": moto_url,
            "TINTYPE_OBJECTS__REGION": REGION,
            "TINTYPE_DATABASE__URL": postgres.url,
            "TINTYPE_EVENTS__TOPIC_ARN": topic.arn,
            "TINTYPE_EVENTS__ENDPOINT": moto_url,
            "TINTYPE_PUBLIC_URL": PUBLIC,
        } | KEYS
        settings |= mail_server.environment
        queue = topic.subscribe({"kind": ["image.uploaded"]})
        await asyncio.to_thread(
            travel, tmp_path / "data", serve, settings, moto_url, queue, mail_server=mail_server
        )


def travel(
    data_dir: Path,
    serve: Callable[..., Service],
    settings: dict[str, str],
    moto_url: str,
    queue: Queue,
    *,
    mail_server: MailServer,
) -> None:
    bucket = settings["TINTYPE_OBJECTS__URL"].split("/")[2]
    s3 = boto3.client("s3", region_name=REGION, endpoint_url=moto_url)
    s3.create_bucket(Bucket=bucket)
    data = picture("JPEG", seed=400, size=(320, 200))

    unmigrated = subprocess.run(
        [*COMMAND, "--data-dir", str(data_dir)], env=settings, capture_output=True, check=False
    )
    assert unmigrated.returncode == 1
    assert b"tintype migrate" in unmigrated.stderr
    subprocess.run([*COMMAND[: COMMAND.index("serve")], "migrate"], env=settings, check=True)
    service = serve(data_dir, **settings)
    with service.client() as client:
        client.post(
            "/v1/subscriptions",
            json={"channel": "email", "address": "ada@example.org", "kinds": ["image.uploaded"]},
        )
        assert client.post(link_in(mail_server, 1, "confirm")).status_code == 200
        image = client.post("/v1/images?filename=sea é.jpg&tag=sea", content=data).json()
        again = client.post("/v1/images?filename=other.jpg", content=data)
        content = image["url"].removeprefix(PUBLIC)
        back = client.get(content)
        part = client.get(content, headers={"Range": "bytes=10-19"})
        link = client.post(f"/v1/images/{image['id']}/links", json={}).json()["url"]
        redirect = client.get(f"{content}?redirect=true")
        # What a mail leads to is ours, and outlives what S3 would sign; the bytes come from S3.
        mailed = client.get(link_in(mail_server, 2, "content"))
        changed = client.get(link_in(mail_server, 2, "content").replace("signature=", "signature=x"))

    shard = image["id"][-2:]
    stored = s3.get_object(Bucket=bucket, Key=f"photos/originals/{shard}/{image['id']}")
    assert hashlib.sha256(stored["Body"].read()).hexdigest() == image["sha256"]
    assert stored["ContentType"] == "image/jpeg"
    assert again.status_code == 200
    assert (back.content, part.content) == (data, data[10:20])
    assert link.startswith(moto_url)
    assert httpx.get(link).content == data
    assert "attachment" in httpx.get(link).headers["content-disposition"]
    assert (redirect.status_code, mailed.status_code, changed.status_code) == (302, 302, 403)
    assert mailed.headers["location"].startswith(moto_url)
    assert httpx.get(mailed.headers["location"]).content == data
    message = json.loads(heard(queue)["Message"])
    assert message["type"] == "image.uploaded"
    assert message["data"]["id"] == image["id"]
    assert not (data_dir / "postgres").exists()
    assert not (data_dir / "objects").exists()


def link_in(mail_server: MailServer, number: int, way: str) -> str:
    """The link of a mail, as soon as it has come, from this side of what the public sees."""
    deadline = time.monotonic() + 30
    while len(mail_server.mails) < number:
        assert time.monotonic() < deadline, "no mail came"
        time.sleep(0.05)
    body = mail_server.mails[number - 1].get_body(("plain",))
    assert body is not None
    (link,) = re.findall(rf"{PUBLIC}(\S+/{way}\?\S+)", body.get_content())
    return link


def heard(queue: Queue) -> dict[str, str]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if notifications := queue.notifications():
            return notifications[0]
        time.sleep(0.1)
    raise AssertionError("nothing was published")
