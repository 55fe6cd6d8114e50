"""Short runs of all contestants in turn, so that a host's noise falls on everyone alike."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tintype_bench.contestants import Contestant
from tintype_bench.load import Order, Outcome
from tintype_bench.processes import Server
from tintype_bench.results import Cpu, Row, Run, percentile
from tintype_bench.surroundings import Surroundings

WARM_SECONDS = 0.7
SETTLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each run takes, and how many rounds there are."""

    seconds: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One photograph at one concurrency, for everybody."""

    size: str
    photo: Path
    concurrency: int


def measure(around: Surroundings, plan: Plan, cell: Cell, contestants: Sequence[Contestant]) -> list[Row]:
    """Start everyone afresh, warm them, run them in turn, and return a row for each."""
    with ExitStack() as stack:
        trials: list[Trial] = []
        for contestant in contestants:
            server = stack.enter_context(contestant.start(around, around.folder))
            trials.append(Trial(around, cell, contestant, server))
        for trial in trials:
            trial.warm()
        for _ in range(plan.rounds):
            for trial in trials:
                trial.run(plan.seconds)
        return [trial.row() for trial in trials]


@dataclass(slots=True)
class Trial:
    """One contestant in one cell. Once it has failed it is not asked again."""

    around: Surroundings
    cell: Cell
    contestant: Contestant
    server: Server
    runs: list[Run] = field(default_factory=list[Run])

    def warm(self) -> None:
        """Let it import, connect and fill its caches; an error here counts like any other."""
        warmed = self._measured(WARM_SECONDS)
        if warmed.errors:
            self.runs.append(warmed)

    def run(self, seconds: float) -> None:
        """Load it for some seconds, and count what that cost everyone."""
        if not any(run.errors for run in self.runs):
            self.runs.append(self._measured(seconds))

    def row(self) -> Row:
        """Return what all runs came to."""
        peak = self.server.memory()
        latencies = [each for run in self.runs for each in run.latencies_ms]
        return Row(
            contestant=self.contestant.name,
            size=self.cell.size,
            concurrency=self.cell.concurrency,
            runs=self.runs,
            p50_ms=percentile(latencies, 0.5),
            p99_ms=percentile(latencies, 0.99),
            peak_api_bytes=peak.api,
            peak_workers_bytes=peak.workers,
        )

    def _measured(self, seconds: float) -> Run:
        load_average, published = os.getloadavg()[0], self.around.published()
        before = self._counters()
        outcome = self._send(seconds)
        settle_seconds = 0.0 if outcome.errors else self._settle(published + outcome.uploads)
        return Run(
            uploads=outcome.uploads,
            bytes=outcome.bytes,
            seconds=outcome.seconds,
            latencies_ms=outcome.latencies_ms,
            errors=outcome.errors,
            cpu=self._counters().since(before),
            cpu_load=outcome.cpu_seconds,
            settle_seconds=settle_seconds,
            load_average=load_average,
        )

    def _send(self, seconds: float) -> Outcome:
        order = Order(
            url=f"{self.server.address}{self.contestant.path}",
            door=self.contestant.door,
            photo=self.cell.photo,
            concurrency=self.cell.concurrency,
            seconds=seconds,
            least=self.cell.concurrency,
        )
        command = [sys.executable, "-m", "tintype_bench.load", order.model_dump_json()]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
        return Outcome.model_validate_json(done.stdout)

    def _settle(self, expected: int) -> float:
        """Wait until the topic has an event for each upload: that work belongs to the run."""
        began = time.monotonic()
        while self.contestant.publishes and time.monotonic() - began < SETTLE_SECONDS:
            if self.around.published() >= expected:
                break
            time.sleep(0.02)
        return time.monotonic() - began

    def _counters(self) -> Cpu:
        usage = self.server.usage()
        return Cpu(
            api=usage.api,
            workers=usage.workers,
            postgres=usage.postgres + self.around.database_cpu(self.contestant.name),
            s3=self.around.s3.usage().server,
        )
