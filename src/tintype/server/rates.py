"""Rates: how often, and how much, one key may ask; how often one address may fail to say who it is.

Token buckets in the memory of one process: each instance gives its own share. What is over a rate is
refused before anything of its body is read (429, RFC 6585), with how long to wait.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tintype.model.errors import Overloaded, RateExceeded, TintypeError, Unauthenticated
from tintype.model.identity import Principal
from tintype.server.middleware import CHARGE, MORE_HEADERS
from tintype.settings import LimitsSettings
from tintype.telemetry import get_logger

MAX_KNOWN = 10_000
"""Buckets of one kind: strangers with many addresses cannot fill the memory."""
REQUESTS_WINDOW = 10
BYTES_WINDOW = 60
MINUTE = 60
RESUMABLE = "/v1/tus"
"""Where clients take 429 for the end of their upload, and 503 for a reason to go on later."""
_OTHERS = ""
"""The bucket that newcomers share while all others are in use."""

State = dict[str, Any]
_Headers = list[tuple[bytes, bytes]]

_log = get_logger()


@dataclass(slots=True)
class Buckets:
    """Token buckets by name: `quota` each, which fills up again within `window` seconds."""

    quota: float
    window: float
    max_known: int = MAX_KNOWN
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[str, tuple[float, float]] = field(
        default_factory=OrderedDict[str, tuple[float, float]], init=False
    )
    """What was left, and when; least recently used first."""

    def left(self, name: str) -> float:
        """Return how much is left. It may be less than nothing: what has come was counted afterwards."""
        level, at = self._known.get(self._place(name), (self.quota, 0.0))
        return min(self.quota, level + (self.clock() - at) * self.quota / self.window)

    def take(self, name: str, count: float) -> None:
        """Take so much, whether or not it is left."""
        level, place = self.left(name), self._place(name)
        self._known[place] = level - count, self.clock()
        self._known.move_to_end(place)

    def wait(self, name: str) -> int:
        """Return after how many seconds there is something left; 0: now."""
        missing = 1 - self.left(name)
        return 0 if missing <= 0 else math.ceil(missing * self.window / self.quota)

    def _place(self, name: str) -> str:
        """Return the bucket of a name. One that has filled up again is worth nothing, and makes room."""
        if name in self._known or len(self._known) < self.max_known:
            return name
        oldest, (level, at) = next(iter(self._known.items()))
        if oldest != _OTHERS and level + (self.clock() - at) * self.quota / self.window >= self.quota:
            del self._known[oldest]
            return name
        return _OTHERS


@dataclass(slots=True)
class Rates:
    """All rates of one process. A limit that is off has no buckets."""

    requests: Buckets | None
    volume: Buckets | None
    failures: Buckets | None
    open_requests: int
    _open: dict[str, int] = field(default_factory=dict[str, int], init=False)

    @classmethod
    def of(cls, limits: LimitsSettings) -> "Rates":
        """Return the rates that the settings ask for."""

        def buckets(rate: float, window: float) -> Buckets | None:
            return Buckets(rate * window, window) if rate else None

        return cls(
            requests=buckets(limits.requests_per_second, REQUESTS_WINDOW),
            volume=buckets(limits.bytes_per_second, BYTES_WINDOW),
            failures=buckets(limits.failed_logins_per_minute / MINUTE, MINUTE),
            open_requests=limits.open_requests,
        )

    @contextmanager
    def spending(self, principal: Principal, scope: Any) -> Generator[None]:  # noqa: ANN401 # an ASGI scope
        """Count a request for the time of the block; raise `RateExceeded` for one too many.

        HEAD is never refused: it is how resumable uploads find where they stand.
        """
        name, owner, state = _name(principal), principal.owner, scope["state"]
        is_open = self._open.get(owner, 0)
        refusal = self._refusal(name, is_open)
        if refusal is None and self.requests is not None:
            self.requests.take(name, 1)
        state[MORE_HEADERS] = [*state.get(MORE_HEADERS, ()), *self._headers(name)]
        if refusal is not None and scope["method"] != "HEAD":
            _log.warning("rate.exceeded", owner=owner, key_id=principal.key_id)
            raise _as_clients_of(scope["path"], refusal)
        if self.volume is not None:
            state[CHARGE] = self._announced(name, self.volume, scope)
        self._open[owner] = is_open + 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    def check_address(self, scope: Any) -> None:  # noqa: ANN401 # an ASGI scope
        """Raise `RateExceeded` for an address from which too many credentials were wrong.

        HEAD is told that the credentials are not known: what they are is not looked up.
        """
        network = _network(scope)
        if self.failures is None or network is None or not (seconds := self.failures.wait(network)):
            return
        told = "Too many requests with wrong credentials came from this address. Try again later."
        _log.warning("rate.address_blocked")
        if scope["method"] == "HEAD":
            raise Unauthenticated(told)
        raise _as_clients_of(scope["path"], RateExceeded(told, retry_after=seconds))

    def count_failure(self, scope: Any) -> None:  # noqa: ANN401 # an ASGI scope
        """Count wrong credentials."""
        network = _network(scope)
        if self.failures is not None and network is not None:
            self.failures.take(network, 1)

    def _refusal(self, name: str, is_open: int) -> TintypeError | None:
        if self.requests is not None and (seconds := self.requests.wait(name)):
            return RateExceeded(
                f"A key may send {self.requests.quota / self.requests.window:g} requests a second.",
                retry_after=seconds,
            )
        if self.volume is not None and (seconds := self.volume.wait(name)):
            return RateExceeded(
                f"A key may move {self.volume.quota / self.volume.window:g} bytes a second.",
                retry_after=seconds,
            )
        if self.open_requests and is_open >= self.open_requests:
            return RateExceeded(
                f"An owner may have {self.open_requests} requests open at once. Wait for answers.",
                retry_after=1,
            )
        return None

    def _announced(self, name: str, volume: Buckets, scope: Any) -> Callable[[int], None]:  # noqa: ANN401
        """Take what the body is announced to have; return what settles that with what was really moved."""
        announced = 0
        for field_name, value in scope["headers"]:
            if field_name == b"content-length":
                announced = int(value)
        volume.take(name, announced)
        return lambda moved: volume.take(name, moved - announced)

    def _headers(self, name: str) -> _Headers:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers, version 11."""
        kinds = (("requests", self.requests, ""), ("bytes", self.volume, ';qu="content-bytes"'))
        policies: list[str] = []
        states: list[str] = []
        for kind, buckets, unit in kinds:
            if buckets is not None:
                left = buckets.left(name)
                full = math.ceil((buckets.quota - left) * buckets.window / buckets.quota)
                policies.append(f'"{kind}";q={int(buckets.quota)}{unit};w={int(buckets.window)}')
                states.append(f'"{kind}";r={max(0, int(left))};t={full}')
        if not policies:
            return []
        return [
            (b"ratelimit-policy", ", ".join(policies).encode()),
            (b"ratelimit", ", ".join(states).encode()),
        ]


def _name(principal: Principal) -> str:
    if principal.grant is not None:
        return str(principal.grant.token_id)
    return f"{principal.kind} {principal.owner} {principal.key_id}"


def _network(scope: Any) -> str | None:  # noqa: ANN401 # an ASGI scope
    """Return what one client can easily have: an IPv4 address, or an IPv6 network of 64 bits.

    Behind a trusted proxy it is the address that the proxy names. None for this machine: it is a proxy that
    was not named, and so everybody, or somebody who is inside already.
    """
    address = scope["client"][0] if scope.get("client") else ""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.is_loopback:
        return None
    if isinstance(known, ipaddress.IPv6Address):
        known = known.ipv4_mapped or ipaddress.ip_network((known, 64), strict=False)
    return str(known)


def _as_clients_of(path: str, refusal: TintypeError) -> TintypeError:
    """Return what stops the clients of a path for a while, and not for good."""
    if path.startswith(RESUMABLE):
        return Overloaded(str(refusal), retry_after=refusal.retry_after)
    return refusal
