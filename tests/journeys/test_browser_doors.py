"""The doors with a token in their address, asked by hand: what clients do not do, and strangers might."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from identified import Identified
from journeys.test_direct import code
from journeys.test_upload_tokens import mint
from pictures import picture

DOORS = [
    ("GET", "companion/s3/params?filename=a.png&type=image/png"),
    ("POST", "companion/s3/multipart"),
    ("GET", "companion/s3/multipart/x?key=x"),
    ("GET", "companion/s3/multipart/x/1?key=x"),
    ("POST", "companion/s3/multipart/x/complete?key=x"),
    ("DELETE", "companion/s3/multipart/x?key=x"),
    ("POST", "filepond"),
    ("PATCH", "filepond?patch=x"),
    ("HEAD", "filepond?patch=x"),
    ("DELETE", "filepond"),
    ("GET", "filepond?load=x"),
    ("POST", "dropzone"),
    ("PUT", "dropzone"),
    ("GET", "form"),
    ("POST", "form"),
]


@pytest.fixture
def address(anna: httpx.Client) -> str:
    return f"/u/{mint(anna, uses=10)}"


@pytest.fixture
def another(anna: httpx.Client) -> str:
    return f"/u/{mint(anna, uses=10)}"


@pytest.mark.parametrize(("method", "door"), DOORS)
def test_only_a_token_of_ours_opens_a_door(
    anna: httpx.Client, identified: Identified, method: str, door: str
) -> None:
    for token in ("tut_x", identified.anna, "..", mint(anna)[:-1], f"{mint(anna)}x"):
        answer = anna.request(method, f"/u/{token}/{door}")
        assert answer.status_code in {401, 404}, (token, answer.text)


def test_a_key_in_the_headers_does_not_widen_the_token_in_the_address(
    bert: httpx.Client, address: str
) -> None:
    image = bert.post(f"{address}/dropzone?filename=a.png", content=picture(seed=7600)).json()
    assert image["owner"] == "anna"


def test_a_token_s_uploads_are_its_own(
    anna: httpx.Client, stranger: httpx.Client, address: str, another: str
) -> None:
    data = picture(seed=7610)
    image_id = stranger.post(f"{address}/filepond", files={"filepond": ("a.png", data)}).text
    chunks = stranger.post(f"{address}/filepond", headers={"upload-length": str(len(data))}).text
    foreign = anna.post("/v1/images?on_duplicate=keep", content=picture(seed=7611)).json()["id"]

    for upload in (image_id, chunks, foreign, str(uuid4()), "../x"):
        assert stranger.get(f"{another}/filepond", params={"load": upload}).status_code == 404
        assert stranger.request("DELETE", f"{another}/filepond", content=upload).status_code == 404
    assert stranger.request("DELETE", f"{address}/filepond", content=foreign).status_code == 404
    assert anna.get(f"/v1/images/{foreign}").status_code == 200
    assert stranger.get(f"{address}/filepond", params={"restore": image_id}).content == data
    head = {"upload-offset": "0", "upload-length": str(len(data))}
    sent = stranger.patch(f"{another}/filepond", params={"patch": chunks}, headers=head, content=data)
    assert sent.status_code == 404


def test_nothing_is_fetched_from_elsewhere(stranger: httpx.Client, address: str) -> None:
    answer = stranger.get(f"{address}/filepond", params={"fetch": "http://169.254.169.254/latest/meta-data/"})
    assert code(answer) == (404, "not_found")


def test_a_chunk_elsewhere_is_refused_with_the_place(stranger: httpx.Client, address: str) -> None:
    data = picture(seed=7620)
    upload = stranger.post(f"{address}/filepond", headers={"upload-length": str(len(data))}).text
    url, length = f"{address}/filepond?patch={upload}", str(len(data))

    assert (
        stranger.patch(url, headers={"upload-offset": "5", "upload-length": length}, content=b"x").status_code
        == 409
    )
    for offset in ("-1", "x", "", "1" * 40, "٣"):
        head = {"upload-offset": offset.encode(), "upload-length": length}
        assert stranger.patch(url, headers=head, content=b"x").status_code == 422
    first = stranger.patch(url, headers={"upload-offset": "0", "upload-length": length}, content=data[:100])
    assert first.status_code == 204
    assert stranger.head(url).headers["upload-offset"] == "100"
    rest = {"upload-offset": "100", "upload-length": length, "upload-name": "é.png".encode()}
    assert stranger.patch(url, headers=rest, content=data[100:]).status_code == 204
    again = {"upload-offset": length, "upload-length": length}
    assert stranger.patch(url, headers=again, content=b"").status_code == 204
    assert stranger.get(f"{address}/filepond", params={"load": upload}).content == data


def chunk(data: bytes, total: int, offset: int, **changed: str) -> dict[str, Any]:
    fields = {
        "dzuuid": "one",
        "dzchunkindex": "0",
        "dztotalfilesize": str(total),
        "dzchunksize": str(len(data)),
        "dztotalchunkcount": "2",
        "dzchunkbyteoffset": str(offset),
    }
    return {"data": fields | changed, "files": {"file": ("a.png", data, "application/octet-stream")}}


def test_chunks_that_cannot_be_a_file_are_refused(stranger: httpx.Client, address: str) -> None:
    def send(data: bytes, total: int, offset: int, **changed: str) -> tuple[int, str]:
        return code(stranger.post(f"{address}/dropzone", **chunk(data, total, offset, **changed)))

    assert send(b"x" * 10, 5, 0) == (400, "inconsistent_upload_length")
    assert send(b"x" * 10, 12, 5) == (400, "inconsistent_upload_length")
    assert send(b"x", 10**12, 0) == (413, "upload_too_large")
    assert send(b"x", 100, 0, dztotalchunkcount="10001") == (413, "upload_too_large")
    for name in ("dztotalfilesize", "dzchunkbyteoffset", "dztotalchunkcount"):
        for value in ("x", "-1", "", "1" * 30):
            assert send(b"x", 100, 0, **{name: value}) == (422, "request_invalid")
    first = stranger.post(f"{address}/dropzone", **chunk(b"x", 100, 0, dzuuid="three"))
    assert (first.status_code, first.json()["received"]) == (200, 1)
    assert send(b"x", 99, 0, dzuuid="three") == (400, "inconsistent_upload_length")


def test_the_name_of_a_chunked_file_on_another_page_is_another_file(
    stranger: httpx.Client, address: str, another: str
) -> None:
    data = picture(seed=7630)
    half = len(data) // 2
    stranger.post(f"{address}/dropzone", **chunk(data[:half], len(data), 0))
    stranger.post(f"{another}/dropzone", **chunk(data[half:], len(data), half))
    done = stranger.post(f"{address}/dropzone", **chunk(data[half:], len(data), half))
    again = stranger.post(f"{address}/dropzone", **chunk(data[half:], len(data), half))

    assert done.status_code == 201, done.text
    assert again.json() == done.json()


def test_the_plugin_s_names_lead_to_its_own_uploads_only(
    stranger: httpx.Client, address: str, bert: httpx.Client
) -> None:
    begun = stranger.post(
        f"{address}/companion/s3/multipart", json={"filename": "a.png", "type": None}
    ).json()
    params = {"key": begun["key"]}
    path = f"companion/s3/multipart/{begun['uploadId']}"
    other = f"/u/{mint(bert)}/{path}"

    assert stranger.get(f"{address}/{path}", params=params).json() == []
    assert stranger.get(other, params=params).status_code == 404
    assert stranger.delete(other, params=params).status_code == 404
    for wrong in ("originals/00/x", "tintype.json", "incoming/../originals/x", begun["key"] + "/x"):
        assert stranger.get(f"{address}/{path}/1", params={"key": wrong}).status_code == 404
    assert stranger.get(f"{address}/{path}x/1", params=params).status_code == 404
    for number in ("0", "10001", "-1", "x"):
        assert stranger.get(f"{address}/{path}/{number}", params=params).status_code == 422
    assert stranger.delete(f"{address}/{path}", params=params).json() == {}
    assert stranger.get(f"{address}/{path}", params=params).status_code == 410


def test_a_form_s_page_runs_nothing_and_is_kept_by_nobody(stranger: httpx.Client, address: str) -> None:
    name = '"><script>alert(1)</script>.png'
    shown = stranger.get(f"{address}/form")
    sent = stranger.post(f"{address}/form", files=[("files", (name, picture(seed=7640)))])
    refused = stranger.post(f"{address}/form", files=[("files", (name, b"nothing" * 20))])

    for page in (shown, sent, refused):
        assert "script" not in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "<script" not in page.text
    assert (shown.status_code, sent.status_code, refused.status_code) == (200, 201, 415)
