"""What clients of resumable uploads need before a route is found."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tintype.server.failures import PLAIN_ERRORS
from tintype.server.middleware import MORE_HEADERS

PREFIX = "/v1/tus"
VERSION = b"1.0.0"

_METHODS = frozenset({b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"POST"})
_BUSY = 423
_TOO_MANY = 429
_OURS = 500


class Overrides:
    """Takes the method from `X-HTTP-Method-Override`, tells tus's version, and excuses a HEAD.

    A client of tus takes a HEAD that fails with 5xx for an upload that is gone, and begins again at the
    first byte; so whatever is wrong with us is told as 423, which it takes for what it is, and asks again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope["path"]
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        fields: dict[bytes, bytes] = dict(scope["headers"])
        override = fields.get(b"x-http-method-override", b"").upper()
        asked, state = scope, scope["state"]
        if override in _METHODS:  # a copy: the server frames its answer by the method that was sent
            scope = {**asked, "method": override.decode()}
        if b"upload-complete" not in fields:
            state[PLAIN_ERRORS] = True
            if scope["method"] != "HEAD" or b"tus-resumable" in fields:
                state[MORE_HEADERS] = [*state.get(MORE_HEADERS, ()), (b"tus-resumable", VERSION)]
        await self._app(scope, receive, _patient(send) if scope["method"] == "HEAD" else send)
        if scope is not asked and "route" in scope:
            asked["route"] = scope["route"]


def _patient(send: Send) -> Send:
    async def patiently(message: Message) -> None:
        if message["type"] == "http.response.start" and (
            message["status"] == _TOO_MANY or message["status"] >= _OURS
        ):
            message["status"] = _BUSY
        await send(message)

    return patiently
