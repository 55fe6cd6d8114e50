"""What the running service says of itself, and that it is true."""

import html
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service import Service
from tintype.server.problems import BY_CODE

Serve = Callable[..., Service]


def test_a_process_that_answers_is_alive(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.head("/healthz").status_code == 200


def test_an_instance_that_can_take_uploads_is_ready(client: httpx.Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "degraded": {}})


def test_metrics_are_those_of_the_process(client: httpx.Client) -> None:
    client.get("/v1/capabilities")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'tintype_requests_total{method="GET",route="/v1/capabilities",status="200"}' in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_a_laptop_s_instance_is_local(client: httpx.Client) -> None:
    told = client.get("/v1/instance").json()
    assert {told[name] for name in ("instance_id", "availability_zone", "region", "platform")} == {"local"}
    assert told["draining"] is False
    assert told["started_at"].endswith("Z")


def test_capabilities_are_what_the_settings_say(client: httpx.Client) -> None:
    told = client.get("/v1/capabilities").json()
    assert {"content_type": "image/jpeg", "extension": "jpg"} in told["types"]
    assert told["limits"]["max_upload_bytes"] == 50 * 1024 * 1024
    assert told["protocols"] == ["multipart", "raw", "tus", "resumable", "direct"]
    assert told["channels"] == ["outbox"]
    assert told["subscriptions"] == {"email": "tintype", "sms": "tintype", "webhook": "tintype"}
    assert "full-inspection" in told["features"]


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_the_type_of_a_problem_leads_to_an_explanation(client: httpx.Client, code: str) -> None:
    told = client.get(f"/problems/{code}").json()
    assert (told["code"], told["title"]) == (code, BY_CODE[code].title)
    page = client.get(f"/problems/{code}", headers={"accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<h1>{html.escape(told['title'])}</h1>" in page.text


def test_a_code_that_does_not_exist_has_no_explanation(client: httpx.Client) -> None:
    assert client.get("/problems/bad_luck").json()["code"] == "not_found"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service on a machine of EC2's whose disk is full, and which takes no TIFF."""
    with metadata_service() as address:
        environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": address,
            "TINTYPE_IMAGING__INSPECT": "header",
            "TINTYPE_IMAGING__DISABLE": '["tiff"]',
            "TINTYPE_LIMITS__MIN_FREE_BYTES": str(2**62),
        }
        service = Service(tmp_path_factory.mktemp("elsewhere") / "data", environment).start()
        with service.client() as client:
            yield client
        service.stop()


@pytest.mark.xdist_group("elsewhere")
def test_an_instance_of_ec2_s_knows_where_it_stands(elsewhere: httpx.Client) -> None:
    told = elsewhere.get("/v1/instance").json()
    assert (told["instance_id"], told["availability_zone"]) == ("i-0abc", "eu-central-1b")


@pytest.mark.xdist_group("elsewhere")
def test_what_is_switched_off_is_no_capability(elsewhere: httpx.Client) -> None:
    told = elsewhere.get("/v1/capabilities").json()
    assert "image/tiff" not in {each["content_type"] for each in told["types"]}
    assert "header-inspection" in told["features"]


@pytest.mark.xdist_group("elsewhere")
def test_no_room_to_spool_is_told(elsewhere: httpx.Client) -> None:
    assert set(becomes(elsewhere, 503)["reasons"]) == {"spool"}


def test_readiness_is_true_whatever_fails(serve: Serve, tmp_path: Path) -> None:
    service = serve()
    with service.client() as client:
        with stopped_database(service):
            problem = becomes(client, 503)
            assert (problem["code"], set(problem["reasons"])) == ("not_ready", {"database"})
            began = time.monotonic()
            becomes(client, 503)
            assert time.monotonic() - began < 5, "a probe has a second, however silent its part is"
            assert client.get("/healthz").status_code == 200
        assert becomes(client, 200)["status"] == "ready"

        identity = tmp_path / "data" / "objects" / "tintype.json"
        own = identity.read_bytes()
        identity.write_text(own.decode().replace(json.loads(own)["identity"][:8], "00000000"))
        problem = becomes(client, 503)
        assert set(problem["reasons"]) == {"objects"}
        assert "00000000" in problem["detail"]

        identity.write_text("{")  # the store answers, and not with what it should: all instances see the same
        told = becomes(client, 200)
        assert told["status"] == "ready"
        assert "cannot be read" in told["degraded"]["objects"]


def becomes(client: httpx.Client, status: int) -> dict[str, Any]:
    """Ask until the answer has this status: a report stands for a second, and a database needs a moment."""
    deadline = time.monotonic() + 30
    while (answer := client.get("/readyz")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    body: dict[str, Any] = answer.json()
    return body


@contextmanager
def stopped_database(service: Service) -> Iterator[None]:
    """Let the service's PostgreSQL stand still: its connections are open, and nobody answers."""
    processes = [
        each for each in psutil.Process(service.pid).children(recursive=True) if "postgres" in each.name()
    ]
    assert processes
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            each.resume()


@contextmanager
def metadata_service() -> Iterator[str]:
    """Serve IMDSv2's two answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(b"token")

        def do_GET(self) -> None:
            place = {"instanceId": "i-0abc", "availabilityZone": "eu-central-1b", "region": "eu-central-1"}
            self.answer(json.dumps(place).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
