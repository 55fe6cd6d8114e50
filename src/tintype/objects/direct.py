"""Direct uploads: the port through which clients hand their bytes to the store without us in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MIN_PART_BYTES = 5 * 1024 * 1024
"""Of each part but the last (S3 User Guide, "Amazon S3 multipart upload limits")."""
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client may send, and until when: signed, so that nothing else is taken."""

    content_type: str
    min_bytes: int
    max_bytes: int
    sha256: bytes | None
    expires_in: int
    """In seconds."""
    base_url: str
    """How the client reached us, for stores that cannot answer by themselves."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """The request that a client is to send: the bytes as its body, and these headers."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class FormInstruction:
    """The form that a client is to send (`multipart/form-data`): these fields, then the bytes as `file`."""

    url: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload that has arrived."""

    number: int
    etag: str
    """Without quotes."""
    size: int = 0
    """In bytes; 0 where a client names a part."""


class DirectUploads(Protocol):
    """Signs requests with which a client stores one object, under a key of ours and on our terms.

    What is signed holds until it expires, however often it is used: whoever has it can overwrite the
    object. So the bytes are never taken for what they were when somebody looked before. Every method
    raises `StorageUnavailable`.
    """

    async def sign_put(self, key: str, terms: Terms) -> Instruction:
        """Return a PUT that is taken with exactly `max_bytes` bytes, this type and this checksum."""
        ...

    async def sign_post(self, key: str, terms: Terms) -> FormInstruction:
        """Return a form that is taken with `min_bytes` to `max_bytes` bytes, and this type."""
        ...

    async def begin_parts(self, key: str, content_type: str) -> str:
        """Begin an upload in parts, and return its id. Nothing shows under the key before it is completed."""
        ...

    async def sign_part(self, key: str, parts_id: str, number: int, terms: Terms) -> Instruction:
        """Return a PUT for one part; how long it may be is only judged when all are there."""
        ...

    async def list_parts(self, key: str, parts_id: str) -> list[Part]:
        """Return the parts that have arrived, by number. Raises `UploadGone` for an upload that has ended."""
        ...

    async def complete_parts(self, key: str, parts_id: str, parts: Sequence[Part]) -> None:
        """Make the parts one object; again, after a lost answer, is harmless.

        Raises `PartsInvalid` for parts that did not arrive so, are out of order, or too small, and
        `UploadGone` for an upload that was aborted.
        """
        ...

    async def abort_parts(self, key: str, parts_id: str) -> None:
        """Throw the parts away; nothing happens where there are none."""
        ...
