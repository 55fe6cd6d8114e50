"""A service that asks who calls, with two owners who do not know each other."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from issuer import AUDIENCE, Issuer, serving
from planted import plant
from service import COMMAND, Service
from tintype.identity.keys import Keyring
from tintype.model.api_key import new_key
from tintype.model.identity import ALL_SCOPES
from tintype.settings import Settings
from tintype.wiring import open_database

KEYS = [COMMAND[0], "keys"]


@dataclass(frozen=True)
class Identified:
    """The service, a key with all scopes of each owner, and an issuer whose users are owners too."""

    service: Service
    anna: str
    bert: str
    expired: str
    shut_out: str
    """A key of an owner all of whose keys were revoked."""
    issuer: Issuer

    def say(self, request: str) -> bytes:
        """Send a request's head as it is, and return the answer."""
        address = ("127.0.0.1", int(self.service.base.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(request.encode("latin-1"))
            received = b""
            while chunk := connection.recv(65_536):
                received += chunk
            return received

    def by_name(self, revoked: str) -> dict[str, str]:
        """Return what the names of keys in the cases of attacks stand for."""
        return {
            "KEY": self.anna,
            "OTHER": self.bert,
            "KEY_WITH_LAST_CHAR_CHANGED": self.anna[:-1] + ("a" if self.anna[-1] != "a" else "b"),
            "VALID_FORMAT_UNKNOWN_KEY": new_key()[0],
            "REVOKED_KEY": revoked,
            "EXPIRED_KEY": self.expired,
            "KEY_OF_DISABLED_TENANT": self.shut_out,
        }

    def client(self, key: str | None) -> httpx.Client:
        """A client that shows a key; None: nothing."""
        client = self.service.client()
        if key is not None:
            client.headers["authorization"] = f"Bearer {key}"
        return client


def make_key(
    data_dir: Path,
    owner: str,
    scopes: str = "read,write,admin",
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Make a key as an operator does: while the service is stopped, where the database is its own."""
    command = [*KEYS, "create", "--owner", owner, "--scopes", scopes, "--data-dir", str(data_dir), *options]
    told = os.environ | dict(environment or {})
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=told)
    key = made.stdout.strip()
    plant(key)
    return key


async def first_keys(data_dir: Path) -> tuple[str, str, str, str]:
    """Make one key for each owner, one that is over before the service runs, and one that is revoked.

    This is `make_key` for all of them at once.
    """
    async with open_database(Settings(data_dir=data_dir)) as database:
        keyring = Keyring(database)
        anna, _ = await keyring.create(owner="anna", scopes=ALL_SCOPES, lifetime_seconds=3600)
        bert, _ = await keyring.create(owner="bert", scopes=ALL_SCOPES)
        expired, _ = await keyring.create(owner="anna", scopes=ALL_SCOPES, lifetime_seconds=1)
        shut_out, _ = await keyring.create(owner="carl", scopes=ALL_SCOPES)
        await keyring.revoke_all("carl")
    plant(anna, bert, expired, shut_out)
    return anna, bert, expired, shut_out


@contextmanager
def serving_identified(folder: Path, command: list[str] = COMMAND) -> Iterator[Identified]:
    """Start a service of two owners and an issuer."""
    anna, bert, expired, shut_out = asyncio.run(first_keys(folder / "data"))
    with serving(folder) as issuer:
        issuer.publish(issuer.rsa, issuer.ec, issuer.ed)
        algorithms = ["RS256", "ES256", "EdDSA"]
        known = {"url": issuer.url, "audience": AUDIENCE, "algorithms": algorithms, "owner_prefix": "users:"}
        settings = {
            "TINTYPE_IDENTITY__MODE": "keys",
            "TINTYPE_IDENTITY__ISSUERS": json.dumps([known]),
            "TINTYPE_LOG__FORMAT": "json",
        }
        service = Service(folder / "data", settings, command=command).start()
        yield Identified(service, anna, bert, expired, shut_out, issuer)
        service.stop()


@pytest.fixture(scope="session")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identified]:
    with serving_identified(tmp_path_factory.mktemp("identified")) as identified:
        yield identified


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
