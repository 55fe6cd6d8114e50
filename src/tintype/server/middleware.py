"""What every request has in common: an id, headers, one line in the log, and counts."""

import asyncio
import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import uuid_utils
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from tintype.model.errors import BodyTooLarge, TintypeError, UploadIncomplete
from tintype.model.identity import Principal
from tintype.server.failures import answer, defect
from tintype.server.methods import Methods
from tintype.telemetry import Metrics, get_logger

UNMATCHED = "unmatched"
"""The route of requests that fit none: their paths are strangers' text, and no label or field."""
MORE_HEADERS = "more_headers"
"""In a request's state: pairs of bytes for the head of its answer, whichever layer gives that."""
CHARGE = "charge"
"""In a request's state: what is told at its end how many bytes of bodies it moved."""

_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: their successes are told at the level `debug` only."""
_CLIENT_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_DEFAULTS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"private, no-cache",
}
"""For answers that do not say otherwise: kept by nobody but the client, and asked for again each time."""
_CLIENT_LEFT = 499
"""In the log and the counts, where no answer was begun: nginx's word for it."""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """The limits of a body that the framework parses, and so holds in memory as a whole."""

    max_bytes: int
    seconds: float = 30
    """From its first byte wanted to its last."""


class Envelope:
    """The outermost layer; pure ASGI, since every request pays for it."""

    def __init__(self, app: ASGIApp, methods: Methods, metrics: Metrics, parsed: ParsedBody) -> None:
        self._app = app
        self._methods = methods
        self._counts = _Counts(metrics)
        self._parsed = parsed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens below."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self._as_get(scope), receive, send, self._parsed)
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 # this is where defects end
            await exchange.fail(error)
        finally:
            self._record(exchange)

    def _as_get(self, scope: Scope) -> Scope:
        """Let GET answer HEAD where no route does. The server's own scope says HEAD: it sends no body."""
        if scope["method"] == "HEAD" and self._methods.head_is_get(scope["path"]):
            return {**scope, "method": "GET"}
        return scope

    def _record(self, exchange: "_Exchange") -> None:
        seconds = perf_counter() - exchange.began
        if (charge := exchange.scope["state"].get(CHARGE)) is not None:
            charge(exchange.bytes_in + exchange.bytes_out)
        route = getattr(exchange.scope.get("route"), "path", UNMATCHED)
        self._counts.add(route, exchange.method, exchange.status, seconds)
        line: dict[str, Any] = {
            "method": exchange.method,
            "route": route,
            "status": exchange.status,
            "duration_ms": round(seconds * 1000, 2),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
        }
        principal: Principal | None = exchange.scope["state"].get("principal")
        if principal is not None and principal.key_id is not None:
            line |= {"owner": principal.owner, "key_id": principal.key_id}
        problem: TintypeError | None = exchange.scope["state"].get("problem")
        if problem is not None:
            line["problem"] = problem.code
            if problem.__cause__ is not None:
                line["cause"] = type(problem.__cause__).__name__
        if exchange.cut:
            line["cut"] = True
        if exchange.status >= 500 or exchange.cut:  # noqa: PLR2004
            _log.warning("request", **line)
        elif route in _QUIET:
            _log.debug("request", **line)
        else:
            _log.info("request", **line)


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_deadline",
        "_is_parsed",
        "_parsed",
        "_receive",
        "_request_id",
        "_send",
        "began",
        "bytes_in",
        "bytes_out",
        "cut",
        "ended",
        "method",
        "scope",
        "started",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, parsed: ParsedBody) -> None:
        self.began = perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.status = _CLIENT_LEFT
        self.started = False
        self.ended = False
        self.cut = False
        self.bytes_in = 0
        self.bytes_out = 0
        self._receive = receive
        self._send = send
        self._parsed = parsed
        self._is_parsed: bool | None = None  # unknown before the route is
        self._deadline = 0.0
        self._request_id = uuid_utils.uuid7().hex
        scope.setdefault("state", {})["request_id"] = self._request_id
        clear_contextvars()
        bind_contextvars(request_id=self._request_id, **_client_id(scope))

    async def receive(self) -> Message:
        """Pass a piece of the body on. One that the framework parses is bounded in size and time."""
        if self._is_parsed is None:
            self._is_parsed = self._begin_body()
        if not self._is_parsed:
            message = await self._receive()
            self.bytes_in += len(message.get("body", b""))
            return message
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise UploadIncomplete(f"The body took longer than {self._parsed.seconds:g} s.") from error
        self.bytes_in += len(message.get("body", b""))
        self._check_size(self.bytes_in)
        return message

    async def send(self, message: Message) -> None:
        """Pass a piece of the answer on, its head with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [each for each in _DEFAULTS.items() if each[0] not in present]
            headers.append((b"x-request-id", self._request_id.encode()))
            headers += self.scope["state"].get(MORE_HEADERS, ())
            message["headers"] = headers
        else:
            self.bytes_out += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        """Answer a defect. Once the answer has begun it can only be cut: the server closes the connection."""
        state = self.scope["state"]
        told = error if isinstance(error, TintypeError) else error.__cause__
        if isinstance(told, TintypeError):
            state["problem"] = told
        elif "problem" not in state:  # no handler has told it yet
            state["problem"] = defect(error)
        self.cut = self.started and not self.ended
        if not self.started:
            await answer(self.scope, state["problem"])(self.scope, self._receive, self.send)

    def _begin_body(self) -> bool:
        """Tell whether the framework parses the body; if so, start the clock and judge its announced size."""
        route = self.scope.get("route")
        if not isinstance(route, APIRoute) or route.body_field is None:
            return False
        self._deadline = asyncio.get_running_loop().time() + self._parsed.seconds
        for name, value in self.scope["headers"]:
            if name == b"content-length":
                self._check_size(int(value))
        return True

    def _check_size(self, length: int) -> None:
        limit = self._parsed.max_bytes
        if length > limit:
            raise BodyTooLarge(f"A JSON body may have up to {limit} bytes.", details={"limit": limit})


class _Counts:
    """The metrics of requests. Finding a counter by its labels costs more than counting, so they are kept."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._requests: dict[tuple[str, str, int], Any] = {}
        self._seconds: dict[tuple[str, str], Any] = {}

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        request = (route, method, status)
        counter = self._requests.get(request)
        if counter is None:
            counter = self._requests[request] = self._metrics.requests.labels(route, method, str(status))
        histogram = self._seconds.get((route, method))
        if histogram is None:
            histogram = self._metrics.request_seconds.labels(route, method)
            self._seconds[route, method] = histogram
        counter.inc()
        histogram.observe(seconds)


def _client_id(scope: Scope) -> dict[str, str]:
    """Return the client's own id for the log, if it has a harmless one; it never becomes ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return {"client_request_id": value.decode()} if _CLIENT_ID.fullmatch(value) else {}
    return {}
