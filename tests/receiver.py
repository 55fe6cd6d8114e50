"""A webhook's receiver: a real HTTP server, which remembers what it was told and answers as a test wants."""

import json
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


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of one test's own, on loopback."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hearing = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hearing
    server.shutdown()
    server.server_close()
