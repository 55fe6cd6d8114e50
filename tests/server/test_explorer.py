"""/docs in a real browser: it needs no network, and its file pickers work."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Request

from pictures import picture
from service import Service

pytestmark = pytest.mark.xdist_group("chromium")  # it is started once


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """The page of /docs, loaded. It must not ask for anything elsewhere, nor fail at anything."""
    page = browser.new_page()
    page.set_default_timeout(30_000)
    asked: list[Request] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request))  # noqa: PLW0108 # Playwright marks what it is given
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda line: failed.append(line.text) if line.type == "error" else None)
    page.goto(f"{service.base}/docs")
    page.locator(".opblock").first.wait_for()
    yield page
    page.close()
    assert [each.url for each in asked if not each.url.startswith((service.base, "data:", "blob:"))] == []
    assert failed == []


def write(folder: Path, *seeds: int) -> list[Path]:
    files = [folder / f"docs-{seed}.png" for seed in seeds]
    for seed, file in zip(seeds, files, strict=True):
        file.write_bytes(picture(seed=seed))
    return files


def execute(operation: Locator) -> tuple[int, Any]:
    """Send the request that the form describes; return the status and the JSON of the answer."""
    operation.get_by_role("button", name="Execute").click()
    row = operation.locator(".live-responses-table tbody tr.response").first
    row.wait_for()
    status = int(row.locator(".response-col_status").inner_text().split()[0])
    return status, json.loads(row.locator(".microlight").first.inner_text())


def test_one_file_goes_up(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    (file,) = write(tmp_path, 7101)
    operation = page.locator("#operations-images-upload_images")
    operation.locator(".opblock-summary-control").click()
    operation.locator("input[type=file]").first.set_input_files(file)

    status, image = execute(operation)

    assert (status, image["filename"], image["tags"], image["attributes"]) == (201, file.name, [], {})
    assert client.get(image["urls"]["content"]).content == file.read_bytes()


def test_several_files_go_up(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    files = write(tmp_path, 7102, 7103)
    operation = page.locator("#operations-images-upload_images")
    operation.locator(".opblock-summary-control").click()
    pickers = operation.locator("input[type=file]")
    pickers.nth(1).set_input_files(files[0])
    operation.get_by_role("button", name=re.compile("Add .* item")).click()
    pickers.nth(2).set_input_files(files[1])

    status, answer = execute(operation)

    assert (status, [each["status"] for each in answer["results"]]) == (201, [201, 201])
    for file, result in zip(files, answer["results"], strict=True):
        assert client.get(result["image"]["urls"]["content"]).content == file.read_bytes()


def test_a_raw_body_goes_up(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    (file,) = write(tmp_path, 7104)
    operation = page.locator("#operations-images-upload_named_image")
    operation.locator(".opblock-summary-control").click()
    operation.locator("input[placeholder=filename]").fill("raw.png")
    operation.locator("input[type=file]").set_input_files(file)

    status, image = execute(operation)

    assert (status, image["filename"]) == (201, "raw.png")
    assert client.get(image["urls"]["content"]).content == file.read_bytes()


def test_a_key_is_entered_once_for_all(page: Page) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    page.get_by_label("auth-bearer-value").fill("tt_example")
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").click()
    operation = page.locator("#operations-identity-read_me")
    operation.locator(".opblock-summary-control").click()

    status, me = execute(operation)

    assert (status, me["owner"]) == (200, "local")
    assert "Bearer tt_example" in operation.locator(".curl-command").inner_text()


def test_the_bare_address_leads_to_it(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")


def test_nothing_but_the_page_s_own_files_runs_in_it(client: httpx.Client) -> None:
    page = client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "http:" not in page.text
    assert "https:" not in page.text
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        asset = client.get(address)
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]


def test_a_file_of_another_version_of_the_page_is_gone(client: httpx.Client) -> None:
    assert client.get("/docs/0000000000000000/swagger-ui.css").json()["code"] == "not_found"
    assert client.get("/docs/0000000000000000/passwd").json()["code"] == "not_found"
