"""Direct uploads to ourselves: the same promises as S3's, over routes of our own that a signature opens."""

import base64
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

from tintype.model.body import Body, spooling
from tintype.model.errors import (
    DigestMismatch,
    LinkInvalid,
    ObjectMissing,
    PartsInvalid,
    RequestInvalid,
    UploadGone,
    UploadTooLarge,
)
from tintype.objects.direct import MAX_PARTS, MIN_PART_BYTES, FormInstruction, Instruction, Part, Terms
from tintype.objects.keys import direct_key, parse_direct_key
from tintype.objects.store import Objects, Stored

PATH = "/v1/direct"

_PARTS_ID = re.compile(r"p[0-9a-f]{32}")
_BEGUN = "begun"
"""The object that stands for an upload in parts that has begun, and has not ended."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What the signature of a request binds its body to."""

    upload_id: UUID
    content_type: str
    min_bytes: int
    max_bytes: int
    sha256: bytes | None = None
    parts_id: str | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class LocalDirect:
    """`DirectUploads` of a folder, and the other side of it: what verifies, and what stores.

    What is bound stands in the query of the address, signed with HMAC-SHA256. Parts are objects beside
    the one that is made of them.
    """

    objects: Objects
    spool_dir: Path
    secret: bytes = field(repr=False)
    max_part_bytes: int
    """A part's length is not bound; it is held against what one image may have."""

    async def sign_put(self, key: str, terms: Terms) -> Instruction:
        """Return a PUT to our own route."""
        bound = _bound(key, terms, min_bytes=terms.max_bytes)
        return Instruction("PUT", self._address("PUT", bound, terms), _headers(terms))

    async def sign_post(self, key: str, terms: Terms) -> FormInstruction:
        """Return a form for our own route. Its fields say nothing that the address does not bind."""
        address = self._address("POST", _bound(key, terms, min_bytes=terms.min_bytes), terms)
        return FormInstruction(address, {"key": key, "Content-Type": terms.content_type})

    async def begin_parts(self, key: str, content_type: str) -> str:
        """Begin an upload in parts: an object says so, until it ends."""
        parts_id = f"p{secrets.token_hex(16)}"
        begun = Body(0, hashlib.sha256().digest(), memory=b"")
        await self.objects.put(
            f"{_folder(key, parts_id)}{_BEGUN}", begun, content_type=content_type, metadata={}
        )
        return parts_id

    async def sign_part(self, key: str, parts_id: str, number: int, terms: Terms) -> Instruction:
        """Return a PUT to our own route for parts."""
        bound = Bound(_upload_id(key), "", 0, self.max_part_bytes, None, parts_id, number)
        return Instruction("PUT", self._address("PUT", bound, terms))

    async def list_parts(self, key: str, parts_id: str) -> list[Part]:
        """Return the parts that are there."""
        folder = _folder(key, parts_id)
        names = {
            info.key.removeprefix(folder): info async for page in self.objects.list(folder) for info in page
        }
        if names.pop(_BEGUN, None) is None:
            raise UploadGone("The upload in parts has ended. Begin a new one.")
        return [Part(int(name), info.etag, info.size) for name, info in sorted(names.items())]

    async def complete_parts(self, key: str, parts_id: str, parts: Sequence[Part]) -> None:
        """Put the parts together into one object, then throw them away."""
        try:
            arrived = {part.number: part for part in await self.list_parts(key, parts_id)}
        except UploadGone:
            if await self.objects.head(key) is None:
                raise
            return
        chosen = _chosen(arrived, parts)
        with await self._assembled(_folder(key, parts_id), chosen) as body:
            await self.objects.put(key, body, content_type="application/octet-stream", metadata={})
        await self.abort_parts(key, parts_id)

    async def abort_parts(self, key: str, parts_id: str) -> None:
        """Delete the parts; the object that says that there are some goes first."""
        folder = _folder(key, parts_id)
        await self.objects.delete(f"{folder}{_BEGUN}")
        async for page in self.objects.list(folder):
            for info in page:
                await self.objects.delete(info.key)

    # The other side

    def verify(self, method: str, upload_id: UUID, query: Mapping[str, str]) -> Bound:
        """Return what a request to our route is bound to. Raises `LinkInvalid` unless we signed it."""
        told = {name: value for name, value in query.items() if name != "signature"}
        ours = self._signature(method, upload_id, told).encode()
        if not hmac.compare_digest(ours, query.get("signature", "").encode(errors="replace")):
            raise LinkInvalid("The address is not one of ours, or was changed. Use it as it was given.")
        if int(told["expires"]) < time.time():
            raise LinkInvalid("The address has expired. Begin a new upload.")
        return Bound(
            upload_id,
            told["type"],
            int(told["min"]),
            int(told["max"]),
            base64.b64decode(told["sha256"]) if "sha256" in told else None,
            told.get("parts"),
            int(told.get("part", "0")),
        )

    async def store(self, bound: Bound, body: Body) -> Stored:
        """Keep a body that fits its bounds, as the object or as a part.

        Raises `UploadTooLarge`, `RequestInvalid`, `DigestMismatch` and `UploadGone`.
        """
        _check(bound, body)
        key = direct_key(bound.upload_id)
        content_type = bound.content_type or "application/octet-stream"
        if bound.parts_id is not None:
            folder = _folder(key, bound.parts_id)
            if await self.objects.head(f"{folder}{_BEGUN}") is None:
                raise UploadGone("The upload in parts has ended. Begin a new one.")
            key = f"{folder}{bound.number:05d}"
        return await self.objects.put(key, body, content_type=content_type, metadata={})

    def _address(self, method: str, bound: Bound, terms: Terms) -> str:
        told = {
            "expires": str(int(time.time()) + terms.expires_in),
            "type": bound.content_type,
            "min": str(bound.min_bytes),
            "max": str(bound.max_bytes),
        }
        if bound.sha256 is not None:
            told["sha256"] = base64.b64encode(bound.sha256).decode()
        if bound.parts_id is not None:
            told |= {"parts": bound.parts_id, "part": str(bound.number)}
        signed = told | {"signature": self._signature(method, bound.upload_id, told)}
        return f"{terms.base_url.rstrip('/')}{PATH}/{bound.upload_id}?{urlencode(signed)}"

    def _signature(self, method: str, upload_id: UUID, told: Mapping[str, str]) -> str:
        message = f"tintype direct 1\n{method}\n{upload_id}\n{urlencode(sorted(told.items()))}"
        digest = hmac.digest(self.secret, message.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def _assembled(self, folder: str, parts: Sequence[Part]) -> Body:
        """Return the parts as one body, in a file without a name."""
        digest, length = hashlib.sha256(), 0
        with spooling(), tempfile.TemporaryFile(dir=self.spool_dir) as file:
            async for block in self._blocks(folder, parts):
                digest.update(block)
                length += len(block)
                file.write(block)
            file.flush()
            return Body(length, digest.digest(), file=os.dup(file.fileno()))

    async def _blocks(self, folder: str, parts: Sequence[Part]) -> AsyncIterator[bytes]:
        for part in parts:
            try:
                async for block in self.objects.read(f"{folder}{part.number:05d}"):
                    yield block
            except ObjectMissing as error:
                raise UploadGone("The upload in parts has ended. Begin a new one.") from error


def _check(bound: Bound, body: Body) -> None:
    """Hold a body against what was signed, as S3 does."""
    if body.length > bound.max_bytes:
        raise UploadTooLarge(
            f"This address takes up to {bound.max_bytes} bytes.", details={"limit": bound.max_bytes}
        )
    if body.length < bound.min_bytes:
        raise RequestInvalid(f"This address takes at least {bound.min_bytes} bytes; {body.length} arrived.")
    if bound.sha256 is not None and body.sha256 != bound.sha256:
        raise DigestMismatch(
            "The SHA-256 of the bytes that arrived is not the one announced. Send them again.",
            details={"algorithm": "sha-256"},
        )


def _bound(key: str, terms: Terms, *, min_bytes: int) -> Bound:
    return Bound(_upload_id(key), terms.content_type, min_bytes, terms.max_bytes, terms.sha256)


def _headers(terms: Terms) -> dict[str, str]:
    headers = {"content-type": terms.content_type}
    if terms.sha256 is not None:
        headers["x-amz-checksum-sha256"] = base64.b64encode(terms.sha256).decode()
    return headers


def _chosen(arrived: Mapping[int, Part], named: Sequence[Part]) -> list[Part]:
    """Return the parts that are named, as they arrived, by the rules of S3."""
    numbers = [part.number for part in named]
    if not 0 < len(numbers) <= MAX_PARTS:
        raise PartsInvalid(f"An upload has 1 to {MAX_PARTS} parts.")
    if numbers != sorted(set(numbers)):
        raise PartsInvalid("Parts are named in the order of their numbers, each once.")
    chosen = [arrived.get(number) for number in numbers]
    if any(part is None or part.etag != told.etag for part, told in zip(chosen, named, strict=True)):
        raise PartsInvalid("A part that is named did not arrive, or is another one than its ETag says.")
    found = [part for part in chosen if part is not None]
    if any(part.size < MIN_PART_BYTES for part in found[:-1]):
        raise PartsInvalid("Each part but the last has at least 5 MiB.")
    return found


def _folder(key: str, parts_id: str) -> str:
    """Return the prefix of an upload's parts. An id that is not one of ours names nothing."""
    if not _PARTS_ID.fullmatch(parts_id):
        raise UploadGone("There is no such upload in parts. Begin a new one.")
    return f"{key.rpartition('/')[0]}/{parts_id}/"


def _upload_id(key: str) -> UUID:
    upload_id = parse_direct_key(key)
    if upload_id is None:
        raise ValueError(f"not the key of a direct upload: {key!r}")
    return upload_id
