"""Servers as processes: started by a command, watched by the kernel's counters, ended by signal."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

START_SECONDS = 60
STOP_SECONDS = 15


class NotStarted(Exception):
    """A server ended, or stayed silent, before it was ready."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds that a server has used so far: the process itself, and those below it."""

    api: float
    workers: float
    postgres: float
    """Where it runs a PostgreSQL of its own; not part of the other two."""

    @property
    def server(self) -> float:
        """What its uploads cost it, the database apart."""
        return self.api + self.workers

    def since(self, before: "Usage") -> "Usage":
        """Return what was used after `before`."""
        return Usage(self.api - before.api, self.workers - before.workers, self.postgres - before.postgres)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak resident memory in bytes (VmHWM): of the process itself, and of those below it together."""

    api: int
    workers: int


class Server:
    """A running process with a port on loopback. Its output goes to a log."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], port: int, log: Path
    ) -> None:
        self.name, self.port, self._log = name, port, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the bench's own commands
                list(command),
                env={**_inherited(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)
        self._command = command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when `ready` says so; raise `NotStarted` with the end of the log otherwise."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            if ready():
                return
            time.sleep(0.05)
        tail = self._log.read_text(errors="replace")[-2000:]
        raise NotStarted(f"{self.name} is not ready: {shlex.join(self._command)}\n{tail}")

    def usage(self) -> Usage:
        """Return the CPU seconds used until now, those of ended children included."""
        postgres = [process for process in self._descendants() if _is_postgres(process)]
        workers = [process for process in self._descendants() if not _is_postgres(process)]
        own = self._root.cpu_times()
        ended = own.children_user + own.children_system
        return Usage(own.user + own.system, ended + _cpu(workers), _cpu(postgres))

    def memory(self) -> Memory:
        """Return the peaks so far; PostgreSQL is not among the workers."""
        workers = (process for process in self._descendants() if not _is_postgres(process))
        return Memory(_peak(self._root.pid), sum(_peak(worker.pid) for worker in workers))

    def stop(self) -> None:
        """Ask it to end, and insist where it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def kill(self) -> None:
        """Pull the plug: SIGKILL, after which nothing can be tidied."""
        self._process.kill()
        self._process.wait()

    def _descendants(self) -> list[psutil.Process]:
        return self._root.children(recursive=True)


def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command to its end; raise `NotStarted` with what it said where it fails."""
    done = subprocess.run(  # noqa: S603 - the bench's own commands
        list(command),
        env={**_inherited(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotStarted(f"{shlex.join(command)} failed:\n{done.stdout[-2000:]}")


def _inherited() -> dict[str, str]:
    """Return this process's environment without what would configure the servers by accident."""
    refused = ("TINTYPE_", "AWS_", "MALLOC_", "PG", "UVICORN_")
    return {name: value for name, value in os.environ.items() if not name.startswith(refused)}


def _is_postgres(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("postgres")
    except psutil.NoSuchProcess:
        return False


def _cpu(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if found else 0


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
