"""Known attacks on keys, tokens and the walls between owners, each against the running server."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from attacks.scenes import Case, cases
from identified import Identified
from identity.test_issuers import BAD, GOOD
from pictures import picture

FORGERIES = {
    '{"exp": "missing"}': "no exp",
    '{"crit": ["x"]}': "crit",
    '{"alg": "ES256", "sig": "all zero (psychic signature, CVE-2022-21449)"}': "a zero signature",
    '{"sig": "truncated"}': "a truncated signature",
    '{"b64": "standard base64 with padding and newlines"}': "lenient Base64",
    '{"iss": "https://issuer.example/ (trailing slash)"}': "iss with a slash",
    '{"tenant": "other tenant id set by the user in a custom claim not signed for it"}': "other claims",
    '{"alg": "RS256", "kid": "../../dev/null"}': "kid as a path",
    '{"zip": "DEF"}': "zip",
    '{"alg": "RS256", "x5u": "https://evil.example/c.pem"}': "x5u",
    '{"aud": ["other", "ours"]}': "an audience among several",
    '{"duplicate claim": "exp twice"}': "exp twice",
    '{"sub": ""}': "sub empty",
}
"""What the corpus describes, by the names that tests/identity/test_issuers.py has for it."""

OTHERWISE = {
    "338a9a9b16d5": {422: "parameters that do not exist are told to be so"},
    "753926e46b1b": {422: "so are those of a link that are there twice, or in another case"},
}
"""Attacks that are answered otherwise than the corpus foresees, with the reason."""


def of(category: str) -> pytest.MarkDecorator:
    chosen = [each for each in cases() if (each.group, each.category) == ("auth", category)]
    return pytest.mark.parametrize("case", [pytest.param(each, id=each.id) for each in chosen])


def shown(stranger: httpx.Client, token: str) -> httpx.Response:
    """Ask who one is, with a token as it is, letters and all; a line break would end the header."""
    return stranger.get("/v1/me", headers={b"authorization": b"Bearer " + token.replace("\n", "").encode()})


@of("api-key")
def test_a_key_that_is_none_opens_nothing(identified: Identified, anna: httpx.Client, case: Case) -> None:
    revoked = anna.post("/v1/api-keys", json={"scopes": ["read"]}).json()
    anna.delete(f"/v1/api-keys/{revoked['id']}")
    known = identified.by_name(revoked["key"])
    fields = case.value.format(**known).replace(" + Authorization: ", "\r\nauthorization: ")

    head = f"GET /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {fields}\r\n\r\n"
    answer = identified.say(head.encode().decode("latin-1"))

    assert int(answer.split()[1]) in case.status
    assert b"application/problem+json" in answer


@of("jwt")
def test_a_token_of_the_corpus_is_answered_as_foreseen(
    identified: Identified, stranger: httpx.Client, case: Case
) -> None:
    forge = (GOOD | BAD)[FORGERIES[json.dumps(case.value)]]

    assert shown(stranger, forge(identified.issuer)).status_code in case.status


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"a space"}))  # which is no part of a header's value
def test_a_forged_token_opens_nothing(identified: Identified, stranger: httpx.Client, name: str) -> None:
    answer = shown(stranger, BAD[name](identified.issuer))

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="tintype", error="invalid_token"'


def test_strangers_do_not_make_us_ask_the_issuer(identified: Identified, stranger: httpx.Client) -> None:
    assert shown(stranger, identified.issuer.token()).status_code == 200
    before = identified.issuer.fetches()

    for number in range(20):
        assert shown(stranger, identified.issuer.token(kid=f"unknown-{number}")).status_code == 401

    assert before >= 1
    assert identified.issuer.fetches() <= before + 1  # a minute may just be over


Ask = Callable[[httpx.Client, httpx.Client, dict[str, Any]], list[httpx.Response]]
"""What Anna does to get at an image of Bert's."""


def stolen_cursor(anna: httpx.Client, bert: httpx.Client, _image: dict[str, Any]) -> list[httpx.Response]:
    bert.post("/v1/images?on_duplicate=keep", content=picture(seed=7801))
    cursor = bert.get("/v1/images?limit=1").json()["next_cursor"]
    return [anna.get("/v1/images", params={"limit": 100, "cursor": cursor})]


def repeated_key(anna: httpx.Client, bert: httpx.Client, _image: dict[str, Any]) -> list[httpx.Response]:
    key = {"idempotency-key": uuid4().hex}
    bert.post("/v1/images?on_duplicate=keep", content=picture(seed=7802), headers=key)
    return [anna.post("/v1/images?on_duplicate=keep", content=picture(seed=7803), headers=key)]


def link_to(bert: httpx.Client, image: dict[str, Any]) -> str:
    link: str = bert.post(f"/v1/images/{image['id']}/links", json={}).json()["url"]
    return link


def bent_links(anna: httpx.Client, bert: httpx.Client, image: dict[str, Any]) -> list[httpx.Response]:
    place, _, query = link_to(bert, image).partition("?")
    expires, signature = query.split("&")
    bent = (f"{signature}&{expires}", f"{query}&{signature}x", f"{expires}0&{signature}", query.swapcase())
    return [anna.get(f"{place}?{each}") for each in bent]


ISOLATION: dict[str, Ask] = {
    "list with ?tenant=B / ?owner=B": lambda a, _, __: [
        a.get("/v1/images?tenant=bert"),
        a.get("/v1/images?owner=bert"),
    ],
    "GET /v1/images/{id of tenant B} with key of tenant A": lambda a, _, i: [a.get(f"/v1/images/{i['id']}")],
    "signed delivery URL with id changed": lambda a, b, i: [
        a.get(link_to(b, i).replace(i["id"], str(uuid4())))
    ],
    "PATCH metadata of {id B}": lambda a, _, i: [a.patch(f"/v1/images/{i['id']}", json={"tags": ["a"]})],
    "DELETE /v1/images/{id B}": lambda a, _, i: [a.delete(f"/v1/images/{i['id']}")],
    "signed URL: parameters reordered / duplicated / case changed": bent_links,
    "key with scope images:write calls admin reconcile": lambda a, _, __: [
        a.post("/v1/consistency/runs", json={})
    ],
    "Idempotency-Key already used by tenant B": repeated_key,
    "cursor copied from tenant B": stolen_cursor,
}


@of("isolation")
def test_an_owner_gets_at_nothing_of_another_one(anna: httpx.Client, bert: httpx.Client, case: Case) -> None:
    data = picture(seed=int(case.id, 16))
    image = bert.post("/v1/images?on_duplicate=keep", content=data).json()

    answers = ISOLATION[case.value](anna, bert, image)

    for answer in answers:
        assert answer.status_code in {*case.status, *OTHERWISE.get(case.id, {})}, answer.text
        if "json" in answer.headers["content-type"]:
            assert image["id"] not in answer.text.replace(answer.request.url.path, "")
    assert bert.get(f"/v1/images/{image['id']}").json() == image
