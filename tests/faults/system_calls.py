"""System calls that fail: those of this process on files below one folder.

What goes past Python's `os` is no point: reads and writes of its file objects (sidecars and markers are read
so, and outbox files written before their `fdatasync`, which is one), and file times.
"""

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.points import SLOW_SECONDS, Kind, Station, place_of

BY_DESCRIPTOR = ("write", "pread", "fsync", "fdatasync")
BY_PATH = ("open", "unlink", "mkdir", "rmdir", "stat", "scandir", "statvfs")
BY_TARGET = ("link", "rename", "replace")
LOOKS = ("pread", "open", "stat", "scandir", "statvfs")
"""They change nothing."""


def not_applicable(operation: str, kind: Kind) -> str | None:
    """Return why a kind of fault makes no sense at an operation; None where it does."""
    call = operation.partition(" ")[0]
    if kind is Kind.TORN and call != "write":
        return "the file system does it whole or not at all"
    if kind is Kind.LOST and call in LOOKS:
        return "to look changes nothing: it is the same as an error"
    if kind is Kind.KILL_AFTER and call in LOOKS:
        return "to look changes nothing: it is the same as a kill before"
    return None


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder, and its station."""

    root: Path
    station: Station

    def attach(self) -> None:
        """Have this process's calls pass the station, until the process ends."""
        for name in BY_DESCRIPTOR:
            self._wrap(name, lambda descriptor, *_rest, **_named: _of_descriptor(descriptor))
        for name in BY_PATH:
            self._wrap(name, lambda path=".", *_rest, dir_fd=None, **_named: _of(path, dir_fd))
        for name in BY_TARGET:
            self._wrap(name, lambda _from, to, *_rest, dst_dir_fd=None, **_named: _of(to, dst_dir_fd))

    def _wrap(self, name: str, place_of: Callable[..., Path | None]) -> None:
        real = getattr(os, name)

        def call(*args: Any, **named: Any) -> Any:  # noqa: ANN401 # whatever the system call takes
            place = place_of(*args, **named)
            if place is None or not place.is_relative_to(self.root):
                return real(*args, **named)
            operation = f"{_verb(name, args)} {self._area(place)}"
            return self._do(self.station.passes(operation), real, args, named)

        setattr(os, name, call)

    def _do(
        self, kind: Kind | None, real: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        match kind:
            case None:
                return real(*args, **named)
            case Kind.SLOW:
                time.sleep(SLOW_SECONDS)
                return real(*args, **named)
            case Kind.KILL_BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
            case Kind.ERROR:
                raise OSError(errno.EIO, "the disk fails")
            case Kind.TORN:
                descriptor, data, *rest = args
                real(descriptor, memoryview(data)[: len(data) // 2], *rest)
                raise OSError(errno.ENOSPC, "the disk is full in the middle")
            case _:
                real(*args, **named)
        if kind is Kind.KILL_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, "the disk fails when it has done it")

    def _area(self, place: Path) -> str:
        """Return where a file is, without what is different in each run."""
        return place_of(place.relative_to(self.root).parts) or "."


def _verb(name: str, args: tuple[Any, ...]) -> str:
    makes = name == "open" and len(args) > 1 and args[1] & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
    return "create" if makes else name


def _of_descriptor(descriptor: int) -> Path | None:
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None


def _of(path: str | os.PathLike[str] | int, directory: int | None) -> Path | None:
    if isinstance(path, int):
        return _of_descriptor(path)
    place = Path(os.fsdecode(path))
    if place.is_absolute() or directory is None:
        return place
    above = _of_descriptor(directory)
    return above and above / place
