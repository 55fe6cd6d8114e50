"""Pages of others are kept out where nobody is asked who they are, and let in where they are named."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError

from attacks.speaking import speak
from identified import make_key
from pictures import picture
from service import COMMAND, Service
from tintype.server.app import describe
from tintype.server.origins import ACCEPTED, EXPOSED, METHODS
from tintype.settings import IdentitySettings, Settings

pytestmark = pytest.mark.xdist_group("origins")  # its services are started once
SHOP = "https://shop.example"
PUBLIC = "https://images.example"
FORWARDED = {
    "x-forwarded-proto": "https",
    "x-forwarded-for": "198.51.100.7",
    "x-forwarded-host": "evil.example",
}
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key",
}


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Without identity, and with everything configured that opens it to others."""
    environment = {
        "TINTYPE_CORS_ORIGINS": f'["{SHOP}", "http://localhost:3000"]',
        "TINTYPE_PUBLIC_URL": PUBLIC,
        "TINTYPE_IMAGING__INSPECT": "header",
    }
    service = Service(tmp_path_factory.mktemp("open") / "data", environment).start()
    yield service
    service.stop()


@pytest.fixture
def opened(open_service: Service) -> Iterator[httpx.Client]:
    with open_service.client() as client:
        yield client


@pytest.fixture(scope="module")
def behind_a_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """With identity, pages of all origins, and a proxy; the client has a key."""
    data_dir = tmp_path_factory.mktemp("proxied") / "data"
    environment = {
        "TINTYPE_CORS_ORIGINS": '["*"]',
        "TINTYPE_TRUSTED_PROXIES": '["10.0.0.0/16", "127.0.0.0/8"]',
        "TINTYPE_IDENTITY__MODE": "keys",
        "TINTYPE_IMAGING__INSPECT": "header",
    }
    key = make_key(data_dir, "anna")
    service = Service(data_dir, environment).start()
    with service.client() as client:
        client.headers["authorization"] = f"Bearer {key}"
        yield client
    service.stop()


def port_of(client: httpx.Client) -> str:
    return f":{client.base_url.port}"


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)


# Names


@pytest.mark.parametrize("path", ["/v1/images", "/docs", "/healthz", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "192.0.2.1", "127.0.0.1.nip.io", "localhost@evil", "["]
)
def test_a_name_that_was_bound_to_loopback_is_refused(client: httpx.Client, host: str, path: str) -> None:
    for named in (host, host + port_of(client)):
        assert_refused(client.get(path, headers={"host": named}), 421, "host_refused")
    assert_refused(
        client.post("/v1/images", content=picture(seed=7301), headers={"host": host}), 421, "host_refused"
    )


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "[::1]"])
def test_loopback_goes_by_all_of_its_names(client: httpx.Client, host: str) -> None:
    for named in (host, host + port_of(client), f"{host}:80"):
        assert client.get("/v1/images", headers={"host": named}).status_code == 200
        same = {"host": named, "origin": f"http://{named}".lower()}
        assert client.post("/v1/images", content=picture(seed=7302), headers=same).is_success


def test_the_public_name_is_one_of_them(opened: httpx.Client) -> None:
    assert opened.get("/v1/images", headers={"host": "images.example"}).status_code == 200
    assert_refused(opened.get("/v1/images", headers={"host": "shop.example"}), 421, "host_refused")


def test_a_program_from_before_host_is_served(service: Service) -> None:
    assert speak(service, b"GET /v1/images HTTP/1.0\r\n\r\n").status == 200


def test_with_identity_the_name_does_not_matter(anna: httpx.Client) -> None:
    assert anna.get("/v1/images", headers={"host": "balancer.internal"}).status_code == 200


# Pages of others, without identity


@pytest.mark.parametrize(
    "said",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "null"},
        {"sec-fetch-site": "unheard-of"},
        {"origin": SHOP},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://127.0.0.1"},
    ],
)
def test_a_page_of_another_site_changes_nothing(client: httpx.Client, said: dict[str, str]) -> None:
    before = client.get("/v1/images").json()
    files = {"file": ("a.png", picture(seed=7303), "image/png")}
    assert_refused(client.post("/v1/images", files=files, headers=said), 403, "origin_refused")
    for method, path in (("PUT", "/v1/images/a.png"), ("DELETE", "/v1/images/x"), ("PATCH", "/v1/images/x")):
        answer = client.request(method, path, content=b"", headers=said)
        assert_refused(answer, 403, "origin_refused")
    assert client.get("/v1/images").json() == before


def test_its_body_is_not_waited_for(service: Service) -> None:
    head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nConnection: close\r\n"
    assert speak(service, head + b"Content-Length: 40000000\r\n\r\n").status == 403


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin", "origin": "null"},  # a form of a page without a referrer
    ],
)
def test_a_program_and_our_own_page_are_served(client: httpx.Client, said: dict[str, str]) -> None:
    assert client.post("/v1/images", content=picture(seed=7304), headers=said).is_success


def test_a_page_of_another_site_reads_nothing_either(client: httpx.Client) -> None:
    said = {"sec-fetch-site": "cross-site", "origin": SHOP}
    answer = client.get("/v1/images", headers=said)
    assert [name for name in answer.headers if name.startswith("access-control-")] == []
    assert_refused(client.options("/v1/images/random", headers=said | PREFLIGHT), 405, "method_not_allowed")
    told = client.options("/v1/images", headers=said | PREFLIGHT)  # what uploads may have is no secret
    assert not [name for name in told.headers if name.startswith("access-control")]


def test_the_named_and_the_public_may(opened: httpx.Client) -> None:
    for seed, origin in enumerate((SHOP, "http://localhost:3000", PUBLIC), 7305):
        said = {"origin": origin, "sec-fetch-site": "cross-site"}
        assert opened.post("/v1/images", content=picture(seed=seed), headers=said).status_code == 201
    other = {"origin": f"{SHOP}:444", "sec-fetch-site": "cross-site"}
    assert_refused(opened.post("/v1/images", content=b"x", headers=other), 403, "origin_refused")


# CORS


def listed(field: str) -> set[str]:
    return {each.strip().lower() for each in field.split(",")}


def test_a_browser_that_asks_for_a_named_page_is_told_what_it_may(opened: httpx.Client) -> None:
    answer = opened.options("/v1/images", headers={"origin": SHOP} | PREFLIGHT)
    told = answer.headers
    assert (answer.status_code, answer.content) == (204, b"")
    assert told["access-control-allow-origin"] == SHOP
    assert told["vary"] == "origin"
    assert listed(PREFLIGHT["access-control-request-headers"]) <= listed(told["access-control-allow-headers"])
    assert "*" not in told["access-control-allow-headers"] + told["access-control-allow-methods"]
    assert told["access-control-max-age"] == "7200"
    assert "access-control-allow-credentials" not in told
    assert "x-request-id" in told


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://shop.example", f"{SHOP}.evil"])
def test_one_that_asks_for_another_page_is_refused(opened: httpx.Client, origin: str) -> None:
    answer = opened.options("/v1/images", headers={"origin": origin} | PREFLIGHT)
    assert_refused(answer, 403, "origin_refused")
    assert "access-control-allow-origin" not in answer.headers
    assert "origin" in listed(answer.headers["vary"])


def test_it_is_told_before_it_shows_credentials(behind_a_proxy: httpx.Client) -> None:
    url = behind_a_proxy.base_url.join("/v1/images/x")
    answer = httpx.options(url, headers={"origin": SHOP} | PREFLIGHT)
    assert answer.status_code == 204
    answer = httpx.get(url, headers={"origin": SHOP})
    assert_refused(answer, 401, "credentials_missing")
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/images", 200),
        ("HEAD", "/v1/images", 200),
        ("POST", "/v1/images", 415),
        ("GET", "/v1/images/01932c07-209c-7f3a-8f51-6b1d0a4be3c2", 404),
        ("GET", "/v1/images?limit=x", 422),
        ("DELETE", "/v1/images", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_a_named_page_reads_answers_and_failures(
    opened: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = opened.request(method, path, content=b"no image", headers={"origin": SHOP})
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [SHOP]
    assert "origin" in listed(answer.headers["vary"])
    assert {"location", "etag", "x-request-id", "retry-after", "upload-offset", "tus-resumable"} <= listed(
        answer.headers["access-control-expose-headers"]
    )


def test_answers_say_that_they_depend_on_the_page(opened: httpx.Client) -> None:
    for headers in ({}, {"origin": "https://evil.example"}):
        answer = opened.get("/v1/images", headers=headers)
        assert "origin" in listed(answer.headers["vary"])
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_may_send_what_the_document_describes_and_read_what_is_sent(opened: httpx.Client) -> None:
    accepted, exposed = listed(",".join(ACCEPTED)), listed(",".join(EXPOSED))
    for operations in describe().openapi()["paths"].values():
        for method, operation in operations.items():
            assert method.upper() in METHODS
            fields = [each for each in operation.get("parameters", []) if each["in"] == "header"]
            assert {each["name"].lower() for each in fields} <= accepted
    key = {"idempotency-key": str(uuid4())}
    image = opened.post("/v1/images", content=picture(seed=7309), headers=key)
    again = opened.post("/v1/images", content=picture(seed=7309), headers=key)
    content = opened.get(urlsplit(image.json()["urls"]["content"]).path, headers={"range": "bytes=0-3"})
    simple = {"content-type", "content-length", "cache-control", "last-modified", "expires", "date"}
    browser = {"vary", "referrer-policy", "content-security-policy", "x-content-type-options"}
    browser.add("cross-origin-resource-policy")
    for answer in (image, again, content, opened.get("/v1/images?limit=1")):
        assert set(answer.headers) - simple - browser <= exposed


# Proxies


def link_of(client: httpx.Client, seed: int, headers: dict[str, str]) -> str:
    image = client.post("/v1/images", content=picture(seed=seed)).json()
    answer = client.post(f"/v1/images/{image['id']}/links", json={}, headers=headers)
    url: str = answer.json()["url"]
    return url


def test_what_anybody_says_was_forwarded_is_not_believed(client: httpx.Client, anna: httpx.Client) -> None:
    assert link_of(client, 7310, FORWARDED).startswith(f"{client.base_url}/v1/")
    assert link_of(anna, 7310, FORWARDED).startswith(f"{anna.base_url}/v1/")


def test_a_trusted_proxy_tells_the_scheme_and_never_the_host(behind_a_proxy: httpx.Client) -> None:
    secure = str(behind_a_proxy.base_url).replace("http:", "https:")
    assert link_of(behind_a_proxy, 7311, FORWARDED).startswith(f"{secure}/v1/")
    assert link_of(behind_a_proxy, 7312, {}).startswith(f"{behind_a_proxy.base_url}/v1/")
    assert link_of(behind_a_proxy, 7313, {"x-forwarded-proto": "javascript"}).startswith("http://")


# Settings


@pytest.mark.parametrize(
    "origin",
    ["shop.example", f"{SHOP}/", "https://Shop.example", "null", "", "https://*.shop.example", "https://a b"],
)
def test_what_is_no_origin_is_no_setting(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=(origin,))


def test_all_pages_are_allowed_with_identity_only() -> None:
    with pytest.raises(ValidationError, match="needs identity"):
        Settings(cors_origins=("*",))
    assert Settings(cors_origins=("*",), identity=IdentitySettings(mode="keys")).cors_origins == ("*",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TINTYPE_CORS_ORIGINS", '["*"]'), ("TINTYPE_TRUSTED_PROXIES", '["proxy.example"]')],
)
def test_a_mistake_names_its_setting(tmp_path: Path, variable: str, value: str) -> None:
    environment = {"PATH": os.environ["PATH"], variable: value}
    command = [*COMMAND, "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == 1
    assert variable in ended.stderr
    assert list(tmp_path.iterdir()) == []
