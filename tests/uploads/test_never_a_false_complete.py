"""An upload never looks finished before its image is stored: mistakes of others, each tried here.

The names are those of the threads in which they were found.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from conformance.suite import Server, expect, picture
from service import Service

pytestmark = pytest.mark.xdist_group("uploads-alone")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("alone") / "data").start()
    yield service
    service.stop()
    assert "Traceback" not in service.output


@pytest.fixture
def server(alone: Service) -> Server:
    return Server(f"{alone.base}/v1/tus")


@contextmanager
def store_away(service: Service) -> Iterator[None]:
    """Take the object store away, as an unmounted disk is."""
    identity: Path = service.data_dir / "objects" / "tintype.json"
    identity.rename(identity.with_suffix(".away"))
    try:
        yield
    finally:
        identity.with_suffix(".away").rename(identity)


def image_of(service: Service, url: str) -> bytes:
    with service.client() as client:
        told = client.get(f"/v1/uploads/{url.rpartition('/')[2]}").json()
        return client.get(told["image"]["url"]).content


def same(data: bytes, other: bytes) -> bool:
    return hashlib.sha256(data).digest() == hashlib.sha256(other).digest()


@pytest.mark.parametrize("size", [30_000, 300_000], ids=["small", "large"])
def test_tusd_1299_a_failed_finish_is_not_shown_as_a_finished_upload(
    alone: Service, server: Server, size: int
) -> None:
    content = picture(size)
    url = server.create(size)
    with store_away(alone):
        expect(server.append(url, 0, content), 503)
        assert server.offset(url) < size

    at = server.offset(url)
    assert at < size
    answer = expect(server.append(url, at, content[at:]), 204)
    assert answer.headers["Upload-Offset"] == str(size)
    assert same(image_of(alone, url), content)


def test_tus_js_client_557_success_is_told_once_the_last_chunk_has_become_an_image(
    alone: Service, server: Server
) -> None:
    content = picture(50_000)
    url = server.create(len(content))
    expect(server.append(url, 0, content[:40_000]), 204)
    with store_away(alone):
        for _ in range(3):  # as the client does it: HEAD, and what is missing
            at = server.offset(url)
            assert at < len(content)
            expect(server.append(url, at, content[at:]), 503)

    at = server.offset(url)
    assert at == len(content) - 1, "the bytes are all there and need not be sent again"
    expect(server.append(url, at, content[at:]), 204)
    assert server.offset(url) == len(content)
    assert same(image_of(alone, url), content)


@pytest.mark.parametrize("repeat", ["the last PATCH", "an empty PATCH"])
def test_tusdotnet_246_a_repeat_drives_what_failed_at_the_end(
    alone: Service, server: Server, repeat: str
) -> None:
    content = picture(50_000)
    url = server.create(len(content))
    expect(server.append(url, 0, content[:40_000]), 204)
    with store_away(alone):
        expect(server.append(url, 40_000, content[40_000:]), 503)

    if repeat == "the last PATCH":
        answer = server.append(url, 40_000, content[40_000:])
    else:
        answer = server.append(url, len(content), b"")

    assert expect(answer, 204).headers["Upload-Offset"] == str(len(content))
    assert same(image_of(alone, url), content)


def test_uppy_3446_a_rejected_file_stays_rejected_however_often_it_is_resumed(
    alone: Service, server: Server
) -> None:
    content = b"<html>not a picture</html>" * 1000
    url = server.create(len(content))
    expect(server.append(url, 0, content[:20_000]), 204)
    first = expect(server.append(url, 20_000, content[20_000:]), 415)

    for _ in range(3):
        at = server.offset(url)
        assert at < len(content)
        again = expect(server.append(url, at, content[at:]), 415)
        assert again.text == first.text
    with alone.client() as client:
        told = client.get(f"/v1/uploads/{url.rpartition('/')[2]}").json()
    assert (told["state"], told["problem"]["code"]) == ("rejected", "unsupported_type")


def test_a_finished_upload_is_there_until_its_image_is_deleted(alone: Service, server: Server) -> None:
    content = picture(20_000)
    url = server.upload(content)
    found = server.send("HEAD", url)
    assert found.headers["Upload-Offset"] == str(len(content))

    with alone.client() as client:
        assert client.delete(found.headers["Content-Location"]).status_code == 204

    gone = server.send("HEAD", url)
    assert gone.status_code == 404
    assert "Upload-Offset" not in gone.headers


def test_no_head_ever_fails_by_our_fault(alone: Service, server: Server) -> None:
    url = server.create(10_000)
    with store_away(alone):
        statuses = {server.send("HEAD", url).status_code for _ in range(3)}

    assert statuses <= {200, 423}


def test_the_same_bytes_again_are_the_same_image(server: Server) -> None:
    content = picture(20_000)
    places = {server.send("HEAD", server.upload(content)).headers["Content-Location"] for _ in range(2)}

    assert len(places) == 1


def test_many_small_chunks_are_put_together_in_bounded_memory(alone: Service, server: Server) -> None:
    content = picture(3_000_000)
    url = server.create(len(content))
    for start in range(0, len(content), 30_000):
        expect(server.append(url, start, content[start : start + 30_000]), 204)

    assert same(image_of(alone, url), content)


def test_what_a_slow_connection_brought_is_durable_before_it_ends(alone: Service, server: Server) -> None:
    content = picture(2_000_000)
    url = server.create(len(content))
    release = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield content[:1_000_000]
        time.sleep(2.2)
        yield content[1_000_000:1_600_000]
        release.wait(20)

    def send() -> None:
        head = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
        with httpx.Client(timeout=30) as client:
            client.patch(url, content=slowly(), headers=head | {"Tus-Resumable": "1.0.0"})

    sending = threading.Thread(target=send)
    sending.start()
    with alone.client() as client:
        deadline = time.monotonic() + 15
        received = 0
        while not received and time.monotonic() < deadline:  # reading it disturbs nobody
            received = client.get(f"/v1/uploads/{url.rpartition('/')[2]}").json()["received"]
            time.sleep(0.1)
    assert received >= 1_000_000
    at = server.offset(url)
    release.set()
    sending.join()
    assert at == 1_600_000
    expect(server.append(url, at, content[at:]), 204)
    assert same(image_of(alone, url), content)
