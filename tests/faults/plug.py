"""The plug of a service: everything that it has started is frozen at one instant, or killed at it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from service import Service

FREEZE_SECONDS = 20
"""A thread that waits for the disk stops only when the disk has answered."""
_STANDING = frozenset("TtZX")
"""States of threads that write nothing: stopped, traced, dead. See proc(5)."""


@contextmanager
def frozen(service: Service) -> Iterator[list[psutil.Process]]:
    """Stop the service, its PostgreSQL and its decoders, and let them go on afterwards."""
    family = _stopped(service.pid)
    try:
        _wait_until_standing(family)
        yield family
    finally:
        for each in family:
            _send(each, signal.SIGCONT)


def pull(service: Service) -> None:
    """Kill everything at one instant: nobody sees another one die, and none can tidy up."""
    assert service.process is not None
    for each in _stopped(service.pid):
        _send(each, signal.SIGKILL)
    assert service.process.wait(30) == -signal.SIGKILL, service.output


def pull_all_but_postgres(service: Service) -> None:
    """Kill the group of Tintype's process. PostgreSQL is in none of it, and is told by the kernel to end."""
    assert service.process is not None
    os.killpg(service.pid, signal.SIGKILL)
    assert service.process.wait(30) == -signal.SIGKILL, service.output


def _stopped(pid: int) -> list[psutil.Process]:
    """Stop a process and all that descend from it, until none is left that could start another one."""
    found: list[psutil.Process] = []
    while fresh := [each for each in _family(pid) if each not in found]:
        for each in fresh:
            _send(each, signal.SIGSTOP)
        found += fresh
    return found


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, also those that lead sessions of their own, as PostgreSQL."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _wait_until_standing(family: list[psutil.Process]) -> None:
    deadline = time.monotonic() + FREEZE_SECONDS
    while moving := [each.pid for each in family if not _stands(each.pid)]:
        assert time.monotonic() < deadline, f"these do not stop: {moving}"
        time.sleep(0.001)


def _stands(pid: int) -> bool:
    try:
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # one of them has just ended
        return not psutil.pid_exists(pid)
    return all(each.rpartition(")")[2].split()[0] in _STANDING for each in threads)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
