"""Nobody reaches what belongs to another owner: every route, made from the table of routes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute

import careless
from identified import Identified, serving_identified
from pictures import picture
from tintype.server.access import ACCESS
from tintype.server.app import describe

pytestmark = pytest.mark.xdist_group("isolation")  # what the second service forgot is counted

ROUTES = [
    (method, route)
    for route in describe().routes
    if isinstance(route, APIRoute) and not ACCESS[route.name].public
    for method in sorted(route.methods or ())
]

BYTES = "application/offset+octet-stream"
TUS = {"Tus-Resumable": "1.0.0", "Accept": "application/problem+json"}

# What a route that names an object is sent, beside the name.
BODIES: dict[str, dict[str, Any]] = {
    "read_image": {},
    "image_by_name": {},
    "change_image": {"json": {"tags": ["mine"]}},
    "trash_image": {},
    "restore_image": {},
    "image_content": {},
    "make_link": {"json": {}},
    "revoke_api_key": {},
    "complete_direct_upload": {"json": {}},
    "abort_upload": {},
    "sign_upload_parts": {"json": {"numbers": [1]}},
    "list_upload_parts": {},
    "read_upload": {},
    "read_upload_offset": {"headers": TUS},
    "append_to_upload": {"headers": TUS | {"Content-Type": BYTES, "Upload-Offset": "0"}, "content": b"x"},
    "end_upload": {"headers": TUS},
    "read_subscription": {},
    "change_subscription": {"json": {"status": "paused"}},
    "delete_subscription": {},
    "resend_confirmation": {},
    "confirm_subscription": {"json": {"code": "123456"}},
    "rotate_secret": {},
    "test_subscription": {},
    "replay_events": {"json": {"after": 0}},
    "list_deliveries": {},
}

# Routes that name no object of anybody's; what they could show or touch is asked below.
NAMELESS = {
    "upload_images",
    "upload_named_image",  # its name is a new image's
    "list_images",
    "random_image",
    "make_api_key",
    "make_upload_token",
    "begin_direct_upload",
    "begin_upload",
    "list_uploads",
    "discover_uploads",
    "discover_tus",
    "discover_tus_upload",  # tells the same of any
    # Their address has an upload token in it, which is all that counts: see journeys/test_browser_doors.py.
    "companion_parameters",
    "companion_begin",
    "companion_list",
    "companion_sign",
    "companion_complete",
    "companion_abort",
    "filepond_process",
    "filepond_append",
    "filepond_offset",
    "filepond_revert",
    "filepond_read",
    "dropzone_upload",
    "upload_form",
    "upload_by_form",
    "list_api_keys",
    "make_subscription",
    "list_subscriptions",
    "preview_filter",
    "list_events",
    "stream_events",
    "mailbox",  # on a laptop alone, where there is one owner
    "mail",
    "read_me",
    "read_instance",
    "read_capabilities",
    "metrics",
    # Runs are nobody's: they are for operators, as is shown below.
    "begin_check",
    "list_checks",
    "read_check",
    "follow_check",
    "list_findings",
    "repair_findings",
    "undo_repairs",
    "cancel_check",
}


@pytest.fixture(scope="module", params=["the first wall", "the second wall alone"])
def identified(
    request: pytest.FixtureRequest, identified: Identified, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Identified]:
    """The service as it is; and one whose statements forget the owner, so that PostgreSQL alone remembers."""
    if request.param == "the first wall":
        yield identified
        return
    with serving_identified(tmp_path_factory.mktemp("careless"), careless.COMMAND) as forgetful:
        yield forgetful
        assert forgetful.service.output.count(careless.FORGOT) > 25


@dataclass(frozen=True)
class Belongings:
    """What Bert has: the parameters of paths that lead to it."""

    ready: dict[str, str]
    trashed: dict[str, str]
    data: bytes
    tag: str


def missing() -> dict[str, str]:
    return {
        "upload_id": str(uuid4()),
        "image_id": str(uuid4()),
        "filename": f"{uuid4()}.png",
        "key_id": uuid4().hex[:12],
    } | {"subscription_id": str(uuid4())}


@pytest.fixture
def belongings(bert: httpx.Client) -> Belongings:
    tag = uuid4().hex

    def have(seed: int) -> tuple[dict[str, str], bytes]:
        data = picture(seed=seed)
        params = {"filename": f"{uuid4()}.png", "tag": tag, "on_duplicate": "keep"}
        image = bert.post("/v1/images", params=params, content=data).json()
        key = bert.post("/v1/api-keys", json={"scopes": ["read"]}).json()
        wanted = {"channel": "email", "address": f"{uuid4().hex}@example.org"}
        subscription = bert.post("/v1/subscriptions", json=wanted).json()
        upload = bert.post("/v1/uploads", json={"method": "multipart"}).json()
        return {
            "upload_id": upload["id"],
            "image_id": image["id"],
            "filename": image["filename"],
            "key_id": key["id"],
        } | {"subscription_id": subscription["id"]}, data

    ready, data = have(8001)
    trashed, _ = have(8002)
    assert bert.delete(f"/v1/images/{trashed['image_id']}").status_code == 204
    return Belongings(ready, trashed, data, tag)


def shape(answer: httpx.Response) -> tuple[int, dict[str, Any], set[str]]:
    """What an answer tells, but for the path asked for and the request's own id."""
    body = answer.json() if answer.content else {}
    told = {name: value for name, value in body.items() if name not in ("instance", "request_id")}
    return answer.status_code, told, set(answer.headers)


def test_every_route_has_a_case() -> None:
    named = {route.name for _, route in ROUTES if "{" in route.path}
    assert {route.name for _, route in ROUTES} == set(BODIES) | NAMELESS
    assert named - NAMELESS == set(BODIES), "a route that names an object is asked for a foreign one"


@pytest.mark.parametrize(
    ("method", "route"),
    [(method, route) for method, route in ROUTES if route.name in BODIES],
    ids=lambda part: part if isinstance(part, str) else part.path,
)
def test_a_foreign_object_is_answered_as_a_missing_one(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings, method: str, route: APIRoute
) -> None:
    def ask(names: dict[str, str]) -> tuple[int, dict[str, Any], set[str]]:
        return shape(anna.request(method, route.path.format(**names), **BODIES[route.name]))

    nothing = ask(missing())
    assert nothing[0] == 404
    assert ask(belongings.ready) == nothing
    assert ask(belongings.trashed) == nothing

    kept = bert.get(f"/v1/images/{belongings.ready['image_id']}").json()
    assert (kept["version"], kept["tags"]) == (1, [belongings.tag])
    assert bert.get(f"/v1/images/{belongings.trashed['image_id']}").json()["state"] == "deleted"
    keys = {key["id"]: key["revoked_at"] for key in bert.get("/v1/api-keys").json()["data"]}
    assert keys[belongings.ready["key_id"]] is None
    subscription = bert.get(f"/v1/subscriptions/{belongings.ready['subscription_id']}").json()
    assert (subscription["status"], subscription["version"]) == ("pending", 1)


@pytest.mark.parametrize("query", ["", "?owner=bert", "?tenant=bert", "?owner=*", "?state=deleted"])
def test_no_parameter_widens_a_list(anna: httpx.Client, belongings: Belongings, query: str) -> None:
    answer = anna.get(f"/v1/images{query}")
    assert answer.status_code in {200, 400, 422}
    shown = {image["owner"] for image in answer.json().get("data", [])}
    assert shown <= {"anna"}
    by_tag = anna.get(f"/v1/images?tag={belongings.tag}").json()
    assert by_tag["data"] == []


def test_a_draw_is_among_one_s_own(anna: httpx.Client, bert: httpx.Client, belongings: Belongings) -> None:
    drawn = f"/v1/images/random?tag={belongings.tag}"
    assert bert.get(drawn).json()["owner"] == "bert"
    assert anna.get(drawn).status_code == 404


def test_a_foreign_cursor_shows_nothing_foreign(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings
) -> None:
    for seed in (8010, 8011):
        bert.post(f"/v1/images?tag={belongings.tag}", content=picture(seed=seed))
    cursor = bert.get(f"/v1/images?limit=1&tag={belongings.tag}").json()["next_cursor"]
    answer = anna.get("/v1/images", params={"limit": 100, "tag": belongings.tag, "cursor": cursor})
    assert answer.status_code in {200, 400}
    assert answer.json().get("data", []) == []


def test_the_same_bytes_of_two_owners_are_two_images(anna: httpx.Client, belongings: Belongings) -> None:
    answer = anna.post(f"/v1/images?filename={uuid4()}.png&on_duplicate=keep", content=belongings.data)
    assert answer.status_code == 201
    assert (answer.json()["owner"], answer.json()["tags"]) == ("anna", [])
    assert answer.json()["id"] != belongings.ready["image_id"]


def test_an_owner_s_first_copy_is_new_whoever_else_has_the_bytes(
    anna: httpx.Client, bert: httpx.Client
) -> None:
    data = picture(seed=uuid4().int % 2**31)
    assert bert.post("/v1/images", content=data).status_code == 201
    assert anna.post("/v1/images", content=data).status_code == 201
    assert anna.post("/v1/images", content=data).status_code == 200


def test_an_idempotency_key_is_its_owner_s(anna: httpx.Client, bert: httpx.Client) -> None:
    key = {"idempotency-key": uuid4().hex}
    theirs = bert.post("/v1/images", content=picture(seed=8020), headers=key)
    ours = anna.post("/v1/images?on_duplicate=keep", content=picture(seed=8021), headers=key)
    assert (theirs.status_code // 100, ours.status_code) == (2, 201)
    assert ours.json()["id"] != theirs.json()["id"]


def test_keys_are_listed_to_their_owner(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings
) -> None:
    def listed(client: httpx.Client) -> set[str]:
        return {each["id"] for each in client.get("/v1/api-keys").json()["data"]}

    assert belongings.ready["key_id"] in listed(bert) - listed(anna)


def test_checks_see_every_owner_s_images_and_are_for_operators(anna: httpx.Client) -> None:
    run = f"/v1/consistency/runs/{uuid4()}"
    answers = [anna.get("/v1/consistency/runs"), anna.post("/v1/consistency/runs", json={})]
    answers += [anna.get(f"{run}{path}") for path in ("", "/stream", "/findings")]
    answers += [anna.post(f"{run}/{verb}", json={}) for verb in ("repair", "undo", "cancel")]

    assert {answer.status_code for answer in answers} == {403}


def test_subscriptions_are_listed_to_their_owner(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings
) -> None:
    def listed(client: httpx.Client) -> set[str]:
        return {each["id"] for each in client.get("/v1/subscriptions?limit=200").json()["data"]}

    assert belongings.ready["subscription_id"] in listed(bert) - listed(anna)
    cursor = {"cursor": belongings.ready["subscription_id"]}
    assert not {each["id"] for each in anna.get("/v1/subscriptions", params=cursor).json()["data"]} & listed(
        bert
    )


def test_the_log_and_its_stream_tell_of_one_s_own_images(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings
) -> None:
    def told(client: httpx.Client) -> set[str]:
        events = client.get("/v1/events?limit=500").json()["data"]
        return {event["data"].get("id") for event in events}

    theirs = {belongings.ready["image_id"], belongings.trashed["image_id"]}
    assert theirs <= told(bert)
    assert not theirs & told(anna)
    with anna.stream("GET", "/v1/events/stream?after=0", timeout=1) as stream:
        heard = ""
        try:
            for text in stream.iter_text():
                heard += text
        except httpx.ReadTimeout:
            pass
    assert heard
    assert not any(image in heard for image in theirs)
    assert {client.get(path).status_code for client in (anna, bert) for path in ("/mail", "/mail/x")} == {404}


def test_a_filter_is_tried_on_one_s_own_images(anna: httpx.Client, belongings: Belongings) -> None:
    tried = anna.post("/v1/subscriptions/preview", json={"last": 200}).json()
    seen = {each["image_id"] for each in tried["data"]}
    assert not seen & {belongings.ready["image_id"], belongings.trashed["image_id"]}


def test_a_link_is_good_for_one_image(
    bert: httpx.Client, stranger: httpx.Client, belongings: Belongings
) -> None:
    path = f"/v1/images/{belongings.ready['image_id']}"
    other = bert.post("/v1/images?on_duplicate=keep", content=picture(seed=8030)).json()["id"]
    url = bert.post(f"{path}/links", json={}).json()["url"]
    expires, signature = url.rpartition("?")[2].split("&")
    assert stranger.get(url).content == belongings.data
    assert stranger.get(f"{path}/content?{signature}&{expires}").status_code == 200
    for foreign in (other, str(uuid4())):
        assert stranger.get(url.replace(belongings.ready["image_id"], foreign)).status_code == 403
    for query in (
        f"{expires}0&{signature}",
        f"{signature}",
        f"{expires}&{signature.upper()}",
        f"{expires}&{signature}&{signature}x",
        f"{expires}&signature=",
        f"EXPIRES={expires}&{signature}",
    ):
        assert stranger.get(f"{path}/content?{query}").status_code in {401, 403, 422}, query
    for way in (path, f"{path}/links", "/v1/images"):
        assert stranger.get(f"{way}?{expires}&{signature}").status_code in {401, 405}


def test_a_key_with_a_link_of_somebody_else_s_sees_what_the_link_shows(
    anna: httpx.Client, bert: httpx.Client, belongings: Belongings, identified: Identified
) -> None:
    url = bert.post(f"/v1/images/{belongings.ready['image_id']}/links", json={}).json()["url"]
    assert anna.get(url).content == belongings.data
    assert identified.service.base in url
