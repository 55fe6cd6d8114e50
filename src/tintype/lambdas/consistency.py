"""`consistency`: a check, in as many invocations as it takes, each of which ends before its time."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from tintype.catalogue import checks
from tintype.catalogue.database import EVERY_OWNER
from tintype.lambdas.process import Invocation, process
from tintype.messaging.function import Function
from tintype.model.check import Mode, Order, Run, run_payload
from tintype.wiring import Parts

STOP_SECONDS = 60
"""Before the deadline no new step is begun: the longest one, an S3 that does not answer, ends by then."""
SETTLE_SECONDS = 240
"""Less than the five minutes after which the schedule asks for it again."""
NAMESPACE = "Tintype"
"""Of the metrics, as infra's alarms have it."""


class NamedInvocation(Invocation, Protocol):
    """What Lambda says of an invocation, and of the function."""

    @property
    def invoked_function_arn(self) -> str:
        """Return the function's name in full."""
        ...


def handler(event: Mapping[str, Any], invocation: NamedInvocation) -> dict[str, Any]:
    """Work on a run: the one named, the one that is under way, or a new one as the event orders it.

    `{"run": id}` goes on with a run; `{"mode", "repair", "dry_run", "adopting", "confirmed", "inventory"}`,
    all optional, order one, as the schedule does. What is not done in time is left to another invocation,
    which this one asks for. `{"task": "settle"}`, every few minutes, looks after what may be stuck, and tells
    CloudWatch what alarms look at.
    """
    seconds = max(invocation.get_remaining_time_in_millis() / 1000 - STOP_SECONDS, 1.0)
    match event.get("task", "check"):
        case "check":
            return process.run(lambda parts: _check(parts, event, seconds, invocation.invoked_function_arn))
        case "settle":
            return process.run(lambda parts: settle(parts, min(seconds, SETTLE_SECONDS)))
        case other:
            raise ValueError(f"this function knows the tasks `check` and `settle`, not {other!r}")


async def _check(parts: Parts, event: Mapping[str, Any], seconds: float, function: str) -> dict[str, Any]:
    answer = await check(parts, event, seconds)
    if not answer["done"]:
        await Function(function, parts.settings.objects.region).check(UUID(answer["run"]["id"]))
    return answer


async def check(parts: Parts, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Work for so long; return the run, and whether it is over."""
    deadline = time.monotonic() + seconds
    runs = parts.upkeep.runs
    await parts.upkeep.sweep()
    run = await _run_of(parts, event)
    done = await runs.work(run.id, deadline)
    await parts.upkeep.measure()
    await tell(parts)
    return {"done": done, "run": run_payload(await runs.find(run.id))}


async def settle(parts: Parts, seconds: float) -> dict[str, Any]:
    """Look after what may be stuck, and work on a run that is under way; return it, if there is one.

    Shards that another invocation works on are left to that one, as each has a lease.
    """
    deadline = time.monotonic() + seconds
    try:
        run = await parts.upkeep.settle()
        await parts.purge.round(seconds=seconds / 4)
        await parts.journal.catch_up()
        if run is not None:
            await parts.upkeep.runs.work(run.id, deadline)
            run = await parts.upkeep.runs.find(run.id)
    finally:
        await tell(parts)  # alarms want to know all the more when something failed
    return {"run": None if run is None else run_payload(run)}


async def tell(parts: Parts) -> None:
    """Print the figures in CloudWatch's embedded metric format: of its log lines it makes metrics.

    See "Specification: Embedded metric format" in the CloudWatch User Guide. The function's name tells
    the stages of one account apart.
    """
    figures = await parts.upkeep.figures()
    metrics = {
        "Namespace": NAMESPACE,
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name} for name in figures],
    }
    line = {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [metrics]},
        "FunctionName": os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "local"),
        **figures,
    }
    print(json.dumps(line), flush=True)  # noqa: T201 # CloudWatch reads what is printed


async def _run_of(parts: Parts, event: Mapping[str, Any]) -> Run:
    runs = parts.upkeep.runs
    if named := event.get("run"):
        return await runs.find(UUID(named))
    async with parts.database.reading(EVERY_OWNER) as tx:
        under_way = await checks.running(tx)
    if under_way is not None:
        return await runs.find(under_way)
    order = Order(
        mode=Mode(event.get("mode", Mode.QUICK.value)),
        repair=bool(event.get("repair", False)),
        dry_run=bool(event.get("dry_run", False)),
        adopting=bool(event.get("adopting", False)),
        confirmed=bool(event.get("confirmed", False)),
        asked_by="schedule",
        inventory=event.get("inventory"),
    )
    return await runs.begin(order)
