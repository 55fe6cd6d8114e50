"""Upload tokens in use: minted for a browser, checked without the database, counted in it."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from tintype.catalogue import signing_secrets, upload_tokens
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.imaging.granted import hold_against
from tintype.model.body import Body
from tintype.model.errors import (
    ImageCorrupt,
    ImageTooLarge,
    KeyExpired,
    TokenSpent,
    Unauthenticated,
    UnsupportedType,
)
from tintype.model.identity import Grant, Principal
from tintype.model.ids import new_id
from tintype.model.upload_token import read_token, write_token
from tintype.telemetry import get_logger

PURPOSE = "upload tokens"
REFUSED_FOR_GOOD = (UnsupportedType, ImageCorrupt, ImageTooLarge)
"""What these bytes are answered each time: no image came of them, and none will."""

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token, and what it allows until when."""

    token: str = field(repr=False)
    grant: Grant
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Tokens:
    """The upload tokens of a service. Its instances share the secret, which is in the database."""

    database: Database
    secret: bytes = field(repr=False)

    @classmethod
    async def open(cls, database: Database) -> Self:
        """Return the tokens of the service; its first instance makes the secret."""
        async with database.transaction(EVERY_OWNER) as tx:
            secret = await signing_secrets.add(tx, PURPOSE, secrets.token_bytes(32))
        return cls(database, secret)

    async def mint(
        self,
        minter: Principal,
        *,
        types: frozenset[str],
        max_bytes: int,
        uses: int,
        tags: tuple[str, ...],
        lifetime_seconds: int,
    ) -> Minted:
        """Make a token. It does not outlive the credentials of whoever makes it."""
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=lifetime_seconds)
        if minter.expires_at is not None:
            expires_at = min(expires_at, minter.expires_at)
        grant = Grant(token_id=new_id(), types=types, max_bytes=max_bytes, uses=uses, tags=tags)
        holder = Principal(minter.owner, frozenset(), "upload_token", minter.key_id, expires_at, grant)
        async with self.database.transaction(EVERY_OWNER) as tx:
            await upload_tokens.sweep(tx)
        async with self.database.transaction(holder.owner) as tx:
            await upload_tokens.add(
                tx,
                token_id=grant.token_id,
                owner=holder.owner,
                key_id=holder.key_id,
                uses=uses,
                expires_at=expires_at,
            )
        return Minted(write_token(self.secret, holder), grant, expires_at)

    def principal(self, text: str) -> Principal:
        """Return who shows this token. Raises `Unauthenticated` and `KeyExpired`; asks no database."""
        holder = read_token(self.secret, text)
        if holder is None or holder.expires_at is None:
            _LOG.warning("auth.failed", reason="malformed", kind="upload token")
            raise Unauthenticated("The upload token is not one of this service.")
        if holder.expires_at < datetime.now(UTC):
            _LOG.warning("auth.failed", reason="expired", kind="upload token", key_id=holder.key_id)
            raise KeyExpired("The upload token has expired. Ask whoever gave it to you for a new one.")
        return holder

    async def check(self, holder: Principal, grant: Grant, least: int, most: int) -> None:
        """Look whether bytes of this length may be sent with the token: before they are.

        Raises `TokenSpent`. That it does not is no promise: `spending` decides.
        """
        async with self.database.reading(holder.owner) as tx:
            if not await upload_tokens.may_use(tx, holder.owner, grant.token_id, least=least, most=most):
                raise _spent()

    @asynccontextmanager
    async def spending(self, holder: Principal, grant: Grant, body: Body) -> AsyncGenerator[None]:
        """Hold the bytes against the grant and count them, for the block that stores them.

        The same bytes are counted once: whoever did not hear the answer sends them again. Bytes that
        are refused for good are not counted. Raises `UnsupportedType`, `UploadTooLarge`, `TokenSpent`.
        """
        hold_against(grant, body)
        async with self.database.transaction(holder.owner) as tx:
            if not await upload_tokens.take(tx, holder.owner, grant.token_id, body.sha256, body.length):
                raise _spent()
        try:
            yield
        except REFUSED_FOR_GOOD:
            async with self.database.transaction(holder.owner) as tx:
                await upload_tokens.give_back(tx, holder.owner, grant.token_id, body.sha256)
            raise


def _spent() -> TokenSpent:
    return TokenSpent("The upload token was used as often as it may be, or it was revoked.")
