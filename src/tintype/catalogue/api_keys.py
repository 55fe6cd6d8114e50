"""API keys: made, listed, revoked by their owner, and looked up by whoever presents one.

To look one up is the only statement that takes no owner: the key is what tells the owner.
"""

from typing import Any

from psycopg import errors

from tintype.catalogue.database import Tx, only
from tintype.model.api_key import ApiKey
from tintype.model.errors import KeyNotFound
from tintype.model.identity import Scope

MAX_LISTED = 1000

_COLUMNS = """
    id, owner, scopes, name, secret_sha256, created_by, created_at, expires_at, revoked_at, last_used_at
"""


async def add(
    tx: Tx,
    *,
    key_id: str,
    owner: str,
    scopes: frozenset[Scope],
    name: str,
    secret_sha256: bytes,
    created_by: str,
    lifetime_seconds: int | None,
) -> ApiKey:
    """Record a new key. It expires so many seconds from now, by the database's clock; None: never."""
    cursor = await tx.execute(
        f"""
        INSERT INTO api_keys (id, owner, scopes, name, secret_sha256, created_by, expires_at)
        VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))
        RETURNING {_COLUMNS}
        """,
        [key_id, owner, sorted(scopes), name, secret_sha256, created_by, lifetime_seconds],
    )
    return _key(await only(cursor))


async def find(tx: Tx, key_id: str) -> ApiKey | None:
    """Return the key of that id, whoever's it is, expired and revoked ones too."""
    cursor = await tx.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE id = %s", [key_id], prepare=True)
    row = await cursor.fetchone()
    return _key(row) if row else None


async def touch(tx: Tx, key_id: str) -> None:
    """Note that the key is in use, unless that was noted within the hour."""
    await tx.execute(
        """
        UPDATE api_keys SET last_used_at = now()
        WHERE id = %s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 hour')
        """,
        [key_id],
    )


async def list_of(tx: Tx, owner: str | None) -> list[ApiKey]:
    """Return the owner's keys, newest first, revoked ones too; None: everybody's, for the operator."""
    cursor = await tx.execute(
        f"""
        SELECT {_COLUMNS} FROM api_keys WHERE owner = %(owner)s OR %(owner)s::text IS NULL
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
        """,
        {"owner": owner, "limit": MAX_LISTED},
    )
    return [_key(row) for row in await cursor.fetchall()]


async def revoke(tx: Tx, owner: str | None, key_id: str) -> ApiKey:
    """Revoke a key of the owner's (None: anybody's, for the operator); one that is revoked stays so.

    Raises `KeyNotFound`, for a foreign key as for a missing one.
    """
    cursor = await tx.execute(
        f"""
        UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
        WHERE id = %(id)s AND (owner = %(owner)s OR %(owner)s::text IS NULL)
        RETURNING {_COLUMNS}
        """,
        {"id": key_id, "owner": owner},
    )
    try:
        return _key(await only(cursor))
    except errors.NoDataFound as error:
        raise KeyNotFound("There is no API key of that id.") from error


async def revoke_all(tx: Tx, owner: str) -> list[str]:
    """Revoke every key of the owner's that is not revoked yet, and return their ids."""
    cursor = await tx.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE owner = %s AND revoked_at IS NULL RETURNING id", [owner]
    )
    return [key_id for (key_id,) in await cursor.fetchall()]


def _key(row: tuple[Any, ...]) -> ApiKey:
    key_id, owner, scopes, *rest = row
    return ApiKey(key_id, owner, frozenset(Scope(scope) for scope in scopes), *rest)
