"""Bad input gets a clear problem, and nothing is stored."""

import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from pictures import picture
from service import Service

PICTURE = picture(seed=503)
NOBODY = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"
FORM = "multipart/form-data; boundary=frontier"


def form(*parts: bytes, end: bytes = b"--frontier--\r\n") -> bytes:
    return b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + end


def file_part(data: bytes, name: bytes = b"a.png") -> bytes:
    return b'Content-Disposition: form-data; name="f"; filename="' + name + b'"\r\n\r\n' + data


def text_part(name: bytes, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value


@pytest.fixture
def nothing_stored(client: httpx.Client) -> Iterator[None]:
    """Hold that a test leaves the list of images as it was."""

    def everything() -> object:
        return client.get("/v1/images?limit=200").json()

    before = everything()
    yield
    assert everything() == before


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", None, 422, "upload_empty"),
        (b"", FORM, 400, "multipart_invalid"),
        (b"hello, world", None, 415, "unsupported_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415, "unsupported_type"),
        (picture(seed=500)[:200], None, 422, "image_corrupt"),
        (picture(seed=501), "multipart/form-data", 400, "multipart_invalid"),
        (picture(seed=502), "multipart/mixed; boundary=x", 400, "multipart_invalid"),
        (form(text_part(b"tags", b"a")), FORM, 422, "file_missing"),
        (form(file_part(b"", b"")), FORM, 422, "file_missing"),
        (form(file_part(PICTURE), end=b""), FORM, 400, "multipart_invalid"),
        (form(b"no header here"), FORM, 400, "multipart_invalid"),
        (form(file_part(b"")), FORM, 422, "upload_empty"),
        (form(file_part(PICTURE), *[text_part(b"x", b"")] * 300), FORM, 400, "multipart_invalid"),
        (form(b"X: " + b"y" * 10_000 + b"\r\n" + file_part(PICTURE)), FORM, 400, "multipart_invalid"),
        (form(file_part(PICTURE), text_part(b"attributes", b"{")), FORM, 422, "request_invalid"),
        (form(file_part(PICTURE), text_part(b"tags", b"x" * 100_000)), FORM, 400, "multipart_invalid"),
    ],
)
def test_a_body_that_is_no_image_is_refused_with_a_sentence(
    client: httpx.Client, body: bytes, content_type: str | None, status: int, code: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}

    answer = client.post("/v1/images", content=body, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 20
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({"Idempotency-Key": "x" * 256}, "", "request_invalid"),
        ({"Idempotency-Key": "a b"}, "", "request_invalid"),
        ({"Content-Encoding": "gzip"}, "", "coding_unsupported"),
        ({"Repr-Digest": "sha-256=:aGVsbG8=:"}, "", "request_invalid"),
        ({"Content-Digest": "sha-256"}, "", "request_invalid"),
        ({}, "on_duplicate=maybe", "request_invalid"),
        ({}, "filnema=a.png", "request_invalid"),
        ({}, "tag=" + "x" * 65, "request_invalid"),
        ({}, "attributes=[1]", "request_invalid"),
        ({}, "attributes={", "request_invalid"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused(
    client: httpx.Client, headers: dict[str, str], query: str, code: str
) -> None:
    answer = client.post(f"/v1/images?{query}", content=picture(seed=510), headers=headers)

    assert answer.json()["code"] == code, answer.text
    assert 400 <= answer.status_code < 500


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(client: httpx.Client) -> None:
    limit = 50 * 1024 * 1024

    def endless() -> Iterator[bytes]:
        for _ in range(52):
            yield bytes(1024 * 1024)

    declared = client.post("/v1/images", content=bytes(limit + 1))
    chunked = client.post("/v1/images", content=endless())

    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
        assert answer.json()["limit"] == limit


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("head", [b"Content-Length: 5000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_connection_that_breaks_off_stores_nothing_and_leaves_the_service_well(
    service: Service, client: httpx.Client, head: bytes
) -> None:
    address = urlsplit(service.base)
    with socket.create_connection((address.hostname, address.port or 0)) as connection:
        connection.sendall(
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + b"10\r\n" + bytes(16)
        )

    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "..\\..\\boot.ini",
        "a\r\nX-Evil: 1.png",
        "\u202egnp.exe",
        "x" * 500 + ".png",
        "%00.png",
        "'; drop table images; --.png",
    ],
)
def test_no_file_name_is_ever_a_path_or_a_header(service: Service, client: httpx.Client, name: str) -> None:
    data = picture(seed=520 + len(name))
    before = set(service.data_dir.iterdir())

    image = client.post("/v1/images", params={"filename": name, "on_duplicate": "keep"}, content=data).json()
    answer = client.get(image["url"])

    assert "/" not in image["filename"]
    assert "\\" not in image["filename"]
    assert len(image["filename"].encode()) <= 255
    assert answer.content == data
    assert "x-evil" not in answer.headers
    assert set(service.data_dir.iterdir()) - before <= {service.data_dir / "outbox"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/v1/images", 405, "method_not_allowed"),
        ("GET", "/v1/images/not-a-uuid", 422, "request_invalid"),
        ("DELETE", f"/v1/images/{NOBODY}", 404, "image_not_found"),
        ("PATCH", f"/v1/images/{NOBODY}", 422, "request_invalid"),
        ("POST", f"/v1/images/{NOBODY}/restore", 404, "image_not_found"),
        ("POST", f"/v1/images/{NOBODY}/links", 422, "request_invalid"),
    ],
)
def test_every_other_mistake_is_a_problem_too(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_malformed_json_is_told_where_it_breaks(client: httpx.Client) -> None:
    image = client.post("/v1/images", content=picture(seed=540)).json()

    answer = client.patch(
        image["urls"]["self"], content=b'{"tags": [', headers={"content-type": "application/json"}
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert "JSON" in answer.json()["detail"]


def test_bodies_on_their_way_are_counted_in_the_metrics_until_they_end(serve: Callable[..., Service]) -> None:
    service = serve()
    address = urlsplit(service.base)

    def in_flight() -> float:
        lines = httpx.get(f"{service.base}/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("tintype_in_flight_bytes "))

    with socket.create_connection((address.hostname, address.port or 0)) as connection:
        head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
        connection.sendall(head + bytes(16))
        wait_until(lambda: in_flight() == 5000)
    wait_until(lambda: in_flight() == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
