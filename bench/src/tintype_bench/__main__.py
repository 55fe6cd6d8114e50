"""`python -m tintype_bench`: measures Tintype beside its yardsticks, and keeps the result."""

import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tintype_bench import corpus, machine, pressure, report
from tintype_bench.contestants import Contestant, Inspect, contestants
from tintype_bench.results import Decoding, Result, Row
from tintype_bench.rounds import Cell, Plan, measure
from tintype_bench.surroundings import Surroundings, run_folder
from tintype_bench.targets import CONCURRENCY

DECODER_SECONDS = 3.0
PARTS = ("uploads", "siege", "crowd")
SIEGE_SECONDS = 8.0
"""Of each short run there: a p99 needs some hundred uploads."""

WIDTH = 150
"""Of the tables, in characters, where no terminal tells its own."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one run of the bench measures."""

    photos: Sequence[corpus.Photo]
    concurrencies: Sequence[int]
    contestants: Sequence[Contestant]
    plan: Plan
    parts: Collection[str]

    def cells(self, folder: Path) -> Iterator[tuple[Cell, list[Contestant]]]:
        """Yield every size at every concurrency, and who takes part there."""
        for photo in self.photos:
            path = corpus.make(photo, folder)
            for concurrency in self.concurrencies:
                there = [one for one in self.contestants if one.takes_part(concurrency)]
                if there:
                    yield Cell(photo.name, path, concurrency), there


@app.command()
def main(
    *,
    quick: Annotated[bool, typer.Option(help="Under a minute: tells that it works, not how fast.")] = False,
    sizes: Annotated[str | None, typer.Option(help="Of 100KB, 2MB, 20MB.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Uploads at once, as in 1,8,64.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of each short run.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Short runs of everyone, in turn.")] = None,
    who: Annotated[str | None, typer.Option("--contestants", help="Names, as in plain,tintype.")] = None,
    inspect: Annotated[
        Inspect, typer.Option(help="What Tintype does with a header alone, or with all.")
    ] = "header",
    parts: Annotated[str | None, typer.Option(help="Of uploads,siege,crowd; --quick: uploads alone.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the result is kept.")] = None,
) -> None:
    """Measure Tintype beside a plain application and the floor, and keep the result."""
    everyone = contestants(inspect)
    chosen = Choice(
        photos=[corpus.PHOTOS[name] for name in _list(sizes, "100KB,2MB" if quick else "100KB,2MB,20MB")],
        concurrencies=[int(each) for each in _list(concurrency, "8" if quick else "1,8,64")],
        contestants=[
            everyone[name] for name in _list(who, "floor,plain,tintype" if quick else ",".join(everyone))
        ],
        plan=Plan(seconds or (1.0 if quick else 2.0), rounds or (1 if quick else 3)),
        parts=_list(parts, "uploads" if quick else ",".join(PARTS)),
    )
    result = _measure(chosen, {"inspection": inspect, "command": " ".join(["tintype_bench", *sys.argv[1:]])})
    report.show(result, Console(width=None if sys.stdout.isatty() else WIDTH))
    if out is not None or not quick:
        console.print(f"kept in {report.write(result, out or Path('bench/results'), _name())}")
    if _failed(result, everyone.values()):
        raise typer.Exit(1)


def _list(given: str | None, default: str) -> list[str]:
    return [part.strip() for part in (given or default).split(",")]


def _measure(choice: Choice, options: dict[str, str]) -> Result:
    options |= {"short runs": f"{choice.plan.rounds} of {choice.plan.seconds:g} s"}
    options |= {"load average before": machine.load_average()}
    rows: list[Row] = []
    decoding: list[Decoding] = []
    with run_folder() as folder, Surroundings(folder) as around:
        for cell, there in choice.cells(folder) if "uploads" in choice.parts else ():
            console.print(f"{cell.size} x {cell.concurrency}: {', '.join(one.name for one in there)}")
            measured = measure(around, choice.plan, cell, there)
            rows += measured
            decoding += _decoding(cell, measured)
        siege = crowd = None
        if "siege" in choice.parts:
            console.print("ordinary uploads under bombs")
            siege = pressure.besiege(around, max(choice.plan.seconds, SIEGE_SECONDS), choice.plan.rounds)
        if "crowd" in choice.parts:
            console.print(f"a crowd of {pressure.CROWD} large photographs")
            crowd = pressure.crowd(around)
    options |= {"load average after": machine.load_average()}
    return Result(
        machine=machine.describe(), options=options, rows=rows, decoding=decoding, siege=siege, crowd=crowd
    )


def _decoding(cell: Cell, rows: Sequence[Row]) -> list[Decoding]:
    """Set full inspection beside the bare decoder, where both shapes of Tintype were measured."""
    named = {row.contestant: row for row in rows if not row.errors}
    header, full = named.get("tintype"), named.get("tintype-full")
    if header is None or full is None or cell.concurrency != CONCURRENCY:
        return []
    command = [sys.executable, "-m", "tintype_bench.decoder", str(cell.photo), str(DECODER_SECONDS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    decoder, streamed = map(float, done.stdout.split())
    return [
        Decoding(
            size=cell.size,
            decoder=decoder,
            streamed=streamed,
            header=header.cpu_per_upload,
            full=full.cpu_per_upload,
        )
    ]


def _name() -> str:
    """Return the date and the commit that was measured."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - as above
    return f"{datetime.now(UTC):%Y-%m-%d}-{commit.stdout.strip() or 'unversioned'}"


def _failed(result: Result, everyone: Iterable[Contestant]) -> bool:
    allowed = {one.name for one in everyone if not one.must_succeed}
    if result.siege is not None and result.siege.errors:
        return True
    if result.crowd is not None and not result.crowd.is_answered:
        return True
    return any(row.errors and row.contestant not in allowed for row in result.rows)


if __name__ == "__main__":
    app()
