"""The shell of the server as a process, and what it wrote to its log."""

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shell:
    """A running `shell.py`."""

    port: int
    log: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """Return what the log says of one request. The line is written after the answer: wait for it."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [line for line in self.all_lines() if line.get("request_id") == request_id]
            if any(line["event"] in ("request", "request.refused") for line in found):
                return found
            time.sleep(0.01)
        raise AssertionError(f"no line for {request_id}")

    def all_lines(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def speak(self, *pieces: bytes, pause: float = 0.05) -> bytes:
        """Send bytes as they are, piece by piece, and return all that comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            received = b""
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while chunk := connection.recv(65536):
                received += chunk
            return received
