"""JWTs (RFC 7519, RFC 8725): read strictly, verified with one of the issuer's keys, judged claim by claim.

Nothing in a token chooses how it is verified: the algorithms are configured, the keys are the issuer's
own, and a header that names a key or an extension of the format is refused.
"""

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tintype.model.identity import Principal, Scope, is_owner
from tintype.settings import IssuerSettings

MAX_LENGTH = 8 * 1024
LEEWAY_SECONDS = 60
MAX_LIFETIME_SECONDS = 24 * 3600
MIN_RSA_BITS = 2048

Key = RSAKey | ECKey | OKPKey

_PART = re.compile(r"[A-Za-z0-9_-]+")
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# They bring keys of their own (RFC 7515, section 4.1), compress, or change what is signed (RFC 7797).
_FORBIDDEN_HEADERS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "zip", "enc", "b64", "epk", "cty"})
# They are in tokens that tell a client who its user is, and that are no credentials.
_SIGNS_OF_ID_TOKENS = frozenset({"nonce", "at_hash", "c_hash"})


class TokenRefused(Exception):
    """Why a token is not accepted, for the log."""


class TokenExpired(TokenRefused):
    """The token was good until its time was over."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """A well-formed token of which nothing is believed yet."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    @property
    def issuer(self) -> object:
        """Who is said to have made it."""
        return self.claims.get("iss")

    @property
    def key_id(self) -> object:
        """Which of the issuer's keys is said to verify it."""
        return self.header.get("kid")

    @property
    def algorithm(self) -> object:
        """How it is said to be signed."""
        return self.header.get("alg")


def read(text: str) -> Unverified:
    """Take a token apart. Raises `TokenRefused`."""
    parts = text.split(".")
    if len(text) > MAX_LENGTH or len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):  # noqa: PLR2004
        raise TokenRefused("malformed")
    return Unverified(text, _json(parts[0]), _json(parts[1]))


def check_header(token: Unverified, issuer: IssuerSettings) -> None:
    """Raise `TokenRefused` unless the header is one that this issuer's tokens may have."""
    if not isinstance(token.algorithm, str) or token.algorithm not in issuer.algorithms:
        raise TokenRefused("algorithm")
    if not _FORBIDDEN_HEADERS.isdisjoint(token.header):
        raise TokenRefused("header")
    kind = token.header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenRefused("type")


def verify(token: Unverified, key: Key) -> None:
    """Raise `TokenRefused` unless the key signed the token."""
    algorithm = str(token.algorithm)
    if not fits(key, algorithm):
        raise TokenRefused("key of another kind")
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(token.text, key, registry=registry)
    except (JoseError, ValueError) as error:
        raise TokenRefused("signature") from error


def fits(key: Key, algorithm: str) -> bool:
    """Tell whether a key is of the kind that an algorithm takes (RFC 7518, RFC 8037)."""
    match key:
        case RSAKey():
            return algorithm == "RS256" and key.raw_value.key_size >= MIN_RSA_BITS
        case ECKey():
            return algorithm == "ES256" and key.curve_name == "P-256"
        case _:
            return algorithm in {"EdDSA", "Ed25519"} and key.curve_name == "Ed25519"


def principal_of(token: Unverified, issuer: IssuerSettings, now: float) -> Principal:
    """Return whom a verified token stands for at a time. Raises `TokenRefused` and `TokenExpired`."""
    claims = token.claims
    _check_purpose(claims, issuer)
    expires = _check_times(claims, now)
    subject, owner = claims.get("sub"), claims.get(issuer.owner_claim)
    if not isinstance(subject, str) or not subject:
        raise TokenRefused("subject")
    if not isinstance(owner, str) or not owner or not is_owner(issuer.owner_prefix + owner):
        raise TokenRefused("owner")
    return Principal(
        owner=issuer.owner_prefix + owner,
        scopes=_scopes(claims.get(issuer.scopes_claim), issuer.scopes_prefix),
        kind="jwt",
        key_id=subject,
        expires_at=datetime.fromtimestamp(expires, UTC),
    )


def _json(part: str) -> Mapping[str, Any]:
    try:
        told: object = json.loads(
            urlsafe_b64decode(part + "=" * (-len(part) % 4)),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
        )
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TokenRefused("malformed") from error
    if not isinstance(told, dict):
        raise TokenRefused("malformed")
    return cast("dict[str, Any]", told)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a name twice: two readers would take two meanings from it."""
    told = dict(pairs)
    if len(told) != len(pairs):
        raise ValueError("a name stands twice")
    return told


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_purpose(claims: Mapping[str, Any], issuer: IssuerSettings) -> None:
    if claims.get("iss") != issuer.url:
        raise TokenRefused("issuer")
    audience = claims.get(issuer.audience_claim)
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused("audience")
    if not _SIGNS_OF_ID_TOKENS.isdisjoint(claims) or claims.get("token_use") == "id":
        raise TokenRefused("an ID token")


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    expires = _moment(claims, "exp")
    if expires is None:
        raise TokenRefused("no end")
    if expires > now + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS:
        raise TokenRefused("too long a life")
    for name in ("nbf", "iat"):
        begins = _moment(claims, name)
        if begins is not None and begins > now + LEEWAY_SECONDS:
            raise TokenRefused("not yet valid")
    if expires < now - LEEWAY_SECONDS:
        raise TokenExpired("expired")
    return expires


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, section 2), None where the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused("malformed")
    return value


def _scopes(claim: object, prefix: str) -> frozenset[Scope]:
    """Return the scopes in a claim, a text with spaces between or a list; what is not ours is passed over."""
    names = claim.split() if isinstance(claim, str) else claim
    listed = cast("list[object]", names) if isinstance(names, list) else []
    ours = {f"{prefix}{scope}": scope for scope in Scope}
    return frozenset(ours[name] for name in listed if isinstance(name, str) and name in ours)
