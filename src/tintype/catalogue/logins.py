"""Logins: the names under which programs come to a database that is not their own machine's."""

from collections.abc import Sequence

import psycopg
from psycopg import errors, sql

from tintype.catalogue.database import APP, CONNECT_SECONDS, WORKER
from tintype.model.errors import DatabaseUnavailable


async def ensure_logins(url: str, names: Sequence[str]) -> list[str]:
    """Make the logins that are missing, let all of them work as Tintype's roles, and return the new ones.

    On Amazon RDS they log in with IAM tokens, never with a password: `rds_iam` is the role that says so
    (Amazon RDS User Guide, "Creating a database account using IAM authentication"). Raises
    `DatabaseUnavailable` when the database does not answer, or lets this login make no others.
    """
    try:
        async with (
            await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=CONNECT_SECONDS
            ) as connection,
            connection.transaction(),
        ):
            return [name for name in names if await _ensure(connection, name)]
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"The database's logins could not be made: {error}") from error


async def _ensure(connection: psycopg.AsyncConnection, name: str) -> bool:
    login = sql.Identifier(name)
    try:
        async with connection.transaction():
            await connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(login))
        new = True
    except errors.DuplicateObject:
        new = False
    await connection.execute(
        sql.SQL("GRANT {}, {} TO {} WITH INHERIT FALSE, SET TRUE").format(
            sql.Identifier(APP), sql.Identifier(WORKER), login
        )
    )
    cursor = await connection.execute("SELECT FROM pg_roles WHERE rolname = 'rds_iam'")
    if await cursor.fetchone() is not None:
        await connection.execute(sql.SQL("GRANT rds_iam TO {}").format(login))
    return new
