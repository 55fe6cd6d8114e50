"""An image travels the whole line, by every door, and comes back byte for byte."""

import base64
import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from pictures import animation, picture
from service import Service


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def event_of(service: Service, image_id: str, kind: str = "image.uploaded") -> dict[str, Any]:
    """Wait for the event of an image in the outbox, as a program that reads the folder would."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in sorted((service.data_dir / "outbox").glob("*.json")):
            message = json.loads(path.read_text())
            if message["type"] == kind and message["data"]["id"] == image_id:
                return message
        time.sleep(0.05)
    raise AssertionError(f"no {kind} for {image_id}")


def test_a_form_stores_the_exact_bytes_and_tells_what_they_are(client: httpx.Client) -> None:
    data = picture("JPEG", seed=1, size=(640, 480), quality=85)

    answer = client.post("/v1/images", files={"anything": ("rome.jpg", data, "image/jpeg")})

    assert answer.status_code == 201, answer.text
    image = answer.json()
    assert UUID(image["id"]).version == 7
    assert image["filename"] == "rome.jpg"
    assert image["content_type"] == "image/jpeg"
    assert (image["width"], image["height"], image["frames"]) == (640, 480, 1)
    assert image["bytes"] == len(data)
    assert image["sha256"] == hashlib.sha256(data).hexdigest()
    assert image["state"] == "ready"
    assert image["dominant_color"].startswith("#")
    assert base64.b64decode(image["thumbhash"])
    assert image["warnings"] == []
    assert answer.headers["location"] == image["urls"]["self"]
    assert answer.headers["etag"] == '"v1"'
    assert answer.headers["repr-digest"] == digest(data)
    assert client.get(image["url"]).content == data
    assert client.get(answer.headers["location"]).json() == image


def test_the_event_commits_with_the_row_and_is_published(service: Service, client: httpx.Client) -> None:
    image = client.post("/v1/images?filename=e.png", content=picture(seed=2)).json()

    message = event_of(service, image["id"])

    assert message["data"]["sha256"] == image["sha256"]
    assert UUID(str(message["id"])).version == 5


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("AVIF", "image/avif"),
        ("TIFF", "image/tiff"),
    ],
)
def test_a_raw_body_needs_neither_type_nor_name(client: httpx.Client, kind: str, content_type: str) -> None:
    data = picture(kind, seed=3)

    image = client.post("/v1/images", content=data).json()

    assert image["content_type"] == content_type
    assert image["filename"] == f"image.{image['extension']}"
    assert client.get(image["url"]).content == data


def test_curl_uploads_a_file_under_its_name(service: Service, client: httpx.Client, tmp_path: Path) -> None:
    data = picture("PNG", seed=4, size=(800, 800))
    path = tmp_path / "a b é.png"
    path.write_bytes(data)

    sent = subprocess.run(
        ["curl", "-sS", "-T", str(path), f"{service.base}/v1/images/"], capture_output=True, check=True
    )

    image = json.loads(sent.stdout)
    assert image["filename"] == "a b é.png"
    assert client.get(image["url"]).content == data


def test_curl_streams_standard_input_without_a_length(service: Service) -> None:
    data = picture("JPEG", seed=5)

    sent = subprocess.run(
        ["curl", "-sS", "-T", "-", f"{service.base}/v1/images/pipe.jpg"],
        input=data,
        capture_output=True,
        check=True,
    )

    assert json.loads(sent.stdout)["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_body_too_large_is_refused_before_it_is_sent_when_the_client_asks(service: Service) -> None:
    sent = subprocess.run(
        [
            "curl", "-sS", "-v", "-H", "Expect: 100-continue", "-H", "Content-Length: 99999999999",
            "--data-binary", "@-", f"{service.base}/v1/images",
        ],
        input=b"x" * 100,
        capture_output=True,
        check=False,
    )  # fmt: skip

    assert b"413" in sent.stderr
    assert b"100 Continue" not in sent.stderr
    assert json.loads(sent.stdout)["code"] == "upload_too_large"


def test_several_files_get_a_result_each_in_their_order(client: httpx.Client) -> None:
    files = [
        ("a", ("one.png", picture(seed=6), "image/png")),
        ("b", ("two.gif", animation(seed=7), "image/gif")),
        ("c", ("three.txt", b"hello, this is no image", "text/plain")),
    ]

    answer = client.post("/v1/images", data={"tags": "x,y"}, files=files)

    assert answer.status_code == 207
    one, two, three = answer.json()["results"]
    assert (one["status"], two["status"], three["status"]) == (201, 201, 415)
    assert two["image"]["frames"] == 3
    assert one["image"]["tags"] == two["image"]["tags"] == ["x", "y"]
    assert three["problem"]["code"] == "unsupported_type"


def test_text_parts_after_the_file_count_too_and_unknown_ones_are_passed_over(client: httpx.Client) -> None:
    boundary = "frontier"
    parts = [
        b'Content-Disposition: form-data; name="csrf"\r\n\r\nabc',
        b'Content-Disposition: form-data; name="f"; filename="t.png"\r\n\r\n' + picture(seed=8),
        b'Content-Disposition: form-data; name="tag"\r\n\r\nlate',
        b'Content-Disposition: form-data; name="attributes"\r\n\r\n{"album": "Rome"}',
        b'Content-Disposition: form-data; name="left-empty"; filename=""\r\n\r\n',
    ]
    body = b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + b"--frontier--\r\n"

    answer = client.post(
        "/v1/images", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )

    assert answer.status_code == 201, answer.text
    assert answer.json()["tags"] == ["late"]
    assert answer.json()["attributes"] == {"album": "Rome"}


def test_the_same_bytes_again_are_answered_with_the_existing_image(client: httpx.Client) -> None:
    data = picture(seed=9)
    first = client.post("/v1/images?filename=first.png", content=data)

    second = client.post("/v1/images?filename=second.png", content=data)
    kept = client.post("/v1/images?filename=third.png&on_duplicate=keep", content=data)

    assert (first.status_code, second.status_code, kept.status_code) == (201, 200, 201)
    assert second.json() == first.json()
    assert kept.json()["id"] != first.json()["id"]


def test_an_idempotency_key_replays_the_first_answer(client: httpx.Client) -> None:
    data, key = picture(seed=10), {"Idempotency-Key": f'"{uuid4()}"'}
    first = client.post("/v1/images?filename=k.png&on_duplicate=keep", content=data, headers=key)
    client.patch(first.json()["urls"]["self"], json={"tags": ["changed"]})

    again = client.post("/v1/images?filename=k.png&on_duplicate=keep", content=data, headers=key)
    other = client.post("/v1/images?filename=k.png", content=picture(seed=11), headers=key)

    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("field", ["Content-Digest", "Repr-Digest"])
def test_announced_digests_are_held_against_the_bytes(client: httpx.Client, field: str) -> None:
    data = picture(seed=12 if field == "Repr-Digest" else 13)

    good = client.post("/v1/images", content=data, headers={field: digest(data)})
    bad = client.post("/v1/images", content=picture(seed=14), headers={field: digest(data)})
    malformed = client.post("/v1/images", content=data, headers={field: "sha-256=abc"})

    assert good.status_code == 201
    assert (bad.status_code, bad.json()["code"]) == (400, "digest_mismatch")
    assert (malformed.status_code, malformed.json()["code"]) == (422, "request_invalid")


def test_a_declared_type_and_name_that_the_bytes_contradict_are_warnings(client: httpx.Client) -> None:
    answer = client.post("/v1/images", files={"f": ("photo.jpg", picture(seed=15), "image/jpeg")})

    image = answer.json()
    assert answer.status_code == 201
    assert (image["content_type"], image["declared_type"], image["extension"]) == (
        "image/png",
        "image/jpeg",
        "jpg",
    )
    assert {warning["code"] for warning in image["warnings"]} == {"type_mismatch", "extension_mismatch"}


def test_a_type_that_says_nothing_is_no_contradiction(client: httpx.Client) -> None:
    file = ("sea.webp", picture("WEBP", seed=16), "application/octet-stream")  # as curl -F sends it

    image = client.post("/v1/images", files={"file": file}).json()

    assert (image["declared_type"], image["content_type"], image["warnings"]) == (None, "image/webp", [])
