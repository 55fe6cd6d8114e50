"""API keys: `tt_<key id>_<secret><checksum>`, shown once, recognised anywhere, refused when mistyped.

The prefix is for scanners of leaked secrets, the underscores keep it one word for a double click, the
checksum tells a typo or rubbish without asking the database (as GitHub's tokens have it).
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from datetime import datetime

from tintype.model.identity import Scope

PREFIX = "tt_"
_ID_LENGTH = 12
_SECRET_LENGTH = 43
"""62^43 is more than 2^256."""
_CHECK_LENGTH = 6
"""62^6 is more than 2^32."""
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_DIGITS = string.digits + string.ascii_lowercase
_KEY = re.compile(rf"(tt_([0-9a-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}}))([0-9A-Za-z]{{6}})")


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as somebody sent it: well-formed, and no more than that."""

    id: str
    secret_sha256: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the catalogue has it: everything but the secret."""

    id: str
    owner: str
    scopes: frozenset[Scope]
    name: str
    secret_sha256: bytes = field(repr=False)
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the hour: a request does not write."""

    def belongs_to(self, presented: Presented) -> bool:
        """Tell whether the secret is this key's, in a time that tells nothing about how close it is.

        A plain SHA-256 is enough: nobody guesses 256 random bits, so there is nothing to slow down.
        """
        return hmac.compare_digest(self.secret_sha256, presented.secret_sha256)


def new_key() -> tuple[str, Presented]:
    """Return a fresh key, and what is kept of it."""
    key_id = "".join(secrets.choice(_ID_DIGITS) for _ in range(_ID_LENGTH))
    secret = _written(int.from_bytes(secrets.token_bytes(32)), _SECRET_LENGTH)
    body = f"{PREFIX}{key_id}_{secret}"
    return body + _checksum(body), Presented(key_id, _sha256(secret))


def read_key(text: str) -> Presented | None:
    """Return what a key says; None for text that is no key, or one with a typo."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(match[1]) != match[4]:
        return None
    return Presented(match[2], _sha256(match[3]))


def _checksum(text: str) -> str:
    return _written(zlib.crc32(text.encode()), _CHECK_LENGTH)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _written(number: int, length: int) -> str:
    """Write a number with digits and letters, at a fixed length."""
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
