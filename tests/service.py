"""Tintype as its users run it: a process, started by its command, spoken to over loopback."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from planted import noting_client, plant_environment, watch

START_SECONDS = 60
NOT_INHERITED = ("TINTYPE_", "AWS_", "PYTHONDONTWRITEBYTECODE")
"""Of the environment. The last would have every one of many starts compile everything: most of its time."""
COMMAND = [str(Path(sys.executable).parent / "tintype"), "serve", "--port", "0"]


@dataclass
class Service:
    """One `tintype serve`. `log` is everything that it has written so far."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    base: str = ""
    command: list[str] = field(default_factory=lambda: COMMAND)
    log: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> "Service":
        """Start, and return when it answers."""
        plant_environment(self.environment)
        watch(self.log)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        self.process = subprocess.Popen(
            [*self.command, "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=inherited | self.environment,
            start_new_session=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        assert ready.wait(START_SECONDS), self.output
        if not self.base:
            raise AssertionError(f"the service ended at its start:\n{self.output}")
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        self.base = ""
        for line in process.stdout:
            self.log.append(line)
            if match := re.search(r"serves on (http://\S+)", line):
                self.base = match[1]
            if "Ctrl-C ends it" in line:
                ready.set()
        ready.set()

    @property
    def output(self) -> str:
        return "".join(self.log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self) -> httpx.Client:
        return noting_client(self.base)

    def interrupt(self) -> int:
        """Press Ctrl-C, as a terminal does, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def kill(self) -> None:
        """Pull the plug: SIGKILL, after which nothing can be tidied."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.interrupt()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """A function that starts services; they end with the test.

    A test that gives them a database asks for that one first: it then outlives them.
    """
    started: list[Service] = []

    def start(data_dir: Path | None = None, **environment: str) -> Service:
        service = Service(data_dir or tmp_path / "data", environment)
        started.append(service)
        return service.start()

    yield start
    for service in started:
        service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that can share it: they use names and pictures of their own."""
    shared = Service(tmp_path_factory.mktemp("shared") / "data").start()
    yield shared
    shared.stop()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client
