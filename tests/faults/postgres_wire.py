"""A wire to PostgreSQL that knows what is said on it: any single statement can fail.

What is said until a connection is set up is no point of a story, unless the story begins without connections:
a pool makes its connections when it likes.
"""

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.points import SLOW_SECONDS, Kind, Station
from faults.proxy import another_socket

SYNC, QUERY, PARSE, BIND, EXECUTE, TERMINATE = b"S", b"Q", b"P", b"B", b"E", b"X"
READY = b"Z"
CONNECT, SET_UP = "connect", "set_config"
SHUTDOWN = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"

_VERB = re.compile(
    r"\b(BEGIN|COMMIT|ROLLBACK|LISTEN|LOCK|INSERT INTO (\w+)|(?<!FOR )UPDATE (\w+)|DELETE FROM (\w+)"
    r"|set_config|pg_\w+|FROM (?!arrived|judged|unnest|json|asked)(\w+))"
)


def statement_of(sql: str) -> str:
    """Return a statement's name: what it changes, or else what it looks at."""
    first = sql.lstrip().split(None, 1)[0].rstrip(";").upper() if sql.strip() else "nothing"
    found = [match[0] for match in _VERB.finditer(sql)]
    changes = [each for each in found if not each.startswith(("FROM", "set_config", "pg_"))]
    return " ".join((changes or found or [first])[0].split())


@dataclass(slots=True)
class _Said:
    """What a client has said since it last let the server answer."""

    data: bytearray = field(default_factory=bytearray)
    statements: list[str] = field(default_factory=list[str])

    @property
    def name(self) -> str:
        named = [each for each in self.statements if each != SET_UP]
        return (named or self.statements or ["sync"])[-1]


@dataclass(slots=True)
class PostgresWire:
    """All connections of one client. `kill` ends the client's process."""

    server: Path
    station: Station
    url: str = ""
    kill: Callable[[], Awaitable[None]] | None = None
    from_nothing: bool = False
    """Whether making connections and setting them up are points, too: for a story that begins without any."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one connection says, and what it is answered."""
        from_server, to_server = await asyncio.open_unix_connection(str(self.server))
        connection = _Connection(self, reader, writer, from_server, to_server)
        self._writers |= {writer, to_server}
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await connection.run()
        finally:
            for each in (writer, to_server):
                each.transport.abort()
            self._writers -= {writer, to_server}

    def passes(self, operation: str) -> Kind | None:
        """Return what is to become of an operation."""
        if operation in (CONNECT, SET_UP) and not self.from_nothing:
            return None
        return self.station.passes(operation)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()


@dataclass(slots=True)
class _Connection:
    wire: PostgresWire
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    prepared: dict[bytes, str] = field(default_factory=dict[bytes, str])
    waiting: int = 0
    """Answers that the server owes."""
    muted: bool = False
    """The answers do not reach the client."""
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        if not await self._pass_on_startup():
            return
        ways = [asyncio.create_task(self._ask()), asyncio.create_task(self._answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on_startup(self) -> bool:
        (length,) = struct.unpack("!I", head := await self.reader.readexactly(4))
        startup = head + await self.reader.readexactly(length - 4)
        return await self._say(_Said(bytearray(startup), [CONNECT]))

    async def _ask(self) -> None:
        said = _Said()
        while True:
            kind, message = await _message(self.reader)
            said.data += message
            self._note(said, kind, message)
            if kind in (SYNC, QUERY):
                if not await self._say(said):
                    return
                said = _Said()
            elif kind not in (PARSE, BIND, EXECUTE, b"D", b"C", b"H"):
                self.to_server.write(said.data)  # a password, a farewell
                said = _Said()

    def _note(self, said: _Said, kind: bytes, message: bytes) -> None:
        if kind == QUERY:
            said.statements.append(statement_of(message[5:-1].decode()))
        elif kind == PARSE:
            name, sql, _ = message[5:].split(b"\0", 2)
            self.prepared[name] = statement_of(sql.decode())
            if name:
                said.statements.append(f"prepare {self.prepared[name]}")
        elif kind == BIND:
            name = message[5:].split(b"\0", 2)[1]
            said.statements.append(self.prepared[name])

    async def _say(self, said: _Said) -> bool:
        """Let the server hear what was said; tell whether the connection goes on."""
        kind = self.wire.passes(said.name)
        if kind is None:
            self._pass_on(said)
            return True
        match kind:
            case Kind.SLOW:
                await asyncio.sleep(SLOW_SECONDS)
                self._pass_on(said)
                return True
            case Kind.ERROR:
                self.writer.write(b"E" + struct.pack("!I", len(SHUTDOWN) + 4) + SHUTDOWN)
                await self.writer.drain()
            case Kind.TORN:
                self.to_server.write(said.data[: len(said.data) // 2])
                await self.to_server.drain()
            case Kind.LOST | Kind.KILL_AFTER:
                await self._until_done(said)
            case Kind.KILL_BEFORE:
                pass
        if kind in (Kind.KILL_BEFORE, Kind.KILL_AFTER):
            assert self.wire.kill is not None
            await self.wire.kill()
        return False

    def _pass_on(self, said: _Said) -> None:
        self.waiting += 1
        self.is_ready.clear()
        self.to_server.write(said.data)

    async def _until_done(self, said: _Said) -> None:
        self.muted = True
        self._pass_on(said)
        await self.is_ready.wait()

    async def _answer(self) -> None:
        while True:
            kind, message = await _message(self.from_server)
            if not self.muted:
                self.writer.write(message)
            if kind == READY:
                self.waiting -= 1
                if self.waiting <= 0:
                    self.is_ready.set()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


@asynccontextmanager
async def wired_database(url: str, station: Station) -> AsyncIterator[PostgresWire]:
    """Put a wire in front of PostgreSQL's socket: another socket, in a folder of its own."""
    with another_socket(url) as (real, own, leading_there):
        wire = PostgresWire(real, station, leading_there)
        listening = await asyncio.start_unix_server(wire.serve, own)
        try:
            yield wire
        finally:
            listening.close()
            wire.cut()


def not_applicable(operation: str, kind: Kind) -> str | None:
    """Return why a kind of fault makes no sense at an operation; None where it does."""
    if operation == CONNECT and kind in (Kind.LOST, Kind.KILL_AFTER):
        return "a connection that was made says nothing: what is said on it next is what fails"
    return None
