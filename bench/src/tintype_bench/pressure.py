"""Under pressure: ordinary uploads while bombs are posted, and the memory of a crowd of large ones."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tintype_bench import bombs, corpus
from tintype_bench.contestants import Tintype
from tintype_bench.load import Order, Outcome
from tintype_bench.results import Crowd, Siege, percentile
from tintype_bench.surroundings import Surroundings

AT_ONCE = 4
"""Ordinary uploads, and bombs."""
CROWD = 50
CROWD_PHOTO = corpus.PHOTOS["20MB"]
WARM_SECONDS = 1.0
HEAD_START_SECONDS = 1.0
"""For the bombs, until every decoder that they can have is at work."""


def besiege(around: Surroundings, seconds: float, rounds: int) -> Siege:
    """Measure ordinary uploads, quiet and besieged in turn."""
    photo = corpus.make(corpus.PHOTOS["100KB"], around.folder)
    made = bombs.make(around.folder)
    quiet: list[float] = []
    besieged: list[float] = []
    errors: dict[str, int] = {}
    answers: dict[str, int] = {}
    with Tintype("siege", "full")(around, around.folder) as server:
        url = f"{server.address}/v1/images"

        def ordinary(span: float) -> float:
            outcome = send(url, photo, AT_ONCE, span, least=100)
            _add(errors, outcome.errors)
            return percentile(outcome.latencies_ms, 0.99)

        ordinary(WARM_SECONDS)
        for _ in range(rounds):
            quiet.append(ordinary(seconds))
            with _bombing(url, made, answers):
                time.sleep(HEAD_START_SECONDS)
                besieged.append(ordinary(seconds))
    return Siege(quiet_p99_ms=quiet, besieged_p99_ms=besieged, bombs=answers, errors=errors)


def crowd(around: Surroundings) -> Crowd:
    """Send so many large photographs at once to a fresh server, and look at its memory."""
    photo = corpus.make(CROWD_PHOTO, around.folder)
    with Tintype("crowd", "full")(around, around.folder) as server:
        outcome = send(f"{server.address}/v1/images", photo, CROWD, 1, least=CROWD)
        peak = server.memory()
    return Crowd(
        at_once=CROWD,
        megapixels=CROWD_PHOTO.width * CROWD_PHOTO.height / 1e6,
        uploads=outcome.uploads,
        errors=outcome.errors,
        peak_api_bytes=peak.api,
        peak_workers_bytes=peak.workers,
    )


@contextmanager
def _bombing(url: str, folder: Path, answers: dict[str, int]) -> Generator[None]:
    """Have bombs posted for the time of the block."""
    command = [sys.executable, "-m", "tintype_bench.bombs", url, str(AT_ONCE), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as bomber:  # noqa: S603 - ourselves
        try:
            yield
        finally:
            told, _ = bomber.communicate()
    _add(answers, json.loads(told))


def send(
    url: str, photo: Path, concurrency: int, seconds: float, least: int, *, processor: int | None = None
) -> Outcome:
    """Send uploads for a while, at least so many, from a process of their own."""
    order = Order(
        url=url,
        door="raw",
        photo=photo,
        concurrency=concurrency,
        seconds=seconds,
        least=least,
        patience_seconds=60,
        processor=processor,
    )
    command = [sys.executable, "-m", "tintype_bench.load", order.model_dump_json()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    return Outcome.model_validate_json(done.stdout)


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count
