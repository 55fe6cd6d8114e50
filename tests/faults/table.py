"""The table of faults: what was done to Tintype how often, and what became of what it had acknowledged.

A test that breaks something is marked `faults` and records a row. In the suite it runs in its short form, and
its row goes nowhere; `make faults` runs the long forms and renders all rows.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROWS = "TINTYPE_FAULTS"
"""The variable that names the file of rows, one JSON object on a line; where it is set, forms are long."""
LONG = bool(os.environ.get(ROWS))

_HEADINGS = ("fault", "times", "acknowledged", "lost", "duplicated", "5xx", "recovery")


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. Record it before asserting: a table that shows only what went well tells nothing."""

    fault: str
    """What was done, in a few words for a reader who has not seen the test."""
    times: int
    """How often the fault happened."""
    acknowledged: int
    """What clients were told is done: images, deletions, repairs."""
    lost: int
    """How much of it was not there afterwards, or had no event."""
    duplicated: int
    """Images, or events under different ids, that came twice from one upload."""
    server_errors: int = 0
    """Answers of 500 and above that clients got; each of them has to be a 503 that may be tried again."""
    recovery_seconds: float | None = None
    """The longest time from the end of the fault to the first good answer; None: nothing was waited for."""


def record(row: Row) -> None:
    """Add a row to the table that is being made, if one is."""
    if path := os.environ.get(ROWS):
        with Path(path).open("a") as rows:
            rows.write(json.dumps(asdict(row)) + "\n")


def recorded(path: Path) -> list[Row]:
    """Return the rows that were recorded in a file."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def terminal(rows: Iterable[Row]) -> str:
    """Return the table with its columns in line."""
    lines = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(_in_line(cells, widths) + "\n" for cells in lines)


def markdown(rows: Iterable[Row]) -> str:
    """Return the table for a page."""
    lines = [_HEADINGS, ("---", *["--:"] * (len(_HEADINGS) - 1)), *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    counts = (row.times, row.acknowledged, row.lost, row.duplicated, row.server_errors)
    recovery = "-" if row.recovery_seconds is None else f"{row.recovery_seconds:.1f} s"
    return (row.fault, *(f"{count:,}" for count in counts), recovery)


def _in_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    fault, *numbers = (
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([fault, *numbers])
