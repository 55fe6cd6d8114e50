"""One worker, seen from outside: started, handed a file, watched while it works, killed if it must be."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tintype.imaging.handover import Handle, Shared
from tintype.imaging.worker.job import LENGTH_BYTES, MAX_REPLY, Job
from tintype.model.body import Body
from tintype.model.errors import DecoderFailed, TintypeError
from tintype.settings import ImagingSettings, MiB

T = TypeVar("T")

START_SECONDS = 60
"""For a worker to become ready; on a busy T2 instance imports alone take seconds."""
WATCH_SECONDS = 0.025
"""How often memory and time of a running job are looked at. Most jobs end before the first look."""
LOW_PRIORITY = 10
"""Of what takes long: a tenth of a core where ordinary pictures want all of it, so that it does end."""
MEMORY_SLACK = 256 * MiB
"""Address space above the limit of resident memory: much is reserved and never touched."""

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_DISC_THRESHOLD": "1024g",  # large pictures stay in memory, within its limit: no file can be opened
    "VIPS_WARNING": "0",
}
_PASSED_ON = ("LD_LIBRARY_PATH",)


class StartFailed(Exception):
    """A worker did not become ready; what it printed is on standard error."""


class Gone(Exception):
    """The worker was dead before it was handed the job, which therefore has nothing to do with it."""


class Fate(StrEnum):
    """What became of a worker that was lost over a file."""

    CRASH = "crash"
    TIME = "time"
    MEMORY = "memory"
    NONSENSE = "nonsense"


class Lost(Exception):
    """The worker died or was killed while it worked; the text says why, as the end of a sentence."""

    def __init__(self, why: str, fate: Fate) -> None:
        super().__init__(why)
        self.fate = fate


class WorkerProcess:
    """A child process that decodes one file at a time. `start` makes one."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        shared: Shared,
        settings: ImagingSettings,
    ) -> None:
        self.sandbox = "none"
        """What confines it: `seccomp` or `rlimits`."""
        self.served = 0
        self.gave_way = False
        """It has a low priority, for good: to raise it again takes a privilege."""
        self.lost = False
        """It has ended or is about to: no more jobs for it."""
        self._process = process
        self._channel = channel
        self._shared = shared
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._statm = _open_statm(process.pid)
        self._data = b""
        self._answer: asyncio.Future[Any] | None = None
        self._read: Callable[[bytes], Any] = _sandbox
        self._why, self._fate = "it crashed", Fate.CRASH
        self._loop.add_reader(channel, self._readable)

    @classmethod
    async def start(cls, settings: ImagingSettings, *, heic: bool) -> "WorkerProcess":
        """Start a fresh interpreter and wait until it has warmed up and confined itself."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(ours.close)
            ours.setblocking(False)  # noqa: FBT003 - its signature
            shared = Shared()
            undo.callback(shared.close)
            process = await _spawn(theirs, shared, settings, heic=heic)
            undo.pop_all()
        worker = cls(process, ours, shared, settings)
        try:
            async with asyncio.timeout(START_SECONDS):
                worker.sandbox = await worker._expect(_sandbox)
        except (Lost, TimeoutError, ValueError) as error:
            await worker.end()
            raise StartFailed("A decoding process did not become ready; see what it printed.") from error
        except BaseException:
            await worker.end()
            raise
        return worker

    def hand_over(self, job: Job, body: Body, read: Callable[[bytes], T]) -> asyncio.Future[T]:
        """Hand over a file; the future holds what `read` makes of the answer.

        The body may be closed as soon as this returns. Raises `Gone` at once; the future raises
        `Lost`, or what `read` raises.
        """
        message = orjson.dumps(job)
        message = len(message).to_bytes(LENGTH_BYTES) + message
        if self._shared.take(body):
            self._send(message, [])
        else:
            with Handle(body) as handle:
                self._send(message, [handle.descriptor])
        self.served += 1
        answer = self._expect(read)
        watch = _Watch(self, self._settings, self._loop)
        answer.add_done_callback(watch.stop)
        return answer

    def give_way(self) -> None:
        """Leave the processor to whatever else wants it, from now on."""
        self.gave_way = True
        with contextlib.suppress(OSError):  # it has just ended
            os.setpriority(os.PRIO_PGRP, self._process.pid, LOW_PRIORITY)
        # It is a session of its own, and sessions share the processor before their processes do
        # where the kernel groups them (sched(7), "The autogroup feature").
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/autogroup").write_text(f"{LOW_PRIORITY}\n")

    def kill(self, why: str | None = None, fate: Fate = Fate.CRASH) -> None:
        """End the process now; whoever waits for its answer learns why."""
        self.lost = True
        if why is not None:
            self._why, self._fate = why, fate
        # Not `process.kill()`: it would first ask for, and so take away, the exit status that the
        # event loop waits for.
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.kill(self._process.pid, signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until the process has ended, by itself or otherwise."""
        await self._process.wait()
        self.lost = True
        self._fail()
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()
        self._shared.close()
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None

    async def end(self) -> None:
        """Kill the process and wait until nothing of it is left, even if the caller is cancelled."""
        self.kill()
        await asyncio.shield(self.ended())

    def resident(self) -> int:
        """Return how many bytes of memory the process has now; 0 where the system does not tell."""
        if self._statm is None:
            return 0
        try:
            pages = int(os.pread(self._statm, 256, 0).split()[1])
        except (OSError, IndexError):  # it has just ended
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._channel, [message], descriptors)
        except OSError as error:
            self.kill()
            raise Gone from error

    def _expect(self, read: Callable[[bytes], T]) -> asyncio.Future[T]:
        self._read = read
        self._answer = self._loop.create_future()
        return self._answer

    def _readable(self) -> None:
        """Take what has come. An end, or more than an answer, is the end of this worker."""
        try:
            piece = self._channel.recv(MAX_REPLY)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._data += piece
        wanted = LENGTH_BYTES + int.from_bytes(self._data[:LENGTH_BYTES])
        if (
            not piece
            or self._answer is None
            or not LENGTH_BYTES <= wanted <= MAX_REPLY
            or len(self._data) > wanted
        ):
            self._loop.remove_reader(self._channel)
            self.kill("it gave an answer that makes no sense" if piece else None, Fate.NONSENSE)
            self._fail()
        elif len(self._data) == wanted:
            self._settle()

    def _settle(self) -> None:
        """Let the caller have the answer."""
        answer, data = self._answer, self._data[LENGTH_BYTES:]
        self._answer, self._data = None, b""
        if answer is None or answer.done():
            return
        try:
            answer.set_result(self._read(data))
        except Exception as refusal:  # noqa: BLE001 - whatever it is, the caller waits for it
            if not isinstance(refusal, TintypeError) or isinstance(refusal, DecoderFailed):
                self.kill()  # it talks nonsense
            answer.set_exception(refusal)

    def _fail(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(Lost(self._why, self._fate))


class _Watch:
    """Looks at memory and time while a job runs, and kills the worker over either limit."""

    def __init__(
        self, worker: WorkerProcess, settings: ImagingSettings, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._loop = loop
        self._deadline = loop.time() + settings.wall_seconds
        self._timer = loop.call_later(WATCH_SECONDS, self._look)

    def stop(self, _: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        settings = self._settings
        if self._loop.time() >= self._deadline:
            self._worker.kill(f"it took longer than {settings.wall_seconds:g} seconds", Fate.TIME)
        elif self._worker.resident() > settings.max_resident_bytes:
            megabytes = settings.max_resident_bytes // MiB
            self._worker.kill(f"it needed more than {megabytes} MB of memory", Fate.MEMORY)
        else:
            self._timer = self._loop.call_later(WATCH_SECONDS, self._look)


async def _spawn(
    channel: socket.socket, shared: Shared, settings: ImagingSettings, *, heic: bool
) -> asyncio.subprocess.Process:
    options: dict[str, Any] = {
        "parent": os.getpid(),
        "memory": settings.max_resident_bytes + MEMORY_SLACK,
        "heic": heic,
    }
    descriptors = [channel.fileno(), shared.descriptor]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "tintype.imaging.worker"),
        *map(str, descriptors),
        json.dumps(options),
        env=_environment(),
        pass_fds=descriptors,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is for the service, which then drains
    )


def _environment() -> dict[str, str]:
    """Return all that a worker sees of ours: how to import, and how decoders shall behave. No secrets."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**_ENVIRONMENT, **passed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _sandbox(message: bytes) -> str:
    return str(orjson.loads(message)["sandbox"])


def _open_statm(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc: macOS
        return None


def heic_installed() -> bool:
    """Tell whether the `heic` extra is there, without importing it."""
    return importlib.util.find_spec("pillow_heif") is not None
