"""The decoding processes that a test has started, and which of them is at work."""

import asyncio
from pathlib import Path

import psutil

from tintype.imaging.process import LOW_PRIORITY


def workers() -> list[psutil.Process]:
    """Return the decoding processes of this test process."""
    mine = psutil.Process().children()
    return [each for each in mine if _is_worker(each)]


async def settled(count: int) -> bool:
    """Wait until so many decoding processes are ready; tell whether it came to that."""
    for _ in range(500):
        ready = workers()
        if len(ready) == count and all(is_confined(each) for each in ready):
            return True
        await asyncio.sleep(0.02)
    return False


async def low_priority() -> None:
    """Wait until the worker for heavy pictures has given way, which is a moment after it is ready."""
    for _ in range(500):
        if any(each.nice() == LOW_PRIORITY for each in workers()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no worker has a low priority")


def is_confined(process: psutil.Process) -> bool:
    """Tell whether a worker has given up all but its channel and the memory that it shares."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
    except OSError:
        return False
    return sorted(link.split(":")[0] for link in links) == ["/dev/null"] * 3 + ["/memfd", "socket"]


async def busy_worker() -> psutil.Process:
    """Return the decoding process that works hardest now."""
    before = {each: _used(each) for each in workers()}
    await asyncio.sleep(0.3)
    return max(before, key=lambda each: _used(each) - before[each])


def ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended with all its threads: only then its descriptors are closed."""
    return not psutil.pid_exists(process.pid)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "tintype.imaging.worker" in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
