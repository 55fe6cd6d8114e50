"""Real clients, from npm and unmodified, in a real browser on a page of another origin than the service's."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from clients.shop import Shop
from identified import first_keys
from npm import NODE, installed_packages
from service import Service

HERE = Path(__file__).parent
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<input type="file" multiple><div style="min-height: 4em"></div>
<script src="{name}/page.js"></script>
"""


@pytest.fixture(scope="session")
def packages() -> Path:
    """The npm packages that the lock file names, installed; Node itself comes from PyPI."""
    return installed_packages(HERE)


@pytest.fixture(scope="session")
def pages(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a web server with each folder of `pages/` as a page that runs its `page.js`."""
    folder = tmp_path_factory.mktemp("pages")
    sources = sorted((HERE / "pages").glob("*/page.js"))
    bundler = packages / ".bin" / "esbuild"
    subprocess.run(
        [NODE, bundler, *sources, "--bundle", f"--outdir={folder}", f"--outbase={HERE / 'pages'}"],
        cwd=HERE,
        check=True,
        capture_output=True,
        timeout=60,
    )
    for source in sources:
        (folder / f"{source.parent.name}.html").write_text(PAGE.format(name=source.parent.name))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # as the base class has it
        """Tell nothing."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, pages: str) -> Iterator[Shop]:
    """A service that lets the pages' origin in."""
    data_dir = tmp_path_factory.mktemp("shop") / "data"
    anna, *_ = asyncio.run(first_keys(data_dir))
    settings = {"TINTYPE_IDENTITY__MODE": "keys", "TINTYPE_CORS_ORIGINS": json.dumps([pages])}
    service = Service(data_dir, settings).start()
    yield Shop(service, anna)
    service.stop()


@pytest.fixture
def open_page(browser: Browser, pages: str) -> Iterator[Callable[[str], Page]]:
    """A function that opens one of the pages, with an empty memory."""
    context = browser.new_context()
    context.set_default_timeout(30_000)

    def opened(name: str) -> Page:
        page = context.new_page()
        page.goto(f"{pages}/{name}.html")
        return page

    yield opened
    context.close()
