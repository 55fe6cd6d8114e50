"""Subscriptions as people and programs use them: over HTTP, by the links in their mails, in a browser."""

import email
import email.policy
import re
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser

from identified import Identified
from pictures import picture
from receiver import Receiver, Reply, confirming
from service import Service

HTML = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
LINK = re.compile(r"http://\S+/v1/subscriptions/(?:confirm|unsubscribe)\?token=[\w.-]+")
PATIENCE = 30
T = TypeVar("T")


def mails_to(service: Service, address: str, count: int = 1) -> list[EmailMessage]:
    """The mails to an address, oldest first, as soon as there are so many."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [mail for mail in read_mails(service.data_dir / "mail") if mail["to"] == address]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} mails to {address} after {PATIENCE} s"
        time.sleep(0.05)


def until(look: Callable[[], T]) -> T:
    """What is looked for, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"not there after {PATIENCE} s"
        time.sleep(0.05)
    return found


def read_mails(folder: Path) -> list[EmailMessage]:
    files = sorted(folder.glob("*.eml"), key=lambda each: each.stat().st_mtime_ns)
    return [email.message_from_bytes(each.read_bytes(), policy=email.policy.default) for each in files]


def link_in(mail: EmailMessage) -> str:
    """The link of a confirmation's text, without the service's address."""
    body = mail.get_body(("plain",))
    assert body is not None
    found = LINK.search(body.get_content())
    assert found is not None
    return "/v1" + found[0].partition("/v1")[2]


def address() -> str:
    return f"{uuid4().hex[:12]}@example.org"


def subscribe(client: httpx.Client, **wanted: object) -> httpx.Response:
    return client.post("/v1/subscriptions", json={"channel": "email", "address": address(), **wanted})


@pytest.fixture
def confirmation(client: httpx.Client, service: Service) -> Callable[..., tuple[dict[str, object], str]]:
    """A function that subscribes an address, and returns the subscription with the link that was mailed."""

    def ask(**wanted: object) -> tuple[dict[str, object], str]:
        made = subscribe(client, **wanted)
        assert made.status_code == 202, made.text
        return made.json(), link_in(mails_to(service, made.json()["address"])[0])

    return ask


Ask = Callable[..., tuple[dict[str, object], str]]


def test_a_subscription_by_mail_tells_of_what_its_filter_matches_and_ends_with_one_click(
    client: httpx.Client, service: Service, confirmation: Ask
) -> None:
    tag = uuid4().hex
    made, link = confirmation(filter={"ext": ["png"], "tags": [tag]}, kinds=["image.uploaded"])
    assert made["status"] == "pending"
    assert client.get(link, headers=HTML).status_code == 200
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "pending"
    assert client.post(link).status_code == 200
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "active"

    for name, kind in (("rome.jpg", "JPEG"), ("rome.png", "PNG")):
        stored = client.post(
            f"/v1/images?filename={name}&tags={tag}", content=picture(kind, seed=time.time_ns() % 2**31)
        )
        assert stored.status_code == 201
    _, told = mails_to(service, str(made["address"]), 2)
    assert "rome.png" in told["subject"]

    out = told["list-unsubscribe"].strip("<>")
    assert told["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    left = client.post(out, data={"List-Unsubscribe": "One-Click"})
    assert left.status_code == 200
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "unsubscribed"
    client.post(f"/v1/images?filename=late.png&tags={tag}", content=picture(seed=time.time_ns() % 2**31))
    assert client.get("/healthz").status_code == 200
    assert [mail["subject"] for mail in mails_to(service, str(made["address"]))][1:] == [told["subject"]]


def test_a_link_is_used_once_and_is_explained_then(client: httpx.Client, confirmation: Ask) -> None:
    made, link = confirmation()
    assert client.post(link).status_code == 200
    again = client.post(link)
    assert (again.status_code, again.json()["code"]) == (410, "subscription_link_used")
    page = client.post(link, headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (410, "text/html; charset=utf-8")
    assert "nothing left to do" in page.text

    client.delete(f"/v1/subscriptions/{made['id']}")
    assert client.get(link).json()["code"] == "subscription_link_used"


def test_a_newer_link_ends_the_older_one(client: httpx.Client, service: Service, confirmation: Ask) -> None:
    made, link = confirmation()
    again = client.post(f"/v1/subscriptions/{made['id']}/resend")
    assert again.status_code == 202
    newer = link_in(mails_to(service, str(made["address"]), 2)[1])
    old = client.post(link)
    assert (old.status_code, old.json()["code"]) == (410, "subscription_link_expired")
    assert client.post(newer).status_code == 200
    late = client.post(f"/v1/subscriptions/{made['id']}/resend")
    assert (late.status_code, late.json()["code"]) == (409, "subscription_state")
    assert late.json()["subscription_status"] == "active"


@pytest.mark.parametrize("way", ["confirm", "unsubscribe"])
@pytest.mark.parametrize("token", ["", "x", "c.0.0.0.0", "u." + "0" * 32 + ".0.0.x", "a" * 200])
def test_a_link_that_is_not_ours_is_refused(client: httpx.Client, way: str, token: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, f"/v1/subscriptions/{way}", params={"token": token})
        assert (answer.status_code, answer.json()["code"]) == (403, "subscription_link_invalid")
        assert client.request(method, f"/v1/subscriptions/{way}").status_code == 422


def test_the_pages_load_nothing_and_run_nothing(client: httpx.Client, confirmation: Ask) -> None:
    _, link = confirmation(filter={"tags": ["<script>alert(1)</script>", {"prefix": "ro\u202e"}]})
    page = client.get(link, headers=HTML)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin"
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "\u202e" not in page.text  # it would turn what follows around
    assert not re.search(r"(src|href)=\"(?!data:)", page.text)


BAD: list[tuple[dict[str, object], int, str]] = [
    ({"address": "nobody"}, 422, "request_invalid"),
    ({"address": "a@b"}, 422, "request_invalid"),
    ({"address": "a b@example.org"}, 422, "request_invalid"),
    ({"address": "ä@example.org"}, 422, "request_invalid"),
    ({"address": "a@example.org\r\nBcc: b@example.org"}, 422, "request_invalid"),
    ({"address": "a@example.org, b@example.org"}, 422, "request_invalid"),
    ({"address": ""}, 422, "request_invalid"),
    ({"address": "a" * 3000}, 422, "request_invalid"),
    ({"channel": "pigeon"}, 422, "request_invalid"),
    ({"channel": "sms", "address": "0151 12345678"}, 422, "request_invalid"),
    ({"channel": "sms", "address": "+49abc"}, 422, "request_invalid"),
    ({"channel": "sms", "address": "+49151123456789012"}, 422, "request_invalid"),
    ({"channel": "sqs", "address": "arn:aws:sqs:eu-central-1:123456789012:x"}, 422, "channel_unavailable"),
    ({"channel": "webhook", "address": "ftp://example.org/"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "https://user:word@example.org/"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "https://example.org/#part"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "https://example.org/a b"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "https://[::1"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "https://example.org:99999/"}, 422, "request_invalid"),
    ({"channel": "webhook", "address": "http://203.0.113.1/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://127.0.0.1/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://localhost/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://169.254.169.254/latest/meta-data/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://10.0.0.1/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://[::ffff:10.0.0.1]/"}, 422, "address_refused"),
    ({"channel": "webhook", "address": "https://2130706433/"}, 422, "address_refused"),
    ({"filter": {"colour": ["red"]}}, 422, "filter_policy_invalid"),
    ({"filter": {"ext": "png"}}, 422, "filter_policy_invalid"),
    ({"filter": {"ext": ["a"] * 200}}, 422, "filter_policy_invalid"),
    ({"filter": {"tags": ["\x00"]}}, 422, "filter_policy_invalid"),
    ({"filter": {"\x00": ["x"]}}, 422, "filter_policy_invalid"),
    ({"filter": []}, 422, "request_invalid"),
    ({"kinds": ["image.painted"]}, 422, "request_invalid"),
    ({"mode": "weekly"}, 422, "request_invalid"),
    ({"owner": "bert"}, 422, "request_invalid"),
]


@pytest.mark.parametrize(("wanted", "status", "code"), BAD, ids=lambda part: str(part)[:60])
def test_what_cannot_be_subscribed_is_refused_with_a_reason(
    client: httpx.Client, wanted: dict[str, object], status: int, code: str
) -> None:
    answer = subscribe(client, **wanted)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(answer.json()["detail"]) > 20


def test_an_address_is_subscribed_once_and_a_filter_is_changed_and_checked(client: httpx.Client) -> None:
    made = subscribe(client).json()
    twice = subscribe(client, address=made["address"].upper())
    assert (twice.status_code, twice.json()["code"]) == (409, "subscription_exists")
    path = f"/v1/subscriptions/{made['id']}"
    changed = client.patch(path, json={"filter": {"ext": ["gif"]}, "mode": "daily"})
    assert (changed.json()["filter"], changed.json()["mode"], changed.json()["version"]) == (
        {"ext": ["gif"]},
        "daily",
        2,
    )
    assert client.patch(path, json={"filter": {"ext": ["GIF"]}}).json()["code"] == "filter_policy_invalid"
    assert client.patch(path, json={"address": "x@example.org"}).status_code == 422
    assert client.patch(path, json={"status": "paused"}).json()["code"] == "subscription_state"
    assert client.delete(path).status_code == 204
    assert client.get(path).json()["code"] == "subscription_not_found"


def test_a_webhook_agrees_by_its_answer_and_its_secret_is_shown_once(
    serve: Callable[..., Service], receiver: Receiver
) -> None:
    receiver.answer = lambda _call: Reply()
    with serve(TINTYPE_WEBHOOKS__ALLOW_PRIVATE="true").client() as client:
        made = subscribe(client, channel="webhook", address=receiver.url)
        assert made.status_code == 202, made.text
        path = f"/v1/subscriptions/{made.json()['id']}"
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")
        assert "secret" not in client.get(path).json()
        rotated = client.post(f"{path}/rotate-secret").json()["secret"]
        assert rotated.startswith("whsec_")
        assert rotated != secret

        asked = until(lambda: receiver.of("subscription.verification"))[0]
        wrong = client.post(f"{path}/confirm", json={"code": "123456"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "code_invalid")
        assert client.get(path).json()["status"] == "pending"  # an answer without the challenge is none
        receiver.answer = confirming
        assert client.post(f"{path}/resend").status_code == 202
        until(lambda: client.get(path).json()["status"] == "active")
        assert receiver.of("subscription.verification")[-1].told["data"] != asked.told["data"]


def test_a_preview_tells_which_images_match_and_why_others_do_not(client: httpx.Client) -> None:
    tag = uuid4().hex
    for name, kind in (("one.png", "PNG"), ("two.jpg", "JPEG")):
        client.post(
            f"/v1/images?filename={name}&tags={tag}", content=picture(kind, seed=time.time_ns() % 2**31)
        )
    asked = {"filter": {"ext": ["png"], "tags": [tag]}, "last": 200}
    told = client.post("/v1/subscriptions/preview", json=asked).json()
    mine = {each["filename"]: each for each in told["data"] if tag in each["attributes"].get("tags", [])}
    assert mine["one.png"]["matches"]
    assert mine["two.jpg"]["failed"] == ["ext"]
    assert told["matched"] == 1
    assert told["examined"] == len(told["data"])
    others = client.post("/v1/subscriptions/preview", json={"kinds": ["image.deleted"]}).json()
    assert {tuple(each["failed"]) for each in others["data"]} == {("kind",)}


def test_nobody_confirms_or_changes_the_subscription_of_another(
    anna: httpx.Client, bert: httpx.Client, stranger: httpx.Client, identified: Identified
) -> None:
    made = subscribe(bert).json()
    path = f"/v1/subscriptions/{made['id']}"
    link = link_in(mails_to(identified.service, made["address"])[0])
    for act in (f"{path}/resend", f"{path}/test", f"{path}/rotate-secret"):
        assert anna.post(act).json()["code"] == "subscription_not_found"
        assert stranger.post(act).status_code == 401
    assert made["id"] not in {each["id"] for each in anna.get("/v1/subscriptions").json()["data"]}
    # The link is the receiver's, who has no key: it says whom it is from, and not whom it is to.
    page = stranger.get(link, headers=HTML)
    assert "<strong>bert</strong>" in page.text
    assert made["address"] not in page.text
    assert stranger.post(link).status_code == 200
    assert bert.get(path).json()["status"] == "active"
    bert.delete(path)


def test_an_address_is_not_asked_all_day(client: httpx.Client) -> None:
    name = uuid4().hex[:12]
    answers = [subscribe(client, address=f"{name}+{number}@example.org") for number in range(6)]
    assert [each.status_code for each in answers] == [202] * 5 + [429]
    assert answers[-1].json()["code"] == "address_asked_often"
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.xdist_group("chromium")
def test_a_person_agrees_and_leaves_with_the_keyboard_alone(
    browser: Browser, service: Service, client: httpx.Client, confirmation: Ask
) -> None:
    made, link = confirmation(filter={"ext": ["png"], "bytes": [{"numeric": [">", 1_000_000]}]})
    page = browser.new_page(viewport={"width": 320, "height": 640})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.goto(f"{service.base}{link}")
    assert page.locator("h1").inner_text() == "Do you want these messages?"
    assert "is more than 1,000,000" in page.locator("dl").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.locator("button").bounding_box()["height"] >= 44  # type: ignore[index] # it is visible
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="You are subscribed").wait_for()
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "active"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Do you want to leave?").wait_for()
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "active"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="You have left").wait_for()
    assert client.get(f"/v1/subscriptions/{made['id']}").json()["status"] == "unsubscribed"
    assert trouble == []
    page.close()
