"""Known attacks on resumable uploads, each against a running server with two owners."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from attacks.scenes import CORPUS, Case, cases
from conformance.suite import BYTES, picture
from identified import Identified

pytestmark = pytest.mark.skipif(CORPUS is None, reason="TINTYPE_CORPUS is not set: attacks are not run")

VERSION = {"Tus-Resumable": "1.0.0"}
LENGTH = 4_000


def of(*categories: str) -> pytest.MarkDecorator:
    chosen = [each for each in cases() if each.group == "tus" and each.category in categories]
    return pytest.mark.parametrize("case", [pytest.param(each, id=each.id) for each in chosen])


def begin(client: httpx.Client, length: int = LENGTH) -> str:
    answer = client.post("/v1/tus", headers=VERSION | {"Upload-Length": str(length)})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def append(client: httpx.Client, url: str, data: bytes, **told: str) -> httpx.Response:
    head = VERSION | {"Content-Type": BYTES, "Upload-Offset": "0"} | told
    return client.patch(url, content=data, headers=head)


def offset(client: httpx.Client, url: str) -> int | None:
    answer = client.head(url, headers=VERSION)
    return int(answer.headers["Upload-Offset"]) if answer.status_code == 200 else None


@of("tus-post")
def test_a_creation_that_deceives_begins_nothing(anna: httpx.Client, case: Case) -> None:
    answer = anna.post("/v1/tus", headers=VERSION | case.value["headers"])

    assert answer.status_code in case.status, answer.text
    assert ("location" in answer.headers) == (answer.status_code == 201)


@of("tus-patch", "tus-head", "tus-delete")
def test_a_request_that_deceives_changes_nothing(identified: Identified, case: Case) -> None:
    with identified.client(identified.anna) as anna, identified.client(identified.bert) as bert:
        ATTACKS[kind_of(case.value)](anna, bert, case)


def kind_of(value: dict[str, Any]) -> str:
    for name in ("replay_after_lost_204", "two_at_once", "body_bytes"):
        if name in value:
            return name
    return "negative" if value.get("headers", {}).get("Upload-Offset") == "-1" else value["on"]


def replay(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    data, url = picture(LENGTH), begin(anna)
    assert append(anna, url, data[:1_000]).status_code == 204

    assert append(anna, url, data[:1_000]).status_code in case.status

    assert offset(anna, url) == 1_000


def two_at_once(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    data, url = picture(LENGTH), begin(anna)
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: append(anna, url, data[:3_000]), range(2)))

    assert {each.status_code for each in answers} <= set(case.status)
    assert min(each.status_code for each in answers) == 204
    assert append(anna, url, data[3_000:], **{"Upload-Offset": "3000"}).status_code == 204


def one_byte_more(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    url = begin(anna)

    assert append(anna, url, picture(LENGTH) + b"x").status_code in case.status

    assert offset(anna, url) == 0


def negative(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    url = begin(anna)

    assert append(anna, url, picture(LENGTH), **case.value["headers"]).status_code in case.status

    assert offset(anna, url) == 0


def finished(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    data, url = picture(LENGTH), begin(anna)
    assert append(anna, url, data).status_code == 204

    assert append(anna, url, picture(LENGTH)).status_code in case.status

    place = anna.head(url, headers=VERSION).headers["Content-Location"]
    assert anna.get(f"{place}/content").content == data


def other_owner(anna: httpx.Client, bert: httpx.Client, case: Case) -> None:
    url = begin(bert)
    method: str = case.value["method"]
    head = VERSION | {"Content-Type": BYTES} | case.value.get("headers", {})

    answer = anna.request(method, url, headers=head, content=b"x" if method == "PATCH" else None)

    assert answer.status_code in case.status
    assert "upload-offset" not in answer.headers
    assert offset(bert, url) == 0


def while_running(anna: httpx.Client, _bert: httpx.Client, case: Case) -> None:
    data, url = picture(400_000), begin(anna, 400_000)
    begun, sent = threading.Event(), threading.Event()

    def slowly() -> Any:  # noqa: ANN401 # an iterator of bytes
        yield data[:300_000]
        begun.set()
        sent.wait(10)
        yield data[300_000:]

    def send() -> None:
        with httpx.Client(base_url=anna.base_url, headers=anna.headers, timeout=20) as client:
            try:
                append(client, url, slowly())
            except httpx.TransportError:
                return

    sending = threading.Thread(target=send)
    sending.start()
    begun.wait(10)
    time.sleep(0.2)
    ended = anna.delete(url, headers=VERSION)
    sent.set()
    sending.join()

    assert ended.status_code in case.status
    if ended.status_code == 204:
        assert offset(anna, url) is None


ATTACKS: dict[str, Callable[[httpx.Client, httpx.Client, Case], None]] = {
    "replay_after_lost_204": replay,
    "two_at_once": two_at_once,
    "body_bytes": one_byte_more,
    "negative": negative,
    "finished": finished,
    "other_tenant": other_owner,
    "while_patch_running": while_running,
}
