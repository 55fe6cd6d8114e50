"""An application that lets its visitors upload: a service, the application's key, and what its pages send."""

import base64
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service import COMMAND, Service


@dataclass(frozen=True)
class Shop:
    """A service whose uploads come from the pages of an application, and that application's key."""

    service: Service
    key: str

    def backend(self) -> httpx.Client:
        """What the application's backend asks with."""
        client = self.service.client()
        client.headers["authorization"] = f"Bearer {self.key}"
        return client

    def address(self, protocol: str, **wanted: object) -> str:
        """Mint an upload token, and return the address that a browser is given."""
        with self.backend() as backend:
            token = backend.post("/v1/upload-tokens", json={"uses": 20} | wanted).json()["token"]
        return f"{self.service.base}/u/{token}/{protocol}"


def file_of(name: str, data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """A file as the pages take it."""
    return {"name": name, "type": media_type, "data": base64.b64encode(data).decode()}


def at_one_address(data_dir: Path, **environment: str) -> Service:
    """Return a service that has the same port each time it is started, as clients expect of one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return Service(data_dir, environment, command=[*COMMAND[:-1], str(port)])
