"""Nobody gets in without a key that is good for it; by the running service."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from identified import KEYS, Identified, make_key
from pictures import picture
from service import COMMAND, Service
from tintype.model.api_key import new_key


def new_scoped_key(admin: httpx.Client, *scopes: str, **more: object) -> dict[str, Any]:
    answer = admin.post("/v1/api-keys", json={"scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_key_says_who_its_holder_is(anna: httpx.Client) -> None:
    me = anna.get("/v1/me").json()
    assert (me["owner"], me["kind"], me["scopes"]) == ("anna", "key", ["admin", "location", "read", "write"])
    assert me["key_id"] == anna.headers["authorization"].split("_")[1]
    assert me["expires_at"].endswith("Z")


def test_without_identity_everybody_is_the_local_owner(client: httpx.Client) -> None:
    me = client.get("/v1/me", headers={"authorization": "Bearer whatever"}).json()
    assert (me["owner"], me["kind"], me["scopes"]) == (
        "local",
        "local",
        ["admin", "location", "read", "write"],
    )


def test_no_credentials_are_asked_for(stranger: httpx.Client) -> None:
    answer = stranger.get("/v1/images")
    assert code(answer) == (401, "credentials_missing")
    assert answer.headers["www-authenticate"] == 'Bearer realm="tintype"'


@pytest.mark.parametrize(
    "sent",
    [
        ["Bearer \0"],
        ["Bearer \xff"],
        ["Bearer a b"],
        ["Bearer"],
        ["Bearer "],
        ["Basic YW5uYTpwdw=="],
        ["{KEY}"],
        ["Bearer  {KEY}"],
        ["Bearer {KEY} {KEY}"],
        ["Bearer {KEY}", "Bearer {OTHER}"],
        ["Bearer {KEY}", "Bearer {KEY}"],
        ["Bearer {KEY_WITH_LAST_CHAR_CHANGED}"],
        ["Bearer {VALID_FORMAT_UNKNOWN_KEY}"],
        ["Bearer {REVOKED_KEY}"],
        ["Bearer tt_"],
        ["Bearer tut_"],
        ["Bearer tut_x.y"],
        ["Bearer tut_\xff.\xff"],
        ["Bearer " + "x" * 9_000],
    ],
)
def test_bad_credentials_are_refused(identified: Identified, anna: httpx.Client, sent: list[str]) -> None:
    revoked = new_scoped_key(anna, "read")
    anna.delete(f"/v1/api-keys/{revoked['id']}")
    known = identified.by_name(revoked["key"])
    fields = "".join(f"authorization: {each.format(**known)}\r\n" for each in sent)
    answer = identified.say(f"GET /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n")
    status = int(answer.split()[1])
    assert status in {400, 401}
    if status == 401:
        assert b'"code":"unauthenticated"' in answer
        assert b'www-authenticate: Bearer realm="tintype", error="invalid_token"' in answer


def test_an_expired_key_is_told_so(identified: Identified) -> None:
    with identified.client(identified.expired) as client:
        assert code(client.get("/v1/images")) == (401, "key_expired")


def test_the_scheme_s_case_does_not_matter(identified: Identified, stranger: httpx.Client) -> None:
    sent = {"authorization": f"bEARER {identified.anna}"}
    assert stranger.get("/v1/me", headers=sent).json()["owner"] == "anna"


def test_a_refusal_tells_nothing_about_what_is_there(
    anna: httpx.Client, stranger: httpx.Client, identified: Identified
) -> None:
    image = anna.post("/v1/images", content=picture(seed=9001)).json()
    writer = new_scoped_key(anna, "write")["key"]
    for credentials, status in ((None, 401), (new_key()[0], 401), (writer, 403)):
        with identified.client(credentials) as client:
            told = {
                json.dumps({k: v for k, v in answer.json().items() if k not in ("instance", "request_id")})
                for image_id in (image["id"], uuid4(), "no-id")
                for answer in [client.get(f"/v1/images/{image_id}")]
                if answer.status_code == status
            }
            assert len(told) == 1
    assert stranger.get("/v1/images/no-id").status_code == 401


def test_each_scope_is_good_for_its_own(anna: httpx.Client, identified: Identified) -> None:
    image = anna.post("/v1/images", content=picture(seed=9002)).json()

    def may(client: httpx.Client) -> dict[str, bool]:
        answers = {
            "read": client.get(image["urls"]["self"]),
            "content": client.get(image["urls"]["content"]),
            "write": client.patch(image["urls"]["self"], json={"tags": ["x"]}),
            "upload": client.post("/v1/images", content=picture(seed=9002)),
            "keys": client.get("/v1/api-keys"),
            "metrics": client.get("/metrics"),
            "me": client.get("/v1/me"),
        }
        for answer in answers.values():
            if answer.is_error:
                assert code(answer) == (403, "forbidden")
                needed = answer.json()["scope"]
                assert answer.headers["www-authenticate"].endswith(
                    f'error="insufficient_scope", scope="{needed}"'
                )
        return {name: not answer.is_error for name, answer in answers.items()}

    expected = {
        "read": {"read", "content", "me"},
        "write": {"write", "upload", "me"},
        "admin": {"keys", "metrics", "me"},
    }
    for scope, good in expected.items():
        with identified.client(new_scoped_key(anna, scope)["key"]) as client:
            assert {name for name, allowed in may(client).items() if allowed} == good


def test_the_public_is_served_without_a_key(stranger: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/problems/forbidden"):
        assert stranger.get(path).status_code == 200
    for path in ("/metrics", "/v1/instance", "/v1/capabilities", "/v1/me"):
        assert stranger.get(path).status_code == 401


def test_a_body_is_not_read_before_its_sender_is_known(identified: Identified) -> None:
    """Only the head is sent: whoever waits for the body would never answer."""
    bodies = {
        "POST /v1/images": "image/png",
        "PUT /v1/images/a.png": "image/png",
        f"PATCH /v1/images/{uuid4()}": "application/json",
        "POST /v1/api-keys": "application/json",
    }
    for line, content_type in bodies.items():
        answer = identified.say(
            f"{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
            f"content-type: {content_type}\r\ncontent-length: 40000000\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_key_is_shown_once(anna: httpx.Client) -> None:
    made = new_scoped_key(anna, "read", name="backup", expires_in=3600)
    secret = made["key"].split("_")[2]
    listed = anna.get("/v1/api-keys")
    assert secret[:43] not in listed.text
    (row,) = [each for each in listed.json()["data"] if each["id"] == made["id"]]
    assert row == {name: value for name, value in made.items() if name != "key"}
    assert (row["name"], row["scopes"], row["owner"]) == ("backup", ["read"], "anna")
    assert row["created_by"] == anna.get("/v1/me").json()["key_id"]


def test_a_revoked_key_ends_at_once_where_it_was_revoked(anna: httpx.Client, identified: Identified) -> None:
    made = new_scoped_key(anna, "read")
    with identified.client(made["key"]) as client:
        assert client.get("/v1/images").status_code == 200
        assert anna.delete(f"/v1/api-keys/{made['id']}").status_code == 204
        assert code(client.get("/v1/images")) == (401, "unauthenticated")
    assert anna.delete(f"/v1/api-keys/{made['id']}").status_code == 204, "again"


def test_an_admin_gives_no_more_than_they_have(anna: httpx.Client, identified: Identified) -> None:
    with identified.client(new_scoped_key(anna, "admin")["key"]) as admin:
        assert code(admin.post("/v1/api-keys", json={"scopes": ["read"]})) == (403, "forbidden")
        assert admin.post("/v1/api-keys", json={"scopes": ["admin"]}).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["read"], "owner": "bert"},
        {"scopes": ["read"], "expires_in": 0},
        {"scopes": ["read"], "name": "a\u0000b"},
        {"scopes": ["read"], "name": "x" * 101},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(anna: httpx.Client, body: dict[str, Any]) -> None:
    assert code(anna.post("/v1/api-keys", json=body)) == (422, "request_invalid")


def test_what_a_key_uploads_is_its_owner_s(anna: httpx.Client) -> None:
    image = anna.post("/v1/images", content=picture(seed=9003)).json()
    assert image["owner"] == "anna"


def test_a_link_needs_no_key(anna: httpx.Client, stranger: httpx.Client) -> None:
    data = picture(seed=9004)
    image = anna.post("/v1/images", content=data).json()
    url = anna.post(f"/v1/images/{image['id']}/links", json={}).json()["url"]
    assert stranger.get(url).content == data
    assert code(stranger.get(url.replace(image["id"], str(uuid4())))) == (403, "link_invalid")
    assert code(stranger.get(url.replace("signature=", "signature=x"))) == (403, "link_invalid")
    for query in ("?xsignature=1", "?a=signature=", "?signature"):
        assert stranger.get(image["urls"]["content"] + query).status_code in {401, 403, 422}
    anna.delete(image["urls"]["self"])
    assert code(stranger.get(url)) == (404, "image_not_found")


def test_the_log_tells_who_and_why_and_never_a_secret(
    anna: httpx.Client, stranger: httpx.Client, identified: Identified
) -> None:
    made = new_scoped_key(anna, "read")
    secret = made["key"]
    hidden = [secret, secret.split("_")[2], secret.split("_")[2][:43]]
    typo = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    with identified.client(secret) as client:
        client.get("/v1/images")
        forbidden = client.post("/v1/images", content=b"x").headers["x-request-id"]
    unknown = stranger.get("/v1/me", headers={"authorization": f"Bearer {typo}"}).headers["x-request-id"]
    stranger.get(f"/v1/images/by-name/{secret}?q={secret}", headers={"x-request-id": secret})
    stranger.get(f"/{secret}", headers={"cookie": f"key={secret}", "referer": secret, "user-agent": secret})
    lines = log_lines(identified.service, forbidden, unknown)
    told = [line for line in lines if line.get("request_id") == forbidden]
    assert {"auth.forbidden", "request"} <= {line["event"] for line in told}
    assert all(line["key_id"] == made["id"] for line in told)
    (failed,) = [
        line for line in lines if line.get("request_id") == unknown and line["event"] == "auth.failed"
    ]
    assert (failed["level"], failed["reason"]) == ("warning", "malformed")
    assert not [each for each in hidden if each in identified.service.output]


def log_lines(service: Service, *request_ids: str) -> list[dict[str, Any]]:
    """Wait until the requests have their lines, and return all."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [json.loads(line) for line in service.log if line.startswith("{")]
        ended = {line["request_id"] for line in lines if line["event"] == "request"}
        if ended >= set(request_ids):
            return lines
        time.sleep(0.05)
    raise AssertionError(service.output)


def test_without_identity_only_this_machine_is_listened_to(tmp_path: Path) -> None:
    command = [*COMMAND, "--host", "0.0.0.0", "--data-dir", str(tmp_path)]  # noqa: S104 # to be refused
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "TINTYPE_IDENTITY__MODE=keys" in ended.stderr
    assert "tintype keys create" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_identity_others_are_listened_to(tmp_path: Path, serve: Callable[..., Service]) -> None:
    key = make_key(tmp_path / "data", "shop", "read", "--expires", "2h")
    service = serve(TINTYPE_IDENTITY__MODE="keys", TINTYPE_HOST="0.0.0.0")  # noqa: S104 # the point
    assert "identity   API keys" in service.output
    base = service.base.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert httpx.get(f"{base}/v1/me").status_code == 401
    me = httpx.get(f"{base}/v1/me", headers={"authorization": f"Bearer {key}"}).json()
    assert (me["owner"], me["scopes"]) == ("shop", ["read"])


def test_a_service_without_identity_says_so(service: Service) -> None:
    assert "identity   none" in service.output


def test_an_operator_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        command = [*KEYS, *arguments, "--data-dir", str(tmp_path)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        return ended.returncode, ended.stdout, ended.stderr

    status, key, _ = run("create", "--owner", "shop", "--scopes", "read,write", "--expires", "never")
    key_id = key.split("_")[1]
    assert status == 0
    assert key.strip() not in (listed := run("list")[1])
    assert f"{key_id}  shop  read,write  does not expire  not used yet" in listed
    assert run("list", "--owner", "nobody")[1] == ""
    assert run("revoke", key_id)[0] == 0
    assert f"{key_id}  shop  read,write  revoked" in run("list")[1]
    assert run("revoke", "nothing")[0] == 1
    assert "Name the id" in run("revoke")[2]
    run("create", "--owner", "shop", "--scopes", "read")
    assert run("revoke", "--owner", "shop")[1].startswith("revoked ")
    assert run("revoke", "--owner", "shop")[:2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--owner", "a b", "--scopes", "read"], "An owner is named"),
        (["--owner", "a", "--scopes", "root"], "Scopes are any of"),
        (["--owner", "a", "--scopes", ""], "Scopes are any of"),
        (["--owner", "a", "--scopes", "read", "--expires", "soon"], "--expires takes"),
    ],
)
def test_an_operator_s_mistake_is_a_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    command = [*KEYS, "create", *arguments, "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert list(tmp_path.iterdir()) == []
