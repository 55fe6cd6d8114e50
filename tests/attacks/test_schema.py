"""The running service against its own OpenAPI document: requests that it describes, and that it forbids."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from issuer import AUDIENCE, Issuer
from service import Service

HERE = Path(__file__).parent
TAGS = ["images", "uploads", "identity", "notifications", "consistency", "service"]
"""The document's parts: each is tried by itself, beside the others."""
UNREACHED = {
    # An address has to agree, or a webhook to be reached: no address does that here.
    ("POST", "/v1/subscriptions/{subscription_id}/confirm"),
    ("POST", "/v1/subscriptions/{subscription_id}/replay"),
    ("POST", "/v1/subscriptions/{subscription_id}/rotate-secret"),
    ("POST", "/v1/subscriptions/{subscription_id}/test"),
    # An answer without an end is not asked for.
    ("GET", "/v1/events/stream"),
}
"""What no request here reaches with success."""
BY_CHANCE = {
    # Bytes were sent to another address, or an upload is one in parts, which most are not.
    ("POST", "/v1/uploads/{upload_id}/complete"),
    ("GET", "/v1/uploads/{upload_id}/parts"),
    # A run has ended; tests/journeys/test_consistency.py waits for that.
    ("POST", "/v1/consistency/runs/{run_id}/repair"),
    ("POST", "/v1/consistency/runs/{run_id}/undo"),
    ("GET", "/v1/consistency/runs/{run_id}/stream"),
}
"""What succeeds only when something has happened before that no description tells of."""
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


@pytest.mark.parametrize("tag", TAGS)
def test_every_answer_is_one_that_the_document_foresees(
    alone: Service, token: str, tmp_path: Path, tag: str
) -> None:
    run = subprocess.run(
        [
            COMMAND,
            f"--config-file={HERE / 'schemathesis.toml'}",
            "run",
            f"{alone.base}/openapi.json",
            f"--include-tag={tag}",
            "--no-color",
            "-H",
            f"Authorization: Bearer {token}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    asked = operations(alone, tag)
    assert (asked - succeeded(alone)) - BY_CHANCE == asked & UNREACHED
    assert "Traceback" not in alone.output
    with alone.client() as client:
        assert client.get("/readyz").status_code == 200


def test_every_operation_is_in_a_part_that_is_tried(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    assert {tuple(each["tags"]) for methods in paths.values() for each in methods.values()} == {
        (tag,) for tag in TAGS
    }


def operations(service: Service, tag: str) -> set[tuple[str, str]]:
    """Return the operations of a part: method and route."""
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    return {
        (method.upper(), path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    }


def succeeded(service: Service) -> set[tuple[str, str]]:
    """Return the operations that a request reached with success: of the others nothing was learnt."""
    lines = [json.loads(line) for line in service.log if line.startswith("{")]
    return {
        (each["method"], each["route"])
        for each in lines
        if each["event"] == "request" and each["status"] < 300
    }
