"""The bare decoder: libvips in a loop, as a process of its own; prints CPU seconds for one photograph.

One thread and no caches, as in Tintype's cage, and every pixel decoded: into memory, as decoders
are usually measured, or pulled through and dropped, which is the least that decoding can cost.
"""

import os

os.environ["VIPS_CONCURRENCY"] = "1"  # libvips reads it when it is loaded

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyvips

LEAST = 3


def keep(image: pyvips.Image) -> None:
    """Decode into memory."""
    image.copy_memory()


def drop(image: pyvips.Image) -> None:
    """Ask for the last line: those before it are decoded on the way."""
    image.crop(0, image.height - 1, image.width, 1).avg()


def cost(photo: bytes, consume: Callable[[pyvips.Image], None], seconds: float) -> float:
    """Return the CPU seconds of one decode, on average over some seconds."""
    pyvips.cache_set_max(0)
    decoded, began, cpu = 0, time.monotonic(), time.process_time()
    while decoded < LEAST or time.monotonic() - began < seconds:
        consume(pyvips.Image.new_from_buffer(photo, "", access="sequential", fail_on="error"))
        decoded += 1
    return (time.process_time() - cpu) / decoded


if __name__ == "__main__":
    bytes_, time_ = Path(sys.argv[1]).read_bytes(), float(sys.argv[2])
    print(cost(bytes_, keep, time_), cost(bytes_, drop, time_))  # noqa: T201 - its answer
