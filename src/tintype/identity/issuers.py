"""Issuers: whom a JWT stands for, by the keys and claims of the issuers that are configured."""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Self

from tintype.identity import jwt
from tintype.identity.jwt import TokenExpired, TokenRefused
from tintype.identity.key_sets import KeySet
from tintype.model.errors import KeyExpired, Unauthenticated
from tintype.model.identity import Principal
from tintype.settings import IssuerSettings
from tintype.telemetry import get_logger

FRESH_SECONDS = 30.0
"""How long a verified token is known again without verifying it: a signature costs ten times the rest."""
MAX_KNOWN = 10_000

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    until: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Issuers:
    """The configured issuers, by their URLs."""

    key_sets: dict[str, KeySet]
    _known: OrderedDict[bytes, _Known] = field(default_factory=OrderedDict[bytes, _Known])

    @classmethod
    def of(cls, issuers: tuple[IssuerSettings, ...]) -> Self:
        """Return the issuers. None of them is asked before a token of its own comes."""
        return cls({issuer.url: KeySet(issuer) for issuer in issuers})

    def remembered(self, text: str) -> Principal | None:
        """Return whom a token stands for that was verified a moment ago."""
        known = self._known.get(hashlib.sha256(text.encode()).digest())
        return known.principal if known is not None and time.time() < known.until else None

    async def principal(self, text: str) -> Principal:
        """Return whom a token stands for.

        Raises `Unauthenticated` in the same words whatever is wrong; `KeyExpired`; `IssuerUnavailable`.
        """
        mark = hashlib.sha256(text.encode()).digest()
        known = self._known.get(mark)
        if known is not None and time.time() < known.until:
            return known.principal
        try:
            principal = await self._verified(text)
        except TokenExpired as error:
            _LOG.warning("auth.failed", reason="expired", kind="jwt")
            raise KeyExpired("The token has expired. Get a new one from its issuer.") from error
        except TokenRefused as error:
            _LOG.warning("auth.failed", reason=str(error), kind="jwt")
            raise Unauthenticated("The token is not one that this service accepts.") from error
        self._remember(mark, principal)
        return principal

    async def _verified(self, text: str) -> Principal:
        token = jwt.read(text)
        key_set = self.key_sets.get(token.issuer) if isinstance(token.issuer, str) else None
        if key_set is None:
            raise TokenRefused("issuer")
        jwt.check_header(token, key_set.issuer)
        key_id = token.key_id
        if key_id is not None and not isinstance(key_id, str):
            raise TokenRefused("key id")
        key = await key_set.find(key_id)
        if key is None:
            raise TokenRefused("unknown key")
        jwt.verify(token, key)
        return jwt.principal_of(token, key_set.issuer, time.time())

    def _remember(self, mark: bytes, principal: Principal) -> None:
        until = time.time() + FRESH_SECONDS
        if principal.expires_at is not None:
            until = min(until, principal.expires_at.timestamp() + jwt.LEEWAY_SECONDS)
        self._known[mark] = _Known(principal, until)
        self._known.move_to_end(mark)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
