"""A wire to a server of AWS that knows what is asked on it: any single request can fail."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from faults.points import SLOW_SECONDS, Kind, Station, place_of

MARKED = b"x-not-tintype"
"""The header of requests that are not Tintype's, and so no points: a client's to a signed address."""
HEAD_LIMIT = 64 * 1024
REFUSAL = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
)
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"


def not_applicable(_operation: str, _kind: Kind) -> str | None:
    """Return why a kind of fault makes no sense at an operation; every one does."""
    return None


@dataclass(slots=True)
class HttpWire:
    """All connections to one server. `kill` ends the client's process."""

    host: str
    port: int
    station: Station
    url: str = ""
    kill: Callable[[], Awaitable[None]] | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the requests of one connection, and their answers, one after another."""
        server = await asyncio.open_connection(self.host, self.port, limit=HEAD_LIMIT)
        self._writers |= {writer, server[1]}
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._pass_on(reader, writer, *server):
                    pass
        finally:
            for each in (writer, server[1]):
                each.transport.abort()
            self._writers -= {writer, server[1]}

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer; tell whether the connection goes on."""
        head, body = await _read(reader)
        if b"expect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)expect: 100-continue\r\n", b"", head)
        if body is None:
            body = await _body(reader, head)
        kind = None if MARKED in head.lower() else self.station.passes(operation_of(head, body))
        if kind is Kind.ERROR:
            writer.write(REFUSAL % (len(SLOW_DOWN), SLOW_DOWN))
            await writer.drain()
            return False
        if kind is Kind.TORN:
            to_server.write((head + body)[: len(head) + len(body) // 2])
            await to_server.drain()
            return False
        if kind is Kind.KILL_BEFORE:
            return await self._end()
        if kind is Kind.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        to_server.write(head + body)
        method = head.partition(b" ")[0]
        answer_head, answer = await _read(from_server)
        if answer is None:
            answer = b"" if method == b"HEAD" else await _body(from_server, answer_head)
        if kind is Kind.KILL_AFTER:
            return await self._end()
        if kind is Kind.LOST:
            return False
        writer.write(answer_head + answer)
        await writer.drain()
        return b"connection: close" not in answer_head.lower()

    async def _end(self) -> bool:
        assert self.kill is not None
        await self.kill()
        return False


def operation_of(head: bytes, body: bytes) -> str:
    """Return a request's name, without what is different in each run."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    url = urlsplit(target)
    if action := re.search(rb"(?:^|&)Action=(\w+)", body):
        return action[1].decode()
    query = parse_qs(url.query, keep_blank_values=True)
    key = unquote(url.path).split("/")[2:] or unquote(query.get("prefix", [""])[0]).split("/")
    place = place_of(filter(None, key))
    verb = next((f"{method} {name}" for name in ("uploads", "uploadId", "versions") if name in query), method)
    if b"x-amz-copy-source" in head.lower():
        verb = "COPY"
    elif "list-type" in query:
        verb = "LIST"
    return f"{verb} {place}"


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes | None]:
    """Return a head, and the body if it is known to have none."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    has_body = b"\r\ncontent-length:" in lower or b"\r\ntransfer-encoding: chunked" in lower
    return head, None if has_body else b""


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if length := re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head):
        return await reader.readexactly(int(length[1]))
    whole = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        whole += line + await reader.readexactly(size + 2)
        if size == 0:
            return whole


@asynccontextmanager
async def wired_server(url: str, station: Station) -> AsyncIterator[HttpWire]:
    """Put a wire in front of a server."""
    parts = urlsplit(url)
    wire = HttpWire(str(parts.hostname), parts.port or 80, station)
    listening = await asyncio.start_server(wire.serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
    wire.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        listening.close()
        wire.cut()
