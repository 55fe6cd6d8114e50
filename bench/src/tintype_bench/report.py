"""A result as tables: on a terminal while people wait, and as Markdown in `bench/results/`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from tintype_bench.results import Crowd, Result, Row, Siege
from tintype_bench.targets import verdicts


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, the columns' names, and lines of text; the first column is left-aligned."""

    heading: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def show(result: Result, console: Console) -> None:
    """Print all tables."""
    for table in tables(result):
        drawn = RichTable(title=table.heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if number == 0 else "right")
        for line in table.lines:
            drawn.add_row(*line)
        console.print(drawn)


def write(result: Result, folder: Path, name: str) -> Path:
    """Keep the result as `name.md` for people and `name.json` for programs; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(result.model_dump_json(indent=1) + "\n")
    page = folder / f"{name}.md"
    page.write_text(markdown(result, name))
    return page


def markdown(result: Result, title: str) -> str:
    """Return the page."""
    parts = [f"# Benchmark {title}", EXPLANATION, *(_markdown_table(table) for table in tables(result))]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
Sender, server, PostgreSQL and the object store share one machine: read ratios, not rates. All runs are
interleaved; a rate is the median over the rounds, a ratio the median of the rounds' ratios. CPU is user
and system time of the contestant's processes; PostgreSQL (pg), the object store's stand-in (s3) and the
sender (load) are apart. Peak memory is VmHWM of a process that was started for that line alone."""


def tables(result: Result) -> Iterable[Table]:
    """Yield everything there is to show."""
    if result.rows:
        yield Table("Uploads", UPLOAD_COLUMNS, [_upload_line(row) for row in result.rows])
    if result.decoding:
        yield _decoding(result)
    if result.siege is not None:
        yield _siege(result.siege)
    if result.crowd is not None:
        yield _crowd(result.crowd)
    judged = verdicts(result)
    if judged:
        lines = [[v.what, v.measured, v.promised, "kept" if v.kept else "MISSED"] for v in judged]
        yield Table("Targets", ("target", "measured", "promised", ""), lines)
    about = {**result.machine, **result.options}
    yield Table("Machine and options", ("what", "value"), [list(item) for item in about.items()])


UPLOAD_COLUMNS = (
    "contestant", "size", "at once", "uploads/s", "MB/s", "p50 ms", "p99 ms", "CPU ms",
    "pg", "s3", "load", "peak MB", "workers MB", "errors",
)  # fmt: skip


def _upload_line(row: Row) -> list[str]:
    named = [row.contestant, row.size, str(row.concurrency)]
    if row.errors:
        failed = ", ".join(f"{count} x {kind}" for kind, count in row.errors.items())
        return [*named, *["-"] * 8, *_memory(row), failed]
    around = (
        row.median(lambda run: run.cpu.postgres / max(run.uploads, 1)),
        row.median(lambda run: run.cpu.s3 / max(run.uploads, 1)),
        row.median(lambda run: run.cpu_load / max(run.uploads, 1)),
    )
    return [
        *named,
        _number(row.rate),
        _number(row.megabytes_per_second),
        _number(row.p50_ms),
        _number(row.p99_ms),
        _number(row.cpu_per_upload * 1000),
        *(_number(cpu * 1000) for cpu in around),
        *_memory(row),
        "",
    ]


def _memory(row: Row) -> list[str]:
    workers = _number(row.peak_workers_bytes / 1e6) if row.peak_workers_bytes else ""
    return [_number(row.peak_api_bytes / 1e6), workers]


def _number(value: float) -> str:
    """Write three digits that matter."""
    if value >= 100:  # noqa: PLR2004 - from here on the digits before the point are enough
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _decoding(result: Result) -> Table:
    columns = (
        "CPU ms per photograph", "decoder", "without keeping pixels", "upload, header", "upload, full",
        "on top", "on top of the least",
    )  # fmt: skip
    lines = [
        [
            row.size,
            *(_number(cpu * 1000) for cpu in (row.decoder, row.streamed, row.header, row.full)),
            f"{row.on_top:.0%}",
            f"{row.on_top_of_streamed:.0%}",
        ]
        for row in result.decoding
    ]
    return Table("Full inspection beside the bare decoder", columns, lines)


def _siege(siege: Siege) -> Table:
    rounds = zip(siege.quiet_p99_ms, siege.besieged_p99_ms, strict=True)
    lines = [[str(number), *map(_number, pair)] for number, pair in enumerate(rounds, 1)]
    lines.append(["answers to the bombs", "", _counts(siege.bombs)])
    if siege.errors:
        lines.append(["errors", "", _counts(siege.errors)])
    return Table("Ordinary uploads under bombs", ("round", "quiet p99 ms", "besieged p99 ms"), lines)


def _crowd(crowd: Crowd) -> Table:
    columns = ("at once", "megapixels", "uploads", "peak MB", "workers MB", "errors")
    memory = [_number(each / 1e6) for each in (crowd.peak_api_bytes, crowd.peak_workers_bytes)]
    line = [str(crowd.at_once), _number(crowd.megapixels), str(crowd.uploads), *memory, _counts(crowd.errors)]
    return Table("A crowd of large photographs", columns, [line])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items())


def _markdown_table(table: Table) -> str:
    head = f"| {' | '.join(table.columns)} |"
    rule = "|---" + "|---:" * (len(table.columns) - 1) + "|"
    lines = [f"| {' | '.join(line)} |" for line in table.lines]
    return "\n".join([f"## {table.heading}", "", head, rule, *lines])
