"""The cage: decoding happens in worker processes that can be killed, and that can do nothing else.

A file that kills its worker is refused; its neighbours do not notice. There is one worker more than
work at once, so that the pool is whole while a lost one is replaced.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

from tintype.imaging.headers import Header
from tintype.imaging.process import Gone, Lost, StartFailed, WorkerProcess, heic_installed
from tintype.imaging.reply import read_reply
from tintype.imaging.worker.job import Job
from tintype.model.body import Body
from tintype.model.errors import DecoderFailed, Overloaded, ShuttingDown
from tintype.model.image import Facts, Format
from tintype.settings import ImagingSettings
from tintype.telemetry import get_logger

T = TypeVar("T")

WAIT_SECONDS = 10
"""For a free worker. Whoever waits longer is better off trying again, perhaps elsewhere."""
RETRY_AFTER_SECONDS = 5
SPARES = 1
PAUSES_SECONDS = (0.1, 0.5, 2, 5)
"""Between attempts to start a worker that does not start."""

log = get_logger()


class Cage:
    """A pool of workers. Open it with `async with Cage.open(settings) as cage`."""

    def __init__(self, settings: ImagingSettings, wait_seconds: float) -> None:
        self._settings = settings
        self._wait_seconds = wait_seconds
        self._size = settings.workers or os.cpu_count() or 1
        self._heic = heic_installed() and not settings.disabled(Format.HEIC)
        self._turns = asyncio.Semaphore(self._size)
        self._idle: asyncio.LifoQueue[WorkerProcess] = asyncio.LifoQueue()
        self._seats: list[asyncio.Task[None]] = []
        self._ready = asyncio.Semaphore(0)
        self._opened = False
        self._closing = False
        self.sandbox = "none"
        """What confines the workers: `seccomp`, or `rlimits` where the kernel refuses filters."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: ImagingSettings, *, wait_seconds: float = WAIT_SECONDS
    ) -> AsyncGenerator["Cage"]:
        """Start the workers and wait until they are warm; end them all on the way out.

        No job waits longer than `wait_seconds` for a worker.

        Raises `StartFailed` if a worker does not start.
        """
        cage = cls(settings, wait_seconds)
        try:
            await cage._fill()
            yield cage
        finally:
            await cage._close()

    async def decode(self, body: Body, header: Header) -> Facts:
        """Decode every pixel of the file, and return all facts.

        Raises `ImageCorrupt`, `ImageTooLarge` and `UnsupportedType` for what the decoder says,
        `DecoderFailed` for a file that its worker did not survive, `Overloaded` if no worker
        became free in time, `ShuttingDown` if the cage was closed meanwhile.

        A caller that is cancelled leaves its job running to its end: that is bounded, and cheaper
        than a new worker.
        """
        answer = await self._hand_over(body, header)
        try:
            return await asyncio.shield(answer)
        except Lost as lost:
            if self._closing:
                raise ShuttingDown("This instance is shutting down. Send the image again.") from lost
            raise DecoderFailed(
                f"The decoder was stopped at this {header.format.label}: {lost}. "
                "Send a smaller or simpler version."
            ) from lost

    async def _hand_over(self, body: Body, header: Header) -> asyncio.Future[Facts]:
        """Wait for a worker and give it the file; it comes back to the pool when it has answered."""
        await self._turn()
        try:
            while True:
                worker = await self._next_idle()
                try:
                    answer = worker.hand_over(
                        self._job(header, body), body, partial(read_reply, header=header)
                    )
                    break
                except Gone:
                    continue
                except BaseException:
                    self._idle.put_nowait(worker)
                    raise
        except BaseException:
            self._turns.release()
            raise
        answer.add_done_callback(partial(self._answered, worker, header))
        return answer

    def _answered(self, worker: WorkerProcess, header: Header, answer: asyncio.Future[Facts]) -> None:
        """Put the worker back; its caller need not be there any more."""
        failure = None if answer.cancelled() else answer.exception()
        if isinstance(failure, Lost | DecoderFailed):
            log.warning("cage.worker_lost", reason=str(failure), format=header.format.name)
        if worker.served >= self._settings.recycle_after:
            worker.kill()
        if not worker.lost:
            self._idle.put_nowait(worker)
        self._turns.release()

    def _job(self, header: Header, body: Body) -> Job:
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
        )

    async def _turn(self) -> None:
        """Wait until fewer jobs run than may run at once."""
        if self._turns.locked():
            await self._in_time(self._turns.acquire())
        else:
            await self._turns.acquire()

    async def _next_idle(self) -> WorkerProcess:
        """Return a worker that is ready; there is one for each turn, unless none can be started."""
        while True:
            if self._idle.empty():
                worker = await self._in_time(self._idle.get())
            else:
                worker = self._idle.get_nowait()
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
        """Start all workers at once; go on when as many are ready as work at once."""
        self._seats = [asyncio.create_task(self._keep()) for _ in range(self._size + SPARES)]
        ready = asyncio.create_task(self._wait_for(self._size))
        try:
            done, _ = await asyncio.wait({ready, *self._seats}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self._opened = True
        finally:
            ready.cancel()

    async def _wait_for(self, count: int) -> None:
        for _ in range(count):
            await self._ready.acquire()

    async def _keep(self) -> None:
        """Keep one seat taken: whenever its worker ends, start another."""
        while True:
            worker = await self._start()
            self.sandbox = worker.sandbox
            self._idle.put_nowait(worker)
            self._ready.release()
            try:
                await worker.ended()
            finally:
                await worker.end()

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
