"""`notifier`: what the topic tells a queue is brought to subscribers; and each minute, what nobody published.

With every instance dead a committed upload is still announced: the schedule's invocation publishes it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tintype.catalogue import events
from tintype.catalogue.database import EVERY_OWNER
from tintype.lambdas.process import Invocation, process, seconds_left
from tintype.model.errors import TintypeError
from tintype.telemetry import get_logger
from tintype.wiring import Parts

SHARE = 0.7
"""Of an invocation's time in which work is begun; what is begun then is brought to its end."""

_LOG = get_logger()


def handler(event: Mapping[str, Any], invocation: Invocation) -> dict[str, Any]:
    """Bring what a batch of messages tells of, or drain the log; `{"task": "drain"}` is the schedule's."""
    seconds = seconds_left(invocation) * SHARE
    if event.get("task") == "drain":
        return process.run(lambda parts: drain(parts, seconds))
    return process.run(lambda parts: notify(parts, event["Records"], seconds))


async def drain(parts: Parts, seconds: float) -> dict[str, Any]:
    """Publish what nobody has published, and bring what is due; return how much is left unpublished."""
    ends = time.monotonic() + seconds
    published = await parts.relay.drain(seconds=seconds / 2)
    await parts.notifier.drain(seconds=max(ends - time.monotonic(), 0))
    return {"published": published, "left": await _unpublished(parts)}


async def notify(parts: Parts, messages: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Turn the events that messages tell of into deliveries, and bring what is due.

    A delivery is made once for an event and a subscription, however often a message comes. What a
    receiver does not take is in the ledger, and tried again by whoever is up then: the message is done
    with. Messages whose events could not be turned into deliveries are named, and come again.
    """
    ends = time.monotonic() + seconds
    failed = [
        message["messageId"]
        for message in messages
        if not await _take(parts, message["body"], ends - time.monotonic())
    ]
    try:
        await parts.notifier.drain(seconds=max(ends - time.monotonic(), 0))
    except TintypeError as error:
        _LOG.warning("notifier.deliveries_wait", problem=error.code)
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def position_in(body: str) -> int:
    """Return the position of the event that a message tells of, as SNS wraps it or as we wrote it.

    Raises `ValueError` for what is no message of ours.
    """
    told: Any = json.loads(body)
    if isinstance(told, dict) and "Message" in told:
        told = json.loads(cast("dict[str, str]", told)["Message"])
    try:
        position = cast("dict[str, Any]", told)["position"]
    except (KeyError, TypeError) as error:
        raise ValueError("this is no message about an event") from error
    if not isinstance(position, int):
        raise ValueError("an event's position is a number")  # noqa: TRY004 - of a stranger's message
    return position


async def _take(parts: Parts, body: str, seconds: float) -> bool:
    """Return whether a message is done with. One that fails holds back no other."""
    try:
        return await parts.notifier.fan_out_until(position_in(body), seconds=min(max(seconds, 0), 10))
    except TintypeError as error:
        _LOG.warning("notifier.failed", problem=error.code)
    except Exception:  # noqa: BLE001 # a defect with one message must not fail the others
        _LOG.exception("notifier.failed")
    return False


async def _unpublished(parts: Parts) -> int:
    async with parts.database.reading(EVERY_OWNER) as tx:
        return len(await events.unpublished(tx, 0, 100))
