"""Stored images: listed, found, changed, trashed, restored, delivered."""

import base64
import hashlib
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pictures import picture


def upload(client: httpx.Client, seed: int, **params: str) -> dict[str, Any]:
    answer = client.post("/v1/images", params=params, content=picture(seed=seed))
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_pages_follow_one_another_without_gap_or_repeat_while_images_arrive(client: httpx.Client) -> None:
    tag = uuid4().hex
    ids = [upload(client, 100 + n, tag=tag, filename=f"{n}.png")["id"] for n in range(7)]

    seen: list[str] = []
    url: str | None = f"/v1/images?tag={tag}&limit=3"
    while url:
        page = client.get(url)
        seen += [image["id"] for image in page.json()["data"]]
        upload(client, 200 + len(seen), tag=tag)
        url = page.links.get("next", {}).get("url")

    assert seen == list(reversed(ids))


def test_filters_and_sorts_combine(client: httpx.Client) -> None:
    tag = uuid4().hex
    small = upload(client, 120, tag=tag, filename="small.png")
    big = client.post(
        "/v1/images",
        params={"tag": tag, "filename": "big.jpeg"},
        content=picture("JPEG", seed=121, size=(900, 900)),
    ).json()

    def names(**params: str | int) -> list[str]:
        return [i["filename"] for i in client.get("/v1/images", params={"tag": tag, **params}).json()["data"]]

    assert names(sort="filename") == ["big.jpeg", "small.png"]
    assert names(sort="bytes") == ["small.png", "big.jpeg"]
    assert names(ext="jpeg") == ["big.jpeg"]
    assert names(content_type="image/png") == ["small.png"]
    assert names(min_bytes=small["bytes"] + 1) == ["big.jpeg"]
    assert names(max_bytes=big["bytes"] - 1) == ["small.png"]
    assert names(q="SMAL") == ["small.png"]
    assert names(created_after=big["created_at"], created_before=big["created_at"]) == []


@pytest.mark.parametrize(
    "query",
    [
        "colour=red",
        "limit=0",
        "limit=many",
        "created_after=yesterday",
        "sort=size",
        "cursor=rubbish",
        "min_bytes=-1",
    ],
)
def test_what_a_list_does_not_understand_is_a_problem_that_names_it(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/v1/images?{query}")

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in {"filter_invalid", "request_invalid", "cursor_invalid"}
    if "cursor" not in query:
        assert query.partition("=")[0] in answer.text


def test_a_cursor_of_another_list_is_refused(client: httpx.Client) -> None:
    tag = uuid4().hex
    for n in range(2):
        upload(client, 130 + n, tag=tag)
    cursor = client.get(f"/v1/images?tag={tag}&limit=1").json()["next_cursor"]

    answer = client.get("/v1/images", params={"limit": 1, "cursor": cursor, "sort": "bytes"})

    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


def test_an_image_is_found_by_name_and_the_newest_wins(client: httpx.Client) -> None:
    name = f"{uuid4().hex} é.png"
    upload(client, 140, filename=name)
    newest = upload(client, 141, filename=name)

    assert client.get(f"/v1/images/by-name/{name}").json()["id"] == newest["id"]
    assert client.get("/v1/images/by-name/nobody.png").json()["code"] == "image_not_found"


def test_random_respects_the_filters(client: httpx.Client) -> None:
    tag = uuid4().hex
    ids = {upload(client, 150 + n, tag=tag)["id"] for n in range(3)}

    drawn = {client.get(f"/v1/images/random?tag={tag}").json()["id"] for _ in range(40)}

    assert drawn == ids
    assert client.get(f"/v1/images/random?tag={uuid4().hex}").status_code == 404


def test_a_change_needs_the_version_that_was_read_when_it_says_so(client: httpx.Client) -> None:
    image = upload(client, 160)
    url = f"/v1/images/{image['id']}"

    changed = client.patch(url, json={"tags": ["a"], "attributes": {"x": 1}}, headers={"If-Match": '"v1"'})
    late = client.patch(url, json={"tags": ["b"]}, headers={"If-Match": '"v1"'})
    merged = client.patch(url, json={"attributes": {"x": None, "y": 2}})

    assert changed.status_code == 200
    assert changed.headers["etag"] == '"v2"'
    assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert merged.json()["attributes"] == {"y": 2}
    assert merged.json()["tags"] == ["a"]


@pytest.mark.parametrize(
    "patch",
    [
        {"tags": "a"},
        {"tags": ["x" * 65]},
        {"size": 3},
        {"filename": ""},
        {"filename": "../.."},
        {"attributes": {"a": "\x00"}},
        {"attributes": {"a": "b" * 9000}},
        [],
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(client: httpx.Client, patch: object) -> None:
    image = upload(client, 161, on_duplicate="keep")

    answer = client.patch(f"/v1/images/{image['id']}", json=patch)

    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert client.get(f"/v1/images/{image['id']}").json() == image


def test_the_trash_hides_an_image_until_it_is_restored(client: httpx.Client) -> None:
    tag = uuid4().hex
    image = upload(client, 170, tag=tag)
    url = f"/v1/images/{image['id']}"

    assert client.delete(url).status_code == 204
    assert client.delete(url).status_code == 204
    assert client.get(f"/v1/images?tag={tag}").json()["data"] == []
    assert [i["id"] for i in client.get(f"/v1/images?tag={tag}&state=deleted").json()["data"]] == [
        image["id"]
    ]
    assert client.get(f"{url}/content").status_code == 404
    assert client.get(url).json()["state"] == "deleted"

    restored = client.post(f"{url}/restore")

    assert (restored.status_code, restored.json()["state"]) == (200, "ready")
    assert client.get(f"{url}/content").content == picture(seed=170)
    assert client.get(f"/v1/images?tag={tag}").json()["data"][0]["id"] == image["id"]


def test_bytes_trashed_are_new_when_they_are_sent_again(client: httpx.Client) -> None:
    first = upload(client, 171)
    client.delete(f"/v1/images/{first['id']}")

    second = upload(client, 171)
    restored = client.post(f"/v1/images/{first['id']}/restore")

    assert second["id"] != first["id"]
    assert restored.status_code == 200


def test_content_is_delivered_so_that_no_browser_runs_it(client: httpx.Client) -> None:
    data = picture(seed=180)
    image = client.post("/v1/images", params={"filename": 'a "b" é.png'}, content=data).json()

    answer = client.get(image["url"])

    assert answer.content == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert "filename*=UTF-8''a%20%22b%22%20%C3%A9.png" in answer.headers["content-disposition"]
    assert answer.headers["accept-ranges"] == "bytes"
    encoded = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{encoded}:"


def test_content_answers_ranges_and_conditions(client: httpx.Client) -> None:
    data = picture(seed=181)
    url = upload(client, 181)["url"]
    whole = client.get(url)

    def get(**headers: str) -> httpx.Response:
        return client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    assert get(range="bytes=0-9").content == data[:10]
    assert get(range="bytes=0-9").headers["content-range"] == f"bytes 0-9/{len(data)}"
    assert get(range="bytes=-5").content == data[-5:]
    assert get(range="bytes=10-").content == data[10:]
    assert get(range=f"bytes=5-{len(data) * 2}").content == data[5:]
    assert get(range="bytes=0-1,4-5").content == data
    assert get(range="bytes=9-1").status_code == 200
    beyond = get(range=f"bytes={len(data)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert get(if_none_match=whole.headers["etag"]).status_code == 304
    assert get(if_none_match='"other"').status_code == 200
    assert get(if_modified_since=whole.headers["last-modified"]).status_code == 304
    assert get(range="bytes=0-9", if_range=whole.headers["etag"]).status_code == 206
    assert get(range="bytes=0-9", if_range='"other"').status_code == 200
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")


def test_metadata_answers_conditions(client: httpx.Client) -> None:
    url = f"/v1/images/{upload(client, 182)['id']}"
    etag = client.get(url).headers["etag"]

    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    client.patch(url, json={"tags": ["new"]})
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 200


def test_a_link_works_until_it_expires_and_for_its_image_only(client: httpx.Client) -> None:
    image, other = upload(client, 183), upload(client, 184)
    link = client.post(f"/v1/images/{image['id']}/links", json={"expires_in": 60}).json()

    assert client.get(link["url"]).content == picture(seed=183)
    forged = link["url"].replace(image["id"], other["id"])
    assert (client.get(forged).status_code, client.get(forged).json()["code"]) == (403, "link_invalid")
    assert client.get(link["url"].replace("expires=1", "expires=2")).status_code == 403
    assert client.post(f"/v1/images/{image['id']}/links", json={"expires_in": 0}).status_code == 422


@pytest.mark.parametrize("path", ["/v1/images/{}", "/v1/images/{}/content"])
def test_an_unknown_id_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path.format(uuid4()))

    assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")


def test_exif_is_shown_on_request_and_never_a_location(client: httpx.Client) -> None:
    image = upload(client, 185)

    assert "exif" not in client.get(f"/v1/images/{image['id']}").json()
    shown = client.get(f"/v1/images/{image['id']}?include=exif").json()
    assert shown["exif"] == {}
    assert "location" not in shown
