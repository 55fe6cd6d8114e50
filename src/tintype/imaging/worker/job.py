"""What the parent asks of a worker, what comes back, and how both cross the socket."""

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

MAX_JOB = 4096
MAX_REPLY = 256 * 1024
LENGTH_BYTES = 4
SHARED_BYTES = 1 << 20
"""Of the memory that parent and worker share: what is larger comes as a descriptor."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to decode. Its bytes lie in the shared memory, or come beside this as a descriptor."""

    format: str
    """The name of a `Format`: it chooses the loader."""
    length: int
    orientation: int
    """As the header walk found it."""
    exif: tuple[int, int] | None
    """Offset and length."""
    max_side: int
    max_frames: int
    max_pixels: int
    cpu_seconds: int
    side: int = 0
    """Of a small picture that is wanted instead of facts; 0: facts are."""


class Kind(StrEnum):
    """Why a file is refused."""

    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"


class Refused(Exception):
    """The file cannot be taken; the reason is a few words of the decoder's."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def frame(message: dict[str, Any]) -> bytes:
    """Return a message as JSON, with its length in front."""
    data = orjson.dumps(message)
    return len(data).to_bytes(LENGTH_BYTES) + data


def receive(channel: socket.socket) -> tuple[Any, list[int]] | None:
    """Return the next message and what descriptor came with it; None when the parent has gone."""
    data, descriptors, _, _ = socket.recv_fds(channel, MAX_JOB, 1)
    if not data:
        return None
    wanted = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES])
    while len(data) < wanted:
        more = channel.recv(wanted - len(data))
        if not more:
            return None
        data += more
    return orjson.loads(data[LENGTH_BYTES:wanted]), descriptors
