"""What the tests of the catalogue share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from catalogue.proxy import Proxy, proxied
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
    """A way to this test's database that can fail. A socket's path is short, those of pytest are not."""
    with TemporaryDirectory(prefix="proxy-") as folder:
        async with proxied(database_url, Path(folder)) as proxy:
            yield proxy
