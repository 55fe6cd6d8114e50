"""Two instances on one database and one object store, as behind a balancer."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from conformance.suite import Server
from postgres import Postgres
from service import Service


@dataclass
class Fleet:
    """Instances that share everything but their own folders."""

    folder: Path
    environment: dict[str, str]
    services: list[Service] = field(default_factory=list)

    @property
    def objects(self) -> Path:
        return self.folder / "objects"

    def start(self, command: list[str] | None = None) -> Service:
        """Start one more instance."""
        service = Service(self.folder / f"instance-{len(self.services)}", self.environment)
        if command is not None:
            service.command = command
        self.services.append(service)
        return service.start()

    def stop(self) -> None:
        for each in self.services:
            each.stop()

    def left(self) -> list[str]:
        """Return what lies in the store of uploads under way."""
        incoming = self.objects / "incoming"
        return [str(each.relative_to(incoming)) for each in incoming.rglob("*") if each.is_file()]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_url(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.clone() as url:
        yield url


@pytest.fixture(scope="module")
def fleet(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """No instance yet: tests start what they need."""
    folder = tmp_path_factory.mktemp("fleet")
    environment = {"TINTYPE_DATABASE__URL": shared_url, "TINTYPE_OBJECTS__URL": f"file://{folder}/objects"}
    fleet = Fleet(folder, environment)
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def two(fleet: Fleet) -> tuple[Service, Service]:
    return fleet.start(), fleet.start()


@pytest.fixture
def servers(two: tuple[Service, Service]) -> Callable[[], tuple[Server, Server]]:
    """The doors of both instances, also after one was started anew."""
    return lambda: (Server(f"{two[0].base}/v1/tus"), Server(f"{two[1].base}/v1/tus"))
