"""The connection: uvicorn's HTTP/1.1 protocol, with limits on what comes before and after a request.

uvicorn answers rubbish in plain text, keeps header fields of any length, and waits for ever for a
request to end. Behind a balancer that is the balancer's work; on a laptop it is ours.
"""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Mapping
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from tintype.model.errors import HeadTooLarge, HttpInvalid, TintypeError
from tintype.model.ids import new_id
from tintype.server.problems import MEDIA_TYPE, problem_body, status_of
from tintype.telemetry import get_logger

MAX_HEAD_BYTES = 32 * 1024
"""Of the request target and all header fields, trailers included."""

INFORMATIONAL = "tintype.informational"
"""The ASGI extension with which an application sends an answer of status 1xx ahead of the final one: its
`send` takes the status, its phrase and the header fields. ASGI itself has none."""

_TOO_LONG = "A chunk extension or a trailer has no end. The connection is closed."


class Connection(HttpToolsProtocol):
    """One connection. `uvicorn.Config(http=Connection)`."""

    head_seconds = 15.0
    """From the first byte of a request, or of the connection, to the end of the header fields."""
    linger_seconds = 10.0
    """How long the rest of a body is read and thrown away after its request was answered.

    Closing at once would reset the connection, and the client would not see why it was refused.
    """
    drain_seconds = 30.0
    """Over how long the pace is measured at which a client takes what an answer has for it."""
    min_bytes_per_second = 1024
    """The least pace. 0: whoever takes nothing is waited for."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._begun = False
        self._over = False
        self._in_head = True
        self._resuming = False
        self._skipped: bytes | None = None
        self._head_bytes = 0
        self._silent_bytes = 0
        self._refusal: TintypeError | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._drained: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait(None)
        self._cease_to_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came. Bytes that the parser keeps to itself or passes over are counted too."""
        if self._over:
            return
        self._unset_keepalive_if_required()
        self._silent_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._silent_bytes > MAX_HEAD_BYTES and not self._over:
            self._refusal = _too_large() if self._in_head else HttpInvalid(_TOO_LONG)
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._resuming:
            return
        self._in_head = True
        self._head_bytes = 0
        self._wait(self.head_seconds)
        super().on_message_begin()
        self.scope["extensions"] = {INFORMATIONAL: {"send": self._inform}}

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if self._resuming:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer."""
        if self._resuming:
            return
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        if self._resuming:
            return
        if [name for name, _ in self.headers].count(b"host") > 1:  # RFC 9112, section 3.2
            self._refusal = HttpInvalid("The request names two hosts. The connection is closed.")
            raise self._refusal
        if self.parser.should_upgrade():
            self._skipped = _framing(self.headers)
        self._in_head = False
        self._wait(None)
        super().on_headers_complete()
        self._begun = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._silent_bytes = 0
        if not self.cycle.body:  # uvicorn fills a bytearray, and copies that in the end: two copies to spare
            self.cycle.body = b""  # type: ignore[assignment] # what is added to it is handed on as it is
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take note that the request has arrived whole."""
        if self._skipped is not None:
            return
        self._silent_bytes = 0
        self._wait(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that was answered before its end."""
        if self.cycle.response_complete and self.cycle.more_body:  # the last cycle: others wait behind it
            self._wait(self.linger_seconds)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to look how fast the client takes its answer: it has enough of it to take."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """End the look: the client has taken what there was."""
        super().resume_writing()
        self._cease_to_watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nobody uses; what was not taken of the last answer is not kept for ever."""
        super().timeout_keep_alive_handler()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, and close.

        A whole request before it, still being worked on, is answered instead: the client would take
        this answer for that request's, whose image may be stored. An answer that has begun is cut.
        """
        self._over = True
        working = self._begun and not self.cycle.response_complete
        if working and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return
        if working:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if working and self.cycle.response_started:
            self.transport.close()
            return
        self.transport.write(_answer(self._refusal or HttpInvalid(f"{msg} The connection is closed.")))
        self.transport.write_eof()
        self._wait(self.linger_seconds)

    def _inform(self, status: int, phrase: str, headers: Mapping[str, str]) -> None:
        """Send an informational answer, unless the final one has begun (RFC 9110, section 15.2)."""
        if self.transport.is_closing() or self.cycle.response_started:
            return
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode())

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._stay(data[offer.args[0] :])

    def _stay(self, rest: bytes) -> None:
        """Go on in HTTP/1.1 when a client offers another protocol, as RFC 9110, section 7.8 allows.

        The parser takes the offer for a deal: it skips the body, and parses no more. Java's client and
        `curl --http2` make the offer with every upload that is not over TLS. So another parser, put
        where the first one stopped, reads the body and what follows.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        if self._skipped is not None:
            framing, self._skipped = self._skipped, None
            self._resuming = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
            self._resuming = False
        self._feed(rest)

    def _count(self, length: int) -> None:
        self._silent_bytes = 0
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _too_large()
            raise self._refusal  # the parser stops, and uvicorn calls `send_400_response`

    def _wait(self, seconds: float | None) -> None:
        """Close the connection after so many seconds; None: do not."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _watch(self) -> None:
        """Look in a while how much less there is to take; cut a client that took less than it should."""
        self._cease_to_watch()
        if self.min_bytes_per_second and (waiting := self._untaken()):
            self._drained = self.loop.call_later(self.drain_seconds, self._judge, waiting)

    def _judge(self, waiting: int) -> None:
        if waiting - self._untaken() < self.min_bytes_per_second * self.drain_seconds:
            self.transport.abort()  # to close would be to wait until all of it is taken
        else:
            self._watch()

    def _untaken(self) -> int:
        """Return how many bytes the client has not acknowledged; 0 where the system does not tell.

        Our own buffer alone would not do: the kernel's takes more only when a third of its megabytes is free.
        """
        try:
            queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not Linux, or closed
            return 0
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _cease_to_watch(self) -> None:
        if self._drained is not None:
            self._drained.cancel()
            self._drained = None


def _framing(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return the field that says where a request's body ends; None for a request without a body."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and int(value) > 0):
            return name + b": " + value
    return None


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request target and the header fields take up to {MAX_HEAD_BYTES} bytes together.",
        details={"limit": MAX_HEAD_BYTES},
    )


def _answer(error: TintypeError) -> bytes:
    """Return a whole answer: there is no request that the application could answer."""
    request_id = new_id().hex
    status = status_of(error)
    get_logger().info("request.refused", request_id=request_id, status=status, problem=error.code)
    body = orjson.dumps(problem_body(error, request_id=request_id))
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status] + lines.encode() + b"\r\n" + body
