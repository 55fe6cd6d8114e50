"""What the tests of the catalogue share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from faults.proxy import Proxy, proxied_database
from tintype.catalogue.commits import Commits
from tintype.catalogue.database import Database
from tintype.model import checkpoint


@pytest.fixture
async def commits(database: Database) -> AsyncIterator[Commits]:
    async with Commits.open(database) as commits:
        yield commits


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    checkpoint.disarm()


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A way to this test's database that can fail."""
    async with proxied_database(database_url) as proxy:
        yield proxy
