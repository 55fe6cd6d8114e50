"""What an upload's headers announce: digests (RFC 9530) and the idempotency key."""

import base64
import re
from collections.abc import Iterable

import http_sf

from tintype.model.errors import RequestInvalid

_LENGTHS = {"sha-256": 32, "sha-512": 64}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def digests_of(fields: Iterable[tuple[str, str | None]]) -> dict[str, bytes]:
    """Return the digests that can be verified, by algorithm; raise `RequestInvalid` for a malformed field.

    Algorithms that RFC 9530 calls insecure, and unknown ones, are passed over as it asks (section 2).
    """
    found: dict[str, bytes] = {}
    for name, value in fields:
        for algorithm, digest in _dictionary(name, value).items():
            length = _LENGTHS.get(algorithm)
            if length is None:
                continue
            if not isinstance(digest, bytes) or len(digest) != length:
                raise RequestInvalid(
                    f"`{name}` takes {algorithm} as {length} bytes in Base64 between colons: "
                    f"`{name}: {algorithm}=:…:`."
                )
            if found.setdefault(algorithm, digest) != digest:
                raise RequestInvalid("Content-Digest and Repr-Digest announce different bytes.")
    return found


def digest_field(sha256: bytes) -> str:
    """Return the field that tells a SHA-256 (RFC 9530, section 2)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def idempotency_key_of(value: str | None) -> str | None:
    """Return the key, quoted as a structured-field string or bare, as most clients send it."""
    if value is None:
        return None
    key = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if not _KEY.fullmatch(key):
        raise RequestInvalid("`Idempotency-Key` takes 1 to 255 visible ASCII characters, a UUID for example.")
    return key


def _dictionary(name: str, value: str | None) -> dict[str, object]:
    if value is None:
        return {}
    try:
        parsed = http_sf.parse(value.encode("latin-1"), tltype="dictionary")
    except (http_sf.StructuredFieldError, UnicodeEncodeError) as error:
        raise RequestInvalid(
            f"`{name}` is a dictionary of digests (RFC 9530): `{name}: sha-256=:…:`."
        ) from error
    return {key: member[0] for key, member in parsed.items()}  # type: ignore[union-attr] # a dictionary, as asked
