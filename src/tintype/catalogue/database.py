"""The way to the catalogue: connections, transactions, for whom they act, and what becomes of errors.

A connection never works with the rights that it logged in with. For one owner it becomes the role
`tintype_app`, which row-level security shows that owner's rows; for work across owners it becomes
`tintype_worker`. Both are said in each transaction and end with it, so that neither the pool nor a pooler
between us and the server can hand them on.

What is done in batches across owners (new images, looks for their bytes) is the worker's, with the owner in
each row. A policy over a list of owners would let every row of a batch touch every owner of it all the same,
and cost a comparison a row; a transaction for each owner would cost the batch.
"""

import asyncio
import contextlib
import select
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, LiteralString, Self, TypeVar

import orjson
import psycopg
from psycopg import abc, conninfo, errors, pq, sql
from psycopg.abc import PQGen
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

from tintype.catalogue.iam_login import with_token
from tintype.catalogue.migrations import check_schema
from tintype.model.errors import DatabaseUnavailable, Internal, RequestInvalid, TintypeError
from tintype.settings import DatabaseSettings

APP = "tintype_app"
"""The role that acts for one owner, the one that the setting `tintype.owner` names."""
WORKER = "tintype_worker"
"""The role that acts for every owner."""

CONNECT_SECONDS = 2
CHECK_SECONDS = 0.1
"""Between two looks at the time while the server is waited for."""
LOCK_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_MS = 15_000
UNCOMMITTED = "the server did not commit a statement"
SILENT = "the server has been silent for too long"
RETRIES = 3
"""Of a unit of work that PostgreSQL gave up in favour of another one."""
CONTENTION = (errors.SerializationFailure, errors.DeadlockDetected)

# For a server across a network: a dead one is noticed within ten seconds, whichever side is silent.
# The others are ignored on a Unix socket. A standby, or a primary that was demoted, is passed over.
_CONNECTION: dict[str, str | int | None] = {
    "application_name": "tintype",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
}

T = TypeVar("T")


class Reach(Enum):
    """Whose rows a statement may touch when it is not one owner's."""

    EVERY_OWNER = "every owner"


EVERY_OWNER = Reach.EVERY_OWNER


class Tx(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection in a transaction that somebody else begins and commits, or for single statements.

    Statements go through `execute`. What goes another way has no role, and so no rights.
    """

    acts_for: str | Reach | None = None
    """None while nobody uses it."""
    patience: float | None = None
    """How long an answer is waited for."""

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = CHECK_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 # psycopg's signature
    ) -> T:
        """Wait for the server. Hang up on one that stays silent: it is gone without a word, or stands still.

        TCP notices only a peer whose system is gone. Whoever has a time of their own keeps to it.
        """
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.patience)
        except errors._WaitTimeout as error:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # has no other
            self.pgconn.finish()  # what it may still say answers nobody's question
            raise psycopg.OperationalError(SILENT) from error

    async def execute(  # pyright: ignore[reportIncompatibleMethodOverride] # we write no template strings
        self,
        query: abc.QueryNoTemplate,
        params: abc.Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        """Run a statement: in the transaction that was begun, else as one of its own.

        Outside of a transaction the role goes ahead of the statement in the same message, and both are
        one transaction: statements of a pipeline are, up to its end. No round trip is added.
        """
        if self.acts_for is None or self.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            return await super().execute(query, params, prepare=prepare, binary=binary)
        try:
            async with self.pipeline():
                await super().execute(_ACT, _acting(self.acts_for), prepare=True)
                return await super().execute(query, params, prepare=prepare, binary=binary)
        except IndexError as error:
            # psycopg has a place for each statement's answer and for the end, and none for what says that the
            # commit failed, which comes between them. It loses count when it reads all of them at once.
            raise psycopg.OperationalError(UNCOMMITTED) from error
        finally:
            if self.pgconn.pipeline_status != pq.PipelineStatus.OFF:
                await self.close()  # it ended in the middle, and cannot be told where

    @asynccontextmanager
    async def begun(self) -> AsyncGenerator[None]:
        """Run the block as one transaction. The role comes in the message that begins it."""
        owner = self.acts_for
        if owner is None:
            raise ValueError("a transaction acts for somebody")
        begin = _BEGIN_FOR_ALL if isinstance(owner, Reach) else _BEGIN_FOR_ONE.format(sql.Literal(owner))
        try:
            await super().execute(begin)
            yield
            await self.commit()
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # the connection is lost, and its transaction with it
                await self.rollback()
            raise


_ACT: LiteralString = "SELECT set_config('role', %s, true), set_config('tintype.owner', %s, true)"
_BEGIN_FOR_ONE = sql.SQL("BEGIN; SET LOCAL ROLE tintype_app; SET LOCAL tintype.owner = {}")
_BEGIN_FOR_ALL = sql.SQL("BEGIN; SET LOCAL ROLE tintype_worker")


def _acting(owner: str | Reach) -> list[str]:
    return [WORKER, ""] if isinstance(owner, Reach) else [APP, owner]


@dataclass(frozen=True, slots=True)
class Database:
    """A pool of connections to one database whose schema fits this program."""

    url: str
    settings: DatabaseSettings
    _pool: AsyncConnectionPool[Tx]

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, settings: DatabaseSettings) -> AsyncGenerator[Self]:
        """Connect, and check that the schema is one that this program can work with.

        Raises `DatabaseUnavailable`, with what to do, when either fails.
        """
        try:
            async with await _connect(url, settings) as connection:
                await check_schema(connection)
                await _check_roles(connection)
        except psycopg.Error as error:
            raise DatabaseUnavailable(
                f"Tintype cannot use its database. Check TINTYPE_DATABASE__URL, and whether the server runs "
                f"and lets this machine in. It says: {error}"
            ) from error
        pool = _pool(url, settings)
        await pool.open()
        try:
            yield cls(url, settings, pool)
        finally:
            await pool.close()

    @asynccontextmanager
    async def transaction(self, owner: str | Reach) -> AsyncGenerator[Tx]:
        """Run the block as one transaction: committed at its end, rolled back by an exception.

        Raises `DatabaseUnavailable` when no connection is free in time or the database fails. When the
        connection breaks during the commit, it is not known whether the block's changes were made.
        """
        async with self.reading(owner) as tx, tx.begun():
            yield tx

    @asynccontextmanager
    async def reading(self, owner: str | Reach) -> AsyncGenerator[Tx]:
        """Run the block's statements one by one, each seeing the newest state: for a single read.

        Two round trips cheaper than a transaction. Raises what `transaction` raises.
        """
        try:
            with told():
                connection = await self._take()
                connection.acts_for = owner
                try:
                    yield connection
                finally:
                    connection.acts_for = None
                    await self._pool.putconn(connection)
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, errors.ReadOnlySqlTransaction):
                await self._pool.drain()  # the server was demoted: the next connections find the new one
            raise

    async def _take(self) -> Tx:
        """Take a connection whose server has not hung up. The pool replaces the others meanwhile."""
        while True:
            connection = await self._given()
            if not hung_up(connection):
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def _given(self) -> Tx:
        """Wait for a connection of the pool, and end when cancelled, at whatever moment.

        The pool waits by `asyncio.wait_for`. Up to Python 3.11 that forgets a cancellation which comes
        together with what it waits for (python/cpython, issue 81839).
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        connection = await self._pool.getconn()
        if task and task.cancelling() > before:
            await self._pool.putconn(connection)
            raise asyncio.CancelledError
        return connection

    async def run(self, work: Callable[[Tx], Awaitable[T]], owner: str | Reach) -> T:
        """Run `work` as one transaction, and again when it lost against another one (three times)."""
        for _ in range(RETRIES):
            try:
                async with self.transaction(owner) as tx:
                    return await work(tx)
            except DatabaseUnavailable as error:
                if not isinstance(error.__cause__, CONTENTION):
                    raise
        async with self.transaction(owner) as tx:
            return await work(tx)

    async def connect(self, owner: str | Reach) -> Tx:
        """Return a connection outside of the pool, set up like those in it. The caller closes it."""
        with told():
            connection = await _connect(self.url, self.settings)
            connection.acts_for = owner
            return connection

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncGenerator["Listener"]:
        """Listen for notifications on a connection of its own. Raises `DatabaseUnavailable`."""
        connection = await self.connect(EVERY_OWNER)
        try:
            with told():
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield Listener(connection)
        finally:
            await connection.close()

    async def probe(self) -> None:
        """Return when the database answers; raise `DatabaseUnavailable` when it does not."""
        await self.now()

    async def now(self) -> datetime:
        """Return the database's clock, the only one that decides about ages."""
        async with self.reading(EVERY_OWNER) as tx:
            cursor = await tx.execute("SELECT clock_timestamp()")
            (now,) = await only(cursor)
        return now


@dataclass(frozen=True, slots=True)
class Listener:
    """Waits for notifications."""

    _connection: Tx

    async def wait(self, seconds: float) -> bool:
        """Return True as soon as there is a notification, False when the time is over.

        Notifications that came since the last wait count, all together as one. Raises
        `DatabaseUnavailable` when the connection is lost; then listen anew.
        """
        with told():
            notified = False
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                notified = True
            return notified


async def only(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the row of a statement that has exactly one, whatever it finds."""
    row = await cursor.fetchone()
    if row is None:
        raise errors.NoDataFound("a statement that always has a row had none")
    return row


def anew(error: Exception) -> TintypeError:
    """Return an error for one of several who wait for the same thing: each raises one of its own."""
    match error:
        case DatabaseUnavailable():
            told: TintypeError = DatabaseUnavailable(str(error), retry_after=error.retry_after)
        case psycopg.Error():
            told = translated(error)
        case _:
            told = Internal("The database was asked in a wrong way. The log has the details.")
    told.__cause__ = error
    return told


def hung_up(connection: Tx) -> bool:
    """Tell whether the server closed an idle connection, without a round trip for those that stand.

    Nobody talks on an idle connection, unless to say why it ends.
    """
    poll = select.poll()  # `select` itself cannot name the descriptors above 1023
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def told() -> Generator[None]:
    """Turn PostgreSQL's errors into the model's, with the original as `__cause__`."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error) from error


def translated(error: psycopg.Error) -> DatabaseUnavailable | RequestInvalid | Internal:
    """Return what an error of PostgreSQL or of the connection means to a client."""
    match error:
        case errors.DataError():
            return RequestInvalid(
                "PostgreSQL cannot store one of the values, a NUL character or a number out of range for "
                "example. Change it and send the request again."
            )
        case psycopg.OperationalError() | psycopg.InterfaceError() | errors.ReadOnlySqlTransaction():
            return DatabaseUnavailable(
                "The database does not answer. Send the request again shortly.", retry_after=2
            )
        case _:
            return Internal("The database refused a statement of ours. The log has the details.")


def _pool(url: str, settings: DatabaseSettings) -> AsyncConnectionPool[Tx]:
    async def configure(connection: Tx) -> None:
        await _configure(connection, settings)

    return AsyncConnectionPool(
        partial(_conninfo, url, settings),
        connection_class=Tx,
        kwargs={"autocommit": True},
        min_size=2,
        max_size=settings.pool_size,
        timeout=settings.acquire_timeout_seconds,
        # A connection that cannot be made is given up soon: the next request tries anew, and finds the
        # database back at once, where the pool's own back-off would pause for half a minute.
        reconnect_timeout=CONNECT_SECONDS,
        configure=configure,
        open=False,
    )


async def _connect(url: str, settings: DatabaseSettings) -> Tx:
    connection = await Tx.connect(await _conninfo(url, settings), autocommit=True)
    await _configure(connection, settings)
    return connection


async def _conninfo(url: str, settings: DatabaseSettings) -> str:
    """Return the URL with our settings, except those that it has itself, and a password that is good now."""
    parameters = _CONNECTION | conninfo.conninfo_to_dict(url)
    if settings.iam_region is not None:
        parameters = await with_token(parameters, settings.iam_region)
    return conninfo.make_conninfo("", **parameters)


async def _configure(connection: Tx, settings: DatabaseSettings) -> None:
    connection.patience = settings.patience_seconds
    set_json_loads(orjson.loads, connection)
    # Statements are prepared where they say so. A plan that was made while a table was empty is kept
    # while it fills, so only those are prepared that have but one way to go: no number of runs is enough for
    # the others. With None psycopg would prepare nothing, whatever it is told.
    connection.prepare_threshold = sys.maxsize
    wanted = {
        "timezone": "UTC",
        "statement_timeout": f"{settings.statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "enable_seqscan": "off",  # every statement has its index
        "jit": "off",  # they are short: compiling them takes longer than running them
    }
    # Not as startup options: poolers between us and the server often refuse those.
    await connection.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted (name, value)",
        [list(wanted), list(wanted.values())],
    )


async def _check_roles(connection: Tx) -> None:
    """Refuse a login that may not become the roles that Tintype works as."""
    cursor = await connection.execute(
        """
        SELECT session_user, bool_and(pg_has_role(session_user, oid, 'SET'))
        FROM pg_roles WHERE rolname = ANY(%s)
        """,
        [[APP, WORKER]],
    )
    user, may_act = await only(cursor)
    if not may_act:
        raise DatabaseUnavailable(
            f"PostgreSQL lets {user} in, but not act as {APP} and {WORKER}, the roles that Tintype works as. "
            f'Have an administrator run: GRANT {APP}, {WORKER} TO "{user}" WITH INHERIT FALSE, SET TRUE'
        )
