"""Upload tokens: minted, and counted exactly, however many requests use one at once."""

from datetime import datetime
from uuid import UUID

from tintype.catalogue.database import Tx

SWEPT_AT_ONCE = 100


async def add(
    tx: Tx, *, token_id: UUID, owner: str, key_id: str | None, uses: int, expires_at: datetime
) -> None:
    """Record a new token."""
    await tx.execute(
        "INSERT INTO upload_tokens (id, owner, key_id, uses, expires_at) VALUES (%s, %s, %s, %s, %s)",
        [token_id, owner, key_id, uses, expires_at],
    )


async def sweep(tx: Tx) -> None:
    """Forget some of the tokens that have been over for a day: as many as keep up with new ones."""
    await tx.execute(
        """
        DELETE FROM upload_tokens WHERE id IN (
            SELECT id FROM upload_tokens WHERE expires_at < now() - interval '1 day'
            ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        [SWEPT_AT_ONCE],
    )


async def may_use(tx: Tx, owner: str, token_id: UUID, *, least: int, most: int) -> bool:
    """Tell whether the token may be used for a content of such a length, in bytes.

    That is while it has not ended and has a use left, or when a content of such a length was counted
    already: that may be sent again.
    """
    cursor = await tx.execute(
        """
        SELECT used < uses OR EXISTS (
            SELECT FROM upload_token_uses AS use
            WHERE use.owner = token.owner AND use.token_id = token.id
              AND coalesce(use.bytes BETWEEN %(least)s AND %(most)s, true)
        )
        FROM upload_tokens AS token
        WHERE owner = %(owner)s AND id = %(id)s AND expires_at > now() AND NOT EXISTS (
            SELECT FROM api_keys WHERE api_keys.id = token.key_id AND revoked_at IS NOT NULL
        )
        """,
        {"owner": owner, "id": token_id, "least": least, "most": most},
    )
    return await cursor.fetchone() == (True,)


async def take(tx: Tx, owner: str, token_id: UUID, sha256: bytes, length: int | None = None) -> bool:
    """Count a use for this content, once; return False when the token has none left, or has ended.

    It ends with its time, and with the key that made it. Others who use the token wait at its row, so
    the count is right when they go on.
    """
    cursor = await tx.execute(
        """
        SELECT used < uses FROM upload_tokens AS token
        WHERE owner = %(owner)s AND id = %(id)s AND expires_at > now() AND NOT EXISTS (
            SELECT FROM api_keys WHERE api_keys.id = token.key_id AND revoked_at IS NOT NULL
        )
        FOR UPDATE OF token
        """,
        wanted := {"owner": owner, "id": token_id, "sha256": sha256, "bytes": length},
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    cursor = await tx.execute(
        "SELECT FROM upload_token_uses WHERE owner = %(owner)s AND token_id = %(id)s AND sha256 = %(sha256)s",
        wanted,
    )
    if cursor.rowcount == 1:
        return True
    if row == (False,):
        return False
    await tx.execute(
        "INSERT INTO upload_token_uses (owner, token_id, sha256, bytes) "
        "VALUES (%(owner)s, %(id)s, %(sha256)s, %(bytes)s)",
        wanted,
    )
    await tx.execute(
        "UPDATE upload_tokens SET used = used + 1 WHERE owner = %(owner)s AND id = %(id)s", wanted
    )
    return True


async def give_back(tx: Tx, owner: str, token_id: UUID, sha256: bytes) -> None:
    """Take back the use that was counted for a content, which was refused."""
    await tx.execute(
        """
        WITH gone AS (
            DELETE FROM upload_token_uses
            WHERE owner = %(owner)s AND token_id = %(id)s AND sha256 = %(sha256)s RETURNING token_id
        )
        UPDATE upload_tokens SET used = used - 1 FROM gone
        WHERE owner = %(owner)s AND id = gone.token_id
        """,
        {"owner": owner, "id": token_id, "sha256": sha256},
    )
