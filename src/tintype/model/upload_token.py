"""Upload tokens: `tut_<what it allows>.<signature>`, for a browser that may upload and nothing else.

What a token allows stands in it, readable for whoever holds it and signed with HMAC-SHA256. How often
it was used stands in the catalogue.
"""

import base64
import binascii
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tintype.model.identity import Grant, Principal

PREFIX = "tut_"
_MAX_LENGTH = 8 * 1024


def write_token(secret: bytes, principal: Principal) -> str:
    """Return the token of a principal with a grant."""
    grant = principal.grant
    if grant is None or principal.expires_at is None:
        raise ValueError("a token needs a grant and an end")
    told = {
        "version": 1,
        "id": str(grant.token_id),
        "owner": principal.owner,
        "key": principal.key_id,
        "expires": int(principal.expires_at.timestamp()),
        "types": sorted(grant.types),
        "max_bytes": grant.max_bytes,
        "uses": grant.uses,
        "tags": grant.tags,
    }
    body = PREFIX + _written(json.dumps(told, separators=(",", ":")).encode())
    return f"{body}.{_signature(secret, body)}"


def read_token(secret: bytes, text: str) -> Principal | None:
    """Return who shows a token, expired or not; None for one that we did not sign."""
    body, _, signature = text.partition(".")
    ours = _signature(secret, body)
    if len(text) > _MAX_LENGTH or not hmac.compare_digest(ours.encode(), signature.encode()):
        return None
    try:
        told: dict[str, Any] = json.loads(_read(body.removeprefix(PREFIX)))
    except (binascii.Error, ValueError):
        return None
    return Principal(
        owner=told["owner"],
        scopes=frozenset(),
        kind="upload_token",
        key_id=told["key"],
        expires_at=datetime.fromtimestamp(told["expires"], UTC),
        grant=Grant(
            token_id=UUID(told["id"]),
            types=frozenset(told["types"]),
            max_bytes=told["max_bytes"],
            uses=told["uses"],
            tags=tuple(told["tags"]),
        ),
    )


def _signature(secret: bytes, body: str) -> str:
    return _written(hmac.digest(secret, b"tintype upload token 1\n" + body.encode(), hashlib.sha256))


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _read(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
