"""Origins: under which names the service is asked, by the pages of whom.

A browser carries requests of every page that it shows to this machine's loopback too. Without
identity nothing else would keep them out; with it, credentials do, and browsers never add those by
themselves. What reads an answer in a page of another origin is for that page's browser to decide, by
the headers of the CORS protocol (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tintype.model.errors import HostRefused, OriginRefused
from tintype.server.middleware import MORE_HEADERS
from tintype.settings import Settings

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
"""What a page may ask with."""
ACCEPTED = (
    "Accept",
    "Accept-Language",
    "Authorization",  # a `*` would not cover it
    "Cache-Control",
    "Content-Digest",
    "Content-Language",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Repr-Digest",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Name",  # FilePond
    "Upload-Offset",
    "Uppy-Versions",  # Uppy's Companion client
    "X-HTTP-Method-Override",
    "X-Request-Id",
    "X-Requested-With",  # Dropzone, and whatever is built on XMLHttpRequest
)
"""Header fields that a page may send."""
EXPOSED = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Repr-Digest",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""Header fields of answers that a page may read. One that is missing fails uploads that were stored."""
PREFLIGHT_SECONDS = 7200
"""How long a browser remembers what it was told; Chromium takes no more."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(rb"(\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?")  # RFC 9110, section 7.2
_OWN_SITES = (b"same-origin", b"none")
"""Of `Sec-Fetch-Site`: the page is ours, or there is none: somebody typed the address."""


def protect(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Return the application behind what the settings ask for; what they do not costs nothing."""
    if settings.identity.mode == "local":
        app = LoopbackGuard(app, settings)
    if settings.cors_origins:
        app = Cors(app, settings.cors_origins)
    return app


class LoopbackGuard:
    """Keeps the pages of others out of a service that asks nobody who they are.

    A page may have its own name resolve to loopback (DNS rebinding): the browser then takes the service
    for a part of the page's site, and only `Host` tells. And any page may send a form here. Programs
    that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and pages cannot forge them.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        public = urlsplit(settings.public_url or "")
        hosts = ("localhost", "127.0.0.1", "::1", settings.host, public.hostname)
        self._app = app
        self._names = frozenset(_bracketed(host).encode() for host in hosts if host)
        self._origins = frozenset(_encoded([*settings.cors_origins, f"{public.scheme}://{public.netloc}"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a program, or a page of ours. Raises `HostRefused` and `OriginRefused`."""
        fields: dict[bytes, bytes] = dict(scope["headers"])
        host = fields.get(b"host")
        if host is not None:  # browsers always send it
            self._check_host(host)
        if scope["method"] not in _SAFE:
            origin, site = fields.get(b"origin"), fields.get(b"sec-fetch-site")
            if (origin or site) and self._is_foreign(host, origin, site):
                raise OriginRefused(
                    "A page of another site sent this. Name its origin in TINTYPE_CORS_ORIGINS, if it may."
                )
        await self._app(scope, receive, send)

    def _check_host(self, host: bytes) -> None:
        match = _HOST.fullmatch(host.lower())
        if match is None or match[1] not in self._names:
            raise HostRefused(
                "Without identity Tintype answers to loopback names, such as localhost, and to the host "
                "of TINTYPE_PUBLIC_URL. Use one of them, or set TINTYPE_IDENTITY__MODE=keys."
            )

    def _is_foreign(self, host: bytes | None, origin: bytes | None, site: bytes | None) -> bool:
        """Tell whether a page of another origin asks. `Sec-Fetch-Site` is the browser's own verdict.

        Browsers from before 2023 do not send it: there the origin has to be the address asked for. Its
        scheme is passed over, since a proxy may have taken the TLS away.
        """
        if origin in self._origins:
            return False
        if site is not None:
            return site not in _OWN_SITES
        return origin is not None and origin.partition(b"://")[2] != (host or b"").lower()


class Cors:
    """Lets pages of the named origins read answers, and answers the question that browsers ask before.

    Never with credentials in the sense of that protocol: cookies mean nothing here, and a page that has
    a key sends it itself.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._any = "*" in origins
        self._origins = frozenset(_encoded(origins))
        self._exposed = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or answer a preflight. Raises `OriginRefused` for one of another origin."""
        fields: dict[bytes, bytes] = dict(scope["headers"])
        origin, asked = fields.get(b"origin"), fields.get(b"access-control-request-method")
        allowed = origin is not None and (self._any or origin in self._origins)
        told = scope["state"].get(MORE_HEADERS, ())
        scope["state"][MORE_HEADERS] = [*told, *self._headers(origin if allowed else None)]
        if scope["method"] != "OPTIONS" or origin is None or asked is None:
            await self._app(scope, receive, send)
        elif allowed:
            await _preflight()(scope, receive, send)
        else:
            raise OriginRefused("Pages of this origin may not ask here. TINTYPE_CORS_ORIGINS lists who may.")

    def _headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """Return what every answer to a page of an origin says; None: to whoever else asks."""
        varies = [] if self._any else [(b"vary", b"origin")]
        if origin is None:
            return varies
        return [*varies, (b"access-control-allow-origin", b"*" if self._any else origin), self._exposed]


def _preflight() -> Response:
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": ", ".join(METHODS),
            "access-control-allow-headers": ", ".join(ACCEPTED),
            "access-control-max-age": str(PREFLIGHT_SECONDS),
        },
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def _encoded(origins: Collection[str]) -> list[bytes]:
    return [origin.lower().encode() for origin in origins]
