"""Fixtures of the server's tests."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.shell_process import Shell


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    log = tmp_path_factory.mktemp("shell") / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "shell.py"], stdout=subprocess.PIPE, stderr=stderr
        )
        try:
            assert process.stdout is not None
            yield Shell(int(process.stdout.readline()), log)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def web(shell: Shell) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shell.base) as client:
        yield client
