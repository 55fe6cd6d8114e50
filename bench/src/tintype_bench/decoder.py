"""The bare decoder: libvips in a loop, as a process of its own; prints CPU seconds for one photograph.

Every pixel is decoded into memory, with one thread and without caches, as in Tintype's cage.
"""

import os

os.environ["VIPS_CONCURRENCY"] = "1"  # libvips reads it when it is loaded

import sys
import time
from pathlib import Path

import pyvips

LEAST = 3


def cost(photo: bytes, seconds: float) -> float:
    """Return the CPU seconds of one decode, on average over some seconds."""
    pyvips.cache_set_max(0)
    decoded, began, cpu = 0, time.monotonic(), time.process_time()
    while decoded < LEAST or time.monotonic() - began < seconds:
        image = pyvips.Image.new_from_buffer(photo, "", access="sequential", fail_on="error")
        image.copy_memory()
        decoded += 1
    return (time.process_time() - cpu) / decoded


if __name__ == "__main__":
    print(cost(Path(sys.argv[1]).read_bytes(), float(sys.argv[2])))  # noqa: T201 - its answer
