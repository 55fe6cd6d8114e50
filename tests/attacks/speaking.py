"""HTTP spoken byte by byte: requests that no client library would send."""

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from service import Service

PATIENCE = 20


@dataclass(frozen=True)
class Answer:
    """The first answer on a connection. `rest` is what came after it, up to the end of the connection."""

    status: int
    head: bytes
    body: bytes
    rest: bytes

    @property
    def headers(self) -> dict[str, str]:
        fields = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        return problem


def address_of(service: Service) -> tuple[str, int]:
    address = urlsplit(service.base)
    return address.hostname or "", address.port or 0


def speak(service: Service, request: bytes) -> Answer:
    """Send bytes as they are, and return what comes until the server ends the connection, as it must."""
    with socket.create_connection(address_of(service), timeout=PATIENCE) as connection:
        # Refused before its end, a request breaks off; the answer is there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return answer_of(until_closed(connection))


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def answer_of(received: bytes) -> Answer:
    """Take the first answer apart; 0 stands for a connection that ended without one."""
    if not received:
        return Answer(0, b"", b"", b"")
    head, _, rest = received.partition(b"\r\n\r\n")
    answer = Answer(int(head.split()[1]), head, b"", b"")
    length = int(answer.headers.get("content-length", 0))
    return Answer(answer.status, head, rest[:length], rest[length:])
