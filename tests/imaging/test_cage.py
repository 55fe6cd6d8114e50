"""A file may kill, hang or bloat its worker: it is refused, its neighbours and the pool stay well."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import pyvips

from bodies import in_file, in_memory
from made_images import encoded, gradient, hungry_png, slow_png
from pictures import picture
from tintype.imaging.cage import Cage
from tintype.imaging.inspect import Inspector
from tintype.imaging.process import LOW_PRIORITY, StartFailed
from tintype.model.errors import DecoderFailed, ImageCorrupt, ImageTooLarge, Overloaded
from tintype.model.image import Facts
from tintype.settings import ImagingSettings, MiB
from tintype.telemetry import Metrics
from worker_processes import busy_worker, ended, is_confined, low_priority, settled, workers

OpenCage = Callable[..., Awaitable[Inspector]]

SMALL = encoded(gradient(64, 48), "PNG")
SLOW = slow_png()
"""Some seconds of decoding, where the limit of pixels allows it."""
LARGE = {"max_pixels": 1_000_000_000}


async def eventually(true: Callable[[], bool], seconds: float = 5) -> bool:
    """Tell whether something becomes true in time."""
    for _ in range(int(seconds / 0.02)):
        if true():
            return True
        await asyncio.sleep(0.02)
    return False


def kills(metrics: Metrics) -> dict[str, float]:
    """The workers that were lost over a file, as counted, by reason."""
    samples = [sample for family in metrics.decoder_kills.collect() for sample in family.samples]
    return {each.labels["reason"]: each.value for each in samples if each.name.endswith("_total")}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_killed_worker_costs_its_own_file_only(open_cage: OpenCage) -> None:
    metrics = Metrics()
    inspector = await open_cage(workers=2, metrics=metrics, **LARGE)
    assert await settled(3)
    victim = asyncio.create_task(inspector.inspect(in_memory(SLOW)))
    worker = await busy_worker()
    neighbours = [asyncio.create_task(inspector.inspect(in_memory(SMALL))) for _ in range(20)]

    worker.send_signal(signal.SIGKILL)

    with pytest.raises(DecoderFailed):
        await victim
    assert all(facts.width == 64 for facts in await asyncio.gather(*neighbours))
    assert kills(metrics) == {"crash": 1}


async def test_the_pool_is_whole_again_within_a_second(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2, **LARGE)
    assert await settled(3)
    victim = asyncio.create_task(inspector.inspect(in_memory(SLOW)))
    (await busy_worker()).send_signal(signal.SIGKILL)
    with pytest.raises(DecoderFailed):
        await victim

    async with asyncio.timeout(1):
        found = await asyncio.gather(*(inspector.inspect(in_memory(SMALL)) for _ in range(4)))

    assert [facts.width for facts in found] == [64] * 4
    assert await settled(3)


async def test_workers_that_die_while_idle_are_replaced_before_anyone_notices(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2)
    for _ in range(3):
        killed = workers()
        for worker in killed:
            worker.send_signal(signal.SIGKILL)
        for worker in killed:
            assert await eventually(partial(ended, worker))
        facts = await asyncio.gather(*(inspector.inspect(in_memory(SMALL)) for _ in range(4)))
        assert [each.width for each in facts] == [64] * 4


async def test_a_worker_that_hangs_is_killed(open_cage: OpenCage) -> None:
    metrics = Metrics()
    inspector = await open_cage(workers=1, wall_seconds=0.5, metrics=metrics)
    assert await settled(2)
    for worker in workers():
        worker.suspend()

    with pytest.raises(DecoderFailed, match=r"longer than 0\.5 seconds"):
        await inspector.inspect(in_memory(SMALL))
    for worker in workers():
        worker.resume()
    assert (await inspector.inspect(in_memory(SMALL))).width == 64
    assert kills(metrics) == {"time": 1}


async def test_a_decode_that_uses_too_much_time_of_the_processor_ends(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1, cpu_seconds=1, **LARGE)

    with pytest.raises(DecoderFailed):
        await inspector.inspect(in_memory(SLOW))
    assert (await inspector.inspect(in_memory(SMALL))).width == 64


async def test_many_small_files_do_not_use_up_the_time_of_one(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1, cpu_seconds=1)
    body = in_memory(encoded(gradient(1500, 1500), "JPEG"))

    for _ in range(120):
        assert (await inspector.inspect(body)).width == 1500


async def test_a_decode_that_needs_too_much_memory_is_ended(open_cage: OpenCage) -> None:
    metrics = Metrics()
    inspector = await open_cage(workers=1, max_resident_bytes=120 * MiB, metrics=metrics)

    with pytest.raises(DecoderFailed, match="more than 120 MB"):
        await inspector.inspect(in_memory(hungry_png()))
    assert (await inspector.inspect(in_memory(SMALL))).width == 64
    assert kills(metrics) == {"memory": 1}


async def test_a_large_picture_is_decoded_in_memory_or_refused_for_its_size(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1)

    def webp(side: int) -> bytes:
        black = pyvips.Image.black(side, side, bands=3).copy(interpretation="srgb")
        return black.webpsave_buffer(Q=30, effort=0)

    assert (await inspector.inspect(in_memory(webp(6400)))).width == 6400
    with pytest.raises(ImageTooLarge, match="more memory"):
        await inspector.inspect(in_memory(webp(9900)))


async def test_a_worker_serves_so_many_images_and_is_replaced(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1, recycle_after=5)
    assert await settled(2)
    await low_priority()
    first = {worker.pid for worker in workers() if worker.nice() < LOW_PRIORITY}

    for _ in range(25):
        assert (await inspector.inspect(in_memory(SMALL))).width == 64

    assert await settled(2)
    assert first.isdisjoint(worker.pid for worker in workers())


async def test_whoever_waits_too_long_is_told_to_come_back(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=1, wait_seconds=0.2, **LARGE)
    assert await settled(2)
    slow = asyncio.create_task(inspector.inspect(in_memory(SLOW)))
    await busy_worker()

    with pytest.raises(Overloaded) as refused:
        await inspector.inspect(in_memory(SLOW))

    assert refused.value.retry_after
    slow.cancel()


async def test_a_caller_that_leaves_takes_no_worker_along(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2)
    body = in_memory(encoded(gradient(2000, 2000), "JPEG"))
    for _ in range(6):
        callers = [asyncio.create_task(inspector.inspect(body)) for _ in range(6)]
        await asyncio.sleep(0.01)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    before = {worker.pid for worker in workers()}

    found = await asyncio.gather(*(inspector.inspect(in_memory(SMALL)) for _ in range(6)))

    assert [facts.width for facts in found] == [64] * 6
    assert before <= {worker.pid for worker in workers()}


async def test_a_body_that_is_closed_while_it_is_decoded_does_no_harm(
    open_cage: OpenCage, tmp_path: Path
) -> None:
    inspector = await open_cage(workers=1)
    body = in_file(encoded(gradient(3000, 2000), "PNG"), tmp_path)
    task = asyncio.create_task(inspector.inspect(body))
    await asyncio.sleep(0.05)
    body.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert (await inspector.inspect(in_memory(SMALL))).width == 64


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
async def test_bytes_in_a_file_are_judged_like_bytes_in_memory(
    open_cage: OpenCage, tmp_path: Path, kind: str
) -> None:
    inspector = await open_cage(workers=1)
    data = picture(kind, seed=7, size=(300, 200))
    with in_file(data, tmp_path) as spooled:
        from_file = await inspector.inspect(spooled)

    assert from_file == await inspector.inspect(in_memory(data))


async def test_the_same_bytes_get_the_same_answer_every_time(open_cage: OpenCage) -> None:
    inspector = await open_cage(workers=2, **LARGE)
    data = bytearray(picture("PNG", seed=3))
    data[len(data) // 2] ^= 0xFF

    async def answer(body: bytes) -> str | Facts:
        try:
            return await inspector.inspect(in_memory(body))
        except ImageCorrupt as refused:
            return str(refused)

    answers = [await answer(each) for each in [bytes(data), SMALL, SLOW[:5000]] * 3]

    assert answers[:3] == answers[3:6] == answers[6:]
    assert isinstance(answers[0], str)


async def test_nothing_is_left_of_a_closed_cage() -> None:
    before = open_descriptors()
    async with Cage.open(ImagingSettings(workers=2)) as cage:
        started = workers()
        assert cage.sandbox in ("seccomp", "rlimits")
    assert started
    assert not any(worker.is_running() for worker in started)
    assert open_descriptors() <= before


async def test_a_cage_whose_workers_do_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")  # an installation that is broken

    with pytest.raises(StartFailed):
        async with Cage.open(ImagingSettings(workers=1)):
            pytest.fail("the cage opened without workers")


async def test_a_pool_that_cannot_grow_back_goes_on_trying(
    open_cage: OpenCage, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = await open_cage(workers=1, wait_seconds=0.3)
    assert await settled(2)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/bin/false")
    killed = workers()
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
    for worker in killed:
        assert await eventually(partial(ended, worker))

    with pytest.raises(Overloaded):
        await inspector.inspect(in_memory(SMALL))
    monkeypatch.setattr(sys, "executable", python)

    assert await settled(2)
    assert (await inspector.inspect(in_memory(SMALL))).width == 64


async def test_a_worker_sees_nothing_of_ours(open_cage: OpenCage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TINTYPE_DATABASE__URL", "postgresql://u:secret@host/db")
    held = os.open("/dev/zero", os.O_RDONLY)
    await open_cage(workers=1)

    assert await settled(2)
    for worker in workers():
        assert "secret" not in repr(worker.environ())
    os.close(held)


KEEPER = """
import asyncio
from tintype.imaging.cage import Cage
from tintype.settings import ImagingSettings

async def main():
    async with Cage.open(ImagingSettings(workers=2)):
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def workers_of(pid: int, count: int) -> list[psutil.Process]:
    """Return the workers of another process, as soon as all of them are ready."""
    for _ in range(500):
        found = psutil.Process(pid).children()
        if len(found) == count and all(map(is_confined, found)):
            return found
        time.sleep(0.02)
    raise AssertionError(f"{count} workers were to be ready")


def test_no_worker_outlives_a_killed_service() -> None:
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert b"ready\n" in service.stdout  # behind what it logs
        left = workers_of(service.pid, 3)
        service.kill()
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []


def test_workers_stay_while_a_service_that_was_told_to_stop_drains() -> None:
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert b"ready\n" in service.stdout  # behind what it logs
        children = workers_of(service.pid, 3)
        for worker in children:
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(children, timeout=0.5)
        service.kill()
    assert len(alive) == len(children)
