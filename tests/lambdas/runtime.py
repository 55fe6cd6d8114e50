"""Lambda without AWS: a Runtime API on loopback, and AWS's own client of it as a process of the function's.

See "Building a custom runtime for AWS Lambda" for the protocol.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import uuid4

import psutil

SECONDS = 60


class LambdaFailed(Exception):
    """The function raised, or its process ended."""


@dataclass(frozen=True)
class Invocation:
    """What a handler is told of an invocation, for handlers that are called without Lambda's client."""

    invoked_function_arn: str

    def get_remaining_time_in_millis(self) -> int:
        return SECONDS * 1000


@dataclass
class Function:
    """One function, whose process lives until it ends itself; the next invocation begins another one then."""

    handler: str
    environment: dict[str, str]
    folder: Path
    command: Sequence[str] = (sys.executable, "-m", "awslambdaric")
    seconds: int = SECONDS
    """What an invocation is told that it may take."""
    _invocations: "queue.Queue[tuple[str, Any]]" = field(default_factory=queue.Queue)
    _answers: "queue.Queue[tuple[str, bytes]]" = field(default_factory=queue.Queue)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Api)
        self._server.function = self
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TINTYPE_", "AWS_"))}
        told = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "LAMBDA_TASK_ROOT": str(self.folder),
            "_HANDLER": self.handler,
            "AWS_LAMBDA_FUNCTION_NAME": "local",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_REGION": "us-east-1",
        }
        self._environment = inherited | told | self.environment
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, event: object) -> Any:  # noqa: ANN401 # JSON
        """Return what the handler returns for an event."""
        self._invocations.put((str(uuid4()), event))
        ends = time.monotonic() + SECONDS
        while True:
            try:
                kind, body = self._answers.get(timeout=0.05)
                break
            except queue.Empty:
                if self._process.poll() is not None:
                    status = self._process.returncode
                    self._start()
                    raise LambdaFailed(f"the function's process ended with {status}") from None
                if time.monotonic() > ends:
                    raise
        if kind != "response":
            raise LambdaFailed(body.decode())
        return json.loads(body)

    def resident_bytes(self) -> int:
        """Return what the function and its children have in memory; what they share counts once for each."""
        parent = psutil.Process(self._process.pid)
        return sum(each.memory_info().rss for each in [parent, *parent.children(recursive=True)])

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [*self.command, self.handler], cwd=self.folder, env=self._environment
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    function: Function

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a process that was killed."""


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    wbufsize = -1

    @property
    def function(self) -> Function:
        assert isinstance(self.server, _Server)
        return self.server.function

    def do_GET(self) -> None:
        request_id, event = self.function._invocations.get()  # noqa: SLF001 # its other half
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.function.seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:local",
        }
        self._answer(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.function._answers.put((self.path.rpartition("/")[2], body))  # noqa: SLF001
        self._answer(202, b"", {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # as the base class has it
        """Tell nothing."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
