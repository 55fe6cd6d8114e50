"""A browser with an upload token: it uploads what it may, and does nothing else."""

import re
import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute

from identified import Identified
from pictures import picture
from tintype.server.access import ACCESS
from tintype.server.app import describe

OTHERS = sorted(
    (method, route.path)
    for route in describe().routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
    if not ACCESS[route.name].public and not ACCESS[route.name].by_token
)


def mint(client: httpx.Client, **wanted: object) -> str:
    answer = client.post("/v1/upload-tokens", json=wanted)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["token"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_browser_uploads_for_the_token_s_owner(anna: httpx.Client, identified: Identified) -> None:
    tag = uuid4().hex
    with identified.client(mint(anna, tags=[tag], uses=2)) as browser:
        sent = browser.post("/v1/images?tag=mine", files={"file": ("a.png", picture(seed=7001), "image/png")})
        assert sent.status_code == 201, sent.text
        assert (sent.json()["owner"], sent.json()["tags"]) == ("anna", [tag, "mine"])
        assert browser.put("/v1/images/b.png", content=picture(seed=7002)).status_code == 201
        assert code(browser.post("/v1/images", content=picture(seed=7003))) == (403, "upload_token_spent")
    assert len(anna.get(f"/v1/images?tag={tag}").json()["data"]) == 2


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_a_token_is_good_for_nothing_else(
    anna: httpx.Client, identified: Identified, method: str, path: str
) -> None:
    image = anna.post("/v1/images?on_duplicate=keep", content=picture(seed=7010)).json()
    names = {"image_id": image["id"], "filename": image["filename"], "key_id": "0" * 12}
    with identified.client(mint(anna)) as browser:
        named = re.sub(r"\{(\w+)\}", lambda name: names.get(name[1], str(uuid4())), path)
        answer = browser.request(method, named)
        assert answer.status_code == 403
        assert method == "HEAD" or answer.json()["code"] == "forbidden"


def test_an_upload_whose_answer_was_lost_is_sent_again(anna: httpx.Client, identified: Identified) -> None:
    data = picture(seed=7020)
    with identified.client(mint(anna)) as browser:
        first = browser.post("/v1/images?filename=a.png", content=data)
        again = browser.post("/v1/images?filename=other.png", content=data)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()


def test_a_browser_does_not_learn_what_the_owner_has(anna: httpx.Client, identified: Identified) -> None:
    data, key = picture(seed=7030), {"idempotency-key": uuid4().hex}
    secret = anna.post("/v1/images?tag=secret&on_duplicate=keep", content=data, headers=key).json()
    with identified.client(mint(anna)) as browser:
        answer = browser.post("/v1/images", content=data, headers=key)
    assert answer.status_code == 201
    assert answer.json()["id"] != secret["id"]
    assert answer.json()["tags"] == []


def test_limits_of_the_token_are_kept(anna: httpx.Client, identified: Identified) -> None:
    data = picture(seed=7040)
    with identified.client(mint(anna, types=["image/jpeg"])) as browser:
        refused = browser.post("/v1/images", content=data)
        assert code(refused) == (415, "unsupported_type")
        assert refused.json()["accepted"] == ["image/jpeg"]
        assert browser.post("/v1/images", content=picture("JPEG", seed=7040)).status_code == 201
    with identified.client(mint(anna, max_bytes=len(data) - 1)) as browser:
        for answer in (
            browser.post("/v1/images", content=data),
            browser.post("/v1/images", content=iter([data])),
            browser.post("/v1/images", files={"file": ("a.png", data)}),
        ):
            assert code(answer) == (413, "upload_too_large")
            assert answer.json()["limit"] == len(data) - 1
    with identified.client(mint(anna)) as browser:
        several = browser.post("/v1/images", files=[("a", ("a.png", data)), ("b", ("b.png", data))])
        assert code(several) == (400, "multipart_invalid")


def test_a_damaged_image_uses_nothing_up(anna: httpx.Client, identified: Identified) -> None:
    data = picture("JPEG", seed=7050, size=(300, 300))
    with identified.client(mint(anna)) as browser:
        assert code(browser.post("/v1/images", content=data[: len(data) // 2])) == (422, "image_corrupt")
        assert browser.post("/v1/images", content=data).status_code == 201


def test_a_race_of_browsers_is_counted_exactly(anna: httpx.Client, identified: Identified) -> None:
    token, statuses = mint(anna, uses=3), list[int]()

    def send(seed: int) -> None:
        with identified.client(token) as browser:
            statuses.append(browser.post("/v1/images", content=picture(seed=seed)).status_code)

    threads = [threading.Thread(target=send, args=(7060 + number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] * 3 + [403] * 5


def test_a_token_never_shows_in_the_log(anna: httpx.Client, identified: Identified) -> None:
    token = mint(anna)
    with identified.client(token) as browser:
        browser.get(f"/v1/images/by-name/{token}?token={token}", headers={"x-request-id": token[:100]})
        browser.get("/v1/me")
    assert token not in identified.service.output
    assert token[:40] not in identified.service.output


@pytest.mark.parametrize(
    "wanted",
    [
        {"uses": 0},
        {"uses": 1001},
        {"expires_in": 0},
        {"expires_in": 86_401},
        {"types": ["image/svg+xml"]},
        {"max_bytes": 0},
        {"tags": ["x"] * 11},
        {"tags": ["a\u0000b"]},
        {"owner": "bert"},
    ],
)
def test_a_token_that_makes_no_sense_is_not_minted(anna: httpx.Client, wanted: dict[str, Any]) -> None:
    assert code(anna.post("/v1/upload-tokens", json=wanted)) == (422, "request_invalid")


def test_a_spent_token_is_refused_before_the_body_is_sent(anna: httpx.Client, identified: Identified) -> None:
    token, data = mint(anna), picture(seed=7070)
    with identified.client(token) as browser:
        assert browser.post("/v1/images", content=data).status_code == 201
    for length in (len(data) - 1, len(data) + 1, 1_000_000):
        head = (
            f"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        answer = identified.say(head)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b'"upload_token_spent"' in answer
    form = "multipart/form-data; boundary=b"
    head = (
        f"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {form}\r\nContent-Length: {len(data) - 1}\r\nConnection: close\r\n\r\n"
    )
    assert b'"upload_token_spent"' in identified.say(head)
