"""A way to the database that fails when it is told to: a Unix socket in front of the real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit


@dataclass
class Proxy:
    url: str
    real: Path
    refusing: bool = False
    """Whoever connects is hung up on."""
    lose_question: bytes | None = None
    """What a client says with these bytes in it does not arrive; the connection breaks."""
    lose_answer: bytes | None = None
    """It arrives and is done, but the answer is lost: the connection breaks in its place."""
    has_lost: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        from_server, to_server = await asyncio.open_unix_connection(str(self.real))
        mute = asyncio.Event()
        self._writers |= {writer, to_server}
        await asyncio.wait(
            [
                asyncio.create_task(self._ask(reader, to_server, mute)),
                asyncio.create_task(self._answer(from_server, writer, mute)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._writers -= {writer, to_server}
        for each in (writer, to_server):
            each.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        while data := await _read(reader):
            if self.lose_question and self.lose_question in data:
                self.has_lost.set()
                return
            if self.lose_answer and self.lose_answer in data:
                mute.set()
            writer.write(data)
            await writer.drain()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        while data := await _read(reader):
            if mute.is_set():
                self.has_lost.set()
                return
            writer.write(data)
            await writer.drain()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 20)
    except ConnectionError:
        return b""


@asynccontextmanager
async def proxied(url: str, folder: Path) -> AsyncIterator[Proxy]:
    """Put a proxy into an empty folder with a short path."""
    (real,) = parse_qs(urlsplit(url).query)["host"]
    proxy = Proxy(
        url.replace(quote(real, safe=""), quote(str(folder), safe="")), Path(real) / ".s.PGSQL.5432"
    )
    server = await asyncio.start_unix_server(proxy.serve, folder / ".s.PGSQL.5432")
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
