"""A process that is stopped for longer than an attempt may take: what it was about to commit is refused."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from faults.table import Row, record
from pictures import picture
from service import Service

STOPPING = """
import itertools, os, signal
from tintype.cli import main
from tintype.model.checkpoint import arm

times = itertools.count()
arm("before-commit", lambda: next(times) or os.kill(os.getpid(), signal.SIGSTOP))
main()
"""
"""`tintype` that stops itself before its first commit, its object being stored."""
ATTEMPT_SECONDS = 1
GRACE_SECONDS = 5
YOUNG = {
    "TINTYPE_DATABASE__ATTEMPT_SECONDS": str(ATTEMPT_SECONDS),
    "TINTYPE_DATABASE__STATEMENT_TIMEOUT_SECONDS": "2",
    "TINTYPE_CONSISTENCY__GRACE_SECONDS": str(GRACE_SECONDS),
    "TINTYPE_CONSISTENCY__EVERY_SECONDS": "0",
}
"""An hour and a day, in seconds."""


@pytest.mark.faults
def test_a_process_that_was_stopped_before_its_commit_makes_no_image_of_an_object_that_was_swept(
    database_url: str, serve: Callable[..., Service], tmp_path: Path
) -> None:
    environment = YOUNG | {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_OBJECTS__URL": f"file://{tmp_path}/shared",
    }
    other = serve(tmp_path / "other", **environment)
    stopped = Service(
        tmp_path / "stopped", environment, command=[sys.executable, "-c", STOPPING, "serve", "--port", "0"]
    ).start()
    with other.client() as client:
        kept = client.post("/v1/images", content=picture(seed=8401)).json()["id"]
    data, answers = picture(seed=8400), list[httpx.Response]()

    def upload() -> None:
        with stopped.client() as client:
            answers.append(client.post("/v1/images", content=data, headers={"Idempotency-Key": "stopped"}))

    sending = threading.Thread(target=upload)
    sending.start()
    process = psutil.Process(stopped.pid)
    try:
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(GRACE_SECONDS + 0.5)  # the object grows old
        with other.client() as client:
            swept = client.post(
                "/v1/consistency/runs", json={"mode": "full", "repair": True}, headers={"Prefer": "wait=20"}
            ).json()
        left = originals(tmp_path)
    finally:
        process.send_signal(signal.SIGCONT)
        sending.join()
    with other.client() as client:
        listed = client.get("/v1/images").json()["data"]
        again = client.post("/v1/images", content=data, headers={"Idempotency-Key": "stopped"})
        read = client.get(again.json()["url"])
        events = client.get("/v1/events?kind=image.uploaded").json()["data"]
    stopped.stop()

    (refused,) = answers
    lost, doubled = int(read.content != data), len(events) - 2
    record(Row("A process stands still between PUT and COMMIT, for too long", 1, 2, lost, doubled, 1))
    assert (swept["state"], swept["findings"]["total"]) == ("complete", 1)
    assert [path.name for path in left] == [kept]
    assert (refused.status_code, refused.json()["code"]) == (503, "attempt_too_old")
    assert refused.headers["retry-after"]
    assert [image["id"] for image in listed] == [kept]
    assert (again.status_code, read.content) == (201, data)
    assert [event["data"]["id"] for event in events] == [kept, again.json()["id"]]


def originals(folder: Path) -> list[Path]:
    return [path for path in (folder / "shared" / "originals").rglob("*") if path.is_file()]
