"""Every secret that a test uses, and every log that a test makes Tintype write: none has one of them.

Secrets are noted where the tests make them and where clients send or receive them. The logs are searched at
the end of the run: what services wrote, what the tests' own process logged, and the log files of both.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest

# Text of this form and length is a secret, or as good as one, wherever Tintype hands it out.
_HANDED_OUT = re.compile(
    r"tt_[0-9a-z]{12}_\w+|tut_[\w.-]+|whsec_[\w+/=]+|eyJ[\w-]+\.[\w-]+\.[\w-]+|(?<=signature=)[\w-]{20,}",
    re.IGNORECASE,
)
_NAMED_SO = re.compile(r"secret|password|token", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9]{14,}")
"""Secrets are compared by such words: what stands around them in a log is never one of these characters."""
_HARMLESS = re.compile(r"tt_[0-9a-z]{12}_|eyJ[\w-]+\.(?=eyJ)")
"""The parts that are no secret: a key's id, the header of a JWT."""

_words: set[str] = set()
_logs: list[list[str]] = []


def plant(*secrets: str) -> None:
    """Note secrets: no log may have them."""
    for secret in secrets:
        _words.update(_WORD.findall(_HARMLESS.sub(" ", secret)))


def watch(log: list[str]) -> None:
    """Have the lines searched that are in this log at the end."""
    _logs.append(log)


def plant_environment(environment: dict[str, str]) -> None:
    """Note the secrets among the settings of a process."""
    plant(*(value for name, value in environment.items() if _NAMED_SO.search(name)))


def noting_client(base: str) -> httpx.Client:
    """Return a client that notes what secrets it sends and receives."""
    return httpx.Client(
        base_url=base, timeout=60, event_hooks={"request": [_note_request], "response": [_note_response]}
    )


def _note_request(request: httpx.Request) -> None:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme:
        plant(credentials)
    plant(*_HANDED_OUT.findall(str(request.url)))


def _note_response(response: httpx.Response) -> None:
    if response.request.method == "POST" and "json" in response.headers.get("content-type", ""):
        response.read()
        plant(*_HANDED_OUT.findall(response.text))


def leaks(text: str) -> Iterator[str]:
    """Yield the lines of a log that have a secret."""
    if _words.isdisjoint(_WORD.findall(text)):
        return
    for line in text.splitlines():
        if not _words.isdisjoint(_WORD.findall(line)):
            yield line


def log_files(folder: Path) -> Iterable[Path]:
    """Return every file below a folder that is a log of Tintype's or of its database."""
    return (
        path
        for path in folder.rglob("*")
        if (path.suffix == ".log" or path.name == "log") and path.is_file() and path.name not in OTHERS
    )


OTHERS = {"emulator.log", "issuer.log"}
"""Logs of what the tests have beside Tintype: AWS's stand-in, the issuer."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Keep what the test's own process logged."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    _logs.extend([text] for title, text in report.sections if "stderr" in title or "log" in title)


@pytest.fixture(scope="session", autouse=True)
def no_log_has_a_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Search all logs when everything else has ended."""
    yield
    found = [line for log in _logs for line in leaks("".join(log))]
    for path in log_files(tmp_path_factory.getbasetemp()):
        found += (f"{path}: {line}" for line in leaks(path.read_text(errors="replace")))
    assert found == []
