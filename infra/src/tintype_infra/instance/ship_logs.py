"""Ships the journal of an instance to CloudWatch Logs: each line at least once, for as long as it runs.

Each minute it adds how full memory and disk are, of which CloudWatch makes metrics. It is in the bundle, so
that what runs is what was tested, and needs the service's role alone.
Usage: ship_logs.py UNIT…, with REGION, LOG_GROUP, LOG_STREAM and STACK in the environment.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

GATHER_SECONDS = 2.0
MOST_LINES = 1_000
MOST_CHARACTERS = 200_000
"""A batch has up to a megabyte, where a character may take four (CloudWatch Logs API, "PutLogEvents")."""
LONGEST_LINE = 50_000
PAUSE_SECONDS = 10
FIGURES_SECONDS = 60

Line = dict[str, Any]


def main(units: list[str]) -> None:
    """Ship until killed. What was shipped is remembered in $STATE_DIRECTORY, and not sent again."""
    remembered = Path(os.environ["STATE_DIRECTORY"], "cursor")
    patient = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=5, read_timeout=20)
    client = boto3.client("logs", region_name=os.environ["REGION"], config=patient)
    where = {"logGroupName": os.environ["LOG_GROUP"], "logStreamName": os.environ["LOG_STREAM"]}
    _persist(client, lambda: _make_stream(client, where))
    due = 0.0
    for lines in _batches(_follow(units, remembered)):
        events = [
            {"timestamp": int(line["__REALTIME_TIMESTAMP"]) // 1000, "message": _text(line)} for line in lines
        ]
        if time.monotonic() >= due:
            events.append(_figures(os.environ["STACK"]))
            due = time.monotonic() + FIGURES_SECONDS
        if not events:
            continue
        events.sort(key=lambda event: event["timestamp"])
        _persist(client, lambda events=events: client.put_log_events(**where, logEvents=events))
        if not lines:
            continue
        unfinished = remembered.with_suffix(".new")
        unfinished.write_text(lines[-1]["__CURSOR"], encoding="utf-8")
        unfinished.replace(remembered)


def _make_stream(client: Any, where: dict[str, str]) -> None:  # noqa: ANN401 # boto3 makes its classes at run time
    try:
        client.create_log_stream(**where)
    except client.exceptions.ResourceAlreadyExistsException:
        return


def _follow(units: list[str], remembered: Path) -> "subprocess.Popen[bytes]":
    after = [f"--after-cursor={remembered.read_text(encoding='utf-8')}"] if remembered.exists() else []
    chosen = [f"--unit={unit}" for unit in units]
    command = ["/usr/bin/journalctl", "--output=json", "--follow", "--lines=all", *chosen, *after]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 # units of our own


def _batches(journal: "subprocess.Popen[bytes]") -> Iterator[list[Line]]:
    """Yield lines together as they come, none later than `GATHER_SECONDS`; none where none come."""
    assert journal.stdout is not None  # noqa: S101 # for the type checker
    reading = journal.stdout.fileno()
    waiting = selectors.DefaultSelector()
    waiting.register(reading, selectors.EVENT_READ)
    rest, lines, characters, ends = b"", list[Line](), 0, 0.0
    while True:
        if waiting.select(max(ends - time.monotonic(), 0) if lines else FIGURES_SECONDS):
            data = os.read(reading, 65_536)
            if not data:
                raise SystemExit("journalctl ended")
            *whole, rest = (rest + data).split(b"\n")
            for line in map(json.loads, filter(None, whole)):
                ends = ends if lines else time.monotonic() + GATHER_SECONDS
                lines.append(line)
                characters += len(_text(line)) + 26
                if len(lines) >= MOST_LINES or characters >= MOST_CHARACTERS:
                    yield lines
                    lines, characters = [], 0
        if not lines or time.monotonic() >= ends:
            yield lines
            lines, characters = [], 0


def _figures(stack: str) -> dict[str, Any]:
    """Return how full the machine is, as a line that CloudWatch makes metrics of.

    CloudWatch User Guide, "Specification: Embedded metric format".
    """
    said = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    kibibytes = {words[0]: int(words[1]) for words in said}
    disk = os.statvfs("/")
    figures = {
        "InstanceMemoryUsed": 100 - 100 * kibibytes["MemAvailable:"] / kibibytes["MemTotal:"],
        "InstanceDiskUsed": 100 - 100 * disk.f_bavail / disk.f_blocks,
    }
    now = time.time_ns() // 1_000_000
    metrics = {
        "Namespace": "Tintype",
        "Dimensions": [["Stack"]],
        "Metrics": [{"Name": name, "Unit": "Percent"} for name in figures],
    }
    told = {"_aws": {"Timestamp": now, "CloudWatchMetrics": [metrics]}, "Stack": stack, **figures}
    return {"timestamp": now, "message": json.dumps(told)}


def _text(line: Line) -> str:
    """Return what was written. Bytes that are no text come as a list of numbers."""
    message = line.get("MESSAGE") or ""
    text = bytes(message).decode(errors="replace") if isinstance(message, list) else str(message)
    return text[:LONGEST_LINE] or " "


def _persist(client: Any, send: Any) -> None:  # noqa: ANN401 # see above
    """Try until it is taken, but for what never will be: events that are too old or from the future."""
    while True:
        try:
            send()
        except client.exceptions.InvalidParameterException as error:
            sys.stderr.write(f"lines are left out: {error}\n")
        except (BotoCoreError, ClientError) as error:
            sys.stderr.write(f"CloudWatch Logs does not take lines: {error}\n")
            time.sleep(PAUSE_SECONDS)
            continue
        return


if __name__ == "__main__":
    main(sys.argv[1:])
