"""A line to PostgreSQL of one's own, for the few statements that every upload takes part in.

A cursor of psycopg's asks at each statement what its parameters and its answer may be, and begins to wait for
the socket anew: several times the work of libpq itself. Here libpq is asked directly, and one reader
stays with the socket. The role goes ahead of the statement in the same message, as in `Tx.execute`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from tintype.catalogue.database import EVERY_OWNER, SILENT, Database, Tx, hung_up, told

_ACT: LiteralString = "SELECT set_config('role', 'tintype_worker', true)"
# A statement is planned once, for any number of rows: each is looked up by an index.
_PLANNING: LiteralString = """
    SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
           set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)
"""
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)


@dataclass(slots=True)
class Line:
    """One connection and one statement at a time, for every owner. It is made when it is needed."""

    database: Database
    _connection: Tx | None = None
    _socket: int = -1
    """The connection's. libpq forgets it when the server hangs up, and the event loop must be told of it."""
    _prepared: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _results: list[PGresult] = field(default_factory=list["PGresult"])
    _answer: asyncio.Future[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def run(self, statement: LiteralString, *params: str) -> list[tuple[Any, ...]]:
        """Run a statement ($1, $2 are its parameters) as a transaction of its own, and return its rows.

        Raises `DatabaseUnavailable` when there is no connection, before anything is sent; what psycopg
        raises, when PostgreSQL refuses the statement or the connection is lost. Then `is_up` is False, and
        what became of the statement is not known; so it is for a caller who is cancelled.
        """
        connection = await self._connected()
        await self._prepare(connection.pgconn, _ACT)
        await self._prepare(connection.pgconn, statement)
        values = [param.encode() for param in params]

        def send() -> None:
            connection.pgconn.send_query_prepared(self._prepared[_ACT], None)
            connection.pgconn.send_query_prepared(self._prepared[statement], values)

        result = await self._exchange(connection.pgconn, send)
        if not result.ntuples:
            return []
        adapters = Transformer(connection)
        adapters.set_pgresult(result)
        return adapters.load_rows(0, result.ntuples, tuple)

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        connection.pgconn.finish()

    async def _connected(self) -> Tx:
        if self._connection is not None and hung_up(self._connection):
            self.hang_up()  # while nothing has been sent, nothing is in doubt
        if self._connection is None:
            connection = await self.database.connect(EVERY_OWNER)
            with told():
                await connection.execute(_PLANNING)
                connection.pgconn.enter_pipeline_mode()
            self._prepared.clear()
            self._connection, self._socket = connection, connection.pgconn.socket
            asyncio.get_running_loop().add_reader(self._socket, self._receive, connection.pgconn)
        return self._connection

    async def _prepare(self, pgconn: PGconn, statement: LiteralString) -> None:
        if statement not in self._prepared:
            name = f"line_{len(self._prepared)}".encode()
            await self._exchange(pgconn, lambda: pgconn.send_prepare(name, statement.encode()))
            self._prepared[statement] = name

    async def _exchange(self, pgconn: PGconn, send: Callable[[], None]) -> PGresult:
        """Send what belongs to one transaction, and return the last of its results."""
        self._results = []
        self._answer = asyncio.get_running_loop().create_future()
        try:
            send()
            pgconn.pipeline_sync()
            self._flush(pgconn)
            async with asyncio.timeout(self.database.settings.patience_seconds):
                await self._answer
        except TimeoutError as error:
            self.hang_up()
            raise psycopg.OperationalError(SILENT) from error
        except BaseException:
            self.hang_up()  # its answer may still come, and would be taken for that of the next one
            raise
        finally:
            self._answer = None
        for result in self._results:
            if result.status in _FAILED:
                raise errors.error_from_result(result)
        return self._results[-1]

    def _flush(self, pgconn: PGconn) -> None:
        """Send what the socket takes; a batch may be longer than that."""
        loop = asyncio.get_running_loop()
        if pgconn.flush():
            loop.add_writer(self._socket, self._flush_rest, pgconn)
        else:
            loop.remove_writer(self._socket)

    def _flush_rest(self, pgconn: PGconn) -> None:
        try:
            self._flush(pgconn)
        except psycopg.Error as error:
            self._fail(error)

    def _receive(self, pgconn: PGconn) -> None:
        """Take what has come. What nobody asked for is a notice, or the end."""
        try:
            pgconn.consume_input()
            while self._answer is not None and not self._answer.done() and not pgconn.is_busy():
                self._take(pgconn, self._answer)
        except psycopg.Error as error:
            self._fail(error)

    def _take(self, pgconn: PGconn, answer: asyncio.Future[None]) -> None:
        result = pgconn.get_result()
        if result is None:  # between two statements of a pipeline
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the connection is lost")
        elif result.status == ExecStatus.PIPELINE_SYNC:
            answer.set_result(None)
        else:
            self._results.append(result)

    def _fail(self, error: psycopg.Error) -> None:
        """Hang up. Why the server did so it has said before, if at all."""
        for result in self._results:
            if result.status == ExecStatus.FATAL_ERROR:
                error = errors.error_from_result(result)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.hang_up()
