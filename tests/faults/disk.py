"""What a disk has for certain: a record of system calls, and the folder that is left when the power goes.

A file survives with what was written to it before its last sync began, a name when its folder was synced
after it was given. All else is taken away here, though a kind disk would have kept much of it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

STRACE = ["strace", "-f", "-y", "-qq", "-s", "200", "--seccomp-bpf"]
_WRITING = ["write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate", "utimensat"]
_SYNCING = ["fsync", "fdatasync"]
_SENDING = ["sendto", "sendmsg"]
"""With `write`: to sockets."""
_NAMING = ["openat", "mkdir", "mkdirat", "link", "linkat", "rename", "renameat", "renameat2"]
_FIRST = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))")
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_RESULT = re.compile(r"\) += (-?\d+)(?:<([^>]*)>(?:\(deleted\))?)?(?: E[A-Z]+ .*)?$")
_DESCRIPTOR_OF_ITS_OWN = re.compile(r"/proc/self/fd/(\d+)")
_UNFINISHED = "<unfinished ...>"
NEVER = 10**12
"""Later than any line of a record."""


def _may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    tried = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


needs_strace = pytest.mark.skipif(
    not _may_trace(), reason="strace is not installed (apt-get install strace), or nobody may trace here"
)


def traced(command: Sequence[str], record: Path) -> list[str]:
    """Return a command that records what the given one, and all that it starts, does to files."""
    return [
        *STRACE,
        "-e",
        f"trace={','.join(_WRITING + _SYNCING + _NAMING + _SENDING)}",
        "-o",
        str(record),
        *command,
    ]


@dataclass(frozen=True, slots=True)
class Call:
    """A system call. What it does has happened somewhere between two lines of the record."""

    began: int
    ended: int
    thread: str
    name: str
    text: str

    @property
    def failed(self) -> bool:
        found = _RESULT.search(self.text)
        return found is not None and int(found[1]) < 0

    @property
    def path(self) -> str:
        """The file of the descriptor that it begins with."""
        found = _DESCRIPTOR.match(self.text)
        return found[2] if found else ""

    @property
    def opened(self) -> str:
        found = _RESULT.search(self.text)
        return (found[2] or "") if found else ""

    def named(self, home: Path) -> list[str]:
        """Return the paths that it names. What is relative to no descriptor is so to a program's home."""
        arguments = self.text.partition(") = ")[0]
        at = self.name.endswith(("at", "at2"))
        folders = iter([found[2] for found in _DESCRIPTOR.finditer(arguments)] if at else [])
        return [str(Path(next(folders, home), text)) for text in _TEXT.findall(self.text)]


def calls(record: Path) -> Iterator[Call]:
    """Yield the calls of a record in the order of their ends; those that had none when it broke off, last."""
    begun: dict[str, Call] = {}
    with record.open() as lines:
        for at, line in enumerate(lines):
            found = _FIRST.match(line)
            if found is None:  # a signal, an end
                continue
            thread, name, text, resumed, rest = found.groups()
            if resumed:
                first = begun.pop(thread)
                yield Call(first.began, at, thread, first.name, first.text + rest)
            elif text.endswith(_UNFINISHED):
                begun[thread] = Call(at, NEVER, thread, name, text.removesuffix(_UNFINISHED))
            else:
                yield Call(at, at, thread, name, text)
    yield from begun.values()


@dataclass
class Disk:
    """What a disk was told of a folder, by path."""

    folder: Path
    before: Path
    """The folder as it was when the record began, all of it on the disk."""
    home: Path
    """Where relative paths of the programs begin, until it gets another name."""
    written: dict[str, int] = field(default_factory=dict[str, int])
    """When a file was last written to."""
    synced: dict[str, int] = field(default_factory=dict[str, int])
    """When the last sync of a file or folder began, of those that ended."""
    named: dict[str, int] = field(default_factory=dict[str, int])
    """When a name had come to be."""
    _descriptors: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def follow(self, record: Path) -> "Disk":
        """Do what the programs did."""
        for call in calls(record):
            if found := _DESCRIPTOR.match(call.text):
                self._descriptors[call.thread, found[1]] = found[2]
            if not call.failed:
                self._follow(call)
        return self

    def _follow(self, call: Call) -> None:
        if call.name in _WRITING:
            self.written[call.path] = call.ended
        elif call.name in _SYNCING:
            if call.ended != NEVER:
                self.synced[call.path] = max(call.began, self.synced.get(call.path, -1))
        elif call.name == "openat":
            path = call.opened or call.named(self.home)[0]
            if "O_CREAT" in call.text and not self._old(Path(path)).exists():
                self.named.setdefault(path, call.ended)
        elif call.name in ("mkdir", "mkdirat"):
            self.named[call.named(self.home)[0]] = call.ended
        elif call.name in _NAMING:
            self._rename(call)

    def _rename(self, call: Call) -> None:
        """Have a name lead to what another one leads to, or a descriptor."""
        source, target = call.named(self.home)
        if own := _DESCRIPTOR_OF_ITS_OWN.search(call.text):
            source = self._descriptors.get((call.thread, own[1]), source)
        for known in (self.written, self.synced):
            known.pop(target, None)
            if source in known:
                known[target] = known[source]
        for known in (self.written, self.synced, self.named):
            for path in [path for path in known if path.startswith(f"{source}/")]:
                known[target + path.removeprefix(source)] = known.pop(path)
        if self.home == Path(source):
            self.home = Path(target)
        self.named[target] = call.ended

    def _old(self, path: Path) -> Path:
        return self.before / path.relative_to(self.folder) if path.is_relative_to(self.folder) else path

    def has_bytes(self, path: Path) -> bool:
        """Tell whether all that was written to a file survives."""
        return self.written.get(str(path), -1) < self.synced.get(str(path), 0)

    def has_name(self, path: Path) -> bool:
        """Tell whether the name itself survives; the folders above have names of their own."""
        return self.named.get(str(path), -1) < self.synced.get(str(path.parent), 0)

    def cut_power(self, kept: Path | None = None) -> list[Path]:
        """Leave of the folder what is on the disk for certain, and return what was taken.

        Below `kept` everything is left as it is. What was deleted stays so: a disk could bring it back.
        """
        taken: list[Path] = []
        for path in sorted(self.folder.rglob("*")):
            if kept in path.parents or not path.exists():  # its folder was taken
                continue
            if path.is_dir():
                if not self.has_name(path) and not self._old(path).exists():
                    shutil.rmtree(path)
                    taken.append(path)
            elif path.is_file() and not (self.has_name(path) and self.has_bytes(path)):
                self._take(path)
                taken.append(path)
        return taken

    def _take(self, path: Path) -> None:
        """Put a file into the state that it had. One that had none is empty, or gone."""
        old = self._old(path)
        if old.exists():
            path.write_bytes(old.read_bytes())
        elif self.has_name(path):
            path.write_bytes(b"")
        else:
            path.unlink()
