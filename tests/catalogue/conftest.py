"""What the tests of the catalogue share."""

from collections.abc import AsyncIterator, Iterator

import pytest

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
