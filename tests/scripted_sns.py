"""A scripted SNS: it answers as a test says, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

Call = dict[str, str]
Answer = tuple[int, str]


@dataclass
class ScriptedSns:
    """`answer` decides about each call; unset, everything is taken."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answer: Callable[[list[str]], Answer | None] = lambda _ids: None

    def entries(self, call: int = 0) -> list[str]:
        return entry_ids(self.calls[call])

    def message(self, call: int = 0, entry: int = 1) -> dict[str, Any]:
        """What one entry carries for each protocol."""
        prefix = f"PublishBatchRequestEntries.member.{entry}"
        return json.loads(self.calls[call][f"{prefix}.Message"])


def entry_ids(call: Call) -> list[str]:
    found: list[str] = []
    while (name := f"PublishBatchRequestEntries.member.{len(found) + 1}.Id") in call:
        found.append(call[name])
    return found


def taken(entries: list[str]) -> Answer:
    members = "".join(f"<member><MessageId>m</MessageId><Id>{each}</Id></member>" for each in entries)
    return 200, (
        "<PublishBatchResponse><PublishBatchResult>"
        f"<Successful>{members}</Successful><Failed/>"
        "</PublishBatchResult></PublishBatchResponse>"
    )


def failure(status: int, code: str, text: str) -> Answer:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
    return status, f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"


@pytest.fixture
def scripted(aws_credentials: None) -> Iterator[ScriptedSns]:  # noqa: ARG001 # sets the environment
    script = ScriptedSns()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            call = {name: values[0] for name, values in parse_qs(body).items()}
            script.calls.append(call)
            status, text = script.answer(entry_ids(call)) or taken(entry_ids(call))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()
