"""Three instances behind HAProxy, which sends each request to the next of them, while they are killed."""

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3_servers import KEY, S3Server
from tintype_bench.balanced import Estate, journey

pytestmark = [
    pytest.mark.xdist_group("uploads-fleet"),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

SIZES = [random.Random(seed).randrange(1_000_000, 6_000_000) for seed in range(18)]


@pytest.fixture
def estate(database_url: str, moto_s3: S3Server, tmp_path: Path) -> Iterator[Estate]:
    bucket = moto_s3.new_bucket()
    environment = {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_OBJECTS__URL": bucket.url or "",
        "TINTYPE_OBJECTS__ENDPOINT": moto_s3.url,
        "TINTYPE_OBJECTS__ACCESS_KEY_ID": KEY,
        "TINTYPE_OBJECTS__SECRET_ACCESS_KEY": KEY,
    }
    with Estate(tmp_path, environment) as estate:
        yield estate


def test_uploads_arrive_once_and_whole_while_instances_are_killed(estate: Estate) -> None:
    came = asyncio.run(journey(estate, SIZES, at_once=6, pause_seconds=0.4))

    assert came.kills >= 2
    assert (came.wrong, came.doubled, came.unfinished) == (0, 0, 0)
    assert came.longest_wait_seconds <= 2
