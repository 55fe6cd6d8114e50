"""The cage: decoding happens in worker processes that can be killed, and that can do nothing else.

A file that kills its worker is refused; its neighbours do not notice. Pictures that take long to
decode have workers of their own, at a low priority, so that ordinary ones never wait behind them.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

from tintype.imaging.headers import Header
from tintype.imaging.lanes import HEAVY_SECONDS, Lane, expected_seconds
from tintype.imaging.process import Fate, Gone, Lost, StartFailed, WorkerProcess, heic_installed
from tintype.imaging.reply import read_rendered, read_reply
from tintype.imaging.worker.job import Job
from tintype.model.body import Body
from tintype.model.errors import DecoderFailed, Overloaded, ShuttingDown
from tintype.model.image import Facts, Format
from tintype.settings import ImagingSettings
from tintype.telemetry import Metrics, get_logger

T = TypeVar("T")

WAIT_SECONDS = 30
"""For a free worker. The bytes have arrived, and would have to be sent again; but half of what a balancer
waits for an answer is left for all that comes after."""
RETRY_AFTER_SECONDS = 5
OUTSTAYED_SECONDS = 2 * HEAVY_SECONDS
"""After which a picture is heavy, whatever its header told."""
CORES_FOR_A_HEAVY = 4
"""Of so many cores one more picture that takes long is decoded at once; one at least."""
PAUSES_SECONDS = (0.1, 0.5, 2, 5)
"""Between attempts to start a worker that does not start."""

log = get_logger()


@dataclass(slots=True)
class _Pool:
    """Workers of one priority, and the lane that leads to them."""

    lane: Lane
    is_heavy: bool = False
    idle: asyncio.LifoQueue[WorkerProcess] = field(default_factory=asyncio.LifoQueue[WorkerProcess])


@dataclass(slots=True)
class _Visit:
    """One picture's stay: whose it is, in which lane it has a place, since when."""

    owner: str
    lane: Lane
    began: float
    outstayed: asyncio.TimerHandle | None = field(default=None)


def _processors() -> int:
    """Return how many processors this process may use: a container may have fewer than the machine."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux alone
    return len(allowed(0)) if allowed else os.cpu_count() or 1


class Cage:
    """A pool of workers. Open it with `async with Cage.open(settings) as cage`."""

    def __init__(self, settings: ImagingSettings, wait_seconds: float, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._wait_seconds = wait_seconds
        self._size = settings.workers or _processors()
        self._heic = heic_installed() and not settings.disabled(Format.HEIC)
        self._heavies = max(1, self._size // CORES_FOR_A_HEAVY)
        self._ordinary = _Pool(Lane(self._size))
        self._heavy = _Pool(Lane(self._heavies), is_heavy=True)
        self._seats: list[asyncio.Task[None]] = []
        self._ready = asyncio.Semaphore(0)
        self._opened = False
        self._closing = False
        self.sandbox = "none"
        """What confines the workers: `seccomp`, or `rlimits` where the kernel refuses filters."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: ImagingSettings,
        *,
        wait_seconds: float = WAIT_SECONDS,
        metrics: Metrics | None = None,
    ) -> AsyncGenerator["Cage"]:
        """Start the workers and wait until they are warm; end them all on the way out.

        No job waits longer than `wait_seconds` for a worker.

        Raises `StartFailed` if a worker does not start.
        """
        cage = cls(settings, wait_seconds, metrics or Metrics())
        try:
            await cage._fill()
            yield cage
        finally:
            await cage._close()

    async def decode(self, body: Body, header: Header, owner: str = "") -> Facts:
        """Decode every pixel of the file, and return all facts. Owners take turns.

        Raises `ImageCorrupt`, `ImageTooLarge` and `UnsupportedType` for what the decoder says,
        `DecoderFailed` for a file that its worker did not survive, `Overloaded` if no worker
        became free in time, `ShuttingDown` if the cage was closed meanwhile.

        A caller that is cancelled leaves its job running to its end: that is bounded, and cheaper
        than a new worker.
        """
        read = partial(read_reply, header=header)
        return await self._result(await self._hand_over(body, header, owner, read), header)

    async def render(self, body: Body, header: Header, side: int, owner: str = "") -> bytes:
        """Return a small JPEG of the first frame, up to `side` pixels along a side.

        Raises what `decode` raises.
        """
        read = partial(read_rendered, header=header)
        return await self._result(await self._hand_over(body, header, owner, read, side), header)

    async def _result(self, answer: asyncio.Future[T], header: Header) -> T:
        try:
            return await asyncio.shield(answer)
        except Lost as lost:
            if self._closing:
                raise ShuttingDown("This instance is shutting down. Send the image again.") from lost
            raise DecoderFailed(
                f"The decoder was stopped at this {header.format.label}: {lost}. "
                "Send a smaller or simpler version."
            ) from lost

    async def _hand_over(
        self, body: Body, header: Header, owner: str, read: Callable[[bytes], T], side: int = 0
    ) -> asyncio.Future[T]:
        """Wait for a worker and give it the file; it comes back to the pool when it has answered."""
        pool = self._heavy if expected_seconds(header) > HEAVY_SECONDS else self._ordinary
        await self._enter(pool.lane, owner)
        try:
            while True:
                worker = await self._next_idle(pool)
                try:
                    answer = worker.hand_over(self._job(header, body, side), body, read)
                    break
                except Gone:
                    continue
                except BaseException:
                    pool.idle.put_nowait(worker)
                    raise
        except BaseException:
            pool.lane.leave(owner, 0)
            raise
        loop = asyncio.get_running_loop()
        visit = _Visit(owner, pool.lane, loop.time())
        if not pool.is_heavy:
            visit.outstayed = loop.call_later(OUTSTAYED_SECONDS, self._move_over, visit, worker)
        answer.add_done_callback(partial(self._answered, visit, pool, worker, header))
        return answer

    def _move_over(self, visit: _Visit, worker: WorkerProcess) -> None:
        """Treat a picture as heavy that no header told to be one: its place is for the ordinary."""
        if self._heavy.lane.is_full:
            loop = asyncio.get_running_loop()
            visit.outstayed = loop.call_later(OUTSTAYED_SECONDS, self._move_over, visit, worker)
            return
        worker.give_way()
        self._seats.append(asyncio.create_task(self._keep(self._ordinary)))  # its own ends with it
        self._ordinary.lane.leave(visit.owner, OUTSTAYED_SECONDS)
        self._heavy.lane.enter(visit.owner)
        visit.lane = self._heavy.lane

    def _answered(
        self, visit: _Visit, pool: _Pool, worker: WorkerProcess, header: Header, answer: asyncio.Future[Any]
    ) -> None:
        """Put the worker back; its caller need not be there any more."""
        failure = None if answer.cancelled() else answer.exception()
        if isinstance(failure, Lost | DecoderFailed):
            fate = failure.fate if isinstance(failure, Lost) else Fate.NONSENSE
            self._metrics.decoder_kills.labels(fate.value).inc()
            log.warning("cage.worker_lost", reason=str(failure), format=header.format.name)
        gave_way = worker.gave_way and not pool.is_heavy
        if worker.served >= self._settings.recycle_after or gave_way:
            worker.kill()
        if not worker.lost:
            pool.idle.put_nowait(worker)
        if visit.outstayed is not None:
            visit.outstayed.cancel()
        visit.lane.leave(visit.owner, asyncio.get_running_loop().time() - visit.began)

    def _job(self, header: Header, body: Body, side: int) -> Job:
        limits = self._settings
        costly = header.format in (Format.AVIF, Format.HEIC)
        return Job(
            format=header.format.name,
            length=body.length,
            orientation=header.orientation,
            exif=(header.exif.offset, header.exif.length) if header.exif else None,
            max_side=limits.max_side,
            max_frames=limits.max_frames,
            max_pixels=limits.max_pixels_avif if costly else limits.max_pixels,
            cpu_seconds=limits.cpu_seconds,
            side=side,
        )

    async def _enter(self, lane: Lane, owner: str) -> None:
        """Wait until it is the owner's turn."""
        if lane.is_full:
            await self._in_time(lane.wait(owner))
        else:
            lane.enter(owner)

    async def _next_idle(self, pool: _Pool) -> WorkerProcess:
        """Return a worker that is ready; there is one for each place, unless one was lost just now."""
        while True:
            if pool.idle.empty():
                worker = await self._in_time(pool.idle.get())
            else:
                worker = pool.idle.get_nowait()
            if not worker.lost:
                return worker

    async def _in_time(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait, but not for ever; raise `Overloaded`."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await waiting
        except TimeoutError as error:
            raise Overloaded(
                "All decoders are busy. Send the image again shortly.", retry_after=RETRY_AFTER_SECONDS
            ) from error

    async def _fill(self) -> None:
        """Start all workers at once; go on when those for ordinary pictures are ready."""
        pools = [self._ordinary] * self._size + [self._heavy] * self._heavies
        self._seats = [asyncio.create_task(self._keep(pool)) for pool in pools]
        ready = asyncio.create_task(self._wait_for(self._size))
        try:
            done, _ = await asyncio.wait({ready, *self._seats}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._opened = True
            tell = log.info if self.sandbox == "seccomp" else log.warning
            tell("cage.opened", sandbox=self.sandbox, workers=self._size)
        finally:
            ready.cancel()

    async def _wait_for(self, count: int) -> None:
        for _ in range(count):
            await self._ready.acquire()

    async def _keep(self, pool: _Pool) -> None:
        """Keep one seat taken: whenever its worker ends, start another, unless that was done already."""
        while True:
            worker = await self._start()
            self.sandbox = worker.sandbox
            if pool.is_heavy:
                worker.give_way()
            else:
                self._ready.release()
            pool.idle.put_nowait(worker)
            try:
                await worker.ended()
            finally:
                await worker.end()
            if worker.gave_way and not pool.is_heavy:
                break  # somebody has its place

    async def _start(self) -> WorkerProcess:
        """Start a worker, however long it takes; only before the cage is open, a failure is final."""
        pauses = chain(PAUSES_SECONDS, repeat(PAUSES_SECONDS[-1]))
        while True:
            try:
                return await WorkerProcess.start(self._settings, heic=self._heic)
            except (StartFailed, OSError) as error:
                if not self._opened:
                    raise
                log.warning("cage.worker_not_started", error=repr(error))
            await asyncio.sleep(next(pauses))

    async def _close(self) -> None:
        """End every worker; a job that still runs ends with its worker."""
        self._closing = True
        for seat in self._seats:
            seat.cancel()
        await asyncio.gather(*self._seats, return_exceptions=True)
