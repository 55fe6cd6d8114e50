"""The function migrate: the database is brought up to date, and CloudFormation hears how it went."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import boto3
import pytest
from psycopg import conninfo, sql

from postgres import Postgres
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.lambdas.migrate import handler
from tintype.settings import DatabaseSettings

EVENT = {"StackId": "stack", "RequestId": "request", "LogicalResourceId": "Migrated"}


@dataclass
class Answers:
    """Where CloudFormation waits for an answer."""

    url: str = ""
    heard: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    content_types: list[str] = field(default_factory=list[str])


@pytest.fixture
def cloudformation() -> Iterator[Answers]:
    answers = Answers()

    class Door(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            answers.heard.append(json.loads(self.rfile.read(length)))
            answers.content_types.append(self.headers.get("Content-Type", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base class's)
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    answers.url = f"http://127.0.0.1:{server.server_port}/answer"
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def secret(moto_url: str, monkeypatch: pytest.MonkeyPatch, postgres: Postgres) -> None:
    """The master user's, as RDS keeps it."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    user = conninfo.conninfo_to_dict(postgres.server.admin_url)["user"]
    kept = boto3.client("secretsmanager").create_secret(
        Name=f"master-{uuid4()}", SecretString=json.dumps({"username": user, "password": "unused"})
    )
    monkeypatch.setenv("TINTYPE_MIGRATOR_SECRET", kept["ARN"])


@pytest.fixture
async def empty_database(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.clone("template0") as url:
        yield url


@pytest.fixture
async def login(postgres: Postgres) -> AsyncIterator[str]:
    """A name that nobody has; logins belong to the whole cluster."""
    name = f"login_{uuid4().hex}"
    yield name
    await postgres.admin(sql.SQL("DROP ROLE IF EXISTS {}"), name)


@pytest.mark.usefixtures("aws_credentials", "secret")
def test_an_empty_database_gets_its_schema_and_a_login_that_works_as_both_roles(
    empty_database: str, login: str, cloudformation: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINTYPE_DATABASE__URL", empty_database)
    monkeypatch.setenv("TINTYPE_MIGRATOR_LOGINS", login)

    for kind in ("Create", "Update"):
        handler(EVENT | {"RequestType": kind, "ResponseURL": cloudformation.url}, None)

    assert [one["Status"] for one in cloudformation.heard] == ["SUCCESS", "SUCCESS"]
    assert cloudformation.heard[0]["PhysicalResourceId"] == cloudformation.heard[1]["PhysicalResourceId"]
    assert cloudformation.content_types == ["", ""]  # S3 refuses what was not signed

    async def work() -> None:
        url = conninfo.make_conninfo(empty_database, user=login)
        async with Database.open(url, DatabaseSettings()) as database:
            for owner in ("somebody", EVERY_OWNER):
                async with database.reading(owner) as tx:
                    await tx.execute("SELECT count(*) FROM images")

    asyncio.run(work())


@pytest.mark.usefixtures("aws_credentials", "secret")
def test_a_database_that_does_not_answer_fails_the_deployment_with_its_reason(
    cloudformation: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINTYPE_DATABASE__URL", "postgresql://127.0.0.1:1/tintype?connect_timeout=2")
    monkeypatch.setenv("TINTYPE_MIGRATOR_LOGINS", "nobody")

    handler(EVENT | {"RequestType": "Create", "ResponseURL": cloudformation.url}, None)

    (answer,) = cloudformation.heard
    assert answer["Status"] == "FAILED"
    assert "refused" in answer["Reason"]


def test_deleting_the_stack_leaves_the_schema_alone(cloudformation: Answers) -> None:
    handler(EVENT | {"RequestType": "Delete", "ResponseURL": cloudformation.url}, None)

    (answer,) = cloudformation.heard
    assert answer["Status"] == "SUCCESS"
