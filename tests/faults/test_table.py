"""The table of faults shows what was recorded, on the terminal and on the page."""

from pathlib import Path

import pytest

from faults.table import ROWS, Row, markdown, record, recorded, terminal

KILLED = Row("kill -9", times=12, acknowledged=2000, lost=0, duplicated=0, recovery_seconds=1.26)
SLOW = Row("slow", times=3, acknowledged=17, lost=1, duplicated=0, server_errors=4)


def test_what_tests_record_comes_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv(ROWS, str(path))

    record(KILLED)
    record(SLOW)

    assert recorded(path) == [KILLED, SLOW]


def test_the_terminal_shows_columns_and_the_page_the_same() -> None:
    assert terminal([KILLED, SLOW]).splitlines() == [
        "fault    times  acknowledged  lost  duplicated  5xx  recovery",
        "kill -9     12         2,000     0           0    0     1.3 s",
        "slow         3            17     1           0    4         -",
    ]
    assert markdown([SLOW]).splitlines()[1:] == [
        "| --- | --: | --: | --: | --: | --: | --: |",
        "| slow | 3 | 17 | 1 | 0 | 4 | - |",
    ]
