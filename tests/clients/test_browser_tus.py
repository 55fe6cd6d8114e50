"""tus-js-client, @uppy/tus and @uppy/xhr-upload in Chromium, unmodified: also offline, and after a reload."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import CDPSession, Page

from clients.shop import Shop, at_one_address, file_of
from conformance.suite import picture
from service import Service

pytestmark = pytest.mark.xdist_group("chromium")

OpenPage = Callable[[str], Page]

NAME = "a b é + 1.png"
SIZE = 900_000
SLOW = 1_000_000
"""Bytes a second: slow enough to be interrupted."""


def bearer(shop: Shop) -> dict[str, str]:
    return {"Authorization": f"Bearer {shop.key}"}


def assert_stored(client: httpx.Client, data: bytes, name: str = NAME) -> str:
    """There is one image of these bytes, under this name; return its address."""
    wanted = hashlib.sha256(data).hexdigest()
    found = client.get("/v1/images", params={"limit": 200}).json()["data"]
    (image,) = [each for each in found if each["sha256"] == wanted]
    assert image["filename"] == name
    assert hashlib.sha256(client.get(image["url"]).content).hexdigest() == wanted
    return f"/v1/images/{image['id']}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"uploadDataDuringCreation": True},
        {"chunkSize": 200_000},
        {"parallelUploads": 3},
        {"protocol": "ietf-draft-05", "chunkSize": 500_000},
    ],
    ids=["whole", "with the creation", "chunks", "parts side by side", "the IETF's fifth draft"],
)
def test_tus_js_client(shop: Shop, open_page: OpenPage, options: dict[str, Any]) -> None:
    data = picture(SIZE)
    sent = [f"{shop.service.base}/v1/tus", file_of(NAME, data), options | {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uploadTus(...all)", sent)

    assert "error" not in result, result
    with shop.backend() as backend:
        assert result["image"] in (assert_stored(backend, data), None)


def test_tus_js_client_sends_a_stream_whose_length_it_does_not_know(shop: Shop, open_page: OpenPage) -> None:
    data = picture(SIZE)
    sent = [f"{shop.service.base}/v1/tus", file_of(NAME, data), bearer(shop)]

    result = open_page("tus").evaluate(
        "([url, file, headers]) => uploadTusStream(url, file, { headers, chunkSize: 400_000 })", sent
    )

    assert result["requests"] == ["POST"] + ["PATCH"] * 4  # the last one tells the length, and has no bytes
    with shop.backend() as backend:
        assert result["image"] == assert_stored(backend, data)


def test_tus_js_client_says_what_is_refused_and_does_not_ask_again(shop: Shop, open_page: OpenPage) -> None:
    lie = file_of("a.png", b"no image at all " * 10_000)
    sent = [f"{shop.service.base}/v1/tus", lie, {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uploadTus(...all)", sent)

    assert "unsupported_type" in result["error"]
    assert result["requests"] == ["POST", "PATCH"]


@pytest.fixture(scope="module")
def fragile(pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that comes back at the address it had."""
    data_dir = tmp_path_factory.mktemp("fragile") / "data"
    service = at_one_address(data_dir, TINTYPE_CORS_ORIGINS=f'["{pages}"]')
    yield service.start()
    service.stop()


def network(page: Page) -> Callable[..., None]:
    """Make the page's network slow, and return what takes it away and brings it back."""
    session: CDPSession = page.context.new_cdp_session(page)
    session.send("Network.enable")

    def turn(online: bool) -> None:  # noqa: FBT001 # a switch
        told = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": SLOW, "offline": not online}
        session.send("Network.emulateNetworkConditions", told)

    turn(online=True)
    return turn


def begin(page: Page, function: str, sent: list[object]) -> None:
    """Begin an upload without waiting for it; `ended` will have what came of it."""
    page.evaluate(f"(all) => {{ {function}(...all).then((result) => (window.ended = result)) }}", sent)


def ended(page: Page) -> dict[str, Any]:
    page.wait_for_function("() => window.ended")
    result: dict[str, Any] = page.evaluate("() => window.ended")
    return result


CHUNKS = {"chunkSize": 100_000}


@pytest.mark.parametrize("client", ["tus-js-client", "@uppy/tus"])
def test_offline_in_the_middle(fragile: Service, open_page: OpenPage, client: str) -> None:
    data, page = picture(SIZE), open_page("tus")
    turn = network(page)
    endpoint, file = f"{fragile.base}/v1/tus", file_of(NAME, data)
    if client == "@uppy/tus":
        begin(page, "uppyTus", [endpoint, [file], CHUNKS])
        page.wait_for_function("() => window.percent > 30")
    else:
        begin(page, "uploadTus", [endpoint, file, CHUNKS])
        page.wait_for_function("() => window.sent > 200_000")

    turn(online=False)
    page.wait_for_timeout(300)
    turn(online=True)
    result = ended(page)

    assert "error" not in result
    assert not result.get("failed"), result
    assert result["requests"].count("POST") == 1
    assert "HEAD" in result["requests"]
    with fragile.client() as backend:
        assert_stored(backend, data)


@pytest.mark.parametrize("client", ["tus-js-client", "@uppy/tus"])
def test_the_page_is_reloaded_in_the_middle(fragile: Service, open_page: OpenPage, client: str) -> None:
    data, page = picture(SIZE), open_page("tus")
    network(page)
    endpoint, file = f"{fragile.base}/v1/tus", file_of(NAME, data)
    uppy = client == "@uppy/tus"
    function, sent = (
        ("uppyTus", [endpoint, [file], CHUNKS]) if uppy else ("uploadTus", [endpoint, file, CHUNKS])
    )
    begin(page, function, sent)
    page.wait_for_function("() => window.percent > 30 || window.sent > 200_000")
    page.reload()

    begin(page, function, sent)
    result = ended(page)

    assert result["requests"][0] == "HEAD"
    assert "POST" not in result["requests"]
    assert len(result["requests"]) < 1 + SIZE / 100_000
    with fragile.client() as backend:
        assert_stored(backend, data)


def test_the_service_is_killed_in_the_middle(fragile: Service, open_page: OpenPage) -> None:
    data, page = picture(SIZE), open_page("tus")
    network(page)
    begin(page, "uploadTus", [f"{fragile.base}/v1/tus", file_of(NAME, data), CHUNKS])
    page.wait_for_function("() => window.sent > 200_000")
    fragile.kill()
    fragile.start()
    result = ended(page)

    assert "error" not in result, result
    assert result["requests"].count("POST") == 1
    with fragile.client() as backend:
        assert_stored(backend, data)


@pytest.mark.parametrize("options", [{}, CHUNKS], ids=["whole", "chunks"])
def test_uppy_over_tus(shop: Shop, open_page: OpenPage, options: dict[str, Any]) -> None:
    data = [picture(400_000), picture(300_000)]
    files = [file_of(NAME, data[0]), file_of("b.png", data[1])]
    sent = [f"{shop.service.base}/v1/tus", files, options | {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uppyTus(...all)", sent)

    assert result["failed"] == []
    with shop.backend() as backend:
        assert_stored(backend, data[0])
        assert_stored(backend, data[1], "b.png")


def test_uppy_over_tus_says_what_is_refused(shop: Shop, open_page: OpenPage) -> None:
    lie = file_of("a.png", b"no image at all " * 10_000)
    sent = [f"{shop.service.base}/v1/tus", [lie], {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uppyTus(...all)", sent)

    assert result["successful"] == []
    assert "unsupported_type" in result["failed"][0]["error"]
    assert result["requests"] == ["POST", "PATCH"]


@pytest.mark.parametrize("options", [{}, {"bundle": True}], ids=["a form each", "one form"])
def test_uppy_over_xhr(shop: Shop, open_page: OpenPage, options: dict[str, Any]) -> None:
    data = [picture(400_000), picture(300_000)]
    files = [file_of(NAME, data[0]), file_of("b.png", data[1])]
    sent = [f"{shop.service.base}/v1/images", files, options | {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uppyXhr(...all)", sent)

    assert result["failed"] == []
    with shop.backend() as backend:
        assert_stored(backend, data[0])
        assert_stored(backend, data[1], "b.png")


def test_uppy_over_xhr_sends_the_bare_body(shop: Shop, open_page: OpenPage) -> None:
    data = picture(400_000)
    endpoint = f"{shop.service.base}/v1/images?filename=c.png"
    sent = [endpoint, [file_of(NAME, data)], {"formData": False, "headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uppyXhr(...all)", sent)

    assert result["failed"] == []
    with shop.backend() as backend:
        assert_stored(backend, data, "c.png")


def test_uppy_over_xhr_says_what_is_refused_and_comes_to_an_end(shop: Shop, open_page: OpenPage) -> None:
    lie = file_of("a.png", b"no image at all " * 10_000)
    sent = [f"{shop.service.base}/v1/images", [lie], {"headers": bearer(shop)}]

    result = open_page("tus").evaluate("(all) => uppyXhr(...all)", sent)

    assert result["successful"] == []
    assert "unsupported_type" in result["refusals"][0]["body"]
    assert len(result["requests"]) <= 4  # it asks three times more, whatever the answer
