"""Checks and repairs through their doors: HTTP, the command line, and a service that was killed."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from identified import make_key
from pictures import picture
from postgres import Postgres
from service import COMMAND, Service
from tintype.catalogue import checks
from tintype.catalogue.database import EVERY_OWNER, Database
from tintype.model.check import Order
from tintype.settings import DatabaseSettings

RUNS = "/v1/consistency/runs"
WAIT = {"prefer": "wait=20"}
UNKNOWN = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"
CRASHING = str(Path(__file__).parent.parent / "crashing.py")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_url(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.clone() as url:
        yield url


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, own_url: str) -> Iterator[Service]:
    """A service of these tests' own: checks see everything that there is."""
    environment = {"TINTYPE_CONSISTENCY__EVERY_SECONDS": "0", "TINTYPE_DATABASE__URL": own_url}
    service = Service(tmp_path_factory.mktemp("checked") / "data", environment).start()
    yield service
    service.stop()


@pytest.fixture
def api(own: Service) -> Iterator[httpx.Client]:
    with own.client() as client:
        yield client


def upload(client: httpx.Client, seed: int) -> dict[str, Any]:
    return client.post("/v1/images?on_duplicate=keep", content=picture(seed=seed)).raise_for_status().json()


def file_of(service: Service, image_id: str) -> Path:
    return service.data_dir / "objects" / "originals" / image_id[-2:] / image_id


def test_a_lost_file_is_found_marked_told_and_taken_back(own: Service, api: httpx.Client) -> None:
    image = upload(api, 9001)
    path = file_of(own, image["id"])
    path.rename(path.with_suffix(".aside"))

    found = api.post(RUNS, json={}, headers=WAIT)

    assert (found.status_code, found.headers["preference-applied"]) == (200, "wait=20")
    run = found.json()
    assert (run["state"], run["clean"], run["findings"]["kinds"]) == (
        "complete",
        False,
        {"row_without_object": 1},
    )
    address = found.headers["location"]
    assert api.get(address).json() == run
    assert run["id"] in [each["id"] for each in api.get(RUNS).json()["data"]]

    page = api.get(f"{address}/findings", params={"limit": 1, "kind": "row_without_object"}).json()
    (finding,) = page["data"]
    assert (finding["image_id"], finding["state"], page["next_cursor"]) == (image["id"], "open", None)

    wanted = {"findings": [finding["id"]]}
    assert api.post(f"{address}/repair", json=wanted, headers=WAIT).json()["findings"]["states"] == {
        "repaired": 1
    }
    assert api.get(f"/v1/images/{image['id']}").json()["state"] == "missing"
    kinds = [event["type"] for event in api.get("/v1/events", params={"limit": 200}).json()["data"]]
    assert "image.missing" in kinds
    assert "consistency.finished" in kinds

    path.with_suffix(".aside").rename(path)
    assert api.post(f"{address}/undo", headers=WAIT).json()["findings"]["states"] == {"undone": 1}
    assert api.get(f"/v1/images/{image['id']}/content").content == picture(seed=9001)
    assert api.post(RUNS, json={"mode": "full"}, headers=WAIT).json()["clean"]


def test_without_preference_a_run_is_accepted_and_followed_to_its_end(api: httpx.Client) -> None:
    begun = api.post(RUNS, json={"mode": "deep"})
    assert (begun.status_code, begun.json()["state"]) == (202, "running")

    with api.stream("GET", f"{begun.headers['location']}/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = stream.read().decode()

    *_, last = [block for block in text.split("\n\n") if block.startswith("event:")]
    assert last.startswith("event: finished")
    assert json.loads(last.partition("data: ")[2])["state"] == "complete"


def test_a_run_asked_for_while_one_runs_is_refused_with_its_address(api: httpx.Client, own_url: str) -> None:
    address = f"{RUNS}/{begun_elsewhere(own_url)}"

    refused = api.post(RUNS, json={})

    assert (refused.status_code, refused.json()["code"]) == (409, "run_in_progress")
    assert refused.json()["run"] == address
    assert api.get(address).json()["state"] == "running"
    assert api.post(f"{address}/cancel").json()["state"] == "cancelled"
    assert api.post(f"{address}/cancel").json()["state"] == "cancelled"
    assert api.post(RUNS, json={}, headers=WAIT).status_code == 200


def begun_elsewhere(url: str) -> UUID:
    """Begin a run that nobody works on before the service looks for such, in minutes."""

    async def begin() -> UUID:
        async with (
            Database.open(url, DatabaseSettings()) as database,
            database.transaction(EVERY_OWNER) as tx,
        ):
            return await checks.begin(tx, Order(), ["00"])

    return asyncio.run(begin())


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", RUNS, {"mode": "thorough"}, (422, "request_invalid")),
        ("POST", RUNS, {"depth": 3}, (422, "request_invalid")),
        ("GET", f"{RUNS}/{UNKNOWN}", None, (404, "run_not_found")),
        ("GET", f"{RUNS}/nonsense", None, (422, "request_invalid")),
        ("POST", f"{RUNS}/{UNKNOWN}/repair", {}, (404, "run_not_found")),
        ("POST", f"{RUNS}/{UNKNOWN}/undo", None, (404, "run_not_found")),
        ("POST", f"{RUNS}/{UNKNOWN}/cancel", None, (404, "run_not_found")),
        ("GET", f"{RUNS}/{UNKNOWN}/findings?limit=0", None, (422, "request_invalid")),
        ("GET", f"{RUNS}/{UNKNOWN}/stream", None, (404, "run_not_found")),
    ],
)
def test_what_cannot_be_done_is_said(
    api: httpx.Client, method: str, path: str, body: object, told: tuple[int, str]
) -> None:
    answer = api.request(method, path, json=body) if body is not None else api.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == told


def test_the_figures_tell_of_drift(own: Service, api: httpx.Client) -> None:
    upload(api, 9002)
    assert api.post(RUNS, json={}, headers=WAIT).json()["clean"]
    deadline = time.monotonic() + 20
    while 'tintype_drift{kind="object_without_row"} 0.0' not in (text := api.get("/metrics").text):
        assert time.monotonic() < deadline, own.output
        time.sleep(0.1)
    assert "tintype_clean_check_age_seconds" in text
    assert "tintype_quarantine_bytes 0.0" in text
    assert "tintype_oldest_unverified_seconds" in text


def test_the_command_line_ends_with_0_when_clean_and_with_3_when_something_is_left(tmp_path: Path) -> None:
    service = Service(tmp_path / "data").start()
    with service.client() as client:
        image = upload(client, 9003)
    service.stop()

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND[0], "check", "--data-dir", str(tmp_path / "data"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    clean = check()
    assert clean.returncode == 0, clean.stderr
    assert "The check of 1 object and 1 row found nothing." in clean.stdout

    file_of(service, image["id"]).unlink()
    assert check("--inventory", "s3://nowhere").returncode == 1
    planned = check("--full", "--dry-run")
    assert planned.returncode == 3
    assert "would mark the image as missing" in planned.stdout
    repaired = check("--repair", "--json")
    assert repaired.returncode == 0
    told = json.loads(repaired.stdout)
    assert [(each["kind"], each["state"]) for each in told["list"]] == [("row_without_object", "repaired")]
    assert check("--quick", "--deep").returncode == 1


def test_a_service_that_is_killed_in_the_middle_of_a_check_goes_on_with_it(
    tmp_path: Path, serve: Callable[..., Service]
) -> None:
    command = [sys.executable, CRASHING, "after-check-step", "serve", "--port", "0"]
    quickly = {"TINTYPE_CONSISTENCY__LEASE_SECONDS": "0.5", "TINTYPE_CONSISTENCY__SWEEP_SECONDS": "0.5"}
    never = quickly | {"TINTYPE_CONSISTENCY__EVERY_SECONDS": "0"}
    crashing = Service(tmp_path / "data", never, command=command).start()
    with crashing.client() as client:
        upload(client, 9004)
        begun = client.post(RUNS, json={}).headers["location"]
    assert crashing.process is not None
    assert crashing.process.wait(20) == -9

    service = serve(tmp_path / "data", **never)

    with service.client() as client:
        deadline = time.monotonic() + 30
        while (run := client.get(begun).json())["state"] == "running":
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
    assert (run["state"], run["counts"]["objects"], run["clean"]) == ("complete", 1, True)


def test_a_laptop_checks_itself_by_its_schedule(serve: Callable[..., Service]) -> None:
    service = serve(TINTYPE_CONSISTENCY__SWEEP_SECONDS="0.5", TINTYPE_CONSISTENCY__EVERY_SECONDS="1")

    with service.client() as client:
        deadline = time.monotonic() + 30
        while len(runs := client.get(RUNS).json()["data"]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert {run["asked_by"] for run in runs} == {"schedule"}


def test_an_operator_s_key_may_check(tmp_path: Path, serve: Callable[..., Service]) -> None:
    key = make_key(tmp_path / "data", "ops", "admin")
    service = serve(
        tmp_path / "data",
        TINTYPE_IDENTITY__MODE="keys",
        TINTYPE_CONSISTENCY__OPERATORS='["ops"]',
        TINTYPE_CONSISTENCY__EVERY_SECONDS="0",
    )

    with service.client() as client:
        answer = client.post(RUNS, json={}, headers=WAIT | {"authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["clean"]) == (200, True)
