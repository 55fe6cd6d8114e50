"""`complete`: S3 says by SQS that something lies under `incoming/`, and what is an upload is finished."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_plus

from tintype.lambdas.process import Invocation, process, seconds_left
from tintype.model.errors import TintypeError
from tintype.objects.s3_client import bucket_and_prefix
from tintype.telemetry import get_logger
from tintype.wiring import Parts

Answer = dict[str, list[dict[str, str]]]

_LOG = get_logger()


def handler(event: Mapping[str, Any], invocation: Invocation) -> Answer:
    """Finish what S3 tells of; name the messages that are to come again (`ReportBatchItemFailures`)."""
    return process.run(lambda parts: complete(parts, event["Records"], seconds_left(invocation)))


async def complete(parts: Parts, messages: Sequence[Mapping[str, Any]], seconds: float) -> Answer:
    """Work on all messages of a batch at once, as long as there is time. One that fails fails alone."""
    working = {
        asyncio.create_task(_take(parts, message["body"])): message["messageId"] for message in messages
    }
    if working:
        _, late = await asyncio.wait(working, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.wait(working)
    failed = [message_id for task, message_id in working.items() if task.cancelled() or not task.result()]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def keys_in(body: str) -> list[str]:
    """Return the keys that an S3 notification tells of. S3's first one, a test, tells of none.

    Keys are URL-encoded, a space as a plus (S3 User Guide, "Event message structure"). Raises `ValueError`
    for what is no notification.
    """
    told: Any = json.loads(body)
    try:
        if told.get("Event") == "s3:TestEvent":
            return []
        return [unquote_plus(record["s3"]["object"]["key"]) for record in told["Records"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("this is no notification of S3's") from error


async def _take(parts: Parts, body: str) -> bool:
    """Return whether a message is done with."""
    _, prefix = bucket_and_prefix(parts.settings.objects)
    try:
        for key in keys_in(body):
            if key.startswith(prefix):
                await parts.direct.arrived(key.removeprefix(prefix))
    except TintypeError as error:
        _LOG.warning("complete.failed", problem=error.code)
        return False
    except Exception:  # noqa: BLE001 # a defect with one message must not fail the others
        _LOG.exception("complete.failed")
        return False
    return True
