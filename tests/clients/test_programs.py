"""tus-js-client in Node, tuspy, curl and httpx, unmodified: what they send becomes images."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusUploadFailed
from tusclient.storage.filestorage import FileStorage

from clients.conftest import HERE, NODE
from clients.shop import Shop, at_one_address
from conformance.suite import picture
from service import Service

pytestmark = pytest.mark.xdist_group("programs")

NAME = "a b é + 1.png"

Event = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(picture(1_200_000))
    return path


@pytest.fixture
def lie(tmp_path: Path) -> Path:
    path = tmp_path / "lie.png"
    path.write_bytes(b"no image at all " * 10_000)
    return path


def assert_stored(client: httpx.Client, file: Path, image: str, name: str = NAME) -> None:
    """The image at an address has the file's name and bytes, and there is one of it."""
    told = client.get(image).json()
    wanted = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (told["sha256"], told["filename"]) == (wanted, name)
    assert hashlib.sha256(client.get(told["url"]).content).hexdigest() == wanted
    everything = client.get("/v1/images?limit=200").json()["data"]
    assert [each["sha256"] for each in everything].count(wanted) == 1


@contextmanager
def node(endpoint: str, file: Path, **order: object) -> Iterator[subprocess.Popen[str]]:
    """tus-js-client at work. Its lines are events."""
    told = {"endpoint": endpoint, "file": str(file), "name": NAME, "options": {}} | order
    command = [NODE, HERE / "tus.js", json.dumps(told)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def events(process: subprocess.Popen[str]) -> Iterator[Event]:
    assert process.stdout is not None
    return map(json.loads, process.stdout)


def by_node(shop: Shop, file: Path, options: dict[str, object], **order: object) -> list[Event]:
    options = {"headers": {"Authorization": f"Bearer {shop.key}"}} | options
    with node(f"{shop.service.base}/v1/tus", file, options=options, **order) as process:
        return list(events(process))


def requests(told: list[Event]) -> list[str]:
    return [each["request"] for each in told if "request" in each]


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("options", "order", "expected"),
    [
        ({}, {}, ["POST", "PATCH"]),
        ({"uploadDataDuringCreation": True}, {}, ["POST"]),
        ({"chunkSize": 400_000}, {}, ["POST", "PATCH", "PATCH", "PATCH"]),
        ({"chunkSize": 500_000, "overridePatchMethod": True}, {}, ["POST", "POST", "POST", "POST"]),
        ({"chunkSize": 500_000, "uploadLengthDeferred": True}, {"deferred": True}, None),
        ({"parallelUploads": 3}, {}, ["PATCH"] * 3 + ["POST"] * 4),
        ({"protocol": "ietf-draft-03"}, {}, ["POST", "PATCH"]),
        ({"protocol": "ietf-draft-05", "chunkSize": 500_000}, {}, ["POST"] + ["PATCH"] * 3),
    ],
    ids=["whole", "with the creation", "chunks", "POST for PATCH", "length deferred", "parts side by side",
         "the IETF's third draft", "the IETF's fifth draft"],
)  # fmt: skip
def test_tus_js_client_in_node(
    shop: Shop, file: Path, options: dict[str, object], order: dict[str, object], expected: list[str] | None
) -> None:
    told = by_node(shop, file, options, **order)

    upload = told[-1].get("done")
    assert upload, told
    if expected is not None:
        found = requests(told)
        assert (sorted(found) if "parallelUploads" in options else found) == expected
    with shop.backend() as backend:
        state = backend.get(f"/v1/uploads/{upload.rpartition('/')[2]}").json()
        assert_stored(backend, file, f"/v1/images/{state['image']['id']}")


@pytest.mark.usefixtures("packages")
def test_tus_js_client_in_node_hears_what_is_refused_and_does_not_ask_again(shop: Shop, lie: Path) -> None:
    told = by_node(shop, lie, {"chunkSize": 100_000})

    assert "unsupported_type" in told[-1]["error"]
    assert requests(told) == ["POST", "PATCH", "PATCH"]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that comes back at the address it had."""
    service = at_one_address(tmp_path_factory.mktemp("fragile") / "data")
    yield service.start()
    service.stop()


@pytest.mark.usefixtures("packages")
def test_tus_js_client_in_node_goes_on_when_the_service_was_killed(fragile: Service, file: Path) -> None:
    with node(f"{fragile.base}/v1/tus", file, options={"chunkSize": 65_536}) as process:
        told = events(process)
        assert any(each.get("accepted", 0) > 200_000 for each in told)
        fragile.kill()
        fragile.start()
        rest = list(told)

    assert "done" in rest[-1], rest
    assert "HEAD" in requests(rest)
    assert "POST" not in requests(rest)
    with fragile.client() as client:
        assert_stored(client, file, rest[-1]["image"])


@pytest.mark.usefixtures("packages")
def test_tus_js_client_in_node_resumes_from_the_address_it_kept(
    fragile: Service, file: Path, tmp_path: Path
) -> None:
    endpoint, kept = f"{fragile.base}/v1/tus", str(tmp_path / "kept.json")
    with node(endpoint, file, storage=kept, options={"chunkSize": 65_536}) as process:
        assert any(each.get("accepted", 0) > 200_000 for each in events(process))
        fragile.kill()
        process.kill()
    fragile.start()

    with node(endpoint, file, storage=kept, options={"chunkSize": 65_536}) as process:
        told = list(events(process))

    assert "resumed" in told[0]
    assert requests(told)[0] == "HEAD"
    assert next(each["accepted"] for each in told if "accepted" in each) > 200_000
    with fragile.client() as client:
        assert_stored(client, file, told[-1]["image"])


def tuspy(shop: Shop) -> TusClient:
    return TusClient(f"{shop.service.base}/v1/tus", headers={"Authorization": f"Bearer {shop.key}"})


@pytest.mark.parametrize(
    "options",
    [{}, {"chunk_size": 300_000}, {"chunk_size": 500_000, "upload_checksum": True}],
    ids=["whole", "chunks", "chunks with a checksum"],
)
def test_tuspy(shop: Shop, file: Path, options: dict[str, Any]) -> None:
    uploader = tuspy(shop).uploader(str(file), metadata={"filename": NAME}, **options)

    uploader.upload()

    assert uploader.request is not None
    with shop.backend() as backend:
        assert_stored(backend, file, uploader.request.response_headers["content-location"])


async def test_tuspy_with_asyncio_and_no_metadata(shop: Shop, file: Path) -> None:
    uploader = tuspy(shop).async_uploader(str(file), chunk_size=500_000)

    await uploader.upload()

    assert uploader.request is not None
    with shop.backend() as backend:
        assert_stored(backend, file, uploader.request.response_headers["content-location"], name="image.png")


def test_tuspy_resumes_from_the_address_it_kept(shop: Shop, file: Path, tmp_path: Path) -> None:
    kept: dict[str, Any] = {"store_url": True, "url_storage": FileStorage(str(tmp_path / "kept"))}
    first = tuspy(shop).uploader(str(file), chunk_size=300_000, metadata={"filename": NAME}, **kept)
    first.upload(stop_at=600_000)

    second = tuspy(shop).uploader(str(file), chunk_size=300_000, **kept)
    assert second.offset == 600_000
    second.upload()

    assert second.request is not None
    with shop.backend() as backend:
        assert_stored(backend, file, second.request.response_headers["content-location"])


def test_tuspy_hears_what_is_refused(shop: Shop, lie: Path) -> None:
    uploader = tuspy(shop).uploader(str(lie), retries=2, retry_delay=0)

    with pytest.raises(TusUploadFailed) as refused:
        uploader.upload()

    assert refused.value.status_code == 415
    assert b"unsupported_type" in (refused.value.response_content or b"")


def curl(shop: Shop, *arguments: str | Path, data: bytes | None = None) -> str:
    """Return what curl prints: a last line with the status, too."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {shop.key}", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout.decode()


@pytest.mark.parametrize("way", ["-F", "-T", "-T from a pipe", "--data-binary"])
def test_curl(shop: Shop, file: Path, way: str) -> None:
    images = f"{shop.service.base}/v1/images"
    named = f"{images}?filename=a%20b%20%C3%A9%20%2B%201.png"
    match way:
        case "-F":
            printed = curl(shop, "-F", f"file=@{file}", images)
        case "-T":
            printed = curl(shop, "-T", file, f"{images}/a%20b%20%C3%A9%20%2B%201.png")
        case "-T from a pipe":
            printed = curl(shop, "-X", "POST", "-T", "-", named, data=file.read_bytes())
        case _:
            printed = curl(shop, "--data-binary", f"@{file}", named)

    body, _, status = printed.rpartition("\n")
    assert status == "201", printed
    with shop.backend() as backend:
        assert_stored(backend, file, f"/v1/images/{json.loads(body)['id']}")


@pytest.mark.parametrize("way", [["-F", "file=@{}"], ["-T", "{}"]], ids=["-F", "-T"])
def test_curl_hears_what_is_refused(shop: Shop, lie: Path, way: list[str]) -> None:
    printed = curl(shop, *(each.format(lie) for each in way), "-X", "POST", f"{shop.service.base}/v1/images")

    body, _, status = printed.rpartition("\n")
    assert status == "415"
    assert json.loads(body)["code"] == "unsupported_type"


def test_curl_resumes_by_hand(shop: Shop, file: Path) -> None:
    def tus(*arguments: str, data: bytes | None = None) -> httpx.Headers:
        printed = curl(
            shop, "-D", "-", "-o", "/dev/null", "-H", "Tus-Resumable: 1.0.0", *arguments, data=data
        )
        lines = [each.partition(": ") for each in printed.splitlines()[1:] if ": " in each]
        return httpx.Headers([(name, value) for name, _, value in lines])

    content, endpoint = file.read_bytes(), f"{shop.service.base}/v1/tus"
    begun = tus("-X", "POST", "-H", f"Upload-Length: {len(content)}", endpoint)
    url = f"{shop.service.base}{begun['location']}"
    patch = ["-X", "PATCH", "-H", "Content-Type: application/offset+octet-stream", "--data-binary", "@-", url]
    tus("-H", "Upload-Offset: 0", *patch, data=content[:700_000])
    at = tus("--head", url)["upload-offset"]
    ended = tus("-H", f"Upload-Offset: {at}", *patch, data=content[int(at) :])

    assert at == "700000"
    with shop.backend() as backend:
        assert_stored(backend, file, ended["content-location"], name="image.png")


@pytest.mark.parametrize("way", ["form", "body", "stream"])
def test_httpx(shop: Shop, file: Path, way: str) -> None:
    content = file.read_bytes()
    with shop.backend() as backend:
        match way:
            case "form":
                answer = backend.post("/v1/images", files={"anything": (NAME, content)})
            case "body":
                answer = backend.post("/v1/images", params={"filename": NAME}, content=content)
            case _:
                blocks = (content[at : at + 65_536] for at in range(0, len(content), 65_536))
                answer = backend.post("/v1/images", params={"filename": NAME}, content=blocks)

        assert answer.status_code == 201, answer.text
        assert_stored(backend, file, f"/v1/images/{answer.json()['id']}")


def test_httpx_hears_what_is_refused(shop: Shop, lie: Path) -> None:
    with shop.backend() as backend:
        answer = backend.post("/v1/images", files={"file": lie.read_bytes()})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
