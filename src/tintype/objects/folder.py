"""Objects in a folder, as durable as the PostgreSQL beside it: nothing is said before it is on the disk.

obstore's `LocalStore` is not used: it does not sync, keeps no metadata, lists in no order, and reads in
steps of 8 KB, at fifteen times the CPU of reading the file here.
"""

import asyncio
import errno
import json
import os
import re
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from tintype.durable import make_folder, sync_folder
from tintype.model.body import Body
from tintype.model.checkpoint import checkpoint
from tintype.model.errors import ObjectMissing, StorageUnavailable
from tintype.objects.info import Entry, Fragment, ObjectInfo, Stored, Version
from tintype.objects.keys import IDENTITY, INCOMING, SIDECARS
from tintype.objects.label import write_label

THREADS = 16
"""Syncs wait for the disk, and those that wait together share one commit of the file system's journal."""
BLOCK = 256 * 1024
PAGE = 1000

_SECOND = 1_000_000_000
_PASSING = re.compile(r"\.(.+)\.[0-9a-f]{16}")
_HAS_UNNAMED_FILES = hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()
_NO_UNNAMED_FILES_HERE = {errno.EOPNOTSUPP, errno.EISDIR}
_CANNOT_ADOPT = {errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EMLINK}

P = ParamSpec("P")
T = TypeVar("T")


class Folder:
    """A store in a folder of its own.

    An object's file is written without a name, synced, and only then linked into its place, after its
    sidecar: what can be seen is whole. An ETag is the time of storing and the length, from the file's
    own mtime and size. So a listing proves that a file was not touched, across restarts and copies
    that keep times (`cp -a`, `rsync -a`, `tar`); a plain `cp -r` makes every object look changed.
    """

    def __init__(self, root: Path, *, unnamed_files: bool = _HAS_UNNAMED_FILES) -> None:
        self.location = str(root)
        self._root = root
        self._unnamed_files = unnamed_files
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._lock = threading.Lock()
        self._durable: set[Path] = set()
        self._adopting: set[tuple[int, int]] = set()
        self._identified = False

    async def put(self, key: str, body: Body, content_type: str, metadata: Mapping[str, str]) -> Stored:
        """Store the body, and return once file, sidecar and their folders are on the disk."""
        # A cancelled request closes its body while the thread still reads it: hence a descriptor of our own.
        own = body if body.file is None else replace(body, file=os.dup(body.file))
        job = self._threads.submit(self._translated, self._put, key, own, content_type, dict(metadata))
        if own is not body:
            job.add_done_callback(lambda _: own.close())
        return await asyncio.wrap_future(job)

    async def create(self, key: str, data: bytes) -> None:
        """Store a small object without metadata, unless there is one already."""
        await self._run(self._create, key, data)

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None when there is none."""
        return await self._run(self._head, key)

    async def read(self, key: str, start: int, end: int | None) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to `end` (exclusive)."""
        file, size = await self._run(self._open, key)
        try:
            stop = size if end is None else min(end, size)
            while start < stop:
                block = await self._run(os.pread, file, min(BLOCK, stop - start), start)
                if not block:
                    raise StorageUnavailable(f"{key} ends at byte {start}, before {stop}. Run a check.")
                start += len(block)
                yield block
        finally:
            os.close(file)

    async def list(self, prefix: str, start_after: str) -> AsyncGenerator[list[ObjectInfo]]:
        """Yield pages of objects in the order of their keys."""
        objects = self._walk(self._root / prefix, prefix, start_after)
        while page := await self._run(lambda: list(islice(objects, PAGE))):
            yield page
        await self._run(self._check_mount)

    async def entries(self, prefix: str, start_after: str) -> AsyncGenerator[Sequence[Entry]]:
        """Yield pages of plain tuples in the order of the keys."""
        async for page in self.list(prefix, start_after):
            yield [(info.key, info.size, info.etag) for info in page]

    async def names(self, prefix: str) -> Sequence[str]:
        """Return what lies directly below a prefix."""
        return await self._run(self._names, prefix)

    async def copy(self, source: str, target: str) -> Stored:
        """Give an object a second name, and its sidecar too; return once both are on the disk."""
        return await self._run(self._link_copy, source, target)

    async def label(self, key: str) -> bytes | None:
        """Return the sidecar of an object as it is."""
        return await self._run(self._label, key)

    async def relabel(self, key: str, label: bytes | None) -> Stored:
        """Write the sidecar of an object anew, or remove it."""
        return await self._run(self._relabel, key, label)

    async def fragments(self, prefix: str) -> Sequence[Fragment]:
        """Return sidecars without an object, and files that never got their name."""
        return await self._run(lambda: list(self._fragments(prefix)))

    async def discard(self, fragment: Fragment) -> None:
        """Remove a sidecar whose object did not come, or a file without a name."""
        await self._run(self._discard, fragment)

    async def versions(self, key: str) -> Sequence[Version]:
        """Return nothing: a folder keeps no versions."""
        del key
        return []

    async def recover(self, key: str, version: Version) -> Stored:
        """Fail: a folder keeps no versions."""
        raise ObjectMissing(f"{self.location} has no version {version.id} of {key}.")

    async def delete(self, key: str) -> None:
        """Remove an object and its sidecar; nothing happens where there is none."""
        await self._run(self._delete, key)

    async def probe(self) -> None:
        """Raise `StorageUnavailable` when the folder that was there is gone."""
        await self._run(self._check_mount)

    async def aclose(self) -> None:
        """Let puts that are under way end, and release the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    # In a thread from here on

    def _put(self, key: str, body: Body, content_type: str, metadata: dict[str, str]) -> Stored:
        self._check_mount()
        path, sidecar = self._root / key, self._sidecar(key)
        found = self._head(key)
        if found is not None and found.holds(body.length, metadata):
            # Again after a lost answer; the crash may have come before the folders were synced.
            sync_folder(sidecar.parent)
            sync_folder(path.parent)
            return Stored(found.etag, found.size)
        self._write(sidecar, write_label(content_type, metadata))
        checkpoint("sidecar-stored")
        return self._write_body(path, body)

    def _create(self, key: str, data: bytes) -> None:
        with suppress(FileExistsError):
            self._write(self._root / key, data, over=False)
        self._identified = self._identified or key == IDENTITY

    def _head(self, key: str) -> ObjectInfo | None:
        try:
            status = (self._root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            self._check_mount()
            return None
        return replace(_info(key, status), metadata=self._metadata(key))

    def _names(self, prefix: str) -> Sequence[str]:
        try:
            with os.scandir(self._root / prefix) as entries:
                found = [f"{each.name}/" if each.is_dir() else each.name for each in entries]
        except (FileNotFoundError, NotADirectoryError):
            self._check_mount()
            return []
        return sorted(name for name in found if not name.startswith(".") and prefix + name != SIDECARS)

    def _link_copy(self, source: str, target: str) -> Stored:
        """Link the file under its second name: what is never written again can have two.

        The file keeps its mtime, and so the object its ETag.
        """
        found = self._root / source
        label = self._label(source)
        if label is not None:
            self._write(self._sidecar(target), label)
        path = self._root / target
        with self._opened(path.parent) as directory:
            try:
                os.link(found, path)
            except FileNotFoundError as error:
                raise ObjectMissing(f"There is no {source} in {self.location}.") from error
            except FileExistsError as error:
                if not path.samefile(found):
                    raise StorageUnavailable(
                        f"{self.location} holds something else under {target}."
                    ) from error
            os.fsync(directory)
        status = path.stat()
        return Stored(_etag(status), status.st_size)

    def _label(self, key: str) -> bytes | None:
        try:
            return self._sidecar(key).read_bytes()
        except FileNotFoundError:
            return None

    def _relabel(self, key: str, label: bytes | None) -> Stored:
        if label is None:
            self._sidecar(key).unlink(missing_ok=True)
        else:
            self._write(self._sidecar(key), label)
        try:
            status = (self._root / key).stat()
        except FileNotFoundError as error:
            raise ObjectMissing(f"There is no {key} in {self.location}.") from error
        return Stored(_etag(status), status.st_size)

    def _fragments(self, prefix: str) -> Generator[Fragment]:
        sidecars = self._root / SIDECARS
        for path in (sidecars / prefix).rglob("*"):
            key = path.relative_to(sidecars).as_posix().removesuffix(".json")
            if path.suffix == ".json" and not (self._root / key).exists():
                yield _fragment(key, path, is_label=True)
        for path in (self._root / prefix).rglob(".*"):
            if (match := _PASSING.fullmatch(path.name)) and path.is_file():
                yield _fragment(path.relative_to(self._root).with_name(match[1]).as_posix(), path)

    def _discard(self, fragment: Fragment) -> None:
        if not (fragment.is_label and (self._root / fragment.key).exists()):
            Path(fragment.token).unlink(missing_ok=True)

    def _open(self, key: str) -> tuple[int, int]:
        try:
            file = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            self._check_mount()
            raise ObjectMissing(f"There is no {key} in {self.location}.") from error
        self._identified = self._identified or key == IDENTITY
        return file, os.fstat(file).st_size

    def _delete(self, key: str) -> None:
        path = self._root / key
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            sync_folder(path.parent)
        # Last: an object that can be seen has its sidecar.
        self._sidecar(key).unlink(missing_ok=True)
        if key.startswith(INCOMING):
            self._prune(path.parent)
            self._prune(self._sidecar(key).parent)

    def _prune(self, folder: Path) -> None:
        """Remove an upload's folders once they are empty: each upload has its own, and uploads never end."""
        with self._lock, suppress(OSError):  # not empty, or gone already
            while folder.name != INCOMING.rstrip("/"):
                folder.rmdir()
                self._durable.discard(folder)
                folder = folder.parent

    def _walk(self, folder: Path, prefix: str, after: str) -> Generator[ObjectInfo]:
        """Yield the objects below a folder whose keys come after `after`; keys are ASCII."""
        try:
            # The folder `a` holds keys that begin with `a/`, and those come after the key `a-b`.
            entries = sorted(os.scandir(folder), key=lambda e: f"{e.name}/" if e.is_dir() else e.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = prefix + entry.name
            if entry.name.startswith(".") or f"{key}/" == SIDECARS:
                continue
            if entry.is_dir():
                if f"{key}/" > after or after.startswith(f"{key}/"):
                    yield from self._walk(folder / entry.name, f"{key}/", after)
            elif key > after:
                with suppress(FileNotFoundError):  # deleted since
                    yield _info(key, entry.stat())

    def _write(self, path: Path, data: bytes, *, over: bool = True) -> None:
        with self._opened(path.parent) as directory, self._new_file(directory, path.name) as file:
            _write_all(file.descriptor, data)
            os.fsync(file.descriptor)
            file.place(over=over)
            os.fsync(directory)

    def _write_body(self, path: Path, body: Body) -> Stored:
        with self._opened(path.parent) as directory:
            etag = self._adopt(body, directory, path.name) or self._copy(body, directory, path.name)
            checkpoint("object-placed")
            os.fsync(directory)
        return Stored(etag, body.length)

    def _adopt(self, body: Body, directory: int, name: str) -> str | None:
        """Give the spool file itself the object's name, so that no byte is copied; None if that cannot be.

        It cannot on another file system, and for a body that is an object already: two objects must
        not share a file.
        """
        if body.file is None or not self._unnamed_files:
            return None
        status = os.fstat(body.file)
        if status.st_size != body.length or status.st_dev != os.fstat(directory).st_dev:
            return None
        with self._claimed((status.st_dev, status.st_ino)) as claimed:
            if not claimed or os.fstat(body.file).st_nlink:
                return None
            try:
                return _NewFile(body.file, directory, name).seal()
            except OSError as error:
                if error.errno in _CANNOT_ADOPT:
                    return None
                raise

    def _copy(self, body: Body, directory: int, name: str) -> str:
        with self._new_file(directory, name) as file:
            if body.memory is not None:
                _write_all(file.descriptor, body.memory)
            else:
                for start in range(0, body.length, BLOCK):
                    _write_all(file.descriptor, body.read(start, BLOCK))
            return file.seal()

    @contextmanager
    def _claimed(self, file: tuple[int, int]) -> Generator[bool]:
        """Tell whether this thread alone is about to give the file a name."""
        with self._lock:
            claimed = file not in self._adopting
            self._adopting.add(file)
        try:
            yield claimed
        finally:
            if claimed:
                self._adopting.discard(file)

    @contextmanager
    def _opened(self, folder: Path) -> Generator[int]:
        """Open a folder, which is made first, and durably, where it is missing."""
        if folder not in self._durable:
            with self._lock:
                self._make(folder)
        try:
            directory = _open_folder(folder)
        except FileNotFoundError:  # it was empty for a moment, and removed
            with self._lock:
                self._durable.discard(folder)
                self._make(folder)
            directory = _open_folder(folder)
        try:
            yield directory
        finally:
            os.close(directory)

    def _make(self, folder: Path) -> None:
        if folder in self._durable:
            return
        if folder != self._root:
            self._make(folder.parent)
        make_folder(folder)
        self._durable.add(folder)

    @contextmanager
    def _new_file(self, directory: int, name: str) -> Generator["_NewFile"]:
        file = self._unnamed(directory, name) or _named(directory, name)
        try:
            yield file
        finally:
            os.close(file.descriptor)
            if file.temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(file.temporary, dir_fd=directory)

    def _unnamed(self, directory: int, name: str) -> "_NewFile | None":
        if not self._unnamed_files:
            return None
        try:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            return _NewFile(os.open(".", flags, 0o600, dir_fd=directory), directory, name)
        except OSError as error:
            if error.errno in _NO_UNNAMED_FILES_HERE:
                return None
            raise

    def _sidecar(self, key: str) -> Path:
        return self._root / SIDECARS / f"{key}.json"

    def _metadata(self, key: str) -> dict[str, str]:
        try:
            return cast("dict[str, str]", json.loads(self._sidecar(key).read_bytes())["metadata"])
        except (FileNotFoundError, ValueError, KeyError):
            return {}

    def _check_mount(self) -> None:
        """Raise when the folder lost its identity: an empty mount point would otherwise look like loss."""
        if self._identified and not (self._root / IDENTITY).exists():
            raise StorageUnavailable(
                f"{self.location} has lost its {IDENTITY}. Is its disk mounted?", retry_after=30
            )

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._threads.submit(self._translated, call, *args, **kwargs))

    def _translated(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (OSError, EOFError) as error:
            raise StorageUnavailable(f"{self.location} cannot be used: {error}.", retry_after=30) from error


@dataclass(slots=True)
class _NewFile:
    """A file that is written, and has no place in the store yet."""

    descriptor: int
    directory: int
    name: str
    temporary: str | None = None
    """A passing name, on systems without unnamed files."""

    def seal(self) -> str:
        """Sync the file, put it into its place, and return its ETag.

        Its mtime becomes a whole second, which every copying tool keeps; a later write would leave
        a fraction.
        """
        now = time.time_ns() // _SECOND * _SECOND
        os.utime(self.descriptor, ns=(now, now))
        os.fsync(self.descriptor)
        checkpoint("object-written")
        self.place()
        return _etag(os.fstat(self.descriptor))

    def place(self, *, over: bool = True) -> None:
        """Give the file its name, in one step; `over` what has it, or else raise `FileExistsError`."""
        try:
            self._link(self.name)
        except FileExistsError:
            if not over:
                raise
            passing = _passing_name(self.name)
            self._link(passing)
            os.rename(passing, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def _link(self, name: str) -> None:
        if self.temporary is not None:
            os.link(self.temporary, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        else:
            # open(2), O_TMPFILE: linkat() follows /proc/self/fd/N to the file. Python calls linkat(),
            # and not link(), which does not follow, only when given a descriptor of a folder.
            source = f"/proc/self/fd/{self.descriptor}"
            os.link(source, name, dst_dir_fd=self.directory, follow_symlinks=True)


def _named(directory: int, name: str) -> _NewFile:
    temporary = _passing_name(name)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    return _NewFile(os.open(temporary, flags, 0o600, dir_fd=directory), directory, name, temporary)


def _passing_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(8)}"  # as `_PASSING` has it


def _fragment(key: str, path: Path, *, is_label: bool = False) -> Fragment:
    return Fragment(key, str(path), datetime.fromtimestamp(path.stat().st_mtime, UTC), is_label)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime_ns // _SECOND, UTC)
    return ObjectInfo(key, status.st_size, _etag(status), modified)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
