"""Publishing to an Amazon SNS topic."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

from botocore.exceptions import ClientError

from tintype.messaging.publisher import Message, Report, storable_json
from tintype.messaging.sns_call import PublishBatch
from tintype.model.event_attributes import Attribute
from tintype.settings import EventsSettings

if TYPE_CHECKING:  # the stubs are not installed where the service runs
    from types_boto3_sns.type_defs import MessageAttributeValueTypeDef, PublishBatchRequestEntryTypeDef

MAX_ENTRIES = 10
"""Of one call (SNS, API_PublishBatch)."""

MAX_BATCH_BYTES = 240 * 1024
"""Of one call: SNS takes 262,144 bytes for all messages with their attributes; the rest is margin."""

CALLS_AT_ONCE = 4
"""A call takes SNS some 20 ms, of which it is busy with us for little."""

# Codes that speak of a message; all others speak of the topic, the caller or the service.
_MESSAGE_FAULTS = {
    "BatchRequestTooLong",
    "InvalidParameter",
    "InvalidParameterValue",
    "ParameterValueInvalid",
    "ValidationError",
    "ValidationException",
}


class SnsPublisher:
    """A `Publisher` over botocore, which blocks: hence the threads.

    Ten messages travel in one call, and several calls at once, unless they speak of the same image. All
    calls of one `publish` together may take `publish_timeout_seconds`. Nothing is repeated here: the log
    of events is the retry.
    """

    def __init__(self, settings: EventsSettings) -> None:
        if settings.topic_arn is None:
            raise ValueError("SNS needs a topic: set TINTYPE_EVENTS__TOPIC_ARN.")
        self._topic = settings.topic_arn
        self._endpoint = settings.endpoint
        self._timeout = settings.publish_timeout_seconds
        self._threads = ThreadPoolExecutor(max_workers=CALLS_AT_ONCE, thread_name_prefix="sns")

    async def publish(self, messages: Sequence[Message]) -> Report:
        """Send the messages in batches; after a failure that concerns all of them, send no further ones."""
        reports: list[Report] = []
        reason = "SNS did not say what became of the message."

        async def call(batch: _Batch) -> str | None:
            loop = asyncio.get_running_loop()
            try:
                reports.append(await loop.run_in_executor(self._threads, self._send, batch.entries))
            except Exception as error:  # noqa: BLE001 - botocore has no common root of what it raises
                return _reason(error)
            return None

        try:
            async with asyncio.timeout(self._timeout):
                for wave in _waves(_batches(messages)):
                    if failures := [each for each in await asyncio.gather(*map(call, wave)) if each]:
                        reason = failures[0]
                        break
        except TimeoutError:
            reason = f"SNS did not answer within {self._timeout:g} s."
        known = _together(reports)
        unknown = {message.position for message in messages} - known.taken - known.refused.keys()
        return Report(known.taken, known.refused | dict.fromkeys(unknown, reason))

    @cached_property
    def _publish_batch(self) -> PublishBatch:
        """Made in the thread, at the first call: it reads files, and may ask the instance for its role."""
        return PublishBatch.to(self._topic, self._endpoint, self._timeout, CALLS_AT_ONCE)

    def _send(self, entries: "Sequence[PublishBatchRequestEntryTypeDef]") -> Report:
        """Send one batch. A batch refused for the fault of one message is sent again one by one."""
        try:
            answer = self._publish_batch(entries)
        except ClientError as error:
            if _code(error) not in _MESSAGE_FAULTS:
                raise
            if len(entries) == 1:
                return Report(refused={int(entries[0]["Id"]): _reason(error)})
            return _together([self._send([entry]) for entry in entries])
        return Report(
            frozenset(int(entry["Id"]) for entry in answer.get("Successful", []) if "Id" in entry),
            {
                int(entry["Id"]): f"{entry['Code']}: {entry.get('Message', '')}"
                for entry in answer.get("Failed", [])
            },
        )


@dataclass(slots=True)
class _Batch:
    """What travels in one call."""

    entries: "list[PublishBatchRequestEntryTypeDef]" = field(
        default_factory=list["PublishBatchRequestEntryTypeDef"]
    )
    about: set[UUID] = field(default_factory=set[UUID])
    bytes: int = 0


def _batches(messages: Iterable[Message]) -> Iterator[_Batch]:
    """Yield as many entries at a time as one call takes, in number and in bytes."""
    batch = _Batch()
    for message in messages:
        entry = _entry(message)
        size = _size(entry)
        if batch.entries and (len(batch.entries) == MAX_ENTRIES or batch.bytes + size > MAX_BATCH_BYTES):
            yield batch
            batch = _Batch()
        batch.entries.append(entry)
        batch.about.add(message.about)
        batch.bytes += size
    if batch.entries:
        yield batch


def _waves(batches: Iterable[_Batch]) -> Iterator[list[_Batch]]:
    """Yield calls that may go out at once. One goes ahead and finds out whether SNS takes anything."""
    wave: list[_Batch] = []
    about = set[UUID]()
    limit = 1
    for batch in batches:
        if len(wave) == limit or not about.isdisjoint(batch.about):
            yield wave
            wave, about, limit = [], set[UUID](), CALLS_AT_ONCE
        wave.append(batch)
        about |= batch.about
    if wave:
        yield wave


def _entry(message: Message) -> "PublishBatchRequestEntryTypeDef":
    return {
        "Id": str(message.position),
        "Subject": message.subject,
        "MessageStructure": "json",
        "Message": storable_json(
            {"default": message.default, "email": message.email, "sms": message.sms},
        ),
        "MessageAttributes": {name: _attribute(value) for name, value in message.attributes.items()},
    }


def _attribute(value: Attribute) -> "MessageAttributeValueTypeDef":
    if isinstance(value, int):
        return {"DataType": "Number", "StringValue": str(value)}
    if isinstance(value, list):
        return {"DataType": "String.Array", "StringValue": storable_json(value)}
    return {"DataType": "String", "StringValue": value}


def _size(entry: "PublishBatchRequestEntryTypeDef") -> int:
    """Return the bytes that SNS counts: the text, and name, type and value of each attribute."""
    texts = [entry["Message"], entry.get("Subject", "")]
    for name, value in entry.get("MessageAttributes", {}).items():
        texts += [name, value["DataType"], value.get("StringValue", "")]
    return sum(len(text.encode()) for text in texts)


def _together(reports: Iterable[Report]) -> Report:
    taken: set[int] = set()
    refused: dict[int, str] = {}
    for report in reports:
        taken |= report.taken
        refused |= report.refused
    return Report(frozenset(taken), refused)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _reason(error: Exception) -> str:
    """Return what went wrong in one line: AWS's code first, where AWS has spoken."""
    if isinstance(error, ClientError):
        return f"{_code(error)}: {error.response.get('Error', {}).get('Message', '')}"
    return f"{type(error).__name__}: {error}"
