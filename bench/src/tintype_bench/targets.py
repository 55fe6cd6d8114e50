"""What Tintype promises of its speed, as ratios in one run, and whether a result keeps it."""

from dataclasses import dataclass

from tintype_bench.results import Result, Row

CONCURRENCY = 8
"""Where the ratios are promised."""

CROWD = 64
MEMORY_BYTES = 256 * 1000 * 1000
DECODING_ON_TOP = 0.15
TIMES_QUIET = 2.0
CROWD_MEMORY_BYTES = 300 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class Promise:
    """For one size: at least so many times the rate, at most that part of the CPU."""

    times_plain: float
    of_plain_cpu: float
    of_floor: float = 0.6


PROMISES = {
    "100KB": Promise(times_plain=12, of_plain_cpu=1 / 8),
    "2MB": Promise(times_plain=4, of_plain_cpu=1 / 4),
    "20MB": Promise(times_plain=4, of_plain_cpu=1 / 3),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise beside what was measured."""

    what: str
    measured: str
    promised: str
    kept: bool


def verdicts(result: Result) -> list[Verdict]:
    """Return every promise that the result can tell about."""
    found: list[Verdict] = []
    for size, promise in PROMISES.items():
        ours = result.find("tintype", size, CONCURRENCY)
        if ours is not None:
            found += _beside_plain(ours, result.find("plain", size, CONCURRENCY), promise)
            found += _beside_floor(ours, result.find("floor", size, CONCURRENCY), promise)
    return found + _memory(result) + _decoding(result) + _pressure(result)


def _beside_plain(ours: Row, plain: Row | None, promise: Promise) -> list[Verdict]:
    if plain is None:
        return []
    rate = ours.over(plain, lambda run: run.rate)
    cpu = ours.over(plain, lambda run: run.cpu_per_upload)
    return [
        *_at_least(f"{ours.size}: uploads/s, times plain", rate, promise.times_plain, "{:.1f}"),
        *_at_most(f"{ours.size}: CPU per upload, of plain's", cpu, promise.of_plain_cpu, "{:.3f}"),
    ]


def _beside_floor(ours: Row, floor: Row | None, promise: Promise) -> list[Verdict]:
    if floor is None:
        return []
    rate = ours.over(floor, lambda run: run.rate)
    return _at_least(f"{ours.size}: uploads/s, of the floor's", rate, promise.of_floor, "{:.0%}")


def _memory(result: Result) -> list[Verdict]:
    crowd = result.find("tintype", "20MB", CROWD)
    if crowd is None:
        return []
    peak = crowd.peak_api_bytes / 1e6
    return _at_most(f"{CROWD} x 20MB: peak memory of the API process, MB", peak, MEMORY_BYTES / 1e6, "{:.0f}")


def _decoding(result: Result) -> list[Verdict]:
    found: list[Verdict] = []
    for row in result.decoding:
        what = f"{row.size}: full inspection, on top of the decoder"
        found += _at_most(what, row.on_top, DECODING_ON_TOP, "{:.0%}")
    return found


def _pressure(result: Result) -> list[Verdict]:
    found: list[Verdict] = []
    if (siege := result.siege) is not None and not siege.errors:
        found += _at_most(
            "p99 of ordinary uploads under bombs, times quiet", siege.times_quiet, TIMES_QUIET, "{:.2f}"
        )
    if (crowd := result.crowd) is not None and crowd.is_answered:
        what = f"{crowd.at_once} x {crowd.megapixels:.0f} MP: peak memory of the API process, MB"
        found += _at_most(what, crowd.peak_api_bytes / 1e6, CROWD_MEMORY_BYTES / 1e6, "{:.0f}")
    return found


def _at_least(what: str, measured: float | None, least: float, form: str) -> list[Verdict]:
    if measured is None:
        return []
    return [Verdict(what, form.format(measured), f"at least {form.format(least)}", measured >= least)]


def _at_most(what: str, measured: float | None, most: float, form: str) -> list[Verdict]:
    if measured is None:
        return []
    return [Verdict(what, form.format(measured), f"at most {form.format(most)}", measured <= most)]
