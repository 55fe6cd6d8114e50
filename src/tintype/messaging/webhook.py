"""Webhooks as Standard Webhooks has them: signed, sent to the address that was judged, and read briefly."""

import asyncio
import base64
import email.utils
import hashlib
import hmac
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import httpx

from tintype.messaging.egress import Target, resolve_target
from tintype.settings import WebhookSettings

CONNECT_SECONDS = 2
MAX_ANSWER_BYTES = 16 * 1024
"""Of an answer's body; the connection is given up behind them."""
MAX_PAUSE_SECONDS = 24 * 3600
"""The longest that a receiver may have us wait (`Retry-After`)."""

HTTP_GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said."""

    milliseconds: int
    status: int | None = None
    """None: nothing, for the reason in `error`."""
    error: str | None = None
    """None: it took the message."""
    retry_seconds: float | None = None
    body: bytes = b""

    @property
    def gone(self) -> bool:
        """The receiver wants to hear nothing more, ever."""
        return self.status == HTTP_GONE


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver whose address was found and judged, for a few messages."""

    _client: httpx.AsyncClient
    _target: Target
    _timeout: float

    async def post(self, secrets: Sequence[bytes], message_id: UUID, body: bytes) -> Answer:
        """Send one message, once. Never raises for what the receiver or the network does."""
        begun = time.monotonic()
        moment = int(time.time())
        headers = {
            "host": self._target.authority,
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "Tintype-Webhooks/1",
            "webhook-id": str(message_id),
            "webhook-timestamp": str(moment),
            "webhook-signature": signatures(secrets, message_id, moment, body),
        }
        try:
            async with asyncio.timeout(self._timeout):
                status, told, start = await self._exchange(headers, body)
        except TimeoutError:
            return Answer(_since(begun), error=f"no answer within {self._timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Answer(_since(begun), error=_class_of(error))
        if 200 <= status < 300:  # noqa: PLR2004 - all of them, and nothing else (Standard Webhooks)
            return Answer(_since(begun), status, body=start)
        return Answer(_since(begun), status, f"HTTP {status}", told, start)

    async def _exchange(self, headers: dict[str, str], body: bytes) -> tuple[int, float | None, bytes]:
        request = self._client.build_request(
            "POST",
            self._target.url,
            content=body,
            headers=headers,
            extensions={"sni_hostname": self._target.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            start = b""
            async for chunk in response.aiter_raw():
                start += chunk
                if len(start) > MAX_ANSWER_BYTES:
                    break
            return response.status_code, _retry_after(response), start[:MAX_ANSWER_BYTES]
        finally:
            await response.aclose()


class Webhooks:
    """Calls receivers. One TLS context serves all; no connection is shared between two of them."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._tls = ssl.create_default_context()

    @asynccontextmanager
    async def calling(self, url: str, *, parallel: int = 1) -> AsyncGenerator[Endpoint]:
        """Find and judge a receiver's address, once for all messages of the block.

        Raises `AddressRefused`. Redirects are not followed, proxies of the environment not asked.
        """
        target = await resolve_target(url, self._settings)
        timeout = self._settings.timeout_seconds
        async with httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel),
        ) as client:
            yield Endpoint(client, target, timeout)

    async def check(self, url: str) -> None:
        """Raise `AddressRefused` for a URL that nothing would be sent to."""
        await resolve_target(url, self._settings)


def signatures(secrets: Sequence[bytes], message_id: UUID, moment: int, body: bytes) -> str:
    """Return a signature by each secret, for the header: two while a secret is being changed."""
    signed = f"{message_id}.{moment}.".encode() + body
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _retry_after(response: httpx.Response) -> float | None:
    """Return how long the receiver wants to be left alone, in seconds or as a date (RFC 9110, 10.2.3)."""
    field = response.headers.get("retry-after", "").strip()
    if field.isascii() and field.isdigit():
        return float(min(int(field[:9]), MAX_PAUSE_SECONDS))
    try:
        moment = email.utils.parsedate_to_datetime(field)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0), MAX_PAUSE_SECONDS)


def _since(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)


def _class_of(error: Exception) -> str:
    """Return what went wrong without where: nobody maps a network by our words."""
    match error:
        case httpx.ConnectTimeout() | httpx.ReadTimeout() | httpx.WriteTimeout() | httpx.PoolTimeout():
            return "no answer in time"
        case httpx.ConnectError() if "CERTIFICATE" in str(error).upper() or "SSL" in str(error).upper():
            return "the certificate or the encryption was not accepted"
        case httpx.ConnectError():
            return "no connection"
        case httpx.RemoteProtocolError():
            return "the connection ended, or the answer was no HTTP"
        case _:
            return "the connection failed"
