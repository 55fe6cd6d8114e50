"""`python -m tintype_bench.overload`: uploads at 1, 2 and 5 times what Tintype can do, and after that.

Good is what was stored in time. Past its capacity a service that takes everything does less and less
of it: it spends itself on uploads that nobody waits for any more. What is asked of Tintype is that the
goodput stays, that whoever is too much hears so at once, and that all is as before when it is over.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tintype_bench import corpus, machine
from tintype_bench.contestants import Tintype
from tintype_bench.open_loop import Curve, Schedule
from tintype_bench.pressure import send
from tintype_bench.processes import Server
from tintype_bench.results import percentile
from tintype_bench.surroundings import Surroundings, run_folder

TIMES = (1.0, 2.0, 5.0)
AT_ONCE = 8
"""Of the closed loop that finds the capacity."""
LEAST_GOODPUT = 0.8
"""Of the peak, at the most that is offered."""
MOST_ACCEPTED_SECONDS = 5.0
"""The 99th percentile of uploads that were stored, at the most that is offered."""
MOST_RECOVERY_SECONDS = 10.0
PROBE_SECONDS = 0.2

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Level:
    """One rate of arrivals."""

    times_capacity: float
    offered: float
    """Uploads a second that were due."""
    goodput: float
    """Uploads a second that were stored."""
    answers: dict[str, int]
    without_retry_after: int
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    sender_cores: float
    sender_behind_ms: float
    ready: dict[str, int]
    """Answers of `/readyz`, by status."""
    alive: dict[str, int]
    """Answers of `/healthz`."""
    peak_bytes: int
    """Of the API process, since its start."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, in one run."""

    machine: dict[str, str]
    inspect: str
    senders_apart: bool
    """Whether they had a processor of their own, which the service had not."""
    capacity: float
    """Uploads a second of a closed loop."""
    levels: list[Level]
    recovery_seconds: float
    """From the end of the load until an upload takes no more than twice what it took before."""

    @property
    def kept(self) -> float:
        """The goodput at the highest rate, of the peak."""
        return self.levels[-1].goodput / max(self.capacity, *(level.goodput for level in self.levels))

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        last = self.levels[-1]
        found = [f"goodput fell to {self.kept:.0%} of the peak"] if self.kept < LEAST_GOODPUT else []
        strange = {name for level in self.levels for name in level.answers} - {"201", "503", "not sent"}
        found += [f"answers other than 201 and 503: {sorted(strange)}"] if strange else []
        silent = sum(level.without_retry_after for level in self.levels)
        found += [f"{silent} refusals without Retry-After"] if silent else []
        if last.accepted_p99_ms > MOST_ACCEPTED_SECONDS * 1000:
            found.append(f"stored uploads took up to {last.accepted_p99_ms:.0f} ms")
        if any(set(level.alive) != {"200"} for level in self.levels):
            found.append("/healthz did not always answer 200")
        if self.recovery_seconds > MOST_RECOVERY_SECONDS:
            found.append(f"recovery took {self.recovery_seconds:.1f} s")
        return found


@dataclass(slots=True)
class Watch:
    """Asks how the service is, over and over, while it is under load."""

    base: str
    seen: dict[str, Counter[str]] = field(
        default_factory=lambda: {"/readyz": Counter[str](), "/healthz": Counter[str]()}
    )

    @contextmanager
    def running(self) -> Generator[None]:
        """Ask for the time of the block."""
        over = threading.Event()
        asking = threading.Thread(target=self._ask, args=(over,))
        asking.start()
        try:
            yield
        finally:
            over.set()
            asking.join()

    def _ask(self, over: threading.Event) -> None:
        while not over.wait(PROBE_SECONDS):
            for path, seen in self.seen.items():
                seen[_status(f"{self.base}{path}")] += 1


def _status(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return type(error).__name__


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of each level.")] = 10.0,
    inspect: Annotated[str, typer.Option(help="`full` or `header`.")] = "full",
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Where the result is kept.")] = None,
) -> None:
    """Measure the curve, show it, and keep it."""
    senders = _set_apart()
    with run_folder() as folder, Surroundings(folder) as around:
        result = measure(around, seconds, inspect, seed, senders)
    console.print(table(result))
    for failure in result.failures:
        console.print(f"[red]{failure}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(asdict(result) | {"kept": result.kept}, indent=2) + "\n")
        console.print(f"kept in {out}")
    sys.exit(1 if result.failures else 0)


def _set_apart() -> int | None:
    """Return a processor for the senders, which nothing else of this run uses; None: there is just one.

    They send from a machine of their own, as it were. Else uploads would have to do with what is left of
    the processors by senders that offer five times as much.
    """
    *others, senders = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    os.sched_setaffinity(0, others)  # and whatever is started from here on
    return senders


def measure(around: Surroundings, seconds: float, inspect: str, seed: int, senders: int | None) -> Result:
    """Find the capacity, offer multiples of it, and see how it recovers."""
    sent = partial(send, processor=senders)
    photo = corpus.make(corpus.PHOTOS["100KB"], around.folder)
    contestant = Tintype("overload", "header" if inspect == "header" else "full")
    with contestant(around, around.folder) as server:
        url = f"{server.address}/v1/images"
        sent(url, photo, AT_ONCE, 2, least=100)
        closed = sent(url, photo, AT_ONCE, seconds, least=100)
        capacity = closed.uploads / closed.seconds
        usual = percentile(sent(url, photo, 1, 2, least=20).latencies_ms, 0.5)
        levels: list[Level] = []
        for times in TIMES:
            schedule = Schedule(
                url=url,
                photo=photo,
                per_second=capacity * times,
                seconds=seconds,
                seed=seed,
                processor=senders,
            )
            levels.append(_level(server, schedule, times))
            if times != TIMES[-1]:
                _until_usual(url, photo, usual, senders)
        recovery = _until_usual(url, photo, usual, senders)
    return Result(machine.describe(), inspect, senders is not None, capacity, levels, recovery)


def _level(server: Server, schedule: Schedule, times: float) -> Level:
    watch = Watch(server.address)
    command = [sys.executable, "-m", "tintype_bench.open_loop", schedule.model_dump_json()]
    with watch.running():
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    curve = Curve.model_validate_json(done.stdout)
    return Level(
        times_capacity=times,
        offered=curve.due / schedule.seconds,
        goodput=len(curve.accepted_ms) / max(schedule.seconds, curve.seconds),
        answers=curve.answers,
        without_retry_after=curve.without_retry_after,
        accepted_p50_ms=percentile(curve.accepted_ms, 0.5),
        accepted_p99_ms=percentile(curve.accepted_ms, 0.99),
        refused_p50_ms=percentile(curve.refused_ms, 0.5),
        refused_p99_ms=percentile(curve.refused_ms, 0.99),
        sender_cores=curve.cpu_seconds / curve.seconds,
        sender_behind_ms=curve.behind_ms,
        ready=dict(watch.seen["/readyz"]),
        alive=dict(watch.seen["/healthz"]),
        peak_bytes=server.memory().api,
    )


def _until_usual(url: str, photo: Path, usual_ms: float, senders: int | None) -> float:
    """Return after how many seconds uploads take no more than twice what is usual."""
    begun = time.monotonic()
    while time.monotonic() - begun < 4 * MOST_RECOVERY_SECONDS:
        probe = send(url, photo, 1, 0, least=5, processor=senders)
        if not probe.errors and percentile(probe.latencies_ms, 0.5) <= 2 * usual_ms:
            break
    return time.monotonic() - begun


def table(result: Result) -> Table:
    """Return the curve as a table."""
    shown = Table(title=f"overload, inspection: {result.inspect}; {result.capacity:.0f}/s closed loop")
    for heading in ("offered/s", "stored/s", "answers", "p50, p99 stored", "p50, p99 refused", "peak MB"):
        shown.add_column(heading)
    for level in result.levels:
        shown.add_row(
            f"{level.times_capacity:g} x: {level.offered:.0f}",
            f"{level.goodput:.0f}",
            " ".join(f"{status}: {count}" for status, count in sorted(level.answers.items())),
            f"{level.accepted_p50_ms:.0f}, {level.accepted_p99_ms:.0f} ms",
            f"{level.refused_p50_ms:.0f}, {level.refused_p99_ms:.0f} ms",
            f"{level.peak_bytes / 1e6:.0f}",
        )
    shown.caption = f"{result.kept:.0%} of the peak kept; usual again after {result.recovery_seconds:.1f} s"
    return shown


if __name__ == "__main__":
    typer.run(main)
