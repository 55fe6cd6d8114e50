"""A clock that jumps: what begins by it is refused, an alarm says so, and nothing is corrupted."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from faults.table import Row, record
from pictures import picture
from service import Service
from tintype.catalogue.database import EVERY_OWNER, Database

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.faults
@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed: apt-get install faketime")
async def test_what_a_wrong_clock_begins_is_refused_and_a_right_one_is_trusted_again(
    serve: Callable[..., Service], tmp_path: Path, database: Database
) -> None:
    """The clock of the process alone is moved, as it runs; PostgreSQL keeps its own."""
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    service = await asyncio.to_thread(
        serve,
        LD_PRELOAD=str(LIBRARY),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",  # no machine's monotonic clock jumps
        TINTYPE_DATABASE__URL=database.url,
        TINTYPE_LOG__FORMAT="json",
    )
    with service.client() as client:
        told = await asyncio.to_thread(through_jumps, client, clock)

    stored = {UUID(each["id"]) for each in told["stored"]}
    async with database.reading(EVERY_OWNER) as tx:
        cursor = await tx.execute("SELECT id FROM images")
        kept = [row[0] for row in await cursor.fetchall()]
        cursor = await tx.execute("SELECT image_id FROM events WHERE kind = 'image.uploaded'")
        announced = [row[0] for row in await cursor.fetchall()]
    lost, doubled = len(stored - {*kept} | stored - {*announced}), len(announced) - len({*announced})
    record(
        Row("The clock jumps two hours ahead and back", 2, len(stored), lost, doubled, len(told["refused"]))
    )
    assert sorted(kept) == sorted(announced) == sorted(stored)
    assert len(stored) == 3
    assert {(each["status"], each["code"]) for each in told["refused"]} == {(503, "attempt_too_old")}
    assert "7200 s ahead of the database's" in told["ready"][0]["reasons"]["clock"]
    assert "7200 s behind the database's" in told["ready"][1]["reasons"]["clock"]
    assert service.output.count("clock.wrong") == 2


def through_jumps(client: httpx.Client, clock: Path) -> dict[str, list[dict[str, Any]]]:
    """Upload at the right time, two hours ahead, two hours behind, and at the right time again."""
    told: dict[str, list[dict[str, Any]]] = {"stored": [], "refused": [], "ready": []}
    for seed, jump in enumerate(("+0", "+2h", "+0", "-2h", "+0"), start=8300):
        clock.write_text(f"{jump}\n")
        answer = client.post("/v1/images", content=picture(seed=seed))
        time.sleep(1)  # a report stands for so long
        ready = client.get("/readyz")
        if jump == "+0":
            assert (answer.status_code, ready.status_code) == (201, 200), (answer.text, ready.text)
            told["stored"].append(answer.json())
        else:
            assert answer.headers["retry-after"]
            told["refused"].append(answer.json())
            told["ready"].append(ready.json())
    return told
