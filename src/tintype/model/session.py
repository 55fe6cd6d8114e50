"""An upload session: an upload that takes more than one request, and what became of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from tintype.model.errors import TintypeError, error_of_code
from tintype.model.identity import Grant
from tintype.model.ids import new_id
from tintype.model.image import State
from tintype.model.upload import Idempotency, Upload


class SessionKind(StrEnum):
    """How the bytes come: in pieces through us, or straight into the object store."""

    TUS = "tus"
    RESUMABLE = "resumable"
    PUT = "put"
    POST = "post"
    MULTIPART = "multipart"


class SessionState(StrEnum):
    """Where a session stands. The first two are unfinished; the others are final."""

    OPEN = "open"
    FINISHING = "finishing"
    DONE = "done"
    REJECTED = "rejected"
    EXPIRED = "expired"
    ABORTED = "aborted"


PARTIAL = "partial"
"""The `concat` of an upload whose bytes are to be a part of another one's."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a door knows when it opens a session. The constraints bind whoever goes on with it."""

    owner: str
    kind: SessionKind
    length: int | None
    max_bytes: int
    filename: str = ""
    declared_type: str | None = None
    tags: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    keep_duplicate: bool = False
    digests: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Announced for the whole, by algorithm (RFC 9530)."""
    metadata: str | None = None
    """As the client sent it, to be sent back."""
    concat: str | None = None
    parts: tuple[UUID, ...] = ()
    """The sessions whose bytes, one after another, are this one's."""
    key_id: str | None = None
    grant: Grant | None = None
    """Of the upload token that opened the session."""
    target: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Where a direct upload goes: its door's own notes."""
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session as it was when it was read."""

    id: UUID
    owner: str
    kind: SessionKind
    state: SessionState
    fence: int
    """Grows with each request that takes the session over; a write under an older number fails."""
    length: int | None
    """Of the whole, in bytes; None: not told yet."""
    received: int
    """Bytes from the start that are durable."""
    max_bytes: int
    filename: str
    declared_type: str | None
    tags: tuple[str, ...]
    attributes: dict[str, Any]
    keep_duplicate: bool
    digests: dict[str, bytes]
    metadata: str | None
    concat: str | None
    parts: tuple[UUID, ...]
    key_id: str | None
    grant: Grant | None
    target: dict[str, Any]
    image_id: UUID | None
    image_state: State | None
    """Of the image that it became; None where there is none, or no more."""
    problem: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    is_overdue: bool
    """By the database's clock: it will expire as soon as somebody sweeps."""

    @property
    def is_unfinished(self) -> bool:
        """Whether a client can go on with it."""
        return self.state in (SessionState.OPEN, SessionState.FINISHING)

    @property
    def is_partial(self) -> bool:
        """Whether it is to be a part of another one, and no image by itself."""
        return self.concat == PARTIAL

    @property
    def is_whole(self) -> bool:
        """Whether every byte is durable, whatever came of them."""
        return self.received == self.length

    @property
    def offset(self) -> int:
        """Where a client goes on. It reaches the length only once the result is final, and good.

        A session whose bytes are all there while its result is not shows one byte less: a client that
        compares offset and length never takes it for finished, and the byte that it sends again makes
        the service try again, or tell again why the upload was rejected.
        """
        if self.state is not SessionState.DONE and self.length is not None and not self.is_partial:
            return min(self.received, max(self.length - 1, 0))
        return self.received

    @property
    def is_gone(self) -> bool:
        """Whether its image was deleted, or is not there for another reason."""
        if self.state is not SessionState.DONE:
            return False
        return self.image_state in (None, State.DELETED)

    def upload(self) -> Upload:
        """Return the attempt to make an image of it: a new id each time, and always the same key.

        The id is the attempt's age, which a commit limits; the key, which no client can send since it
        has a space, makes all attempts together one image.
        """
        name = f"session {self.id}"
        if self.parts:  # the same parts put together again, after an answer that was lost
            name = f"session {uuid5(self.parts[0], ' '.join(map(str, self.parts)))}"
        return Upload(
            owner=self.owner,
            filename=self.filename,
            declared_type=self.declared_type,
            protocol=str(self.kind) if self.kind in (SessionKind.TUS, SessionKind.RESUMABLE) else "direct",
            tags=self.tags,
            attributes=self.attributes,
            keep_duplicate=self.keep_duplicate,
            idempotency=Idempotency(name, hashlib.sha256(name.encode()).digest()),
        )

    def rejection(self) -> TintypeError:
        """Return the problem that it was rejected with, as it was told the first time."""
        problem = self.problem or {}
        return error_of_code(problem["code"], problem["detail"], problem["details"])


@dataclass(frozen=True, slots=True)
class Piece:
    """Durable bytes of a session: in the catalogue when small, else in the object store."""

    start: int
    length: int
    key: str | None
    data: bytes | None


def problem_of(error: TintypeError) -> dict[str, Any]:
    """Return an error in JSON types: what `Session.rejection` makes it of again."""
    return {"code": error.code, "detail": str(error), "details": error.details}
