"""What was measured, as numbers that can be kept: runs, rows of medians, and what is derived from them."""

import statistics
from collections.abc import Callable

from pydantic import BaseModel, Field


class Cpu(BaseModel, frozen=True):
    """CPU seconds, user and system: of the measured server's parts, and of what is around it."""

    api: float
    workers: float
    postgres: float
    s3: float

    @property
    def server(self) -> float:
        """The contestant itself: PostgreSQL and the object store are apart."""
        return self.api + self.workers

    def since(self, before: "Cpu") -> "Cpu":
        """Return what was spent after `before`."""
        return Cpu(
            api=self.api - before.api,
            workers=self.workers - before.workers,
            postgres=self.postgres - before.postgres,
            s3=self.s3 - before.s3,
        )


class Run(BaseModel, frozen=True):
    """One contestant, one short run."""

    uploads: int
    bytes: int
    seconds: float
    latencies_ms: list[float] = Field(exclude=True, default=[])
    errors: dict[str, int]
    cpu: Cpu
    cpu_load: float
    """Of the sender."""
    settle_seconds: float
    """From the last answer until the topic had an event for each upload."""
    load_average: float
    """Of the machine, over the minute before."""

    @property
    def rate(self) -> float:
        """Uploads a second."""
        return self.uploads / self.seconds

    @property
    def cpu_per_upload(self) -> float:
        """CPU seconds of the server."""
        return self.cpu.server / max(self.uploads, 1)


class Row(BaseModel, frozen=True):
    """One contestant at one size and concurrency: medians over its runs."""

    contestant: str
    size: str
    concurrency: int
    runs: list[Run]
    p50_ms: float
    p99_ms: float
    peak_api_bytes: int
    peak_workers_bytes: int

    @property
    def errors(self) -> dict[str, int]:
        """Answers other than 2xx, and uploads that were not answered, over all runs."""
        kinds = {kind for run in self.runs for kind in run.errors}
        return {kind: sum(run.errors.get(kind, 0) for run in self.runs) for kind in sorted(kinds)}

    @property
    def rate(self) -> float:
        """Uploads a second."""
        return self.median(lambda run: run.rate)

    @property
    def megabytes_per_second(self) -> float:
        """Millions of image bytes a second."""
        return self.median(lambda run: run.bytes / run.seconds / 1e6)

    @property
    def cpu_per_upload(self) -> float:
        """CPU seconds of the server for one upload."""
        return self.median(lambda run: run.cpu_per_upload)

    def median(self, value: Callable[[Run], float]) -> float:
        """Return the median of a value over the runs."""
        return statistics.median(value(run) for run in self.runs)

    def over(self, other: "Row", value: Callable[[Run], float]) -> float | None:
        """Return how many times as large a value is here as there.

        Runs of the same round are compared with each other, as they had the same noise.
        """
        if self.errors or other.errors:
            return None
        pairs = zip(self.runs, other.runs, strict=True)
        return statistics.median(value(mine) / value(theirs) for mine, theirs in pairs)


class Decoding(BaseModel, frozen=True):
    """What full inspection costs beside the decoder alone, in CPU seconds for one photograph."""

    size: str
    decoder: float
    """libvips in a loop: every pixel decoded into memory."""
    streamed: float
    """The same without keeping a pixel."""
    header: float
    """A whole upload with inspection of the header."""
    full: float
    """A whole upload with full inspection."""

    @property
    def on_top(self) -> float:
        """The part of inspection that is not the decoder, as a fraction of the decoder."""
        return (self.full - self.header) / self.decoder - 1

    @property
    def on_top_of_streamed(self) -> float:
        """The same beside the least that decoding can cost."""
        return (self.full - self.header) / self.streamed - 1


class Siege(BaseModel, frozen=True):
    """Ordinary uploads while bombs are posted, beside the same in quiet, round by round."""

    quiet_p99_ms: list[float]
    besieged_p99_ms: list[float]
    bombs: dict[str, int]
    """Answers to the bombs, by status."""
    errors: dict[str, int]
    """Of the ordinary uploads."""

    @property
    def times_quiet(self) -> float:
        """How many times its quiet value the p99 is: the median over the rounds."""
        pairs = zip(self.besieged_p99_ms, self.quiet_p99_ms, strict=True)
        return statistics.median(besieged / quiet for besieged, quiet in pairs)


class Crowd(BaseModel, frozen=True):
    """Many large photographs sent at once to a fresh server."""

    at_once: int
    megapixels: float
    uploads: int
    errors: dict[str, int]
    peak_api_bytes: int
    peak_workers_bytes: int

    @property
    def is_answered(self) -> bool:
        """Whether each one was stored, or told to come again while the decoders were busy."""
        return set(self.errors) <= {"503"}


class Result(BaseModel, frozen=True):
    """One run of the bench."""

    machine: dict[str, str]
    options: dict[str, str]
    rows: list[Row]
    decoding: list[Decoding]
    siege: Siege | None = None
    crowd: Crowd | None = None

    def find(self, contestant: str, size: str, concurrency: int) -> Row | None:
        """Return a row, if it was measured."""
        wanted = (contestant, size, concurrency)
        found = (row for row in self.rows if (row.contestant, row.size, row.concurrency) == wanted)
        return next(found, None)


def percentile(values: list[float], fraction: float) -> float:
    """Return the value that `fraction` of all are not above; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] if ordered else 0.0
