"""A webhook's receiver: a real HTTP server, which remembers what it was told and answers as a test wants."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Call:
    """One request, as it came."""

    headers: dict[str, str]
    body: bytes
    path: str = "/"

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"


def confirming(call: Call) -> Reply:
    """Agree to be told, and take everything."""
    return Reply(body=json.dumps({"challenge": call.told["data"].get("challenge")}).encode())


@dataclass
class Receiver:
    url: str
    answer: Callable[[Call], Reply] = confirming
    calls: list[Call] = field(default_factory=list)

    def of(self, kind: str = "image.uploaded") -> list[Call]:
        return [call for call in list(self.calls) if call.told["type"] == kind]


class Server(ThreadingHTTPServer):
    """A server that takes it calmly when a caller is killed."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of one test's own, on loopback."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:  # who called was killed at it, and has told nothing
                self.close_connection = True
                return
            call = Call({name.lower(): value for name, value in self.headers.items()}, body, self.path)
            with lock:
                hearing.calls.append(call)
            reply = hearing.answer(call)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in http.server
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hearing = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hearing
    server.shutdown()
    server.server_close()
