"""The function `consistency`: a check in as many invocations as it takes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consistency.bucket_world import World
from lambdas.runtime import Invocation
from tintype.catalogue.commits import Commits
from tintype.lambdas.consistency import check, handler, settle
from tintype.model.errors import StorageUnavailable
from tintype.objects.keys import original_key
from tintype.settings import ConsistencySettings, ImagingSettings, Settings
from tintype.wiring import Parts, open_parts


@pytest.fixture
async def parts(database_url: str, tmp_path: Path) -> AsyncIterator[Parts]:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "database": {"url": database_url},
            "imaging": ImagingSettings(inspect="header"),
            "consistency": ConsistencySettings(every_seconds=0),
        }
    )
    async with open_parts(settings) as parts:
        yield parts


async def test_what_is_not_done_before_the_deadline_the_next_invocation_does(parts: Parts) -> None:
    first = await check(parts, {"mode": "quick"}, seconds=0)

    assert (first["done"], first["run"]["state"]) == (False, "running")
    answer, turns = first, 1
    while not answer["done"]:
        answer = await check(parts, {"run": answer["run"]["id"]}, seconds=0.3)
        turns += 1
    assert turns >= 2
    assert answer["run"]["id"] == first["run"]["id"]
    assert answer["run"]["clean"]


async def test_the_schedule_goes_on_with_a_run_that_is_under_way(parts: Parts) -> None:
    first = await check(parts, {"mode": "full", "repair": True}, seconds=0)

    second = await check(parts, {"mode": "quick"}, seconds=60)

    assert (second["run"]["id"], second["run"]["mode"]) == (first["run"]["id"], "full")
    assert (second["done"], second["run"]["repair"]) == (True, True)


async def test_what_alarms_look_at_is_told_in_cloudwatchs_own_format(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    first = await settle(parts, seconds=60)

    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    (metrics,) = line["_aws"]["CloudWatchMetrics"]
    names = {metric["Name"] for metric in metrics["Metrics"]}
    assert (metrics["Namespace"], metrics["Dimensions"]) == ("Tintype", [["FunctionName"]])
    assert names == {
        "OldestUnpublishedEventSeconds",
        "ConsistencyDrift",
        "LastCleanCheckSeconds",
        "QuarantineBytes",
        "OldestUnverifiedSeconds",
    }
    assert line["ConsistencyDrift"] == 0
    assert first["run"]["clean"], "the very first check is made at once"


async def test_drift_is_told_by_its_kind(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    async with Commits.open(parts.database) as commits:
        world = World(parts.database, parts.objects, commits, parts.receiver.spool_dir, parts.metrics)
        lost = await world.store("lost")
    await parts.objects.delete(original_key(lost.id))

    await check(parts, {"mode": "quick"}, seconds=60)

    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["ConsistencyDrift"], line["ConsistencyDrift.row_without_object"]) == (1, 1)
    assert line["OldestUnverifiedSeconds"] > 0


async def test_settling_begins_no_second_check(parts: Parts) -> None:
    await settle(parts, seconds=60)

    assert await settle(parts, seconds=60) == {"run": None}


async def test_settling_does_what_instances_have_no_right_to_and_what_they_left(parts: Parts) -> None:
    async with Commits.open(parts.database) as commits:
        world = World(parts.database, parts.objects, commits, parts.receiver.spool_dir, parts.metrics)
        kept, over = await world.store("kept"), await world.store("over")
    await world.trash(over)
    await world.age(over, parts.settings.trash.days + 1)

    await settle(parts, seconds=60)

    assert await world.keys("originals/") == [original_key(kept.id)]
    assert len(await world.keys("journal/")) == 1


async def test_what_alarms_look_at_is_told_when_settling_fails(
    parts: Parts, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "objects").rename(tmp_path / "away")

    with pytest.raises(StorageUnavailable):
        await settle(parts, seconds=60)

    assert "OldestUnpublishedEventSeconds" in capsys.readouterr().out


def test_a_task_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'dance'"):
        handler({"task": "dance"}, Invocation("arn:aws:lambda:us-east-1:123456789012:function:local"))
