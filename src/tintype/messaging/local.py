"""Publishing without a cloud: a line in the log and a file in a folder, for each event."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tintype.durable import make_folder
from tintype.messaging.publisher import Message, Report
from tintype.telemetry import get_logger

WRITERS = 8
"""Files that wait for the disk together: it takes them in one go."""

_log = get_logger()


class LocalPublisher:
    """A `Publisher` that writes `<position>-<event id>.json` into a folder.

    A file holds the body for machines, as a queue would receive it. Names sort as the log does, and
    one event always has the same name, so that publishing again changes nothing. A file appears
    whole or not at all, and is on the disk before the message counts as taken.
    """

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        self._made = False
        self._writers = ThreadPoolExecutor(max_workers=WRITERS, thread_name_prefix="outbox")

    async def publish(self, messages: Sequence[Message]) -> Report:
        """Write and log the messages."""
        report = await asyncio.to_thread(self._write_all, messages)
        for message in messages:
            if message.position in report.taken:
                _log.info(
                    "event.published",
                    kind=message.kind.value,
                    event_id=str(message.id),
                    position=message.position,
                )
        return report

    def _write_all(self, messages: Sequence[Message]) -> Report:
        try:
            if not (self._made and self._outbox.is_dir()):
                make_folder(self._outbox)
                self._made = True
            folder = os.open(self._outbox, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            return Report(refused={message.position: str(error) for message in messages})
        try:
            return self._write_into(folder, messages)
        finally:
            os.close(folder)

    def _write_into(self, folder: int, messages: Sequence[Message]) -> Report:
        taken: set[int] = set()
        refused: dict[int, str] = {}
        writing = {message.position: self._writers.submit(_write, folder, message) for message in messages}
        for position, written in writing.items():
            try:
                written.result()
            except OSError as error:
                refused[position] = str(error)
            else:
                taken.add(position)
        try:
            os.fsync(folder)  # makes the new names durable, all at once
        except OSError as error:
            return Report(refused={message.position: str(error) for message in messages})
        return Report(frozenset(taken), refused)


def _write(folder: int, message: Message) -> None:
    """Write one file atomically. The process id keeps two relays out of each other's way."""
    name = f"{message.position:012d}-{message.id}.json"
    part = f".{name}.{os.getpid()}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(message.default.encode())
        file.flush()
        os.fdatasync(descriptor)
    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)


class LoggedTexts:
    """`Texts` without a cloud: a line in the log for each."""

    async def send_text(self, phone: str, text: str) -> None:
        """Log a text."""
        _log.info("text.sent", phone=phone, text=text)
