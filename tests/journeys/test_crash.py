"""The plug is pulled: what was acknowledged is there afterwards, and what was not does no harm."""

import hashlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pictures import picture
from service import Service

CRASHING = str(Path(__file__).parent.parent / "crashing.py")
CHECKPOINTS = ["before-put", "after-put", "before-commit", "after-commit"]


def stored(client: httpx.Client) -> dict[str, dict[str, object]]:
    """Return every image by its SHA-256, over all pages."""
    found: dict[str, dict[str, object]] = {}
    url: str | None = "/v1/images?limit=200"
    while url:
        page = client.get(url)
        found |= {image["sha256"]: image for image in page.json()["data"]}
        url = page.links.get("next", {}).get("url")
    return found


def published(service: Service) -> list[str]:
    """Return the image ids of the `image.uploaded` events in the outbox."""
    messages = [json.loads(path.read_text()) for path in (service.data_dir / "outbox").glob("*.json")]
    return [message["data"]["id"] for message in messages if message["type"] == "image.uploaded"]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_killed_at_a_checkpoint_a_retry_with_the_same_key_makes_one_image_and_one_event(
    tmp_path: Path, serve: Callable[..., Service], checkpoint: str
) -> None:
    data, key = picture(seed=300), {"Idempotency-Key": "one"}
    command = [sys.executable, CRASHING, checkpoint, "serve", "--port", "0"]
    crashing = Service(tmp_path / "data", command=command).start()
    with crashing.client() as client, pytest.raises(httpx.TransportError):
        client.post("/v1/images?filename=a.png", content=data, headers=key)
    assert crashing.process is not None
    assert crashing.process.wait(10) == -9

    service = serve(tmp_path / "data")
    with service.client() as client:
        answer = client.post("/v1/images?filename=a.png", content=data, headers=key)
        everything = stored(client)

    image = answer.json()
    assert answer.status_code == 201
    assert ("idempotent-replayed" in answer.headers) == (checkpoint == "after-commit")
    assert [found["id"] for found in everything.values()] == [image["id"]]
    wait_until(lambda: published(service) == [image["id"]])
    with service.client() as client:
        assert client.get(image["url"]).content == data


def test_killed_under_load_nothing_acknowledged_is_lost(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(tmp_path / "data")
    ledger: dict[str, str] = {}
    numbers = itertools.count(1000)

    def upload() -> None:
        with service.client() as client:
            while True:
                data = picture("JPEG", seed=next(numbers), size=(200, 200))
                try:
                    answer = client.post("/v1/images", content=data)
                except httpx.TransportError:
                    return
                assert answer.status_code == 201, answer.text
                ledger[hashlib.sha256(data).hexdigest()] = answer.json()["id"]

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ledger) > 30)
    service.kill()
    for thread in threads:
        thread.join()

    service.start()
    with service.client() as client:
        everything = stored(client)
        for sha256, image_id in ledger.items():
            assert everything[sha256]["id"] == image_id
            content = client.get(f"/v1/images/{image_id}/content").content
            assert hashlib.sha256(content).hexdigest() == sha256
    wait_until(lambda: {image["id"] for image in everything.values()} <= set(published(service)))


def test_ctrl_c_ends_everything_within_ten_seconds_and_the_next_start_finds_everything(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(tmp_path / "data")
    with service.client() as client:
        image = client.post("/v1/images", content=picture(seed=310)).json()
    children = psutil.Process(service.pid).children(recursive=True)
    began = time.monotonic()

    status = service.interrupt()

    assert status == 0, service.output
    assert time.monotonic() - began < 10
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert "Traceback" not in service.output
    service.start()
    with service.client() as client:
        assert client.get(image["urls"]["self"]).json() == image
        assert client.get(image["url"]).content == picture(seed=310)


def test_ctrl_c_lets_an_upload_in_flight_end(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve(tmp_path / "data")
    data = picture("PNG", seed=311, size=(500, 500))
    begun = threading.Event()

    def slowly() -> Iterator[bytes]:
        for start in range(0, len(data), len(data) // 8):
            yield data[start : start + len(data) // 8]
            begun.set()
            time.sleep(0.2)

    answers: list[httpx.Response] = []

    def upload() -> None:
        with service.client() as client:
            answers.append(client.post("/v1/images", content=slowly()))

    thread = threading.Thread(target=upload)
    thread.start()
    begun.wait(10)
    assert service.interrupt() == 0
    thread.join()

    assert [answer.status_code for answer in answers] == [201]
    service.start()
    with service.client() as client:
        assert client.get(answers[0].json()["url"]).content == data


def test_a_second_service_on_the_same_data_is_refused_with_a_sentence(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    serve(tmp_path / "data")

    second = Service(tmp_path / "data")
    with pytest.raises(AssertionError, match="tintype: "):
        second.start()

    assert "Traceback" not in second.output


def test_a_folder_of_another_tintype_is_refused_before_anything_is_written(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    first = serve(tmp_path / "one")
    second = serve(tmp_path / "two")
    for service in (first, second):
        service.stop()

    crossed = Service(tmp_path / "one", {"TINTYPE_OBJECTS__URL": f"file://{tmp_path / 'two' / 'objects'}"})
    with pytest.raises(AssertionError, match="belong"):
        crossed.start()


def test_listening_beyond_this_machine_is_refused_without_identity(tmp_path: Path) -> None:
    stranger = Service(tmp_path / "data", {"TINTYPE_HOST": "0.0.0.0"})  # noqa: S104 # refused, as the test shows

    with pytest.raises(AssertionError, match="no identity configured"):
        stranger.start()
