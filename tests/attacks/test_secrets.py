"""Secrets are planted wherever a request can hold one: no log has any of them."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from attacks.scenes import files_in
from attacks.speaking import speak
from pictures import picture
from planted import leaks as leaks_of
from planted import plant
from service import Service
from tintype.model.api_key import new_key

SECRET = "plantedZt6Qp2xWv9"  # noqa: S105 # it opens nothing
ENCODED = "cGxhbnRlZFp0NlFwMnhXdjk"
"""The same in Base64, as credentials travel."""
plant(SECRET, ENCODED)
NOBODY = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"


@pytest.fixture(scope="module", params=["console", "json"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tells all it ever tells, in either form of the log."""
    logged = {"TINTYPE_LOG__FORMAT": request.param, "TINTYPE_LOG__LEVEL": "debug"}
    service = Service(tmp_path_factory.mktemp("told") / "data", logged).start()
    yield service
    service.stop()


@pytest.fixture
def client(told: Service) -> Iterator[httpx.Client]:
    """A client; once it has gone, no log may have the secret."""
    with told.client() as client:
        yield client
        last = client.get("/healthz").headers["x-request-id"]
    wait_for(told, last)
    assert leaks(told) == []


def wait_for(service: Service, request_id: str) -> None:
    """Wait until the log has a request: each is written after its answer."""
    deadline = time.monotonic() + 10
    while not any(request_id in line for line in service.log):
        assert time.monotonic() < deadline, "the log does not have the last request"
        time.sleep(0.01)


def leaks(service: Service) -> list[str]:
    """Return every line of the service's and of its PostgreSQL's log that has a secret."""
    postgres = service.data_dir / "postgres"
    logs = [
        (postgres / name).read_text(errors="replace")
        for name in files_in(postgres)
        if Path(name).suffix == ".log" or "log" in Path(name).parent.parts
    ]
    lines = [*service.log, *(line for text in logs for line in text.splitlines())]
    return [line for line in lines if SECRET in line or ENCODED in line]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/images/{NOBODY}/content?expires=99&signature={SECRET}"),
        ("GET", f"/v1/images/{NOBODY}/content?expires={SECRET}&signature={SECRET}"),
        ("GET", f"/v1/images?cursor={SECRET}"),
        ("GET", f"/v1/images?q={SECRET}&tag={SECRET}&ext={SECRET}"),
        ("GET", f"/v1/images?q=%00{SECRET}"),
        ("GET", f"/v1/images?{SECRET}=1"),
        ("GET", f"/v1/images/by-name/{SECRET}"),
        ("GET", f"/v1/images/by-name/%00{SECRET}"),
        ("GET", f"/v1/images/{SECRET}"),
        ("GET", f"/{SECRET}?X-Amz-Signature={SECRET}&token={SECRET}"),
        ("DELETE", f"/v1/images/{SECRET}?api_key={SECRET}"),
        ("POST", f"/v1/images?attributes={SECRET}"),
        ("POST", f"/v1/images?{SECRET}=1"),
        ("GET", f"/problems/{SECRET}"),
        ("GET", f"/docs/{SECRET}/{SECRET}"),
    ],
)
def test_an_address_is_not_logged(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert answer.status_code < 500
    assert "signature=" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": f"Basic {ENCODED}"},
        {"Authorization": SECRET},
        {"Proxy-Authorization": f"Basic {ENCODED}"},
        {"Cookie": f"session={SECRET}"},
        {"X-Api-Key": SECRET},
        {"X-Amz-Security-Token": SECRET},
        {"Referer": f"https://example.org/?token={SECRET}"},
        {"User-Agent": SECRET},
        {"X-Forwarded-For": SECRET},
        {"Idempotency-Key": SECRET},
        {"Idempotency-Key": f"{SECRET} {SECRET}"},
        {"Repr-Digest": f"sha-256=:{ENCODED}:"},
        {"Content-Digest": SECRET},
        {"Content-Encoding": SECRET},
        {"Content-Type": f"image/{SECRET}"},
        {"Content-Type": f"multipart/form-data; boundary={SECRET}"},
        {"If-Match": SECRET},
    ],
)
def test_no_header_is_logged(client: httpx.Client, headers: dict[str, str]) -> None:
    upload = client.post("/v1/images", content=picture(seed=650), headers=headers)
    change = client.delete(f"/v1/images/{NOBODY}", headers=headers)

    assert {upload.status_code, change.status_code} < {200, 201, 400, 404, 412, 415, 422}


@pytest.mark.parametrize(
    "body",
    [SECRET.encode(), b'{"tags": ["' + SECRET.encode(), json.dumps({"filename": [SECRET]}).encode()],
)
def test_no_body_is_logged(client: httpx.Client, body: bytes) -> None:
    image = client.post("/v1/images", content=picture(seed=651)).json()
    told_as = {"content-type": "application/json"}

    answers = [
        client.patch(image["urls"]["self"], content=body, headers=told_as),
        client.post(f"{image['urls']['self']}/links", content=body, headers=told_as),
        client.post("/v1/images", content=body),
    ]

    assert all(400 <= each.status_code < 500 for each in answers)
    assert not any(SECRET in each.text for each in answers)


def test_what_people_add_to_an_image_is_not_logged(client: httpx.Client) -> None:
    wishes = {"tags": SECRET, "attributes": json.dumps({SECRET: SECRET})}

    image = client.post("/v1/images", params=wishes, content=picture(seed=652)).json()
    changed = client.patch(image["urls"]["self"], json={"attributes": {"note": SECRET}})

    assert image["tags"] == [SECRET]
    assert changed.json()["attributes"] == {SECRET: SECRET, "note": SECRET}


def test_where_and_by_whom_a_photo_was_taken_is_not_logged(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x010F] = SECRET  # description, artist, make
    photo = io.BytesIO()
    Image.open(io.BytesIO(picture(seed=653))).save(photo, "JPEG", exif=exif, comment=SECRET)

    answer = client.post("/v1/images", content=photo.getvalue())
    broken = client.post("/v1/images", content=photo.getvalue()[:-20] + SECRET.encode())

    assert answer.status_code == 201
    assert broken.status_code < 500


@pytest.mark.parametrize("name", [f"{SECRET}.png", f"a\n{SECRET}.png", f"a\r\n{SECRET}: x\u2028.png"])
def test_a_file_name_is_not_logged_and_begins_no_line(client: httpx.Client, told: Service, name: str) -> None:
    client.post("/v1/images?on_duplicate=keep", params={"filename": name}, content=picture(seed=653))
    client.post("/v1/images?on_duplicate=keep", files={"f": (name, picture(seed=653))})
    client.post("/v1/images", files={"f": (name, b"no image")})

    assert not any(line.lstrip().startswith(SECRET) for line in told.log)


def test_a_client_s_own_request_id_begins_no_line(client: httpx.Client, told: Service) -> None:
    for hostile in (f"x {SECRET}", f"\x1b[31m{SECRET}", "x" * 129 + SECRET):
        client.get("/v1/images", headers={b"X-Request-ID": hostile.encode("latin-1")})

    assert not any("\x1b[31mplanted" in line for line in told.log)


@pytest.mark.parametrize(
    "request_line", [f"GET /{SECRET}\0 HTTP/1.1", f"{SECRET} / HTTP/1.1", f"GET /?token={SECRET} HTTP/9.9"]
)
@pytest.mark.usefixtures("client")
def test_what_is_no_http_is_not_logged(told: Service, request_line: str) -> None:
    assert speak(told, request_line.encode() + b"\r\nHost: x\r\n\r\n").status == 400


def test_a_link_s_own_signature_is_not_logged(client: httpx.Client, told: Service) -> None:
    image = client.post("/v1/images", content=picture(seed=654)).json()
    link = client.post(f"{image['urls']['self']}/links", json={}).json()["url"]

    assert client.get(link).status_code == 200
    assert client.get(link + "x").status_code == 403

    signature = link.partition("signature=")[2]
    assert len(signature) > 40
    assert not any(signature in line for line in told.log)


def test_the_search_through_all_logs_of_a_run_finds_what_a_test_used() -> None:
    key, _ = new_key()
    plant(key)

    assert list(leaks_of(f'{{"event": "request", "path": "/x?key={key}"}}\nanother line')) == [
        f'{{"event": "request", "path": "/x?key={key}"}}'
    ]
    assert list(leaks_of(f"key_id={key.split('_')[1]}")) == []
