"""kill -9 at every point of an upload in pieces: another instance goes on, and there is one image."""

import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from conformance.suite import BYTES, Server, expect, picture
from service import Service
from uploads.conftest import Fleet

pytestmark = pytest.mark.xdist_group("uploads-fleet")

CRASHING = str(Path(__file__).parents[1] / "crashing.py")


@pytest.fixture(scope="module")
def survivor(fleet: Fleet) -> Service:
    return fleet.start()


@pytest.fixture
def dying(fleet: Fleet) -> Callable[[str], Service]:
    return lambda checkpoint: fleet.start([sys.executable, CRASHING, checkpoint, "serve", "--port", "0"])


def sent_until_death(victim: Service, path: str, content: bytes) -> int:
    """Send two chunks, and return where the one began that was not answered."""
    with httpx.Client(base_url=victim.base, timeout=20) as client:
        for start in (0, 100_000):
            head = {"Content-Type": BYTES, "Tus-Resumable": "1.0.0", "Upload-Offset": str(start)}
            try:
                client.patch(path, content=content[start : start + 100_000], headers=head)
            except httpx.TransportError:
                return start
    raise AssertionError("nothing died")


@pytest.mark.parametrize(
    "checkpoint",
    ["piece-put", "piece-kept", "finishing", "before-put", "after-put", "after-commit", "before-session-end"],
)
def test_killed_at_a_checkpoint_another_instance_finishes_and_there_is_one_image(
    survivor: Service, dying: Callable[[str], Service], checkpoint: str
) -> None:
    content = picture(200_000)
    there = Server(f"{survivor.base}/v1/tus")
    url = there.create(len(content))
    victim = dying(checkpoint)
    died_at = sent_until_death(victim, there.path(url), content)
    assert victim.process is not None
    assert victim.process.wait(10) == -9

    at = there.offset(url)
    assert died_at <= at < len(content) or at == died_at + 100_000 < len(content)
    while at < len(content):
        answer = expect(there.append(url, at, content[at : at + 100_000]), 204)
        at = int(answer.headers["Upload-Offset"])

    with survivor.client() as client:
        told = client.get(f"/v1/uploads/{url.rpartition('/')[2]}").json()
        images = client.get("/v1/images?limit=200").json()["data"]
        assert client.get(told["image"]["url"]).content == content
    assert [each["id"] for each in images if each["bytes"] == len(content)].count(told["image"]["id"]) == 1
    assert len([each for each in images if each["sha256"] == told["image"]["sha256"]]) == 1
