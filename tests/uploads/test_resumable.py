"""Resumable uploads as the IETF drafts them, and the same upload continued over tus."""

import base64
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conformance.suite import BYTES, picture
from service import Service

pytestmark = pytest.mark.xdist_group("uploads-alone")

APPEND = {"Content-Type": "application/partial-upload"}
OFFSET_MISMATCH = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
LENGTH_MISMATCH = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("resumable") / "data").start()
    yield service
    service.stop()
    assert "Traceback" not in service.output


@pytest.fixture
def client(alone: Service) -> Iterator[httpx.Client]:
    with alone.client() as client:
        yield client


def careful(client: httpx.Client, length: int | None = None, **headers: str) -> str:
    """Begin without bytes, as clients do that cannot hear a 104."""
    told = {"Upload-Complete": "?0"} | ({} if length is None else {"Upload-Length": str(length)})
    answer = client.post("/v1/images?filename=rome.png", headers=told | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-complete"] == "?0"
    return answer.headers["location"]


def append(
    client: httpx.Client, url: str, offset: int, data: bytes, *, last: bool, **more: str
) -> httpx.Response:
    told = APPEND | {"Upload-Offset": str(offset), "Upload-Complete": "?1" if last else "?0"} | more
    return client.patch(url, content=data, headers=told)


def test_discovery_tells_the_limits(client: httpx.Client) -> None:
    for path in ("/v1/images", "/v1/tus"):
        answer = client.options(path)
        assert answer.status_code == 204
        assert "max-size=52428800" in answer.headers["upload-limit"]


def test_an_upload_in_one_request_is_answered_with_the_image(client: httpx.Client) -> None:
    data = picture(5_000)
    answer = client.post("/v1/images?filename=rome.png", content=data, headers={"Upload-Complete": "?1"})

    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-complete"] == "?1"
    image = answer.json()
    assert (image["filename"], image["protocol"], image["bytes"]) == ("rome.png", "resumable", 5_000)
    assert client.get(image["url"]).content == data


def test_careful_creation_appends_and_completion(client: httpx.Client) -> None:
    data = picture(250_000)
    url = careful(client, len(data))
    for start in (0, 100_000):
        answer = append(client, url, start, data[start : start + 100_000], last=False)
        assert answer.status_code == 204
        assert answer.headers["upload-offset"] == str(start + 100_000)
        assert answer.headers["upload-complete"] == "?0"

    found = client.head(url)
    assert found.status_code == 204
    assert (found.headers["upload-offset"], found.headers["upload-length"]) == ("200000", "250000")
    assert (found.headers["upload-complete"], found.headers["cache-control"]) == ("?0", "no-store")
    assert "max-age=" in found.headers["upload-limit"]
    done = append(client, url, 200_000, data[200_000:], last=True)
    assert done.status_code == 201, done.text
    assert done.headers["upload-complete"] == "?1"
    assert client.get(done.json()["url"]).content == data
    assert client.head(url).headers["upload-complete"] == "?1"


def test_all_bytes_are_not_yet_an_upload_that_is_complete(client: httpx.Client) -> None:
    data = picture(5_000)
    url = careful(client, len(data))
    assert append(client, url, 0, data, last=False).headers["upload-complete"] == "?0"
    found = client.head(url)
    assert (found.headers["upload-offset"], found.headers["upload-complete"]) == ("5000", "?0")

    done = append(client, url, 5_000, b"", last=True)

    assert (done.status_code, done.headers["upload-complete"]) == (201, "?1")


def test_the_length_may_be_told_by_the_end_alone(client: httpx.Client) -> None:
    data = picture(5_000)
    url = careful(client)
    assert append(client, url, 0, data[:3_000], last=False).status_code == 204
    assert "upload-length" not in client.head(url).headers

    done = client.patch(
        url,
        content=iter([data[3_000:]]),
        headers=APPEND | {"Upload-Offset": "3000", "Upload-Complete": "?1"},
    )

    assert done.status_code == 201, done.text
    assert done.json()["bytes"] == 5_000


def test_a_wrong_offset_is_told_with_the_right_one(client: httpx.Client) -> None:
    data = picture(5_000)
    url = careful(client, len(data))
    append(client, url, 0, data[:1_000], last=False)

    answer = append(client, url, 500, data[500:], last=True, Accept="application/problem+json")

    assert answer.status_code == 409
    assert (answer.headers["upload-offset"], answer.headers["upload-complete"]) == ("1000", "?0")
    problem = answer.json()
    assert (problem["type"], problem["expected-offset"], problem["provided-offset"]) == (
        OFFSET_MISMATCH,
        1000,
        500,
    )


def test_lengths_that_differ_are_refused(client: httpx.Client) -> None:
    data = picture(5_000)
    told = {"Upload-Complete": "?1", "Upload-Length": "4000"}
    answer = client.post("/v1/images", content=data, headers=told)
    assert (answer.status_code, answer.json()["type"]) == (400, LENGTH_MISMATCH)

    url = careful(client, len(data))
    answer = append(client, url, 0, data[:100], last=True)
    assert (answer.status_code, answer.json()["type"]) == (400, LENGTH_MISMATCH)


@pytest.mark.parametrize("missing", ["Upload-Offset", "type"])
def test_an_append_says_what_it_is(client: httpx.Client, missing: str) -> None:
    url = careful(client, 5_000)
    headers = APPEND | {"Upload-Offset": "0", "Upload-Complete": "?0"}
    headers.pop("Content-Type" if missing == "type" else missing)
    assert client.patch(url, content=b"x", headers=headers).status_code == (415 if missing == "type" else 400)


@pytest.mark.parametrize("value", ["1", "?2", "true", "", '"?1"'])
def test_upload_complete_is_a_boolean(client: httpx.Client, value: str) -> None:
    answer = client.post("/v1/images", content=picture(500), headers={"Upload-Complete": value})
    assert (answer.status_code, answer.json()["code"]) == (400, "upload_request_invalid")


def test_too_many_bytes_are_413_with_the_limits(client: httpx.Client) -> None:
    url = careful(client, 1_000)
    answer = append(client, url, 0, bytes(2_000), last=False)
    assert answer.status_code == 413
    assert "max-size=" in answer.headers["upload-limit"]
    too_long = {"Upload-Complete": "?0", "Upload-Length": str(1 << 40)}
    assert client.post("/v1/images", headers=too_long).status_code == 413


def test_a_digest_of_the_whole_is_held_against_it_at_the_end(client: httpx.Client) -> None:
    data = picture(5_000)
    right = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for digest, status in ((right, 201), (wrong, 400)):
        url = careful(client, len(data), **{"Repr-Digest": f"sha-256=:{digest}:"})
        append(client, url, 0, data[:2_000], last=False)
        answer = append(client, url, 2_000, data[2_000:], last=True)
        assert answer.status_code == status, answer.text
    assert answer.json()["code"] == "digest_mismatch"
    again = append(client, url, 5_000, b"", last=True)
    assert (again.status_code, again.json()["code"]) == (400, "digest_mismatch")


def test_a_digest_of_one_request_keeps_wrong_bytes_out(client: httpx.Client) -> None:
    data = picture(5_000)
    url = careful(client, len(data))
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()

    answer = append(client, url, 0, data[:2_000], last=False, **{"Content-Digest": f"sha-256=:{wrong}:"})

    assert (answer.status_code, answer.json()["code"]) == (400, "digest_mismatch")
    assert client.head(url).headers["upload-offset"] == "0"


def test_what_is_no_image_is_refused_and_refused_again(client: httpx.Client) -> None:
    data = b"no image " * 500
    url = careful(client, len(data))
    first = append(client, url, 0, data, last=True)
    assert (first.status_code, first.headers["upload-complete"]) == (415, "?0")

    again = append(client, url, int(client.head(url).headers["upload-offset"]), b"", last=True)

    assert (again.status_code, again.json()["detail"]) == (415, first.json()["detail"])
    assert client.head(url).headers["upload-complete"] == "?0"


def test_a_lost_final_answer_is_given_again(client: httpx.Client) -> None:
    data = picture(5_000)
    url = careful(client, len(data))
    first = append(client, url, 0, data, last=True)
    again = append(client, url, 5_000, b"", last=True)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])


def test_an_upload_is_cancelled(client: httpx.Client) -> None:
    url = careful(client, 5_000)
    assert client.delete(url).status_code == 204
    assert client.head(url).status_code == 410


@pytest.mark.parametrize(
    ("version", "age"), [("5", "expires"), ("6", "expires"), ("8", "max-age"), ("99", "max-age")]
)
def test_each_draft_is_a_row_of_the_table(client: httpx.Client, version: str, age: str) -> None:
    data = picture(5_000)
    told = {"Upload-Draft-Interop-Version": version}
    url = careful(client, len(data), **told)
    head = told | {"Upload-Offset": "0", "Upload-Complete": "?1"} | ({} if version == "5" else APPEND)
    assert f"{age}=" in client.head(url, headers=told).headers["upload-limit"]
    assert client.patch(url, content=data, headers=head).status_code == 201


def test_begun_over_tus_and_finished_as_the_ietf_has_it(client: httpx.Client) -> None:
    data = picture(5_000)
    tus = {"Tus-Resumable": "1.0.0"}
    url = client.post("/v1/tus", headers=tus | {"Upload-Length": "5000"}).headers["location"]
    client.patch(url, content=data[:2_000], headers=tus | {"Upload-Offset": "0", "Content-Type": BYTES})

    assert client.head(url).headers["upload-offset"] == "2000"
    done = append(client, url, 2_000, data[2_000:], last=True)

    assert done.status_code == 201, done.text
    assert client.get(done.json()["url"]).content == data


def test_begun_as_the_ietf_has_it_and_finished_over_tus(client: httpx.Client) -> None:
    data = picture(5_000)
    tus = {"Tus-Resumable": "1.0.0"}
    url = careful(client, len(data))
    append(client, url, 0, data[:2_000], last=False)

    assert client.head(url, headers=tus).headers["upload-offset"] == "2000"
    head = tus | {"Upload-Offset": "2000", "Content-Type": BYTES}
    assert client.patch(url, content=data[2_000:], headers=head).status_code == 204

    assert client.head(url).headers["upload-complete"] == "?1"


def test_errors_come_in_the_form_that_is_asked_for(client: httpx.Client) -> None:
    tus = {"Tus-Resumable": "1.0.0"}

    def ask(accept: str) -> httpx.Response:
        return client.post("/v1/tus", headers=tus | {"Accept": accept})

    plain, problem, asked_json, html = map(
        ask, ("*/*", "application/problem+json", "application/json", "text/html")
    )
    assert plain.text.startswith("upload_request_invalid: ")
    assert plain.text.count("\n") == 1
    assert problem.json()["code"] == "upload_request_invalid"
    assert isinstance(json.loads(asked_json.text)["error"], str)
    assert html.headers["content-type"].startswith("text/html")


def test_another_browser_finds_what_is_unfinished(client: httpx.Client) -> None:
    urls = [careful(client, 5_000) for _ in range(3)]
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/uploads", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [each["urls"]["upload"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert set(urls) <= set(found)
    assert client.get("/v1/uploads?cursor=nonsense").json()["code"] == "cursor_invalid"


@pytest.mark.parametrize("path", ["nonsense", "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"])
def test_what_is_not_there_is_404(client: httpx.Client, path: str) -> None:
    assert client.head(f"/v1/tus/{path}").status_code == 404
    assert client.patch(f"/v1/tus/{path}", headers={"Upload-Complete": "?1"}).status_code == 404


def test_the_spool_keeps_nothing(alone: Service) -> None:
    spool: Path = alone.data_dir / "spool"
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize(("version", "told"), [("8", True), ("99", False), (None, False)])
def test_the_address_is_told_ahead_of_the_bytes_to_who_can_hear_it(
    alone: Service,
    version: str | None,
    told: bool,  # noqa: FBT001
) -> None:
    data = picture(5_000)
    address = httpx.URL(alone.base)
    interop = f"Upload-Draft-Interop-Version: {version}\r\n" if version else ""
    head = (
        f"POST /v1/images HTTP/1.1\r\nHost: {address.netloc.decode()}\r\nUpload-Complete: ?1\r\n"
        f"{interop}Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port or 80), timeout=20) as wire:
        wire.sendall(head.encode() + data[:1_000])
        wire.settimeout(2 if told else 0.5)
        try:
            ahead = wire.recv(4_096).decode()
        except TimeoutError:
            ahead = ""

    assert ahead.startswith("HTTP/1.1 104 ") == told
    if told:
        url = next(line.partition(" ")[2] for line in ahead.splitlines() if line.startswith("location: "))
        with alone.client() as client:  # the connection has broken; the upload is there
            deadline = time.monotonic() + 5
            while (at := int(client.head(url).headers["upload-offset"])) == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert at == 1_000
            assert append(client, url, at, data[at:], last=True).status_code == 201
