"""Wiring: who does what by itself."""

import asyncio
from pathlib import Path

from tintype.settings import Settings
from tintype.wiring import at_work, open_parts

DUTIES = {"relay", "subscriptions", "journal", "bell", "notifier", "uploads-sweep", "upkeep"}


def settings_of(database_url: str, data_dir: Path, **consistency: str) -> Settings:
    """A service, or a function's process; with `function` an instance beside functions."""
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "database": {"url": database_url},
            "imaging": {"inspect": "header"},
            "consistency": consistency,
        }
    )


def under_way() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()} & (DUTIES | {"purge"})


async def test_open_parts_do_nothing_by_themselves(database_url: str, tmp_path: Path) -> None:
    async with open_parts(settings_of(database_url, tmp_path)) as parts:
        assert under_way() == set()
        async with at_work(parts):
            assert under_way() == {*DUTIES, "purge"}
        assert under_way() == set()


async def test_beside_a_function_that_checks_nobody_purges(database_url: str, tmp_path: Path) -> None:
    settings = settings_of(database_url, tmp_path, function="tintype-consistency")

    async with open_parts(settings) as parts, at_work(parts):
        assert under_way() == DUTIES
