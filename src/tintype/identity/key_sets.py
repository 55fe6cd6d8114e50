"""An issuer's keys: found by OpenID discovery, kept, and fetched again when they may have changed."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, cast
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tintype.identity.jwt import Key
from tintype.model.errors import IssuerUnavailable
from tintype.settings import IssuerSettings, is_loopback_url
from tintype.telemetry import get_logger

FRESH_SECONDS = 600.0
"""Then the keys are fetched again: one that the issuer took back is refused from then on."""
STALE_SECONDS = 24 * 3600.0
"""How long keys are good while their issuer does not answer."""
UNKNOWN_KEY_SECONDS = 60.0
"""Strangers' tokens with new key ids make us ask the issuer no more often than this."""
RETRY_SECONDS = 5.0
FETCH_SECONDS = 5.0
THREADS = 2
"""Of an issuer's: while one still waits for the last answer, the next can be asked for."""
MAX_BYTES = 256 * 1024
MAX_KEYS = 100

_LOG = get_logger()


@dataclass(slots=True)
class KeySet:
    """The keys of one issuer, as this process knows them."""

    issuer: IssuerSettings
    unknown_key_seconds: float = UNKNOWN_KEY_SECONDS
    fresh_seconds: float = FRESH_SECONDS
    _keys: dict[str | None, Key] = field(default_factory=dict[str | None, Key])
    _fetched_at: float = float("-inf")
    _asked_at: float = float("-inf")
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="issuer")
    )
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, key_id: str | None) -> Key | None:
        """Return the key of that id; None: the only key. None when there is none.

        Raises `IssuerUnavailable` while the keys are not known.
        """
        now = time.monotonic()
        known = self._of(key_id)
        if known is not None and now - self._fetched_at < self.fresh_seconds:
            return known
        if known is None or not self._lock.locked():  # what is stale serves until what is new is there
            await self._renew(key_id)
        if time.monotonic() - self._fetched_at > STALE_SECONDS:
            raise IssuerUnavailable("The issuer of your token cannot be asked for its keys.", retry_after=5)
        return self._of(key_id)

    async def _renew(self, key_id: str | None) -> None:
        """Fetch the keys, one request at a time, unless that was tried a moment ago."""
        async with self._lock:
            age = time.monotonic() - self._asked_at
            is_current = (
                self._of(key_id) is not None and time.monotonic() - self._fetched_at < self.fresh_seconds
            )
            pause = self.unknown_key_seconds if self._fetched_at >= self._asked_at else RETRY_SECONDS
            if is_current or age < pause:
                return
            self._asked_at = time.monotonic()
            try:
                fetching = asyncio.get_running_loop().run_in_executor(self._threads, _fetch, self.issuer)
                async with asyncio.timeout(2 * FETCH_SECONDS):
                    self._keys = await fetching
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                _LOG.warning("issuer.unavailable", issuer=self.issuer.url, reason=str(error))
                return
            self._fetched_at = time.monotonic()

    def _of(self, key_id: str | None) -> Key | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens URLs and follows no redirect: where the keys are, the configuration tells."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _fetch(issuer: IssuerSettings) -> dict[str | None, Key]:
    """Return the issuer's keys by their ids. Blocks. Raises `ValueError` for what makes no sense."""
    keys = _get(issuer.jwks_url or _discover(issuer)).get("keys")
    if not isinstance(keys, list):
        raise ValueError("the key set has no keys")  # noqa: TRY004 # a document's mistake, not ours
    listed = cast("list[object]", keys)[:MAX_KEYS]
    found: dict[str | None, Key] = {}
    for each in listed:
        if isinstance(each, dict) and (key := _key(cast("dict[str, Any]", each))) is not None:
            found[key.kid] = key
    return found


def _discover(issuer: IssuerSettings) -> str:
    """Return where the keys are (OpenID Connect Discovery 1.0, section 4)."""
    told = _get(issuer.url.rstrip("/") + "/.well-known/openid-configuration")
    if told.get("issuer") != issuer.url:
        raise ValueError(f"the document at {issuer.url} is about another issuer")
    address = told.get("jwks_uri")
    if not isinstance(address, str):
        raise ValueError("the document names no keys")  # noqa: TRY004 # a document's mistake, not ours
    return address


def _get(address: str) -> Mapping[str, Any]:
    """Return the JSON at an address: within a time, a size, and where TLS vouches for who answers."""
    if urlsplit(address).scheme != "https" and not is_loopback_url(address):
        raise ValueError(f"{address} is not https")
    deadline = time.monotonic() + FETCH_SECONDS
    received = bytearray()
    with _opener().open(address, timeout=FETCH_SECONDS) as answer:
        while piece := answer.read1(64 * 1024):
            received += piece
            if len(received) > MAX_BYTES or time.monotonic() > deadline:
                raise ValueError(f"the document at {address} is too long or comes too slowly")
    told: object = json.loads(received)
    if not isinstance(told, dict):
        raise ValueError(f"the document at {address} is no object")  # noqa: TRY004 # as above
    return cast("dict[str, Any]", told)


def _key(told: dict[str, Any]) -> Key | None:
    """Return a key that verifies signatures; None for any other, a shared secret above all."""
    kinds: dict[object, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    kind = kinds.get(told.get("kty"))
    if kind is None or told.get("use", "sig") != "sig" or not isinstance(told.get("kid", ""), str):
        return None
    public = {
        name: value for name, value in told.items() if name in {"kty", "kid", "n", "e", "crv", "x", "y"}
    }
    try:
        return kind.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
