"""Hostile questions about images that are stored: filters, cursors, labels, ranges, links, and /docs."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from attacks.speaking import speak
from pictures import picture
from service import Service

DATA = picture(seed=660)
NOBODY = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"


@pytest.fixture
def image(client: httpx.Client) -> dict[str, Any]:
    stored: dict[str, Any] = client.post("/v1/images?filename=question.png", content=DATA).json()
    return stored


def assert_refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("q=%00", "q"),
        ("tag=a&tag=%00", "tag.1"),
        ("ext=%00", "ext"),
        ("content_type=image/png%00", "content_type"),
        ("created_after=1700000000", "created_after"),
        ("created_before=0.5", "created_before"),
        ("created_before=2026-05-01", "created_before"),
        ("created_before=2026-05-01T00:00:00", "created_before"),
        ("created_after=Infinity", "created_after"),
        ("min_bytes=-1", "min_bytes"),
        ("max_bytes=NaN", "max_bytes"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("sort=filename;drop%20table%20images", "sort"),
        ("state=purged", "state"),
        ("owner=somebody", "owner"),
        ("q=" + "x" * 201, "q"),
        ("cursor=" + "x" * 2001, "cursor"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_its_name(
    client: httpx.Client, query: str, parameter: str
) -> None:
    answer = client.get(f"/v1/images?{query}")

    assert_refused(answer, 422)
    assert [each["parameter"] for each in answer.json()["errors"]] == [parameter]


@pytest.mark.parametrize(
    "text",
    ["%", "_", "\\", "%%%%%%%", "' OR 1=1 --", "\\x00", "[a-z]", "(?s).*", "*", "\ud83d\ude00", "a" * 200],
)
def test_no_character_of_a_search_is_a_wildcard(
    client: httpx.Client, image: dict[str, Any], text: str
) -> None:
    encoded = text.encode("utf-16", "surrogatepass").decode("utf-16")
    found = client.get("/v1/images", params={"q": encoded, "limit": 200}).json()["data"]
    tagged = client.get("/v1/images", params={"tag": encoded}).json()["data"]

    assert image["id"] not in {each["id"] for each in [*found, *tagged]}
    assert all(encoded.lower() in (each["filename"] + " ".join(each["tags"])).lower() for each in found)


@pytest.mark.parametrize(
    ("sort", "value"),
    [
        ("filename", "a\0b"),
        ("filename", "\ud800"),
        ("filename", "x" * 1000),
        ("bytes", 10**40),
        ("bytes", -1),
        ("bytes", True),
        ("created_at", "0001-01-01T00:00:00+14:00"),
        ("created_at", "2026-05-01T00:00:00"),
        ("created_at", "x"),
        ("filename", None),
        ("filename", ["a"]),
    ],
)
def test_a_forged_cursor_breaks_nothing(client: httpx.Client, sort: str, value: object) -> None:
    for seed in (661, 662):
        client.post("/v1/images", content=picture(seed=seed))
    cursor = client.get("/v1/images", params={"sort": sort, "limit": 1}).json()["next_cursor"]
    digest, _, identity = json.loads(base64.urlsafe_b64decode(cursor + "=="))

    forged = base64.urlsafe_b64encode(json.dumps([digest, value, identity]).encode()).decode().rstrip("=")
    answer = client.get("/v1/images", params={"sort": sort, "cursor": forged})

    if answer.status_code != 200:
        assert_refused(answer, 400)
        assert answer.json()["code"] == "cursor_invalid"


@pytest.mark.parametrize("cursor", ["", "=", "....", "W10", "e30", "bnVsbA", "W1tbW1tbW1s", "\u00e9", "%00"])
def test_what_is_no_cursor_is_refused(client: httpx.Client, cursor: str) -> None:
    assert_refused(client.get("/v1/images", params={"cursor": cursor}), 400)


@pytest.mark.parametrize(
    "patch",
    [
        '{"tags": ["a\\u0000b"]}',
        '{"tags": ["\\ud800"]}',
        '{"tags": ["a\\nb"]}',
        '{"tags": [{}]}',
        '{"tags": "a"}',
        json.dumps({"tags": [str(each) for each in range(51)]}),
        json.dumps({"tags": ["x" * 65]}),
        '{"attributes": {"a": "\\u0000"}}',
        '{"attributes": {"\\ud800": 1}}',
        '{"attributes": {"a": NaN}}',
        '{"attributes": {"a": 1e999}}',
        json.dumps({"attributes": {"a": "x" * 9000}}),
        '{"attributes": ' + '{"a":' * 2000 + "1" + "}" * 2000 + "}",
        "[" * 30_000 + "]" * 30_000,
        '{"attributes": []}',
        '{"filename": ""}',
        '{"filename": "/"}',
        '{"filename": "\\u202e"}',
        '{"filename": 1}',
        '{"id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"}',
        '{"owner": "somebody"}',
        '{"__proto__": {"owner": "somebody"}}',
        "null",
        "",
    ],
)
def test_a_change_that_cannot_be_stored_changes_nothing(
    client: httpx.Client, image: dict[str, Any], patch: str
) -> None:
    before = client.get(image["urls"]["self"]).json()

    answer = client.patch(
        image["urls"]["self"], content=patch.encode(), headers={"content-type": "application/json"}
    )

    assert_refused(answer, 422)
    assert client.get(image["urls"]["self"]).json() == before


def test_a_long_change_is_refused_whether_its_length_is_told_or_not(
    client: httpx.Client, image: dict[str, Any]
) -> None:
    body = json.dumps({"attributes": {"a": "x" * 100_000}}).encode()
    told_as = {"content-type": "application/json"}

    declared = client.patch(image["urls"]["self"], content=body, headers=told_as)
    chunked = client.patch(image["urls"]["self"], content=iter([body]), headers=told_as)

    assert_refused(declared, 413)
    assert_refused(chunked, 413)


def test_changes_at_once_are_each_whole(client: httpx.Client, image: dict[str, Any]) -> None:
    def change(number: int) -> int:
        return client.patch(image["urls"]["self"], json={"attributes": {f"n{number}": number}}).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(change, range(16))) == {200}

    now = client.get(image["urls"]["self"]).json()
    assert {f"n{number}": number for number in range(16)}.items() <= now["attributes"].items()


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=" + ",".join("0-0" for _ in range(1500)), 200),
        ("bytes=0-0,0-0", 200),
        ("bytes=5-2", 200),
        ("bytes=-", 200),
        ("bytes=a-b", 200),
        ("bytes=\u0660-", 200),
        ("octets=0-1", 200),
        ("bytes=0-" + "9" * 18, 206),
        ("bytes=0-" + "9" * 40, 200),
        ("bytes=-" + "9" * 18, 206),
        ("bytes=-0", 416),
        (f"bytes={len(DATA)}-", 416),
        ("bytes=" + "9" * 18 + "-", 416),
        (f"bytes={len(DATA) - 1}-", 206),
    ],
)
def test_a_range_never_costs_more_than_the_image(
    client: httpx.Client, image: dict[str, Any], wanted: str, status: int
) -> None:
    answer = client.get(image["url"], headers={b"range": wanted.encode()})

    assert answer.status_code == status
    if status == 416:
        assert_refused(answer, 416)
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    else:
        assert len(answer.content) <= len(DATA)
        assert answer.content in DATA


@pytest.mark.parametrize(
    "headers",
    [
        {"if-none-match": '"' + "x" * 20_000},
        {"if-none-match": "," * 20_000},
        {"if-modified-since": "Thu, 99 Foo 99999 99:99:99 GMT"},
        {"if-modified-since": "Thu, 01 Jan 0000 00:00:00 GMT"},
        {"if-modified-since": "Thu, 01 Jan 2026 00:00:00 +9999"},
        {"if-modified-since": "Thu, 01 Jan 0001 00:00:00 +2359"},
        {"if-modified-since": "x" * 10_000},
        {"if-modified-since": ""},
        {"if-range": "Thu, 01 Jan 2026 00:00:00 +9999", "range": "bytes=0-0"},
        {"if-range": "", "range": "bytes=0-0"},
        {"range": ""},
    ],
)
def test_a_condition_that_makes_no_sense_is_passed_over(
    client: httpx.Client, image: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = client.get(image["url"], headers=headers)

    assert answer.status_code == 200
    assert answer.content == DATA


def test_a_link_is_good_for_its_image_and_its_time_alone(client: httpx.Client, image: dict[str, Any]) -> None:
    other = client.post("/v1/images", content=picture(seed=663)).json()
    link = client.post(f"{image['urls']['self']}/links", json={"expires_in": 60}).json()["url"]
    query = parse_qs(urlsplit(link).query)
    expires, signature = query["expires"][0], query["signature"][0]

    def ask(identity: str, **asked: object) -> int:
        return client.get(f"/v1/images/{identity}/content", params=asked).status_code  # type: ignore[arg-type] # any text

    assert ask(image["id"], expires=expires, signature=signature) == 200
    assert ask(image["id"].upper(), signature=signature, expires=expires) == 200
    assert ask(other["id"], expires=expires, signature=signature) == 403
    assert ask(NOBODY, expires=expires, signature=signature) == 403
    assert ask(image["id"], expires=int(expires) + 1, signature=signature) == 403
    assert ask(image["id"], signature=signature) == 403
    for forged in ("", signature[:-1], signature + "A", signature.swapcase(), "\u00e9", "%00", "A" * 43):
        assert ask(image["id"], expires=expires, signature=forged) == 403
    assert ask(image["id"], expires=expires, signature="A" * 201) == 422
    assert ask(image["id"], expires="1e9", signature=signature) == 422
    assert ask(image["id"], expires=10**30, signature=signature) == 403


def test_a_link_ends_with_its_time(client: httpx.Client, image: dict[str, Any]) -> None:
    link = client.post(f"{image['urls']['self']}/links", json={"expires_in": 1}).json()["url"]
    deadline = time.monotonic() + 10

    while (answer := client.get(link)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert_refused(answer, 403)


@pytest.mark.parametrize("expires_in", [0, -1, 604_801, 10**30, 1.5, "x", True, [1]])
def test_a_link_lives_a_week_at_most(client: httpx.Client, image: dict[str, Any], expires_in: object) -> None:
    assert_refused(client.post(f"{image['urls']['self']}/links", json={"expires_in": expires_in}), 422)


@pytest.mark.parametrize("host", ["evil.example", "evil.example/x", "a b", '"><script>', "x" * 5000, "[::1"])
def test_a_host_that_a_client_makes_up_breaks_nothing(
    client: httpx.Client, image: dict[str, Any], host: str
) -> None:
    told_as = {"host": host, "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}

    listed = client.get("/v1/images?limit=1", headers=told_as)
    link = client.post(f"{image['urls']['self']}/links", json={}, headers=told_as)

    assert_refused(listed, 421)
    assert_refused(link, 421)
    assert client.get(image["url"]).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/docs/../../../../etc/passwd",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
        "/docs/x/..%2f..%2f..%2fetc%2fpasswd",
        "/docs/x/swagger-ui.css",
        "/docs//",
        "/problems/..%2f..%2fetc%2fpasswd",
        "/problems/%00",
        "//evil.example/docs",
        "/v1/images/..%2f..%2ftintype.json",
        "/%5c%5cevil.example",
    ],
)
def test_no_address_leads_out_of_what_there_is(client: httpx.Client, path: str) -> None:
    answer = client.request("GET", httpx.URL(str(client.base_url), raw_path=path.encode()))

    assert_refused(answer, 404, 422)
    assert "location" not in answer.headers


def test_a_page_runs_nothing_that_a_request_brought(client: httpx.Client) -> None:
    hostile = "<script>alert(1)</script>"
    for path in (f"/{hostile}", f"/problems/{hostile}", f"/v1/images/{hostile}", f"/docs?x={hostile}"):
        page = client.get(path, headers={"accept": "text/html"})
        assert hostile not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("tag", ["a\u0085b", "a\u202eb", "a\u2066b", "a\u2028b", "a\x7fb", "a\x1b[31mb"])
def test_no_tag_hides_or_turns_what_stands_beside_it(client: httpx.Client, tag: str) -> None:
    assert_refused(client.post("/v1/images", params={"tag": tag}, content=picture(seed=664)), 422)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], "coding_unsupported"),
        ([("Content-Encoding", "identity, gzip")], "coding_unsupported"),
        ([("Repr-Digest", "md5=:aaaa:"), ("Repr-Digest", f"sha-256=:{'A' * 43}=:")], "digest_mismatch"),
        ([("Content-Digest", "md5=:aaaa:"), ("Content-Digest", "sha-256")], "request_invalid"),
        ([("Idempotency-Key", "one"), ("Idempotency-Key", "two")], "request_invalid"),
    ],
)
def test_a_field_that_is_sent_twice_is_read_twice(
    client: httpx.Client, fields: list[tuple[str, str]], code: str
) -> None:
    answer = client.post("/v1/images", content=picture(seed=665), headers=fields)

    assert_refused(answer, 400, 415, 422)
    assert answer.json()["code"] == code


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_number_is_kept_as_it_is_or_refused(
    client: httpx.Client, image: dict[str, Any], number: int
) -> None:
    told = json.dumps({"number": number})

    sent = client.post("/v1/images", params={"attributes": told}, content=picture(seed=666))
    changed = client.patch(image["urls"]["self"], json={"attributes": {"number": number}})

    assert_refused(sent, 422)
    assert_refused(changed, 422)


def test_two_hosts_are_one_too_many(service: Service) -> None:
    answer = speak(service, b"GET /readyz HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n")

    assert (answer.status, answer.problem["code"]) == (400, "http_invalid")
