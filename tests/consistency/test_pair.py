"""The pair of bucket and database: instances that start at the same moment agree on one identity."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3_servers import S3Server
from tintype.catalogue.database import Database
from tintype.consistency import pair
from tintype.model.errors import WrongPair
from tintype.model.ids import new_id
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings


@pytest.fixture(params=["folder", "bucket"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    s3: S3Server | None = request.getfixturevalue("moto_s3") if request.param == "bucket" else None
    objects = Objects.open(s3.new_bucket() if s3 else ObjectsSettings(), tmp_path)
    yield objects
    await objects.aclose()


async def test_who_starts_at_the_same_moment_agrees(database: Database, objects: Objects) -> None:
    found = await asyncio.gather(*(pair.claim(database, objects) for _ in range(5)))

    assert len(set(found)) == 1
    assert await pair.of_database(database) == await objects.read_identity() == found[0]


async def test_a_place_that_belongs_to_another_database_is_refused(
    database: Database, objects: Objects, tmp_path: Path
) -> None:
    await pair.claim(database, objects)
    elsewhere = Objects.open(ObjectsSettings(), tmp_path / "elsewhere")
    await elsewhere.write_identity(new_id())

    with pytest.raises(WrongPair):
        await pair.claim(database, elsewhere)
    await elsewhere.aclose()
