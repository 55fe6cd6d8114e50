"""The running service against its own OpenAPI document: requests that it describes, and that it forbids."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from issuer import AUDIENCE, Issuer
from service import Service

HERE = Path(__file__).parent
AGREED = {
    ("POST", f"/v1/subscriptions/{{subscription_id}}/{verb}")
    for verb in ("confirm", "replay", "rotate-secret", "test")
}
"""What succeeds when an address has agreed, or a webhook is reached: no address does that here."""
ENDLESS = {("GET", "/v1/events/stream")}
"""What is not asked: its answer does not end."""
ELSEWHERE = {("POST", "/v1/uploads/{upload_id}/complete"), ("GET", "/v1/uploads/{upload_id}/parts")}
"""What succeeds when bytes were sent to another address, or an upload is one in parts, which most are not."""
CHECKED = {("POST", f"/v1/consistency/runs/{{run_id}}/{verb}") for verb in ("repair", "undo")} | {
    ("GET", "/v1/consistency/runs/{run_id}/stream")
}
"""What succeeds when a run has ended; tests/journeys/test_consistency.py waits for that."""
COMMAND = Path(sys.executable).parent / "schemathesis"


@pytest.fixture
def token(issuer: Issuer) -> str:
    """A token that opens every operation. An API key would not do: one of these operations revokes it."""
    issuer.publish(issuer.rsa)
    return issuer.token(issuer.claims(scope="read write admin"))


@pytest.fixture
def alone(tmp_path: Path, issuer: Issuer) -> Iterator[Service]:
    """Start a service for this test alone: what it logs is the test's own doing."""
    logged = {
        "TINTYPE_LOG__FORMAT": "json",
        "TINTYPE_LOG__LEVEL": "debug",
        "TINTYPE_IDENTITY__MODE": "keys",
        "TINTYPE_CONSISTENCY__OPERATORS": json.dumps(["user-1"]),
        "TINTYPE_IDENTITY__ISSUERS": json.dumps([{"url": issuer.url, "audience": AUDIENCE}]),
    }
    service = Service(tmp_path / "data", logged).start()
    yield service
    service.stop()


def test_every_answer_is_one_that_the_document_foresees(alone: Service, token: str, tmp_path: Path) -> None:
    config = f"--config-file={HERE / 'schemathesis.toml'}"
    run = subprocess.run(
        [
            COMMAND,
            config,
            "run",
            f"{alone.base}/openapi.json",
            "--no-color",
            "-H",
            f"Authorization: Bearer {token}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert unanswered(alone) - ELSEWHERE - CHECKED == AGREED | ENDLESS
    assert "Traceback" not in alone.output
    with alone.client() as client:
        assert client.get("/readyz").status_code == 200


def unanswered(service: Service) -> set[tuple[str, str]]:
    """Return the operations that no request reached with success: nothing was learnt about those."""
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    lines = [json.loads(line) for line in service.log if line.startswith("{")]
    succeeded = {
        (each["method"], each["route"])
        for each in lines
        if each["event"] == "request" and each["status"] < 300
    }
    return {(method.upper(), path) for path, methods in paths.items() for method in methods} - succeeded
