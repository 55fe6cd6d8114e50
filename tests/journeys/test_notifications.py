"""People and systems hear of uploads: asked, told once, and followed; also when processes are killed."""

import json
import random
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from faults.table import LONG, Row, record
from mail_server import MailServer
from pictures import picture
from receiver import Call, Receiver, Reply, confirming
from service import Service

CRASHING = str(Path(__file__).parent.parent / "crashing.py")
AGREED = "kind=subscription.confirmed"
LAPTOP = {"TINTYPE_WEBHOOKS__ALLOW_PRIVATE": "true"}


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def upload(client: httpx.Client, name: str, data: bytes) -> dict[str, Any]:
    answer = client.post("/v1/images", params={"filename": name}, content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()


def subscribe(client: httpx.Client, **wanted: object) -> str:
    answer = client.post("/v1/subscriptions", json={"kinds": ["image.uploaded"], **wanted})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def is_active(client: httpx.Client, subscription_id: str) -> bool:
    return client.get(f"/v1/subscriptions/{subscription_id}").json()["status"] == "active"


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return part.get_content()


def test_subscribe_to_png_by_mail_confirm_and_be_told_of_the_png_alone(
    serve: Callable[..., Service], mail_server: MailServer
) -> None:
    service = serve(**mail_server.environment)
    with service.client() as client:
        subscription = subscribe(client, channel="email", address="ada@example.org", filter={"ext": ["png"]})
        wait_until(lambda: len(mail_server.mails) == 1)
        (invitation,) = mail_server.mails
        (link,) = re.findall(r"http://\S+/confirm\?token=\S+", text_of(invitation))
        assert client.get(link).status_code == 200
        assert not is_active(client, subscription), "looking at the page is no consent"
        assert client.post(link).status_code == 200
        assert is_active(client, subscription)

        upload(client, "no.jpg", picture("JPEG", seed=901))
        image = upload(client, "Übersicht.png", picture("PNG", seed=902, size=(640, 480)))
        wait_until(lambda: len(mail_server.mails) == 2)
        (news,) = [mail for mail in mail_server.mails if mail["subject"] != invitation["subject"]]

        assert str(news["subject"]) == "Image uploaded: Übersicht.png"
        text = text_of(news)
        assert "640 x 480 pixels" in text
        (shown,) = [part for part in news.walk() if part.get_content_maintype() == "image"]
        assert shown.get_content_type() == "image/jpeg"
        (opened,) = re.findall(r"Open: (http://\S+)", text)
        assert httpx.get(opened).content == client.get(image["url"]).content
        leave = str(news["list-unsubscribe"]).strip("<>")
        one_click = httpx.post(leave, data={"List-Unsubscribe": "One-Click"})
        assert one_click.status_code < 300
        assert client.get(f"/v1/subscriptions/{subscription}").json()["status"] == "unsubscribed"

        upload(client, "after.png", picture("PNG", seed=903))
        (entry, _) = client.get(f"/v1/subscriptions/{subscription}/deliveries").json()["data"]
        assert (entry["kind"], entry["state"]) == ("image.uploaded", "delivered")
        assert [(attempt["number"], attempt["error"]) for attempt in entry["log"]] == [(1, None)]
        dead = client.get(f"/v1/subscriptions/{subscription}/deliveries", params={"state": "dead"})
        assert dead.json()["data"] == []
        assert len(mail_server.mails) == 2


def test_a_laptop_shows_its_mails_in_the_browser(client: httpx.Client) -> None:
    address = f"{uuid4().hex}@example.org"
    subscribe(client, channel="email", address=address)
    wait_until(lambda: address in client.get("/mail").text)
    (name,) = re.findall(rf'href="/mail/([^"]+)">(?:(?!</a>).)*{address}', client.get("/mail").text)

    page = client.get(f"/mail/{name}")

    assert "Please confirm your subscription" in page.text
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for stranger in ("nothing.eml", "..%2Flink-secret", "%2e%2e"):
        assert client.get(f"/mail/{stranger}").status_code == 404


def test_the_log_is_read_by_position(client: httpx.Client) -> None:
    kinds = ["image.uploaded", "image.updated", "image.deleted"]  # checks have events of their own
    begin = whole_log(client)[-1:] or [{"position": 0}]
    after = begin[0]["position"]
    first = upload(client, f"{uuid4()}.png", picture(seed=910))
    client.patch(first["urls"]["self"], json={"tags": ["x"]})
    client.delete(first["urls"]["self"])
    upload(client, "b.png", picture(seed=911))

    def read(**wanted: str | int) -> dict[str, Any]:
        return client.get("/v1/events", params={"after": after, "kind": kinds, **wanted}).json()

    everything, page, deleted = read(), read(limit=2), read(kind="image.deleted")
    rest = read(after=page["position"])
    assert [event["type"] for event in everything["data"]] == [
        "image.uploaded",
        "image.updated",
        "image.deleted",
        "image.uploaded",
    ]
    assert (page["has_more"], rest["has_more"], everything["has_more"]) == (True, False, False)
    assert page["data"] + rest["data"] == everything["data"]
    assert [event["type"] for event in deleted["data"]] == ["image.deleted"]
    assert everything["position"] <= rest["position"] <= deleted["position"]


class Follower:
    """A client that follows a stream in a thread."""

    def __init__(self, base: str, **params: Any) -> None:  # noqa: ANN401 - what httpx takes
        self.events: list[dict[str, str]] = []
        self.comments = 0
        self.retry = ""
        self.ended = threading.Event()
        self.status = 0
        self._begun = threading.Event()
        headers = {"last-event-id": params.pop("last")} if "last" in params else {}
        self._request = {"url": f"{base}/v1/events/stream", "params": params, "headers": headers}
        threading.Thread(target=self._follow, daemon=True).start()
        assert self._begun.wait(30)

    def _follow(self) -> None:
        event: dict[str, str] = {}
        try:
            with httpx.stream("GET", **self._request, timeout=30) as response:
                self.status = response.status_code
                for line in response.iter_lines():
                    if not line and event.keys() - {"retry"}:
                        self.events.append(event)
                    if not line:
                        event = {}
                        self._begun.set()
                    elif line.startswith(":"):
                        self.comments += 1
                    else:
                        name, _, value = line.partition(": ")
                        self.retry = value if name == "retry" else self.retry
                        event[name] = value
        except httpx.TransportError:
            pass
        self._begun.set()
        self.ended.set()

    @property
    def names(self) -> list[str]:
        return [json.loads(event["data"])["data"]["filename"] for event in self.events]


def test_a_stream_tells_at_once_goes_on_where_it_was_cut_and_ends_with_the_instance(
    serve: Callable[..., Service],
) -> None:
    service = serve(TINTYPE_EVENTS__HEARTBEAT_SECONDS="0.2", TINTYPE_EVENTS__MAX_STREAMS="3")
    with service.client() as client:
        upload(client, "before.png", picture(seed=920))
        follower = Follower(service.base, kind="image.uploaded")
        choosy = Follower(service.base, filter='{"ext": ["jpg"]}', kind="image.uploaded")
        upload(client, "a.png", picture(seed=921))
        upload(client, "b.jpg", picture("JPEG", seed=922))
        wait_until(lambda: len(follower.events) == 2)
        wait_until(lambda: len(choosy.events) == 1)
        assert (follower.names, choosy.names) == (["a.png", "b.jpg"], ["b.jpg"])
        assert follower.events[0]["event"] == "image.uploaded"
        wait_until(lambda: follower.comments > 1)

        late = Follower(service.base, last=follower.events[0]["id"], kind="image.uploaded")
        wait_until(lambda: len(late.events) == 1)
        assert late.events == follower.events[1:]
        assert Follower(service.base).status == 429
        assert client.get("/v1/events/stream", params={"filter": '{"size": [1]}'}).status_code == 422
        assert client.get("/v1/events/stream", headers={"last-event-id": "x"}).status_code == 422

    began = time.monotonic()
    assert service.interrupt() == 0
    assert follower.ended.wait(5)
    assert time.monotonic() - began < 6
    assert follower.retry == "1000"


# A service that is killed: at the n-th pass of a point of its story, or at any moment.
DEATHS = [
    "after-delivery:6",
    "before-fan-out-commit:4",
    "after-publish:5",
    "after-commit:7",
    "after-delivery:3",
    "never",
]
UPLOADS = 1000 if LONG else 0
"""`make faults`: go on, killing at random, until so many images were uploaded."""
POINTS = ["after-delivery", "before-fan-out-commit", "after-publish", "after-commit", "never"]


def deaths(uploader: "Uploader") -> Iterator[str]:
    yield from DEATHS
    dice = random.Random(UPLOADS)
    while len(uploader.kept) < UPLOADS:
        yield f"{dice.choice(POINTS)}:{dice.randint(1, 60)}"


class Moody:
    """A receiver that agrees, and takes some messages only when they come again."""

    def __init__(self) -> None:
        self._refused: set[tuple[str, str]] = set()

    def answer(self, call: Call) -> Reply:
        if call.id.endswith("00") and (call.path, call.id) not in self._refused:
            self._refused.add((call.path, call.id))
            return Reply(503)
        return confirming(call)


class Uploader:
    """Uploads, and changes every third image, as long as the service lives; and remembers what was kept."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self._number = 30_000

    def go_on(self, service: Service, seconds: float) -> None:
        """Upload for a while: a few images at least, however slow the machine is."""
        deadline, enough = time.monotonic() + seconds, len(self.kept) + 4
        with service.client() as client:
            try:
                while time.monotonic() < deadline or len(self.kept) < enough:
                    self._upload(client)
            except httpx.TransportError:
                pass

    def _upload(self, client: httpx.Client) -> None:
        self._number += 1
        kind = "PNG" if self._number % 2 else "JPEG"
        data = picture(kind, seed=self._number, size=(16, 16))
        image = upload(client, f"{self._number}.{kind.lower()}", data)
        self.kept.add(image["id"])
        if self._number % 3 == 0:
            client.patch(image["urls"]["self"], json={"tags": ["x"]})


def whole_log(client: httpx.Client) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = []
    page: dict[str, Any] = {"position": 0, "has_more": True}
    while page["has_more"]:
        page = client.get("/v1/events", params={"limit": 500, "after": page["position"]}).json()
        log += page["data"]
    return log


def heard(receiver: Receiver, path: str) -> dict[str, list[int]]:
    """The versions that were told of each image, in their order; a repeated event counts once."""
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    for call in list(receiver.calls):
        if call.path == path and call.told["type"].startswith("image."):
            told[call.told["data"]["id"]].setdefault(call.id, call.told["data"]["version"])
    return {image: list(versions.values()) for image, versions in told.items()}


def strangers(receiver: Receiver, log: list[dict[str, Any]]) -> set[str]:
    """Return the ids that were told of images, and that the log does not know: one event under two ids."""
    told = {call.id for call in receiver.calls if call.told["type"].startswith("image.")}
    return told - {event["id"] for event in log}


@pytest.mark.faults
def test_whoever_is_killed_every_subscriber_hears_of_every_event_under_one_id_in_order(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    environment = LAPTOP | {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_IMAGING__INSPECT": "header",  # it starts in a fraction of the time
        "TINTYPE_WEBHOOKS__TIMEOUT_SECONDS": "1",
        "TINTYPE_MAIL__TIMEOUT_SECONDS": "1",
        "TINTYPE_WEBHOOKS__LEASE_SECONDS": "0.5",
    }
    service, uploader = Service(tmp_path / "data", environment), Uploader()
    receiver.answer = Moody().answer
    number, restarts = 0, [0.0]
    for number, death in enumerate(deaths(uploader), start=1):
        service.command = [sys.executable, CRASHING, death, "serve", "--port", "0"]
        began = time.monotonic()
        service.start()
        restarts.append(time.monotonic() - began)
        if number == 1:
            with service.client() as client:
                subscribe(client, channel="webhook", address=f"{receiver.url}/png", filter={"ext": ["png"]})
                subscribe(client, channel="webhook", address=receiver.url, kinds=[])
                wait_until(lambda: len(receiver.of("subscription.verification")) == 2)
                wait_until(lambda: len(client.get(f"/v1/events?{AGREED}").json()["data"]) == 2)
        uploader.go_on(service, 3 if UPLOADS else 1)
        service.kill()
    service.command = Service(tmp_path).command
    service.start()
    committed: dict[str, list[int]] = defaultdict(list)
    log: list[dict[str, Any]] = []
    try:
        with service.client() as client:
            log = whole_log(client)
        for event in log:
            if event["type"].startswith("image."):
                committed[event["data"]["id"]].append(event["data"]["version"])
        assert len(uploader.kept) > 10
        assert uploader.kept <= committed.keys()
        pngs = {
            event["data"]["id"]: [1]
            for event in log
            if event["type"] == "image.uploaded" and event["data"]["extension"] == "png"
        }
        wait_until(lambda: heard(receiver, "/hook") == committed, 120)
        wait_until(lambda: heard(receiver, "/hook/png") == pngs)
        assert strangers(receiver, log) == set()
    finally:
        service.stop()
        told = heard(receiver, "/hook")
        record(
            Row(
                "kill -9 of the service while it publishes and delivers events to webhooks",
                times=number,
                acknowledged=len(uploader.kept),
                lost=len({image for image in uploader.kept if told.get(image) != committed.get(image)}),
                duplicated=len(strangers(receiver, log)),
                recovery_seconds=max(restarts),
            )
        )


@pytest.mark.parametrize("last", ["x", "-1", "1" * 30])
def test_a_stream_begins_at_a_place_of_the_log(client: httpx.Client, last: str) -> None:
    assert client.get("/v1/events/stream", headers={"last-event-id": last}).status_code == 422
