"""`Upload-Checksum` of tus: what was announced for the bytes of one request, held against them."""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tintype.ingest.receive import Hash
from tintype.model.errors import ChecksumMismatch, DigestMismatch, UploadRequestInvalid

_HEX = re.compile(rb"[0-9A-Fa-f]+")


class Crc32:
    """CRC-32 as in zlib and PNG, with the methods of a hash."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """Return the sum of all bytes so far, the most significant byte first."""
        return self._value.to_bytes(4)


ALGORITHMS: dict[str, tuple[Callable[[], Hash], int]] = {
    "sha1": (lambda: hashlib.sha1(usedforsecurity=False), 20),
    "sha256": (hashlib.sha256, 32),
    "sha512": (hashlib.sha512, 64),
    "md5": (lambda: hashlib.md5(usedforsecurity=False), 16),
    "crc32": (Crc32, 4),
}
"""By the names that tus gives them, with their lengths in bytes. tus wants sha1 of every server."""


@dataclass(slots=True)
class Checksum:
    """A checksum of the bytes of one request."""

    hash: Hash
    announced: bytes
    name: str

    def verify(self) -> None:
        """Raise `ChecksumMismatch` unless the bytes have it."""
        if self.hash.digest() != self.announced:
            raise ChecksumMismatch(
                f"The {self.name} of the bytes that arrived is not the one announced. Send them again.",
                details={"algorithm": self.name},
            )


@dataclass(slots=True)
class ContentDigest:
    """A `Content-Digest` (RFC 9530) of the bytes of one request."""

    hash: Hash
    announced: bytes
    name: str

    def verify(self) -> None:
        """Raise `DigestMismatch` unless the bytes have it."""
        if self.hash.digest() != self.announced:
            raise DigestMismatch(
                f"The {self.name} of the bytes that arrived is not the one announced. Send them again.",
                details={"algorithm": self.name},
            )


def checksum_of(value: str | None) -> list[Checksum]:
    """Return the checksum of an `Upload-Checksum`, if there is one; raise `UploadRequestInvalid`."""
    if value is None:
        return []
    name, _, text = value.strip().partition(" ")
    known = ALGORITHMS.get(name.lower())
    if known is None:
        raise UploadRequestInvalid(
            f"`Upload-Checksum` is taken in {', '.join(ALGORITHMS)}, then a space and Base64."
        )
    make, length = known
    announced = _announced(text.strip(), length)
    if announced is None:
        raise UploadRequestInvalid(f"`Upload-Checksum` takes {name} as {length} bytes in Base64.")
    return [Checksum(make(), announced, name.lower())]


def content_digests(digests: dict[str, bytes]) -> list[ContentDigest]:
    """Return what to verify of these digests, by the names of RFC 9530."""
    return [ContentDigest(hashlib.new(name.replace("-", "")), each, name) for name, each in digests.items()]


def _announced(text: str, length: int) -> bytes | None:
    """Return the bytes of a checksum: in Base64, as tus has it, or in Base64 of hex, as some clients do."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(decoded) == 2 * length and _HEX.fullmatch(decoded):
        return bytes.fromhex(decoded.decode())
    return decoded if len(decoded) == length else None
