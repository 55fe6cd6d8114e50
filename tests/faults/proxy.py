"""A wire that fails when it is told to: in front of a real server, over TCP or a Unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, quote, urlsplit

from psycopg import conninfo

Place = tuple[str, int] | Path
"""A host and a port, or a Unix socket."""

PIECE = 64 * 1024
SOCKET = ".s.PGSQL.5432"


@dataclass(frozen=True)
class Faults:
    """What is wrong with a wire. Without any it passes on what comes, as it comes."""

    refusing: bool = False
    """Whoever connects is hung up on."""
    silent: bool = False
    """A black hole: it takes connections and bytes, and nothing comes out on either side until it ends."""
    delay_seconds: float = 0
    """Each piece waits for so long, in both directions."""
    bytes_per_second: float | None = None
    """No more passes, in each direction."""
    cut_question_after: int | None = None
    """The connection breaks after so many bytes to the server."""
    cut_answer_after: int | None = None
    """The connection breaks after so many bytes from the server."""
    lose_question: bytes | None = None
    """What a client says with these bytes in it does not arrive; the connection breaks."""
    lose_answer: bytes | None = None
    """It arrives and is done, but the answer is lost: the connection breaks in its place."""


@dataclass
class Proxy:
    """One wire. That it has lost something, or cut a connection, `has_lost` tells."""

    server: Place
    url: str = ""
    """Leads through it."""
    faults: Faults = field(default_factory=Faults)
    has_lost: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    """Made by clients so far."""
    _speaking: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    def fail(self, **faults: object) -> None:
        """Have these faults from here on, and no others; without any, be well."""
        self.faults = replace(Faults(), **faults)
        if self.faults.silent:
            self._speaking.clear()
        else:
            self._speaking.set()

    def lead_to(self, url: str) -> None:
        """Lead to another HTTP server from here on; break what leads to the one before."""
        self.server = _place(url)
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client says, and what it is answered."""
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError):
            await self._speaking.wait()
            if not self.faults.refusing:
                await self._pass_on(reader, writer)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await _connect(self.server)
        self._writers.add(to_server)
        mute = asyncio.Event()
        ways = [
            asyncio.create_task(self._ask(reader, to_server, mute)),
            asyncio.create_task(self._answer(from_server, writer, mute)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.transport.abort()
            self._writers.discard(to_server)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        passed = 0
        while data := await _read(reader):
            faults = self.faults
            if faults.lose_question and faults.lose_question in data:
                self.has_lost.set()
                return
            if faults.lose_answer and faults.lose_answer in data:
                mute.set()
            passed += len(data)
            if not await self._write(writer, data, passed, faults.cut_question_after):
                return

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        passed = 0
        while data := await _read(reader):
            if mute.is_set():
                self.has_lost.set()
                return
            passed += len(data)
            if not await self._write(writer, data, passed, self.faults.cut_answer_after):
                return

    async def _write(
        self, writer: asyncio.StreamWriter, data: bytes, passed: int, cut_after: int | None
    ) -> bool:
        """Write as slowly as the wire is; return False where it has to be cut."""
        await self._speaking.wait()
        await asyncio.sleep(self.faults.delay_seconds)
        beyond = 0 if cut_after is None else max(0, passed - cut_after)
        writer.write(data[: len(data) - beyond])
        await writer.drain()
        if beyond:
            self.has_lost.set()
            return False
        if self.faults.bytes_per_second is not None:
            await asyncio.sleep(len(data) / self.faults.bytes_per_second)
        return True


def _place(url: str) -> Place:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def _connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(place, Path):
        return await asyncio.open_unix_connection(str(place))
    return await asyncio.open_connection(*place)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(PIECE)
    except ConnectionError:
        return b""


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """Put a proxy in front of an HTTP server."""
    proxy = Proxy(_place(url))
    async with _over_tcp(proxy) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


@contextlib.contextmanager
def another_socket(url: str) -> Iterator[tuple[Path, Path, str]]:
    """Give PostgreSQL's socket, a place for one in front of it, and the URL that leads there."""
    (real,) = parse_qs(urlsplit(url).query)["host"]
    # A socket's path is short, those of pytest are not.
    with TemporaryDirectory(prefix="wire-") as folder:
        leading_there = url.replace(quote(real, safe=""), quote(folder, safe=""))
        yield Path(real) / SOCKET, Path(folder) / SOCKET, leading_there


@asynccontextmanager
async def proxied_database(url: str) -> AsyncIterator[Proxy]:
    """Put a proxy in front of PostgreSQL's socket: another socket, in a folder of its own."""
    with another_socket(url) as (real, own, leading_there):
        proxy = Proxy(real, leading_there)
        listening = await asyncio.start_unix_server(proxy.serve, own)
        async with _listening(proxy, listening):
            yield proxy


@asynccontextmanager
async def proxied_database_over_tcp(url: str) -> AsyncIterator[Proxy]:
    """Put a proxy in front of PostgreSQL's socket that is reached as a server elsewhere is."""
    parameters = conninfo.conninfo_to_dict(url)
    proxy = Proxy(Path(str(parameters["host"])) / SOCKET)
    async with _over_tcp(proxy) as port:
        proxy.url = conninfo.make_conninfo(url, host="127.0.0.1", port=port)
        yield proxy


@asynccontextmanager
async def _over_tcp(proxy: Proxy) -> AsyncIterator[int]:
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with _listening(proxy, listening):
        yield listening.sockets[0].getsockname()[1]


@asynccontextmanager
async def _listening(proxy: Proxy, listening: asyncio.Server) -> AsyncIterator[None]:
    proxy.fail()
    try:
        yield
    finally:
        listening.close()
        proxy.cut()
