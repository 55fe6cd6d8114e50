"""Known attacks on upload services, each against the running server: right answer, nothing broken."""

import json
import re
import socket
import struct
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from attacks.scenes import CORPUS, Case, cases, files_in, kept, request_of
from attacks.speaking import Answer, address_of, answer_of, speak, until_closed
from identified import make_key
from pictures import picture
from postgres import Postgres
from service import Service

pytestmark = [
    pytest.mark.skipif(CORPUS is None, reason="TINTYPE_CORPUS is not set: the corpus of attacks is not run"),
    pytest.mark.xdist_group("attacks"),
]
CASES = cases()
TRIED = {
    ("filenames", None),
    ("http", "framing"),
    ("http", "headers"),
    ("http", "methods"),
    ("http", "multipart"),
    ("http", "slow"),
}
"""Groups that the tests below run, with their categories; None stands for all categories."""
NOT_HERE = {
    **{
        ("auth", category): "the service attacked here has no identity: test_identity_attacks.py"
        for category in ("api-key", "jwt", "isolation")
    },
    **{
        ("tus", category): "they need two owners: test_tus_attacks.py"
        for category in ("tus-post", "tus-patch", "tus-head", "tus-delete")
    },
    ("direct", None): "they need two owners, and limits of their own: test_direct_attacks.py",
    ("urls", None): "test_address_attacks.py",
}
"""Groups that are not tried here, with the reason."""
OTHERWISE = {
    "1300bb8862f0": (201, "a file of a form is an image whatever its field is called, as the API says"),
}
"""Attacks that are answered otherwise than the corpus foresees, with the reason."""

SLOW_CONNECTIONS = 200
OBJECT = re.compile(r"originals/[0-9a-f]{2}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DISPOSITION = re.compile(
    r'attachment; filename="[ !#-$&-\[\]-~]+"(; filename\*=UTF-8\'\'(?P<name>[A-Za-z0-9!#$&+.^_`|~%-]+))?'
)


def of(group: str, *categories: str) -> pytest.MarkDecorator:
    chosen = [
        each for each in CASES if each.group == group and (each.category in categories or not categories)
    ]
    return pytest.mark.parametrize("case", [pytest.param(each, id=each.id) for each in chosen])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service to be attacked. It must be well afterwards, and have written where it may only."""
    home = tmp_path_factory.mktemp("attacked")
    service = Service(home / "data").start()
    parts = set(home.iterdir()) | set(service.data_dir.iterdir())
    yield service
    with service.client() as client:
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in service.output
    assert set(home.iterdir()) | set(service.data_dir.iterdir()) <= parts | {service.data_dir / "outbox"}
    assert [name for name in files_in(service.data_dir / "objects" / "originals") if not _is_ours(name)] == []
    assert service.interrupt() == 0


@pytest.fixture(scope="module")
def client(target: Service) -> Iterator[httpx.Client]:
    with target.client() as client:
        yield client


@pytest.fixture(scope="module")
def ordinary(client: httpx.Client) -> httpx.Response:
    """The download of an image with a harmless name."""
    image = client.post("/v1/images?filename=rome.png", content=picture(seed=600)).json()
    return client.get(image["url"])


@dataclass(frozen=True)
class Slow:
    """What became of clients that took their time, and how long an ordinary one waited meanwhile."""

    body: Future[bytes]
    heads: Future[list[float]]
    others_seconds: float


@pytest.fixture(scope="module")
def slow(target: Service) -> Iterator[Slow]:
    """Begin with clients that send next to nothing; what became of them is asked at the end."""
    with ThreadPoolExecutor(2) as threads, target.client() as client:
        body, heads = threads.submit(trickle, target), threads.submit(trickle_heads, target)
        began = time.monotonic()
        for seed in range(610, 620):
            assert client.post("/v1/images", content=picture(seed=seed)).status_code == 201
        yield Slow(body, heads, time.monotonic() - began)


def trickle(target: Service) -> bytes:
    """Send a body a byte at a time, and return what comes back."""
    with socket.create_connection(address_of(target), timeout=60) as connection:
        connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
        connection.settimeout(2)
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline:
            try:
                connection.send(b"x")
                if received := connection.recv(65536):
                    connection.settimeout(60)  # the server waits a while for the rest of the body
                    return received + until_closed(connection)
                break
            except TimeoutError:
                continue
    return b""


def trickle_heads(target: Service) -> list[float]:
    """Begin many requests, and return after how many seconds each connection was ended."""
    connections = [socket.create_connection(address_of(target)) for _ in range(SLOW_CONNECTIONS)]
    began = time.monotonic()
    for each in connections:
        each.settimeout(40)
        each.sendall(b"GET /v1/images HTTP/1.1\r\nHost: ")
    time.sleep(5)
    for each in connections:
        each.sendall(b"x")
    lasted: list[float] = []
    for each in connections:
        assert until_closed(each) == b""
        lasted.append(time.monotonic() - began)
        each.close()
    return lasted


@dataclass(frozen=True)
class Revoked:
    """A key that two instances knew and one of them was told to revoke, and the moment of that."""

    key: str
    here: Service
    elsewhere: Service
    at: float

    def shown_to(self, service: Service) -> int:
        with service.client() as client:
            return client.get("/v1/me", headers={"authorization": f"Bearer {self.key}"}).status_code


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database for all tests of this module."""
    async with postgres.clone() as url:
        yield url


@pytest.fixture(scope="module")
def revoked(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Revoked]:
    """Begin with a revocation; what became of it elsewhere is asked at the end."""
    folder = tmp_path_factory.mktemp("revoked")
    shared = {
        "TINTYPE_DATABASE__URL": shared_url,
        "TINTYPE_OBJECTS__URL": f"file://{folder / 'objects'}",
        "TINTYPE_IDENTITY__MODE": "keys",
    }
    key = make_key(folder, "shop", "admin", environment=shared)
    here, elsewhere = (Service(folder / name, shared).start() for name in ("here", "elsewhere"))
    told = Revoked(key, here, elsewhere, time.monotonic())
    assert told.shown_to(here) == told.shown_to(elsewhere) == 200
    with here.client() as client:
        gone = client.delete(f"/v1/api-keys/{key.split('_')[1]}", headers={"authorization": f"Bearer {key}"})
    assert gone.status_code == 204
    yield replace(told, at=time.monotonic())
    for each in (here, elsewhere):
        each.stop()


def test_a_key_is_refused_at_once_where_it_was_revoked(revoked: Revoked) -> None:
    assert revoked.shown_to(revoked.here) == 401


def test_others_are_served_while_slow_clients_wait(slow: Slow) -> None:
    assert slow.others_seconds < 10


def test_every_attack_is_tried_or_has_a_reason_why_not() -> None:
    told = set(TRIED) | set(NOT_HERE)

    silent = {
        (each.group, each.category)
        for each in CASES
        if not {(each.group, each.category), (each.group, None)} & told
    }

    assert silent == set()
    assert len(CASES) > 100


@of("filenames")
@pytest.mark.parametrize("door", ["a form", "a form, unescaped", "the query", "the path"])
def test_a_name_is_never_more_than_a_name(
    client: httpx.Client, ordinary: httpx.Response, case: Case, door: str
) -> None:
    name: bytes = case.value if isinstance(case.value, bytes) else case.value.encode("utf-8", "surrogatepass")

    answer = send(client, door, name, case.picture)

    if door in ("a form", "the query"):
        assert answer.status_code in case.status, answer.text
    if answer.status_code != 201:
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json"
        return
    image = answer.json()
    assert is_harmless(image["filename"])
    content = client.get(image["url"])
    told = DISPOSITION.fullmatch(content.headers["content-disposition"])
    assert told is not None, content.headers["content-disposition"]
    assert unquote(told["name"] or image["filename"]) == image["filename"]
    assert set(content.headers) == set(ordinary.headers)
    assert content.headers["content-type"] == "image/png"
    assert content.headers["x-content-type-options"] == "nosniff"
    found = client.get(f"/v1/images/by-name/{quote(image['filename'], safe='')}")
    assert found.json()["filename"] == image["filename"]


@of("filenames")
def test_an_image_takes_no_other_name_later(client: httpx.Client, case: Case) -> None:
    name = case.value.decode("latin-1") if isinstance(case.value, bytes) else case.value
    image = client.post("/v1/images?on_duplicate=keep", content=picture(seed=601)).json()

    answer = client.patch(image["urls"]["self"], json={"filename": name})

    assert answer.status_code in (200, 422), answer.text
    assert is_harmless(client.get(image["urls"]["self"]).json()["filename"])


@of("http", "framing", "headers", "methods", "multipart")
def test_a_request_that_deceives_gets_one_answer_and_no_second_request(target: Service, case: Case) -> None:
    before = kept(target)

    answer = speak(target, request_of(case, "{}:{}".format(*address_of(target))))

    if case.id in OTHERWISE:
        assert answer.status == OTHERWISE[case.id][0]
    else:
        assert answer.status in case.status, answer
    assert answer.rest == b""
    assert [each for each in case.forbidden if each.lower() in answer.head.decode("latin-1").lower()] == []
    assert "access-control-allow-credentials" not in answer.headers
    if answer.status >= 400:
        assert len(answer.problem["detail"]) > 20
    if answer.status != 201:
        assert kept(target) == before
    elif "all_or_nothing" in case.checks:
        assert all("image" in each for each in json.loads(answer.body)["results"])


def test_what_follows_a_deception_is_never_parsed(target: Service, client: httpx.Client) -> None:
    image = client.post("/v1/images?on_duplicate=keep", content=picture(seed=602)).json()
    smuggled = f"DELETE {image['urls']['self']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"

    for framing in (head, head.replace(b"chunked", b"\tchunked"), head.replace(b": chunked", b" : chunked")):
        assert speak(target, framing + b"0\r\n\r\n" + smuggled).status == 400

    assert client.get(image["url"]).status_code == 200


def test_an_upload_that_is_reset_is_stored_once_however_often_it_is_repeated(
    target: Service, client: httpx.Client
) -> None:
    data = picture(seed=603)
    key = {"Idempotency-Key": f"reset-after-the-last-byte-{uuid4()}"}
    head = f"POST /v1/images?on_duplicate=keep HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection(address_of(target)) as connection:
        connection.sendall(f"{head}Idempotency-Key: {key['Idempotency-Key']}\r\n\r\n".encode() + data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    repeats = [client.post("/v1/images?on_duplicate=keep", content=data, headers=key) for _ in range(2)]

    assert [each.status_code for each in repeats] == [201, 201]
    assert len({each.json()["id"] for each in repeats}) == 1
    same = [each for each in listed(client) if each["sha256"] == repeats[0].json()["sha256"]]
    assert len(same) == 1


def test_heads_that_do_not_end_are_not_waited_for(slow: Slow) -> None:
    lasted = slow.heads.result()

    assert len(lasted) == SLOW_CONNECTIONS
    assert max(lasted) < 20


def test_a_body_that_trickles_is_cut_and_leaves_nothing(
    client: httpx.Client, slow: Slow, target: Service
) -> None:
    answer: Answer = answer_of(slow.body.result())

    assert answer.status == 400
    assert answer.problem["code"] == "upload_incomplete"
    assert list((target.data_dir / "spool").iterdir()) == []
    assert client.get("/readyz").status_code == 200


def test_a_key_is_refused_within_half_a_minute_by_an_instance_that_nobody_told(revoked: Revoked) -> None:
    while revoked.shown_to(revoked.elsewhere) == 200:
        assert time.monotonic() - revoked.at < 30
        time.sleep(0.2)

    assert revoked.shown_to(revoked.elsewhere) == 401


def send(client: httpx.Client, door: str, name: bytes, data: bytes) -> httpx.Response:
    if door == "the query":
        return client.post(f"/v1/images?on_duplicate=keep&filename={quote(name, safe='')}", content=data)
    if door == "the path":
        return client.put(f"/v1/images/{quote(name, safe='')}?on_duplicate=keep", content=data)
    if door == "a form":  # as browsers escape names: html.spec.whatwg.org, multipart form data
        name = name.replace(b"\n", b"%0A").replace(b"\r", b"%0D").replace(b'"', b"%22")
    form = (
        b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n'
        b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--frontier--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=frontier"}
    return client.post("/v1/images?on_duplicate=keep", content=form, headers=headers)


def listed(client: httpx.Client) -> list[dict[str, str]]:
    found: list[dict[str, str]] = client.get("/v1/images?limit=200").json()["data"]
    return found


def is_harmless(name: str) -> bool:
    """Tell whether a name can be shown, saved and sent: no path, nothing hidden, normal, short."""
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    return (
        name.strip(". ") != ""
        and not re.search(r"[/\\]", name)
        and not any(unicodedata.category(each) in hidden for each in name)
        and unicodedata.is_normalized("NFC", name)
        and len(name.encode()) <= 255
        and Path(name).name == name
    )


def _is_ours(name: str) -> bool:
    return OBJECT.fullmatch(f"originals/{name}") is not None
