"""A folder of a test's own with a database beside it, and processes that end at a checkpoint."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from consistency import bucket_world
from consistency.bucket_world import World
from tintype.catalogue.database import Database
from tintype.model import checkpoint
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    checkpoint.disarm()


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Objects]:
    objects = Objects.open(ObjectsSettings(), tmp_path)
    yield objects
    await objects.aclose()


@pytest.fixture
async def world(database: Database, folder: Objects, tmp_path: Path) -> AsyncIterator[World]:
    async with bucket_world.opened(database, folder, tmp_path) as world:
        yield world
