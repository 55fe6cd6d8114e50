"""Secrets that all instances of a service sign with: made by the first one that needs them."""

from tintype.catalogue.database import Tx, only


async def add(tx: Tx, purpose: str, secret: bytes) -> bytes:
    """Record the secret of a purpose unless there is one already, and return the one that stands."""
    await tx.execute(
        "INSERT INTO signing_secrets (purpose, secret) VALUES (%s, %s) ON CONFLICT (purpose) DO NOTHING",
        [purpose, secret],
    )
    cursor = await tx.execute("SELECT secret FROM signing_secrets WHERE purpose = %s", [purpose])
    (standing,) = await only(cursor)
    return bytes(standing)
