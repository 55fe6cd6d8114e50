"""`python -m tintype_bench.backlog`: uploads while SNS throttles, and how fast an hour of backlog is sent."""

import json
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console

from tintype_bench import corpus, machine
from tintype_bench.contestants import Tintype
from tintype_bench.pressure import send
from tintype_bench.results import percentile
from tintype_bench.surroundings import Surroundings, run_folder

BACKLOG = 18_000
"""Events: an hour of five uploads a second."""
AT_ONCE = 4
ROUNDS = 3
LEAST_PER_SECOND = 500
MOST_SLOWDOWN = 1.25
"""Of the median upload under throttling; the machine itself is not steadier."""

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, in one run."""

    machine: dict[str, str]
    quiet_ms: list[float]
    throttled_ms: list[float]
    """Medians of short runs, in turn."""
    errors: dict[str, int]
    backlog: int
    first_after_seconds: float
    """From when SNS takes messages again to the first of them."""
    drained_after_seconds: float
    """To the last."""

    @property
    def per_second(self) -> float:
        """Of the backlog, the pause before its first event included."""
        return self.backlog / self.drained_after_seconds

    @property
    def slowdown(self) -> float:
        """Of an upload, by the median of the medians."""
        return percentile(self.throttled_ms, 0.5) / percentile(self.quiet_ms, 0.5)

    @property
    def holds(self) -> bool:
        """Whether uploads were unhurt and the backlog went out in time."""
        return not self.errors and self.per_second >= LEAST_PER_SECOND and self.slowdown <= MOST_SLOWDOWN


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of each short run of uploads.")] = 2.0,
    out: Annotated[Path | None, typer.Option(help="Where the result is kept.")] = None,
) -> None:
    """Measure both, show them, and keep the result."""
    with run_folder() as folder, Surroundings(folder) as around:
        result = _measure(around, seconds)
    console.print(
        f"an upload takes {percentile(result.quiet_ms, 0.5):.1f} ms, and "
        f"{percentile(result.throttled_ms, 0.5):.1f} ms while SNS throttles; "
        f"{result.backlog} events went out at {result.per_second:.0f}/s, "
        f"the first after {result.first_after_seconds:.1f} s"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        told = asdict(result) | {"per_second": result.per_second, "slowdown": result.slowdown}
        out.write_text(json.dumps(told, indent=2) + "\n")
        console.print(f"kept in {out}")
    sys.exit(0 if result.holds else 1)


def _measure(around: Surroundings, seconds: float) -> Result:
    photo = corpus.make(corpus.PHOTOS["100KB"], around.folder)
    quiet: list[float] = []
    throttled: list[float] = []
    errors: dict[str, int] = {}
    with Tintype("backlog", "header")(around, around.folder) as server:
        url = f"{server.address}/v1/images"
        send(url, photo, AT_ONCE, 1, least=100)
        for _ in range(ROUNDS):
            for path, medians in (("relent", quiet), ("throttle", throttled)):
                _tell(around, path)
                outcome = send(url, photo, AT_ONCE, seconds, least=50)
                medians.append(percentile(outcome.latencies_ms, 0.5))
                errors |= outcome.errors
        waiting = _fill_up(around.database("backlog"))
        before = around.published()
        _tell(around, "relent")
        begun = time.monotonic()
        first = _wait(around, before + 1, begun)
        last = _wait(around, before + waiting, begun)
    return Result(machine.describe(), quiet, throttled, errors, waiting, first, last)


def _tell(around: Surroundings, path: str) -> None:
    urllib.request.urlopen(f"{around.sns.address}/{path}", timeout=5).close()  # noqa: S310 - ours


def _fill_up(url: str) -> int:
    """Have as many events wait as an hour leaves; return how many wait."""
    with psycopg.connect(url) as connection:
        connection.execute("SET ROLE tintype_worker")
        connection.execute(
            """
            INSERT INTO events (id, kind, image_id, owner, version, payload)
            SELECT gen_random_uuid(), kind, image_id, owner, version, payload
            FROM (SELECT * FROM events ORDER BY position LIMIT 100) AS first, generate_series(1, %s)
            """,
            [BACKLOG // 100],
        )
        (waiting,) = connection.execute(
            "SELECT count(*) FROM events WHERE published_at IS NULL"
        ).fetchone() or (0,)
    return int(waiting)


def _wait(around: Surroundings, count: int, begun: float) -> float:
    while around.published() < count:
        time.sleep(0.02)
        if time.monotonic() - begun > 600:  # noqa: PLR2004 - ten minutes, which is a failure
            break
    return time.monotonic() - begun


if __name__ == "__main__":
    typer.run(main)
