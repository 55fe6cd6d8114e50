"""Uppy, FilePond, Dropzone and a plain form in Chromium, unmodified: what they send becomes images."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page

from clients.shop import Shop, file_of
from pictures import picture

pytestmark = pytest.mark.xdist_group("chromium")

OpenPage = Callable[[str], Page]

NAME = "a b é + 1.png"


def new_picture() -> bytes:
    return picture(seed=uuid4().int % 2**31)


def large_picture() -> bytes:
    """A picture of some 12 MB: three parts of S3's least size."""
    return picture(seed=uuid4().int % 2**31, size=(2000, 2000), compress_level=0)


def stored(shop: Shop, tag: str, count: int = 1) -> dict[str, dict[str, Any]]:
    """Return the images with a tag by their SHA-256, once there are so many."""
    deadline = time.monotonic() + 20
    with shop.backend() as backend:
        while True:
            found = backend.get("/v1/images", params={"tag": tag}).json()["data"]
            if len(found) >= count or time.monotonic() > deadline:
                assert len(found) == count
                return {image["sha256"]: image for image in found}
            time.sleep(0.1)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("version", ["uppy5", "uppy6"])
def test_uppy_sends_forms_to_the_store(shop: Shop, open_page: OpenPage, version: str) -> None:
    tag, data = uuid4().hex, [new_picture(), new_picture()]
    files = [file_of(NAME, data[0]), file_of("b.png", data[1])]
    endpoint = shop.address("companion", tags=[tag])

    result = open_page(version).evaluate("([url, files]) => upload(url, files, false)", [endpoint, files])

    assert result["failed"] == []
    assert len(result["successful"]) == 2
    images = stored(shop, tag, 2)
    assert images[digest(data[0])]["filename"] == NAME
    assert images[digest(data[1])]["protocol"] == "direct"


@pytest.mark.parametrize("version", ["uppy5", "uppy6"])
def test_uppy_sends_parts_to_the_store(shop: Shop, open_page: OpenPage, version: str) -> None:
    tag, data = uuid4().hex, large_picture()
    endpoint = shop.address("companion", tags=[tag])

    result = open_page(version).evaluate(
        "([url, files]) => upload(url, files, true)", [endpoint, [file_of(NAME, data)]]
    )

    assert result["failed"] == []
    (image,) = stored(shop, tag).values()
    assert (image["sha256"], image["filename"]) == (digest(data), NAME)
    assert result["successful"][0]["url"] == shop.service.base + image["url"]


@pytest.mark.parametrize("version", ["uppy5", "uppy6"])
def test_uppy_says_what_is_refused(shop: Shop, open_page: OpenPage, version: str) -> None:
    endpoint = shop.address("companion")
    text = file_of("a.png", b"<html>" * 1000)

    result = open_page(version).evaluate("([url, files]) => upload(url, files, true)", [endpoint, [text]])

    assert result["successful"] == []
    assert len(result["failed"]) == 1


def test_filepond_sends_whole_files(shop: Shop, open_page: OpenPage) -> None:
    tag, data = uuid4().hex, [new_picture(), new_picture()]
    address = shop.address("filepond", tags=[tag])
    files = [file_of(NAME, data[0]), file_of("b.png", data[1])]

    results = open_page("widgets").evaluate("([url, files]) => pond(url, files, {})", [address, files])

    images = stored(shop, tag, 2)
    assert {result["id"] for result in results} == {image["id"] for image in images.values()}
    assert images[digest(data[0])]["filename"] == NAME


@pytest.mark.parametrize("more", [0, 100], ids=["a multiple of the chunk's size", "and a bit"])
def test_filepond_sends_chunks(shop: Shop, open_page: OpenPage, more: int) -> None:
    tag, data = uuid4().hex, new_picture()
    address = shop.address("filepond", tags=[tag])
    chunked = {"chunkUploads": True, "chunkForce": True, "chunkSize": (len(data) - more) // 4 + bool(more)}
    data += bytes(-len(data) % chunked["chunkSize"]) if not more else b""

    results = open_page("widgets").evaluate(
        "([url, files, options]) => pond(url, files, options)", [address, [file_of(NAME, data)], chunked]
    )

    assert results[0]["error"] is None
    (image,) = stored(shop, tag).values()
    assert (image["sha256"], image["filename"]) == (digest(data), NAME)


def test_filepond_takes_back_what_it_sent_and_sends_it_again(shop: Shop, open_page: OpenPage) -> None:
    tag, data = uuid4().hex, new_picture()
    address, page = shop.address("filepond", tags=[tag]), open_page("widgets")
    sent = [address, [file_of(NAME, data)]]

    page.evaluate("([url, files]) => pond(url, files, {})", sent)
    assert page.evaluate("() => revert()")
    stored(shop, tag, 0)
    page.reload()
    page.evaluate("([url, files]) => pond(url, files, {})", sent)

    assert set(stored(shop, tag)) == {digest(data)}


@pytest.mark.parametrize("kind", ["local", "limbo"])
def test_filepond_shows_what_it_sent_before(shop: Shop, open_page: OpenPage, kind: str) -> None:
    data = new_picture()
    address, page = shop.address("filepond"), open_page("widgets")
    (sent,) = page.evaluate("([url, files]) => pond(url, files, {})", [address, [file_of(NAME, data)]])

    shown = open_page("widgets").evaluate("(arguments) => load(...arguments)", [address, sent["id"], kind])

    assert shown == {"name": NAME, "size": len(data)}


def test_filepond_says_what_is_refused(shop: Shop, open_page: OpenPage) -> None:
    address, page = shop.address("filepond"), open_page("widgets")

    (result,) = page.evaluate(
        "([url, files]) => pond(url, files, {})", [address, [file_of("a.png", b"no image" * 50)]]
    )

    assert result["error"] == "415"


def test_dropzone_sends_whole_files(shop: Shop, open_page: OpenPage) -> None:
    tag, data = uuid4().hex, [new_picture(), new_picture()]
    address = shop.address("dropzone", tags=[tag])
    files = [file_of(NAME, data[0]), file_of("b.png", data[1])]

    results = open_page("widgets").evaluate("([url, files]) => drop(url, files, {})", [address, files])

    images = stored(shop, tag, 2)
    assert {result["answer"]["sha256"] for result in results} == set(images)
    assert images[digest(data[0])]["filename"] == NAME


@pytest.mark.parametrize(
    "options",
    [{"uploadMultiple": True}, {"binaryBody": True}, {"method": "put"}],
    ids=["several in one form", "the body alone", "by PUT"],
)
def test_dropzone_s_other_ways(shop: Shop, open_page: OpenPage, options: dict[str, Any]) -> None:
    tag, data = uuid4().hex, [new_picture(), new_picture()]
    files = [file_of("a.png", data[0]), file_of("b.png", data[1])]

    results = open_page("widgets").evaluate(
        "([url, files, options]) => drop(url, files, options)",
        [shop.address("dropzone", tags=[tag]), files, options],
    )

    assert [result.get("error") for result in results] == [None, None]
    assert set(stored(shop, tag, 2)) == {digest(each) for each in data}


def test_dropzone_sends_chunks_side_by_side(shop: Shop, open_page: OpenPage) -> None:
    tag, data = uuid4().hex, new_picture()
    chunked = {
        "chunking": True,
        "forceChunking": True,
        "chunkSize": len(data) // 6,
        "parallelChunkUploads": True,
        "retryChunks": True,
    }

    (result,) = open_page("widgets").evaluate(
        "([url, files, options]) => drop(url, files, options)",
        [shop.address("dropzone", tags=[tag]), [file_of(NAME, data)], chunked],
    )

    assert "error" not in result
    (image,) = stored(shop, tag).values()
    assert (image["sha256"], image["filename"]) == (digest(data), NAME)


def test_dropzone_says_what_is_refused(shop: Shop, open_page: OpenPage) -> None:
    (result,) = open_page("widgets").evaluate(
        "([url, files]) => drop(url, files, { createImageThumbnails: false })",
        [shop.address("dropzone"), [file_of("a.png", b"no image" * 50)]],
    )

    assert "not" in result["error"]


def test_a_form_needs_no_script(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    tag, data = uuid4().hex, new_picture()
    (tmp_path / NAME).write_bytes(data)
    (tmp_path / "<b>.png").write_bytes(b"no image at all" * 10)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()

    page.goto(shop.address("form", tags=[tag], types=["image/png"]))
    assert "PNG" in page.locator("#limits").inner_text()
    page.get_by_label("Pictures").set_input_files([tmp_path / NAME, tmp_path / "<b>.png"])
    page.get_by_role("button", name="Upload").click()

    assert page.get_by_role("heading").inner_text() == "1 of 2 pictures are stored"
    items = page.get_by_role("listitem").all_inner_texts()
    assert NAME in items[0]
    assert "Stored" in items[0]
    assert "<b>.png" in items[1]
    assert "not accepted" in items[1]
    assert set(stored(shop, tag)) == {digest(data)}
    page.get_by_role("link", name="Upload more").click()
    assert page.get_by_label("Pictures").is_visible()
    context.close()


def test_a_token_that_is_over_is_said_in_words(shop: Shop, open_page: OpenPage) -> None:
    page = open_page("widgets")
    page.goto(f"{shop.service.base}/u/tut_none.none/form")

    assert page.get_by_role("heading").inner_text() == "Credentials are needed"
