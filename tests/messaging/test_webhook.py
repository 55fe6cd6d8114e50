"""Webhooks as receivers see them: signed as Standard Webhooks has it, patient with them, and careful."""

import asyncio
import base64
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import standardwebhooks
import svix.webhooks

from certificates import Authority
from npm import NODE, installed_packages
from receiver import Receiver, Reply
from tintype.messaging.webhook import MAX_ANSWER_BYTES, Answer, Webhooks, signatures
from tintype.settings import WebhookSettings

SECRET, OLD_SECRET = bytes(range(32)), bytes(range(32, 64))
BODY = json.dumps({"type": "image.uploaded", "data": {"filename": "Übersicht.png"}}).encode()
VERIFIERS = Path(__file__).parent / "verifiers"
LAPTOP = WebhookSettings(allow_private=True, timeout_seconds=5)


async def post(url: str, settings: WebhookSettings = LAPTOP, *secrets: bytes) -> Answer:
    async with Webhooks(settings).calling(url) as endpoint:
        return await endpoint.post(secrets or (SECRET,), uuid4(), BODY)


def written(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


@pytest.mark.parametrize("secrets", [(SECRET,), (OLD_SECRET, SECRET), (SECRET, OLD_SECRET)])
async def test_the_official_verifiers_accept_a_webhook_during_a_rotation_too(
    receiver: Receiver, secrets: tuple[bytes, ...]
) -> None:
    answer = await post(receiver.url, LAPTOP, *secrets)

    (call,) = receiver.calls
    assert answer.error is None
    assert standardwebhooks.Webhook(written(SECRET)).verify(call.body, call.headers) == call.told
    svix.webhooks.Webhook(written(SECRET)).verify(call.body, call.headers)
    stranger = standardwebhooks.Webhook(written(bytes(32)))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        stranger.verify(call.body, call.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(written(SECRET)).verify(call.body + b" ", call.headers)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The verifiers of the packages for JavaScript, at the versions of the lock file."""
    return installed_packages(VERIFIERS)


@pytest.mark.xdist_group("verifiers")
@pytest.mark.parametrize("package", ["standardwebhooks", "svix"])
async def test_the_official_verifiers_in_javascript_accept_it(
    receiver: Receiver, node_modules: Path, package: str
) -> None:
    del node_modules
    await post(receiver.url, LAPTOP, OLD_SECRET, SECRET)
    (call,) = receiver.calls
    question = {"secret": written(SECRET), "body": call.body.decode(), "headers": call.headers}

    verified = await asyncio.to_thread(
        subprocess.run,
        [NODE, VERIFIERS / "verify.mjs", package],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath},
    )

    assert json.loads(verified.stdout or "null") == call.told, verified.stderr


def test_the_signature_is_that_of_the_specification() -> None:
    signed = signatures([SECRET], UUID(int=7), 1674087231, b"{}")

    assert signed == f"v1,{standardwebhooks_signature(UUID(int=7), 1674087231, '{}')}"


def standardwebhooks_signature(message_id: UUID, moment: int, body: str) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    at = datetime.fromtimestamp(moment, UTC)
    return standardwebhooks.Webhook(written(SECRET)).sign(str(message_id), at, body).removeprefix("v1,")


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_every_2xx_takes_the_message(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: Reply(status, body=b"")

    assert (await post(receiver.url)).error is None


@pytest.mark.parametrize("status", [301, 307, 400, 404, 429, 500, 503])
async def test_every_other_answer_does_not_and_redirects_are_not_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.answer = lambda _: Reply(status, {"location": receiver.url})

    answer = await post(receiver.url)

    assert (answer.status, answer.error) == (status, f"HTTP {status}")
    assert len(receiver.calls) == 1


async def test_gone_is_told_apart(receiver: Receiver) -> None:
    receiver.answer = lambda _: Reply(410)

    assert (await post(receiver.url)).gone


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("120", 120, 120),
        ("in 300 seconds", 200, 301),
        (formatdate(time.time() - 300, usegmt=True), 0, 0),
        ("999999999", 86400, 86400),
        ("99999999999999999999", 86400, 86400),
    ],
    ids=["seconds", "date", "past", "long", "longer"],  # the same in every process
)
async def test_the_receiver_says_when_it_wants_to_hear_again(
    receiver: Receiver, field: str, least: float, most: float
) -> None:
    if field.startswith("in "):  # a date, counted from when it is sent
        field = formatdate(time.time() + int(field.split()[1]), usegmt=True)
    receiver.answer = lambda _: Reply(503, {"retry-after": field})

    answer = await post(receiver.url)

    assert answer.retry_seconds is not None
    assert least <= answer.retry_seconds <= most


@pytest.mark.parametrize("field", ["soon", "-1", "", "1e9", "٣"])
async def test_nonsense_there_is_left_alone(receiver: Receiver, field: str) -> None:
    receiver.answer = lambda _: Reply(503, {"retry-after": field.encode().decode("latin-1")})

    assert (await post(receiver.url)).retry_seconds is None


async def test_of_a_long_answer_little_is_read(receiver: Receiver) -> None:
    receiver.answer = lambda _: Reply(body=b"x" * 5_000_000)

    answer = await post(receiver.url)

    assert answer.error is None
    assert len(answer.body) == MAX_ANSWER_BYTES


@contextmanager
def listening(behave: Any) -> Iterator[str]:  # noqa: ANN401
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=behave, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    server.close()


def silent(connection: socket.socket) -> None:
    time.sleep(3)
    connection.close()


def dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    with suppress(OSError):
        for _ in range(100):
            time.sleep(0.2)
            connection.sendall(b"x")


def babbling(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x01 what?\r\n\r\n")
    connection.close()


@pytest.mark.parametrize("behave", [silent, dripping, babbling])
async def test_a_receiver_that_is_slow_or_speaks_no_http_is_a_failed_attempt_and_no_more(
    behave: Any,  # noqa: ANN401
) -> None:
    with listening(behave) as url:
        answer = await post(url, WebhookSettings(allow_private=True, timeout_seconds=0.5))

    assert answer.error is not None
    assert answer.status is None
    assert answer.milliseconds < 3000


async def test_the_name_stays_in_the_host_header_although_the_address_is_called(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")

    await post(url)

    (call,) = receiver.calls
    assert call.headers["host"] == url.removeprefix("http://").removesuffix("/hook")


class TlsReceiver:
    """Speaks TLS with the certificate of one host, and remembers by which name and path it was called."""

    def __init__(self, certificate: Path) -> None:
        self.names: list[str | None] = []
        self.heads: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.sni_callback = lambda _, name, __: self.names.append(name)

    def behave(self, connection: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secured:
            self.heads.append(secured.recv(65536))
            secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize(
    ("certified", "called", "trusted", "taken"),
    [
        ("localhost", "localhost", True, True),
        ("elsewhere.example", "localhost", True, False),
        ("localhost", "127.0.0.1", True, False),
        ("localhost", "localhost", False, False),
    ],
    ids=["its own", "of another host", "of a name, for an address", "of a stranger"],
)
async def test_the_address_is_called_and_the_certificate_must_be_the_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    certified: str,
    called: str,
    trusted: bool,
    taken: bool,
) -> None:
    authority = Authority(tmp_path)
    receiver = TlsReceiver(authority.certify(certified))
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with listening(receiver.behave) as url:
        answer = await post(url.replace("http://127.0.0.1", f"https://{called}"))

    if taken:
        assert (answer.error, receiver.names) == (None, ["localhost"])
        assert b"host: localhost:" in receiver.heads[0].lower()
    else:
        assert answer.error == "the certificate or the encryption was not accepted"
        assert receiver.heads == [], "nothing of the message was sent"
