"""Receiving: bounded memory, digests, limits, and nothing left behind."""

import asyncio
import hashlib
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tintype.ingest.budget import STEP, Budget
from tintype.ingest.receive import Receiver, fast_enough
from tintype.model.errors import DigestMismatch, Overloaded, UploadIncomplete, UploadTooLarge
from tintype.settings import LimitsSettings

CHUNK = bytes(range(256)) * 256


def receiver_with(tmp_path: Path, threads: ThreadPoolExecutor, **limits: int) -> Receiver:
    settings = LimitsSettings(**({"min_free_bytes": 0} | limits))
    return Receiver(settings, tmp_path, Budget(settings, tmp_path), threads)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def named_files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("chunks", [0, 1, 3, 16, 40])
async def test_a_body_is_what_was_written_whatever_its_size(
    tmp_path: Path, threads: ThreadPoolExecutor, chunks: int
) -> None:
    receiver = receiver_with(tmp_path, threads)
    data = CHUNK * chunks
    incoming = receiver.begin(len(data))

    for _ in range(chunks):
        await incoming.write(CHUNK)
    body = await incoming.finish()

    assert body.length == len(data)
    assert body.sha256 == hashlib.sha256(data).digest()
    assert body.read() == data
    assert body.read(100, 7) == data[100:107]
    incoming.close()
    assert receiver.budget.in_flight == 0
    assert receiver.budget.in_memory == 0


async def test_a_large_body_leaves_memory_for_a_file_without_a_name(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, memory_bytes=100_000)
    incoming = receiver.begin(None)

    await incoming.write(CHUNK)
    assert receiver.budget.in_memory == len(CHUNK)
    await incoming.write(CHUNK)
    body = await incoming.finish()

    assert body.file is not None
    assert receiver.budget.in_memory == 0
    assert named_files(tmp_path) == []
    incoming.close()


async def test_when_memory_is_used_up_small_bodies_go_to_files_too(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, memory_total_bytes=len(CHUNK))
    first, second = receiver.begin(None), receiver.begin(None)

    await first.write(CHUNK)
    await second.write(CHUNK)

    assert (await first.finish()).memory is not None
    assert (await second.finish()).file is not None
    first.close()
    second.close()


async def test_a_body_over_the_limit_is_refused_before_it_is_read_when_its_length_is_declared(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, max_upload_bytes=1000)

    with pytest.raises(UploadTooLarge) as refused:
        receiver.begin(1001)

    assert refused.value.details == {"limit": 1000}
    assert receiver.budget.in_flight == 0


async def test_a_body_of_unknown_length_is_cut_at_the_limit(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, max_upload_bytes=len(CHUNK) + 1)
    incoming = receiver.begin(None)
    await incoming.write(CHUNK)

    with pytest.raises(UploadTooLarge):
        await incoming.write(CHUNK)
    incoming.close()


async def test_bytes_that_found_no_room_do_not_count_among_those_that_came(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, in_flight_bytes=3 * STEP)
    incoming = receiver.begin(None)
    await incoming.write(CHUNK)

    with pytest.raises(Overloaded):
        await incoming.write(bytes(3 * STEP))
    body = await incoming.finish()

    assert (body.length, body.read(), body.sha256) == (len(CHUNK), CHUNK, hashlib.sha256(CHUNK).digest())
    incoming.close()
    assert receiver.budget.in_flight == 0


async def test_a_body_that_its_file_did_not_take_whole_is_not_taken_for_whole(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, memory_bytes=0)
    incoming = receiver.begin(None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * len(CHUNK), hard))
    try:
        with pytest.raises(Overloaded, match="disk"):
            await incoming.write(10 * CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(Overloaded, match="disk"):
        await incoming.finish()

    incoming.close()


async def test_the_budget_of_bytes_in_flight_is_shared_and_given_back(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, in_flight_bytes=3 * STEP)
    first = receiver.begin(2 * STEP)

    with pytest.raises(Overloaded) as refused:
        receiver.begin(2 * STEP)
    first.close()
    first.close()
    second = receiver.begin(2 * STEP)

    assert refused.value.retry_after is not None
    second.close()
    assert receiver.budget.in_flight == 0


async def test_whoever_comes_finds_room_however_much_the_others_hold(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, in_flight_bytes=100 * STEP)

    def taken_by(owner: str) -> int:
        taken = 0
        with suppress(Overloaded):
            while True:
                receiver.begin(STEP, owner=owner)  # and nothing of it comes: a client that stands still
                taken += 1
        return taken

    assert taken_by("greedy") == 80
    assert taken_by("modest") == 16
    assert taken_by("third") > 0
    assert taken_by("greedy") == 0


async def test_what_an_owner_gives_back_is_free_for_all(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    receiver = receiver_with(tmp_path, threads, in_flight_bytes=10 * STEP)
    bodies = [receiver.begin(STEP, owner="a") for _ in range(8)]
    with pytest.raises(Overloaded):
        receiver.begin(STEP, owner="a")

    for each in bodies:
        each.close()
        each.close()

    assert receiver.budget.in_flight == 0
    assert receiver.begin(8 * STEP, owner="b").reservation.reserved == 8 * STEP


async def test_a_disk_that_does_not_say_how_full_it_is_refuses_uploads(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path / "gone", threads)

    with pytest.raises(Overloaded, match="disk"):
        receiver.begin(1)


async def test_a_full_disk_refuses_uploads_before_they_are_read(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, min_free_bytes=1 << 60)

    with pytest.raises(Overloaded, match="disk"):
        receiver.begin(1)


async def test_announced_digests_are_verified(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    receiver = receiver_with(tmp_path, threads)
    right = {"sha-256": hashlib.sha256(CHUNK).digest(), "sha-512": hashlib.sha512(CHUNK).digest()}
    wrong = right | {"sha-512": bytes(64)}

    good, bad = receiver.begin(None, right), receiver.begin(None, wrong)
    for incoming in (good, bad):
        await incoming.write(CHUNK)

    await good.finish()
    with pytest.raises(DigestMismatch, match="sha-512"):
        await bad.finish()
    good.close()
    bad.close()


async def test_a_request_cancelled_while_its_file_is_written_closes_no_descriptor_of_another(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    receiver = receiver_with(tmp_path, threads, memory_bytes=0)
    before = open_descriptors()

    async def upload() -> None:
        incoming = receiver.begin(None)
        try:
            for _ in range(200):
                await incoming.write(CHUNK)
        finally:
            incoming.close()

    for delay in (0.0, 0.001, 0.002, 0.005):
        task = asyncio.create_task(upload())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    threads.shutdown(wait=True)

    assert open_descriptors() <= before
    assert receiver.budget.in_flight == 0


async def test_a_trickle_is_cut_and_a_steady_stream_is_not() -> None:
    limits = LimitsSettings(min_bytes_per_second=1000)

    async with fast_enough(limits, window=0.2) as pace:
        for _ in range(10):
            await asyncio.sleep(0.05)
            pace.add(200)

    async def trickle() -> None:
        async with fast_enough(limits, window=0.2) as pace:
            for _ in range(10):
                await asyncio.sleep(0.05)
                pace.add(1)

    with pytest.raises(UploadIncomplete, match="slower"):
        await trickle()
