import hashlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tintype.imaging.headers import read_header
from tintype.imaging.lanes import HEAVY_SECONDS, expected_seconds
from tintype.imaging.sniff import HEAD_BYTES, sniff
from tintype.model.body import Body
from tintype.settings import ImagingSettings
from tintype_bench import bombs, corpus
from tintype_bench.distinct import Distinct
from tintype_bench.load import Order, Outcome
from tintype_bench.processes import Server, free_port, listens
from tintype_bench.results import Cpu, Crowd, Result, Row, Run, Siege
from tintype_bench.targets import verdicts

SMALL = corpus.Photo("small", 30_000, 320, 240)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.make(SMALL, tmp_path_factory.mktemp("corpus"))


def test_no_two_uploads_have_the_same_bytes_and_all_decode_to_the_same_pixels(photo: Path) -> None:
    distinct = Distinct(photo.read_bytes())

    files = [b"".join(next(distinct)) for _ in range(3)]

    assert len({hashlib.sha256(file).digest() for file in files}) == 3
    assert {len(file) for file in files} == {distinct.length}
    assert len({Image.open(io.BytesIO(file)).tobytes() for file in files}) == 1


def test_a_photograph_comes_near_the_size_that_was_asked_for(photo: Path) -> None:
    assert 0.85 * SMALL.size < photo.stat().st_size + Distinct.COST <= SMALL.size


def test_an_answer_other_than_2xx_is_an_error_and_ends_the_run(photo: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tintype_bench.stand_ins.s3", str(port)]

    with Server("refuses", command, {}, port, tmp_path / "log") as server:
        server.wait_until(lambda: listens(port))
        # To the stand-in this is the end of a multipart upload that never began.
        order = Order(url=f"{server.address}/bucket/key", door="raw", photo=photo, concurrency=2, seconds=30)
        outcome = _send(order)

    assert outcome.uploads == 0
    assert set(outcome.errors) == {"404"}


def test_the_bench_measures_uploads_and_keeps_its_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tintype_bench", "--contestants", "floor", "--sizes", "100KB"]
    command += ["--concurrency", "2", "--seconds", "1", "--rounds", "1", "--parts", "uploads"]
    command += ["--out", str(tmp_path)]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "uploads/s" in done.stdout
    (numbers,) = tmp_path.glob("*.json")
    (row,) = Result.model_validate_json(numbers.read_bytes()).rows
    assert row.rate > 0
    assert row.cpu_per_upload > 0
    assert row.peak_api_bytes > 0
    assert numbers.with_suffix(".md").read_text().startswith("# Benchmark")


def test_a_target_is_judged_by_the_ratio_within_each_round() -> None:
    # The second round met a noisy machine, and everyone was half as fast in it.
    ours, plain = _row("tintype", [1300, 650, 1300]), _row("plain", [100, 50, 100])

    judged = {verdict.what: verdict for verdict in verdicts(_result(ours, plain))}

    assert judged["100KB: uploads/s, times plain"].measured == "13.0"
    assert judged["100KB: uploads/s, times plain"].kept
    assert not judged["100KB: CPU per upload, of plain's"].kept


def test_a_contestant_that_failed_is_compared_with_nobody() -> None:
    ours, plain = _row("tintype", [1300]), _row("plain", [100], errors={"500": 1})

    assert verdicts(_result(ours, plain)) == []


def test_what_holds_under_bombs_is_judged_beside_the_quiet_of_the_same_round() -> None:
    siege = Siege(quiet_p99_ms=[10, 40, 10], besieged_p99_ms=[19, 60, 25], bombs={"201": 3}, errors={})
    crowd = Crowd(
        at_once=50, megapixels=40, uploads=45, errors={"503": 5}, peak_api_bytes=310_000_000,
        peak_workers_bytes=1,
    )  # fmt: skip

    kept = {each.what: each.kept for each in verdicts(Result(machine={}, options={}, rows=[], decoding=[],
        siege=siege, crowd=crowd))}  # fmt: skip

    assert siege.times_quiet == 1.9
    assert list(kept.values()) == [True, False]


def test_a_bomb_is_within_all_limits_and_takes_long(tmp_path: Path) -> None:
    limits = ImagingSettings()
    for path in bombs.make(tmp_path).iterdir():
        data = path.read_bytes()
        kind = sniff(data[:HEAD_BYTES])
        assert kind is not None
        header = read_header(kind, Body(len(data), bytes(32), memory=data), limits)
        assert expected_seconds(header) > HEAVY_SECONDS
        assert len(data) < 2_000_000


def _send(order: Order) -> Outcome:
    command = [sys.executable, "-m", "tintype_bench.load", order.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return Outcome.model_validate_json(done.stdout)


def _row(contestant: str, rates: list[int], errors: dict[str, int] | None = None) -> Row:
    cpu = Cpu(api=1, workers=0, postgres=0, s3=0)
    runs = [
        Run(
            uploads=100, bytes=1, seconds=100 / rate, errors=errors or {}, cpu=cpu, cpu_load=0,
            settle_seconds=0, load_average=0,
        )
        for rate in rates
    ]  # fmt: skip
    return Row(
        contestant=contestant, size="100KB", concurrency=8, runs=runs, p50_ms=1, p99_ms=1,
        peak_api_bytes=1, peak_workers_bytes=0,
    )  # fmt: skip


def _result(*rows: Row) -> Result:
    return Result(machine={}, options={}, rows=list(rows), decoding=[])
