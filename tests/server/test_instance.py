"""Where an instance stands, asked of a metadata service that speaks IMDSv2 over a real socket."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tintype.server.instance import LOCAL, UNKNOWN, Instance, Place, find_place, is_ec2

TOKEN = "AQAEAGq3tw=="  # noqa: S105 # of a metadata service that this file makes
DOCUMENT = {
    "instanceId": "i-0f8a1c2b3d4e5f607",
    "availabilityZone": "eu-central-1a",
    "region": "eu-central-1",
}


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


@dataclass
class Metadata:
    """A metadata service. `delay` is in seconds, before each answer."""

    document: bytes = json.dumps(DOCUMENT).encode()
    status: int = 200
    delay: float = 0
    asked: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.address}

    @contextmanager
    def running(self) -> Iterator["Metadata"]:
        server = _Quiet(("127.0.0.1", 0), self._handler())
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                wanted = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
                self.answer(TOKEN.encode() if wanted and self.path == "/latest/api/token" else b"")

            def do_GET(self) -> None:
                told = self.headers.get("X-aws-ec2-metadata-token") == TOKEN
                self.answer(metadata.document if told else b"", 200 if told else 401)

            def answer(self, body: bytes, status: int = 200) -> None:
                metadata.asked.append(f"{self.command} {self.path}")
                time.sleep(metadata.delay)
                self.send_response(status if metadata.status == 200 else metadata.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: object = "-", size: object = "-") -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def metadata() -> Iterator[Callable[..., Metadata]]:
    """A function that starts metadata services."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(Metadata(**how).running())


async def test_an_instance_knows_where_it_stands(metadata: Callable[..., Metadata]) -> None:
    service = metadata()
    place = await find_place(service.environment)
    assert place == Place("i-0f8a1c2b3d4e5f607", "eu-central-1a", "eu-central-1", "ec2")
    assert service.asked == ["PUT /latest/api/token", "GET /latest/dynamic/instance-identity/document"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"delay": 3}, id="too late"),
        pytest.param({"delay": 0.7}, id="too late at the second question"),
        pytest.param({"status": 403}, id="switched off"),
        pytest.param({"document": b"<html>"}, id="no JSON"),
        pytest.param({"document": b"[]"}, id="no object"),
        pytest.param({"document": b"{}"}, id="no instance"),
        pytest.param({"document": b" " * 100_000}, id="endless"),
    ],
)
async def test_a_metadata_service_that_fails_is_not_waited_for(
    metadata: Callable[..., Metadata], how: dict[str, object]
) -> None:
    began = time.monotonic()
    assert await find_place(metadata(**how).environment) == UNKNOWN
    assert time.monotonic() - began < 2, "the budget is one second"


async def test_a_metadata_service_that_is_not_there_is_unknown() -> None:
    assert await find_place({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}) == UNKNOWN


async def test_a_laptop_asks_nobody(tmp_path: Path) -> None:
    assert await find_place({}, tmp_path) == LOCAL


async def test_whoever_switches_the_metadata_service_off_is_local(metadata: Callable[..., Metadata]) -> None:
    service = metadata()
    assert await find_place(service.environment | {"AWS_EC2_METADATA_DISABLED": "true"}) == LOCAL
    assert service.asked == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("class/dmi/id/sys_vendor", "Amazon EC2\n", True),
        ("class/dmi/id/bios_version", "4.11.amazon\n", True),
        ("hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", True),
        ("hypervisor/uuid", "3fe0ab12-0000-0000-0000-000000000000\n", False),
        ("class/dmi/id/sys_vendor", "LENOVO\n", False),
    ],
)
def test_the_firmware_tells_whether_a_machine_is_ec2_s(
    tmp_path: Path, file: str, text: str, expected: object
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert is_ec2(tmp_path) is expected


async def test_an_instance_says_when_it_is_on_its_way_out() -> None:
    instance = Instance()
    assert (instance.draining, await instance.place()) == (False, LOCAL)
    instance.drain()
    assert instance.draining
