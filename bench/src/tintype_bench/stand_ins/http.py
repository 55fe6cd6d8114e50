"""As much of an HTTP/1.1 server as the clients of a benchmark need, on one bare uvloop protocol."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, unquote, urlsplit

import uvloop

# What arrives is looked at and forgotten before the loop goes on, so that one room serves all
# connections and stays in the processor's cache.
ROOM = memoryview(bytearray(512 * 1024))

LARGEST_HEAD = 64 * 1024
LARGEST_KEPT_BODY = 256 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `body` is empty where it was too long to be kept; `length` counts it all."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `content_length` is another than that of the body for HEAD."""

    status: str = "200 OK"
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    content_length: int | None = None

    def encode(self) -> bytes:
        """Return the bytes to send."""
        length = len(self.body) if self.content_length is None else self.content_length
        lines = [f"HTTP/1.1 {self.status}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in (self.headers or {}).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


Handler = Callable[[Request], Reply]
Keeper = Callable[[Request], bool]


def is_short(request: Request) -> bool:
    """Tell whether a body is kept for the handler, where nothing else decides that."""
    return request.length <= LARGEST_KEPT_BODY


class Connection(asyncio.BufferedProtocol):
    """One client after another request: a head, then a body that is counted and mostly not kept."""

    def __init__(self, handler: Handler, keeps: Keeper) -> None:
        self._handler, self._keeps = handler, keeps
        self._head = bytearray()
        self._request: Request | None = None
        self._awaited = 0
        self._kept: bytearray | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's signature
        """Lend the room that all connections share."""
        return ROOM

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived: the rest of a head, or some of a body."""
        arrived = ROOM[:nbytes]
        while arrived:
            arrived = self._take_body(arrived) if self._awaited else self._take_head(arrived)

    def _take_head(self, arrived: memoryview) -> memoryview:
        searched = max(0, len(self._head) - 3)
        self._head += arrived
        end = self._head.find(b"\r\n\r\n", searched)
        if end < 0:
            if len(self._head) > LARGEST_HEAD:
                self._abort()
            return arrived[:0]
        left = len(self._head) - (end + 4)
        request = _parse(bytes(self._head[:end]))
        self._head.clear()
        self._begin(request)
        return arrived[len(arrived) - left :]

    def _begin(self, request: Request) -> None:
        if "transfer-encoding" in request.headers:
            self._send(Reply("411 Length Required"))  # as S3 itself does
            self._abort()
            return
        if request.headers.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._request, self._awaited = request, request.length
        self._kept = bytearray() if self._keeps(request) else None
        if not self._awaited:
            self._finish()

    def _take_body(self, arrived: memoryview) -> memoryview:
        mine = arrived[: self._awaited]
        self._awaited -= len(mine)
        if self._kept is not None:
            self._kept += mine
        if not self._awaited:
            self._finish()
        return arrived[len(mine) :]

    def _finish(self) -> None:
        request = self._request
        if request is None:
            return
        body = bytes(self._kept or b"")
        self._request, self._kept = None, None
        whole = Request(request.method, request.path, request.query, request.headers, request.length, body)
        self._send(self._handler(whole))

    def _send(self, reply: Reply) -> None:
        self._write(reply.encode())

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _parse(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    length = int(headers.get("content-length", "0"))
    return Request(method, unquote(parts.path), query, headers, length, b"")


def serve(handler: Handler, port: int, keeps: Keeper = is_short) -> None:
    """Answer on loopback until SIGTERM or SIGINT. `keeps` tells of a head whether its body is looked at."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        server = await loop.create_server(lambda: Connection(handler, keeps), "127.0.0.1", port)
        async with server:
            await stopped.wait()

    uvloop.run(main())
