"""API keys in use: made once, known again on every request, refused within half a minute of revocation."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tintype.catalogue import api_keys
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.model.api_key import ApiKey, Presented, new_key, read_key
from tintype.model.errors import KeyExpired, Unauthenticated
from tintype.model.identity import Principal, Scope
from tintype.telemetry import get_logger

FRESH_SECONDS = 25.0
"""How long a look into the database stands. A revocation acts within 30 s on every instance."""
MAX_KNOWN = 10_000
"""Keys that are remembered, unknown ones included: strangers cannot fill the memory."""
TOUCH_AFTER = timedelta(hours=1)

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class _Known:
    key: ApiKey | None
    principal: Principal | None
    looked_at: float
    expires: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Keyring:
    """The API keys of the catalogue, as one process knows them."""

    database: Database
    fresh_seconds: float = FRESH_SECONDS
    max_known: int = MAX_KNOWN
    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict[str, _Known])

    def remembered(self, text: str) -> Principal | None:
        """Return who presents a key that is good, where the database was asked for it a moment ago."""
        presented = read_key(text)
        known = None if presented is None else self._known.get(presented.id)
        if presented is None or known is None or known.key is None:
            return None
        is_fresh = time.monotonic() - known.looked_at <= self.fresh_seconds and known.expires >= time.time()
        return known.principal if is_fresh and known.key.belongs_to(presented) else None

    async def principal(self, text: str) -> Principal:
        """Return who presents this key.

        Raises `Unauthenticated` in the same words for a typo, an unknown key, a wrong secret and a
        revoked key; `KeyExpired` to whoever has the secret; `DatabaseUnavailable`.
        """
        presented = read_key(text)
        if presented is None:
            raise _refused("malformed", None)
        known = self._known.get(presented.id)
        if known is None or time.monotonic() - known.looked_at > self.fresh_seconds:
            known = await self._look(presented)
        if known.key is None:
            raise _refused("unknown", presented.id)
        if not known.key.belongs_to(presented):
            raise _refused("wrong secret", presented.id)
        if known.principal is None:
            raise _refused("revoked", presented.id)
        if known.expires < time.time():
            _LOG.warning("auth.failed", reason="expired", key_id=presented.id)
            raise KeyExpired("The API key has expired. Ask for a new one.")
        return known.principal

    async def create(
        self,
        *,
        owner: str,
        scopes: frozenset[Scope],
        name: str = "",
        lifetime_seconds: int | None = None,
        creator: Principal | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key and return it with its secret, which nobody can see again.

        Raises `Forbidden` for a scope that the creator (None: the operator) does not have.
        """
        for scope in scopes:
            if creator is not None:
                creator.require(scope)
        text, presented = new_key()
        async with self.database.transaction(owner) as tx:
            key = await api_keys.add(
                tx,
                key_id=presented.id,
                owner=owner,
                scopes=scopes,
                name=name,
                secret_sha256=presented.secret_sha256,
                created_by=(creator.key_id or creator.kind) if creator else "operator",
                lifetime_seconds=lifetime_seconds,
            )
        return text, key

    async def list_of(self, owner: str | None) -> list[ApiKey]:
        """Return the keys of an owner; None: everybody's, for the operator."""
        async with self.database.reading(owner or EVERY_OWNER) as tx:
            return await api_keys.list_of(tx, owner)

    async def revoke(self, owner: str | None, key_id: str) -> None:
        """Revoke a key: at once here, within 30 s on every other instance. Raises `KeyNotFound`."""
        async with self.database.transaction(owner or EVERY_OWNER) as tx:
            await api_keys.revoke(tx, owner, key_id)
        self._known.pop(key_id, None)

    async def revoke_all(self, owner: str) -> list[str]:
        """Revoke every key of an owner, who is shut out with them, and return the ids of these keys."""
        async with self.database.transaction(owner) as tx:
            revoked = await api_keys.revoke_all(tx, owner)
        for key_id in revoked:
            self._known.pop(key_id, None)
        return revoked

    async def _look(self, presented: Presented) -> _Known:
        """Ask the database, and remember what it said from the moment of asking."""
        began = time.monotonic()
        async with self.database.reading(EVERY_OWNER) as tx:  # the key is what tells the owner
            key = await api_keys.find(tx, presented.id)
            if key is not None and key.belongs_to(presented) and _is_stale(key):
                await api_keys.touch(tx, key.id)
        known = _known(key, began)
        self._known[presented.id] = known
        self._known.move_to_end(presented.id)
        while len(self._known) > self.max_known:
            self._known.popitem(last=False)
        return known


def _known(key: ApiKey | None, began: float) -> _Known:
    if key is None:
        return _Known(None, None, began, 0)
    expires = key.expires_at.timestamp() if key.expires_at else float("inf")
    principal = Principal(key.owner, key.scopes, "key", key.id, key.expires_at)
    return _Known(key, None if key.revoked_at else principal, began, expires)


def _is_stale(key: ApiKey) -> bool:
    return key.last_used_at is None or datetime.now(UTC) - key.last_used_at > TOUCH_AFTER


def _refused(reason: str, key_id: str | None) -> Unauthenticated:
    """Tell the log why, and the client no more than that."""
    _LOG.warning("auth.failed", reason=reason, key_id=key_id)
    return Unauthenticated("The API key is not one of this service, or it was revoked.")
