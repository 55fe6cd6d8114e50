"""The doorkeeper: from what a request's `Authorization` says to who asks."""

from collections.abc import Sequence
from dataclasses import dataclass

from tintype.identity.issuers import Issuers
from tintype.identity.keys import Keyring
from tintype.identity.tokens import Tokens
from tintype.model import api_key, upload_token
from tintype.model.errors import CredentialsMissing, Unauthenticated
from tintype.model.identity import Principal
from tintype.telemetry import get_logger

JWT = "eyJ"
"""How every JWT begins: `{"` in Base64."""

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Knows every kind of credentials that the service is configured for."""

    keyring: Keyring
    tokens: Tokens
    issuers: Issuers

    def remembered(self, authorization: Sequence[bytes]) -> Principal | None:
        """Return who asks, where that was found out a moment ago and needs nobody to be asked."""
        if len(authorization) != 1:
            return None
        scheme, _, text = authorization[0].decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        if text.startswith(api_key.PREFIX):
            return self.keyring.remembered(text)
        return self.issuers.remembered(text) if text.startswith(JWT) else None

    async def identify(self, authorization: Sequence[bytes]) -> Principal:
        """Return who asks, from all `Authorization` fields of a request (RFC 6750, section 2.1).

        Raises `CredentialsMissing`, `Unauthenticated`, `KeyExpired`, `DatabaseUnavailable` and
        `IssuerUnavailable`.
        """
        if not authorization:
            raise CredentialsMissing("This needs credentials: send `Authorization: Bearer` and your key.")
        scheme, _, text = authorization[0].decode("latin-1").partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer":
            raise _refused()
        if text.startswith(api_key.PREFIX):
            return await self.keyring.principal(text)
        if text.startswith(upload_token.PREFIX):
            return self.tokens.principal(text)
        if text.startswith(JWT):
            return await self.issuers.principal(text)
        raise _refused()


def _refused() -> Unauthenticated:
    _LOG.warning("auth.failed", reason="no credentials of a known kind")
    return Unauthenticated(
        "These are no credentials of this service. Send one `Authorization: Bearer` field."
    )
