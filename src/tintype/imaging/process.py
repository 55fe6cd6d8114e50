"""One worker, seen from outside: started, handed a file, watched while it works, killed if it must be."""

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from typing import Any

from tintype.imaging.worker.job import LENGTH_BYTES, MAX_REPLY, Job, frame
from tintype.settings import ImagingSettings, MiB

START_SECONDS = 60
"""For a worker to become ready; on a busy T2 instance imports alone take seconds."""
WATCH_SECONDS = 0.025
"""How often memory and time of a running job are looked at. Most jobs end before the first look."""
MEMORY_SLACK = 256 * MiB
"""Address space above the limit of resident memory: much is reserved and never touched."""

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_WARNING": "0",
}
_PASSED_ON = ("LD_LIBRARY_PATH",)


class StartFailed(Exception):
    """A worker did not become ready; what it printed is on standard error."""


class Gone(Exception):
    """The worker was dead before it was handed the job, which therefore has nothing to do with it."""


class Lost(Exception):
    """The worker died or was killed while it worked; the text says why, as the end of a sentence."""


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A child process that decodes one file at a time."""

    process: asyncio.subprocess.Process
    channel: socket.socket
    settings: ImagingSettings
    sandbox: str = "none"
    """What confines it: `seccomp` or `rlimits`."""
    served: int = 0
    lost: bool = False
    _statm: int | None = None
    _why: str = "it crashed"

    @classmethod
    async def start(cls, settings: ImagingSettings, *, heic: bool) -> "WorkerProcess":
        """Start a fresh interpreter and wait until it has warmed up and confined itself."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - its signature
        with theirs:
            process = await _spawn(theirs, settings, heic=heic)
        worker = cls(process, ours, settings)
        try:
            async with asyncio.timeout(START_SECONDS):
                worker.sandbox = json.loads(await worker._receive())["sandbox"]
        except (Lost, TimeoutError, ValueError) as error:
            await worker.end()
            raise StartFailed("a decoding process did not become ready") from error
        except BaseException:
            await worker.end()
            raise
        worker._statm = _open_statm(process.pid)
        return worker

    async def ask(self, job: Job, descriptor: int) -> bytes:
        """Hand over a file and return the answer, unread. Raises `Gone` or `Lost`."""
        try:
            socket.send_fds(self.channel, [frame(asdict(job))], [descriptor])
        except OSError as error:
            self.kill()
            raise Gone from error
        self.served += 1
        loop = asyncio.get_running_loop()
        watch = _Watch(self, loop, loop.time() + self.settings.wall_seconds)
        try:
            return await self._receive()
        finally:
            watch.stop()

    def kill(self, why: str | None = None) -> None:
        """End the process now; whoever waits for its answer learns why."""
        self.lost = True
        self._why = why or self._why
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> None:
        """Wait until the process has ended, by itself or otherwise."""
        await self.process.wait()
        self.lost = True
        self.channel.close()
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

    async def _receive(self) -> bytes:
        """Read one framed message; a length that makes no sense is the end of this worker."""
        loop = asyncio.get_running_loop()
        data = b""
        wanted = LENGTH_BYTES
        while len(data) < wanted:
            try:
                piece = await loop.sock_recv(self.channel, MAX_REPLY + LENGTH_BYTES)
            except OSError:
                piece = b""
            if not piece:
                self.kill()
                raise Lost(self._why)
            data += piece
            if len(data) >= LENGTH_BYTES:
                wanted = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES])
            if wanted > MAX_REPLY + LENGTH_BYTES or len(data) > wanted:
                self.kill("it gave an answer that makes no sense")
                raise Lost(self._why)
        return data[LENGTH_BYTES:]


class _Watch:
    """Looks at memory and time while a job runs, and kills the worker over either limit."""

    def __init__(self, worker: WorkerProcess, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._worker = worker
        self._loop = loop
        self._deadline = deadline
        self._timer = loop.call_later(WATCH_SECONDS, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        settings = self._worker.settings
        if self._loop.time() >= self._deadline:
            self._worker.kill(f"it took longer than {settings.wall_seconds:g} seconds")
        elif self._worker.resident() > settings.max_resident_bytes:
            self._worker.kill(f"it needed more than {settings.max_resident_bytes // MiB} MB of memory")
        else:
            self._timer = self._loop.call_later(WATCH_SECONDS, self._look)


async def _spawn(
    channel: socket.socket, settings: ImagingSettings, *, heic: bool
) -> asyncio.subprocess.Process:
    options: dict[str, Any] = {
        "parent": os.getpid(),
        "memory": settings.max_resident_bytes + MEMORY_SLACK,
        "heic": heic,
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "tintype.imaging.worker",
        str(channel.fileno()),
        json.dumps(options),
    ]
    return await asyncio.create_subprocess_exec(
        *command,
        env=_environment(),
        pass_fds=[channel.fileno()],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )


def _environment() -> dict[str, str]:
    """Return all that a worker sees of ours: how to import, and how decoders shall behave. No secrets."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**_ENVIRONMENT, **passed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _open_statm(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc: macOS
        return None


def heic_installed() -> bool:
    """Tell whether the `heic` extra is there, without importing it."""
    return importlib.util.find_spec("pillow_heif") is not None
