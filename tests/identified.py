"""A service that asks who calls, with two owners who do not know each other."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service import COMMAND, Service
from tintype.identity.keys import Keyring
from tintype.model.identity import ALL_SCOPES
from tintype.settings import Settings
from tintype.wiring import open_database

KEYS = [COMMAND[0], "keys"]


@dataclass(frozen=True)
class Identified:
    """The service, and a key with all scopes of each owner."""

    service: Service
    anna: str
    bert: str
    expired: str

    def say(self, request: str) -> bytes:
        """Send a request's head as it is, and return the answer."""
        address = ("127.0.0.1", int(self.service.base.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(request.encode("latin-1"))
            received = b""
            while chunk := connection.recv(65_536):
                received += chunk
            return received

    def client(self, key: str | None) -> httpx.Client:
        """A client that shows a key; None: nothing."""
        client = self.service.client()
        if key is not None:
            client.headers["authorization"] = f"Bearer {key}"
        return client


def make_key(data_dir: Path, owner: str, scopes: str = "read,write,admin", *options: str) -> str:
    """Make a key as an operator does, while the service is stopped."""
    command = [*KEYS, "create", "--owner", owner, "--scopes", scopes, "--data-dir", str(data_dir), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


async def first_keys(data_dir: Path) -> tuple[str, str, str]:
    """Make one key for each owner, and one that is over before the service runs: `make_key`, all at once."""
    async with open_database(Settings(data_dir=data_dir)) as database:
        keyring = Keyring(database)
        anna, _ = await keyring.create(owner="anna", scopes=ALL_SCOPES, lifetime_seconds=3600)
        bert, _ = await keyring.create(owner="bert", scopes=ALL_SCOPES)
        expired, _ = await keyring.create(owner="anna", scopes=ALL_SCOPES, lifetime_seconds=1)
    return anna, bert, expired


@pytest.fixture(scope="session")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identified]:
    data_dir = tmp_path_factory.mktemp("identified") / "data"
    anna, bert, expired = asyncio.run(first_keys(data_dir))
    service = Service(data_dir, {"TINTYPE_IDENTITY__MODE": "keys", "TINTYPE_LOG__FORMAT": "json"}).start()
    yield Identified(service, anna, bert, expired)
    service.stop()


@pytest.fixture
def anna(identified: Identified) -> Iterator[httpx.Client]:
    with identified.client(identified.anna) as client:
        yield client


@pytest.fixture
def bert(identified: Identified) -> Iterator[httpx.Client]:
    with identified.client(identified.bert) as client:
        yield client


@pytest.fixture
def stranger(identified: Identified) -> Iterator[httpx.Client]:
    with identified.client(None) as client:
        yield client
