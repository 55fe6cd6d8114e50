"""A foreign image is missed on the same path as a missing one: as many statements, the same bytes."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from psycopg import sql

from pictures import picture
from postgres import Postgres
from service import Service
from tintype.catalogue.database import Database
from tintype.identity.keys import Keyring
from tintype.model.identity import ALL_SCOPES

ASKED = [
    ("GET", "", {}),
    ("GET", "?include=exif", {}),
    ("GET", "?include=location", {}),
    ("PATCH", "", {"json": {"tags": ["mine"]}}),
    ("DELETE", "", {}),
    ("POST", "/restore", {}),
    ("GET", "/content", {}),
    ("POST", "/links", {"json": {}}),
]


@pytest.fixture
async def keys(database: Database) -> tuple[str, str]:
    """Anna's and Bert's."""
    keyring = Keyring(database)
    anna, _ = await keyring.create(owner="anna", scopes=ALL_SCOPES)
    bert, _ = await keyring.create(owner="bert", scopes=ALL_SCOPES)
    return anna, bert


@pytest.fixture
async def told(postgres: Postgres, database_url: str) -> None:
    """This test's database writes each statement into the server's log."""
    name = re.search(r"/(\w+)\?", database_url)
    assert name is not None
    await postgres.admin(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'"), name[1])


@pytest.fixture
def running(database_url: str, serve: Callable[..., Service], told: None, keys: tuple[str, str]) -> Service:
    del told, keys
    return serve(TINTYPE_IDENTITY__MODE="keys", TINTYPE_DATABASE__URL=database_url)


def statements(postgres: Postgres, start: int) -> list[str]:
    """The statements about one image since then, with how they were told; upkeep names none."""
    log = postgres.server.log.read_bytes()[start:].decode()
    lines = re.findall(r"LOG:  (.*(?:\n\t.*)*)", log)
    asked = [line for line in lines if re.search(r"\bimages\b", line) and re.search(r"\bid = \$", line)]
    # What is prepared has a name, which each connection counts for itself.
    return [re.sub(r"^execute \w+:", "execute:", line) for line in asked]


def test_the_same_path(running: Service, postgres: Postgres, keys: tuple[str, str]) -> None:
    anna, bert = ({"authorization": f"Bearer {key}"} for key in keys)
    with running.client() as client:
        theirs = client.post("/v1/images", content=picture(seed=1), headers=bert).json()["id"]

        def ask(image_id: str, method: str, rest: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
            start = postgres.server.log.stat().st_size
            answer = client.request(method, f"/v1/images/{image_id}{rest}", headers=anna, **options)
            return shape(answer, image_id), statements(postgres, start)

        for method, rest, options in ASKED:
            for _ in range(8):  # until the pool's connections have the statement prepared
                ask(str(uuid4()), method, rest, options)
            foreign, missing = (ask(each, method, rest, options) for each in (theirs, str(uuid4())))
            assert foreign == missing, (method, rest)
            assert foreign[0][0] == 404
            assert len(foreign[1]) == 1, foreign[1]


def shape(answer: httpx.Response, image_id: str) -> tuple[int, bytes, list[tuple[str, str]]]:
    """The answer, but for the id that was asked for, the request's own, and the time."""
    own = answer.headers["x-request-id"]
    varying = {"x-request-id", "date", "ratelimit", "server-timing"}
    headers = [(name, value) for name, value in answer.headers.items() if name not in varying]
    body = answer.content.replace(image_id.encode(), b"{id}").replace(own.encode(), b"{request}")
    return answer.status_code, body, headers
