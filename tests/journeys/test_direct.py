"""Direct uploads as clients send them: stored without us, read and judged before they count."""

import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from identified import Identified
from journeys.test_crash import CRASHING, published, stored, wait_until
from journeys.test_upload_tokens import mint
from pictures import picture
from service import Service

MIB = 1024 * 1024


def begin(client: httpx.Client, data: bytes, method: str = "put", **wanted: object) -> dict[str, Any]:
    asked = {"filename": "rome.png", "content_type": "image/png", "bytes": len(data), "method": method}
    answer = client.post("/v1/uploads", json=asked | wanted)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def send(begun: dict[str, Any], data: bytes, **headers: str) -> httpx.Response:
    """Send the bytes as told, with nothing else: no credentials of ours."""
    if begun["form"] is not None:
        form = begun["form"]
        return httpx.post(form["url"], data=form["fields"], files={"file": data}, timeout=60)
    told = begun["request"]
    headers = told["headers"] | headers
    return httpx.request(told["method"], told["url"], headers=headers, content=data, timeout=60)


def complete(
    client: httpx.Client, begun: dict[str, Any], parts: list[dict[str, Any]] | None = None
) -> httpx.Response:
    return client.post(begun["urls"]["complete"], json={} if parts is None else {"parts": parts})


def send_parts(client: httpx.Client, begun: dict[str, Any], data: bytes, size: int) -> list[dict[str, Any]]:
    numbers = list(range(1, -(-len(data) // size) + 1))
    signed = client.post(begun["urls"]["parts"], json={"numbers": numbers}).json()["data"]
    parts = []
    for told, start in zip(signed, range(0, len(data), size), strict=True):
        answer = httpx.request(told["method"], told["url"], content=data[start : start + size], timeout=60)
        parts.append({"number": told["number"], "etag": answer.headers["etag"]})
    return parts


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def images_of(client: httpx.Client, tag: str) -> list[dict[str, Any]]:
    return client.get("/v1/images", params={"tag": tag}).json()["data"]


@pytest.mark.parametrize("method", ["put", "post"])
def test_what_was_sent_as_told_becomes_an_image(client: httpx.Client, method: str) -> None:
    data = picture(seed=7301 + len(method))
    sha256 = hashlib.sha256(data).hexdigest()
    begun = begin(client, data, method, sha256=sha256, tags=["sea"], attributes={"album": "Rome"})

    assert send(begun, data).status_code in {200, 204}
    answer = complete(client, begun)

    image = answer.json()
    assert answer.status_code == 201, answer.text
    assert (image["sha256"], image["filename"], image["tags"]) == (sha256, "rome.png", ["sea"])
    assert (image["attributes"], image["protocol"]) == ({"album": "Rome"}, "direct")
    assert client.get(image["url"]).content == data
    assert complete(client, begun).json() == image
    assert complete(client, begun).status_code == 201


def test_parts_become_an_image(client: httpx.Client) -> None:
    data = picture(seed=7310, size=(2000, 2000), compress_level=0)
    begun = begin(client, data, "multipart")

    parts = send_parts(client, begun, data, 5 * MIB)
    listed = client.get(begun["urls"]["parts"]).json()["data"]
    answer = complete(client, begun, parts)

    assert (begun["request"], begun["form"]) == (None, None)
    assert [part["bytes"] for part in listed] == [5 * MIB, 5 * MIB, len(data) - 10 * MIB]
    assert answer.status_code == 201, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert complete(client, begun, parts).json() == answer.json()


def test_nobody_says_that_it_is_there_and_it_becomes_an_image_all_the_same(client: httpx.Client) -> None:
    data, tag = picture(seed=7320), uuid4().hex
    send(begin(client, data, tags=[tag]), data)

    wait_until(lambda: len(images_of(client, tag)) == 1)


def test_said_by_many_at_once_it_is_one_image_and_one_event(client: httpx.Client, service: Service) -> None:
    data, tag = picture(seed=7330), uuid4().hex
    begun = begin(client, data, tags=[tag])
    send(begun, data)  # whose arrival is told as well

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: complete(client, begun), range(8)))

    ids = {answer.json()["id"] for answer in answers}
    assert {answer.status_code for answer in answers} == {201}
    assert len(ids) == 1
    assert [image["id"] for image in images_of(client, tag)] == list(ids)
    wait_until(lambda: published(service).count(next(iter(ids))) == 1)


def test_the_same_bytes_again_are_the_image_that_has_them(client: httpx.Client) -> None:
    data = picture(seed=7340)
    first = client.post("/v1/images", content=data).json()
    begun, kept = begin(client, data), begin(client, data, on_duplicate="keep")
    for each in (begun, kept):
        send(each, data)

    again, another = complete(client, begun), complete(client, kept)

    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert (another.status_code, another.json()["id"] != first["id"]) == (201, True)


def test_nothing_is_completed_before_it_is_there(client: httpx.Client) -> None:
    begun = begin(client, picture(seed=7350))

    assert code(complete(client, begun)) == (409, "upload_unfinished")
    assert code(complete(client, begin(client, b"x", "multipart"), [])) == (409, "upload_unfinished")


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"<html><script>alert(1)</script></html>" * 10, (415, "unsupported_type")),
        (picture("JPEG", seed=7360, size=(300, 300))[:2000], (422, "image_corrupt")),
    ],
)
def test_what_is_no_image_is_refused_for_good(
    client: httpx.Client, data: bytes, refusal: tuple[int, str]
) -> None:
    begun = begin(client, data)
    send(begun, data)

    assert code(complete(client, begun)) == refusal
    send(begun, picture(seed=7361))
    assert code(complete(client, begun)) == refusal


def test_only_what_was_signed_is_taken(client: httpx.Client) -> None:
    data = picture(seed=7370)
    begun = begin(client, data, sha256=hashlib.sha256(data).hexdigest())
    form = begin(client, data, "post")
    url = begun["request"]["url"]

    assert code(send(begun, data + b"x")) == (413, "upload_too_large")
    assert send(begun, data[:-1]).status_code == 422
    assert send(begun, data, **{"content-type": "text/html"}).status_code == 422
    assert code(send(begun, bytes(len(data)))) == (400, "digest_mismatch")
    assert code(send(form, data + b"x")) == (413, "upload_too_large")
    for changed in (
        url.replace("max=", "max=1"),
        url.replace("signature=", "signature=x"),
        url.partition("?")[0],
        url.partition("&signature")[0],
        url.replace(begun["id"], form["id"]),
        f"{url}&max=1000",
    ):
        answer = httpx.put(changed, content=data, headers=begun["request"]["headers"])
        assert code(answer) == (403, "link_invalid"), changed
    assert httpx.post(url, files={"file": data}).status_code == 403
    assert code(complete(client, begun)) == (409, "upload_unfinished")


def test_overwriting_between_the_check_and_the_copy_changes_nothing(client: httpx.Client) -> None:
    data = [picture(seed=7380 + number, size=(400, 300), compress_level=0) for number in range(2)]
    evil = b"<html>".ljust(len(data[0]), b" ")
    begun = begin(client, data[0])

    def overwrite(number: int) -> None:
        for _ in range(5):
            send(begun, (*data, evil)[number])

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(overwrite, number) for number in range(3)]
        answers = [complete(client, begun) for _ in range(10)]
    assert all(each.exception() is None for each in running)

    final = complete(client, begun)
    assert final.status_code in {201, 415}
    if final.status_code == 201:
        image = final.json()
        content = client.get(image["url"]).content
        assert content in data
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        assert {answer.json()["id"] for answer in answers if answer.status_code == 201} <= {image["id"]}


def test_what_is_sent_after_the_end_goes_away(client: httpx.Client, service: Service) -> None:
    data = picture(seed=7390)
    begun, given_up = begin(client, data), begin(client, data)
    send(begun, data)
    image = complete(client, begun).json()
    assert client.delete(given_up["urls"]["self"]).status_code == 204

    for late in (begun, given_up):
        assert send(late, data).status_code in {200, 410}

    def incoming(upload: dict[str, Any]) -> list[Path]:
        folder = service.data_dir / "objects" / "incoming" / upload["id"]
        return [path for path in folder.rglob("*") if path.is_file()]

    wait_until(lambda: incoming(begun) == incoming(given_up) == [])
    assert code(complete(client, given_up)) == (410, "upload_gone")
    assert complete(client, begun).json() == image


def test_an_upload_that_is_given_up_is_gone(client: httpx.Client) -> None:
    data = picture(seed=7400, size=(2000, 2000), compress_level=0)
    begun = begin(client, data, "multipart")
    parts = send_parts(client, begun, data, 5 * MIB)

    assert client.delete(begun["urls"]["self"]).status_code == 204

    assert code(complete(client, begun, parts)) == (410, "upload_gone")
    assert code(client.get(begun["urls"]["parts"])) == (410, "upload_gone")
    assert code(client.delete(begun["urls"]["self"])) == (410, "upload_gone")


def test_parts_that_did_not_arrive_so_are_refused(client: httpx.Client) -> None:
    begun, data = begin(client, b"x", "multipart"), picture(seed=7410)
    parts = send_parts(client, begun, data, len(data) // 2 + 1)
    put = begin(client, data)

    assert code(complete(client, begun, parts)) == (422, "parts_invalid")
    assert code(complete(client, begun, [{"number": 3, "etag": "x"}])) == (422, "parts_invalid")
    assert code(complete(client, begun, parts[::-1])) == (422, "parts_invalid")
    assert code(client.post(f"{put['urls']['self']}/parts", json={"numbers": [1]})) == (422, "parts_invalid")


@pytest.mark.parametrize(
    "wanted",
    [
        {"bytes": None},
        {"bytes": 0},
        {"bytes": -1},
        {"method": "get"},
        {"sha256": "x"},
        {"content_type": "image/png\r\nx: y"},
        {"content_type": "nonsense"},
        {"tags": ["a\u0000b"]},
        {"attributes": {"a": "b" * 10_000}},
        {"owner": "bert"},
    ],
)
def test_what_makes_no_sense_is_not_begun(client: httpx.Client, wanted: dict[str, Any]) -> None:
    answer = client.post("/v1/uploads", json={"filename": "a.png", "bytes": 10} | wanted)
    assert code(answer) == (422, "request_invalid")


def test_more_than_one_image_may_have_is_not_begun(client: httpx.Client) -> None:
    assert code(client.post("/v1/uploads", json={"bytes": 10**12})) == (413, "upload_too_large")


def test_an_upload_is_its_owner_s_and_the_identity_stays_with_who_began_it(
    anna: httpx.Client, bert: httpx.Client
) -> None:
    data = picture(seed=7420)
    begun = begin(anna, data)
    send(begun, data)

    assert code(complete(bert, begun)) == (404, "upload_not_found")
    assert code(bert.delete(begun["urls"]["self"])) == (404, "upload_not_found")
    assert complete(anna, begun).json()["owner"] == "anna"


def test_a_browser_with_a_token_uploads_within_its_grant(anna: httpx.Client, identified: Identified) -> None:
    tag, data = uuid4().hex, picture(seed=7430)
    with identified.client(mint(anna, tags=[tag], max_bytes=len(data), types=["image/png"])) as browser:
        too_much = browser.post("/v1/uploads", json={"bytes": len(data) + 1})
        begun = begin(browser, data)
        used_up = browser.post("/v1/uploads", json={"bytes": 1})
        send(begun, data)
        image = complete(browser, begun).json()
    with identified.client(mint(anna, types=["image/jpeg"])) as browser:
        other = begin(browser, data)
        send(other, data)
        refused = complete(browser, other)

    assert code(too_much) == (413, "upload_too_large")
    assert code(used_up) == (403, "upload_token_spent")
    assert (image["owner"], image["tags"]) == ("anna", [tag])
    assert code(refused) == (415, "unsupported_type")


def test_what_nobody_completed_is_settled_when_its_time_is_over(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    """The event is lost with the process, and the client does not come back."""
    data = picture(seed=7440)
    command = [sys.executable, CRASHING, "direct-found", "serve", "--port", "0"]
    short = {"TINTYPE_LIMITS__DIRECT_TTL_SECONDS": "3", "TINTYPE_LIMITS__SWEEP_SECONDS": "0.2"}
    crashing = Service(tmp_path / "data", short, command=command).start()
    with crashing.client() as client:
        begun, empty = begin(client, data), begin(client, data)
        send(begun, data)
        before = crashing.base
    assert crashing.process is not None
    assert crashing.process.wait(10) == -9

    service = serve(tmp_path / "data", **short)
    with service.client() as client:
        wait_until(lambda: len(stored(client)) == 1)
        (image,) = stored(client).values()
        assert complete(client, begun).json()["id"] == image["id"]
        wait_until(lambda: complete(client, empty).status_code == 410)
        empty["request"]["url"] = empty["request"]["url"].replace(before, service.base)
        assert send(empty, data).status_code == 403, "the signature has expired"
        wait_until(lambda: published(service) == [image["id"]])


CHECKPOINTS = ["parts-completed", "direct-read", "after-put", "after-commit", "before-session-end"]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_killed_while_it_is_completed_it_is_completed_later_once(
    serve: Callable[..., Service], tmp_path: Path, checkpoint: str
) -> None:
    data = picture(seed=7450)
    command = [sys.executable, CRASHING, checkpoint, "serve", "--port", "0"]
    crashing = Service(tmp_path / "data", command=command).start()
    with crashing.client() as client:
        begun = begin(client, data, "multipart")
        parts = send_parts(client, begun, data, MIB)
        with pytest.raises(httpx.TransportError):
            complete(client, begun, parts)
    assert crashing.process is not None
    assert crashing.process.wait(10) == -9

    service = serve(tmp_path / "data")
    with service.client() as client, ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: complete(client, begun, parts), range(2)))
        (image,) = stored(client).values()

    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {(201, image["id"])}
    wait_until(lambda: published(service) == [image["id"]])
