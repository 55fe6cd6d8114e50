"""The page of cases names tests that there are, one at least for each case, or says why there is none."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fault-cases.md"
CASES = 42
LINE = re.compile(r"\| (\d+) \| (.+) \| (.+) \|")
TESTS = re.compile(r"`([\w/]+\.py)::(test_\w+)`(?:, )?")
REASON = re.compile(r"Not tried: \S.{20,}")


def shown() -> dict[int, str]:
    """Return by what each case is shown."""
    found = [LINE.fullmatch(line) for line in PAGE.read_text().splitlines()]
    return {int(line[1]): line[3] for line in found if line}


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the tests of a module, as pytest finds them."""
    module = ast.parse(path.read_text())
    return frozenset(
        each.name
        for each in module.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
    )


def unfounded(text: str) -> list[str]:
    """Return what a line names and is not there; a line that names nothing has to have a reason."""
    if REASON.fullmatch(text):
        return []
    named = TESTS.findall(text)
    gone = [name for path, name in named if not has(ROOT / path, name)]
    return gone if named and not TESTS.sub("", text) else [text]


def has(path: Path, name: str) -> bool:
    return path.is_file() and name in names_in(path)


def test_every_case_is_on_the_page() -> None:
    assert list(shown()) == list(range(1, CASES + 1))


def test_every_test_that_the_page_names_is_there() -> None:
    assert {number: wrong for number, text in shown().items() if (wrong := unfounded(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "`tests/faults/test_register.py::test_that_nobody_wrote`",
        "`tests/faults/no_module.py::test_every_case_is_on_the_page`",
        "`tests/faults/test_register.py::test_every_case_is_on_the_page` and more",
        "Not tried: later",
        "somebody did this by hand once",
        "",
    ],
)
def test_what_shows_nothing_is_found(text: str) -> None:
    assert unfounded(text)
