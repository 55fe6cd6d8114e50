"""No sticky sessions: requests of one upload reach any instance, also at once, also when one dies."""

import hashlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from conformance.suite import BYTES, Server, expect, picture
from service import Service
from uploads.conftest import Fleet

pytestmark = pytest.mark.xdist_group("uploads-fleet")

Doors = Callable[[], tuple[Server, Server]]


def stored(server: Server, url: str) -> bytes:
    base = server.url.removesuffix("/v1/tus")
    told = httpx.get(f"{base}/v1/uploads/{url.rpartition('/')[2]}").json()
    return httpx.get(f"{base}{told['image']['url']}").content


@contextmanager
def hanging(server: Server, url: str, content: bytes, sent: int, offset: int = 0) -> Iterator[None]:
    """Send some of a PATCH, and then nothing, without an end: a phone in a tunnel."""
    address = httpx.URL(server.url)
    head = (
        f"PATCH {server.path(url)} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: {BYTES}\r\nUpload-Offset: {offset}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port or 80)) as wire:
        wire.sendall(head.encode() + content[:sent])
        time.sleep(0.3)
        yield


def test_chunks_alternate_between_instances(servers: Doors) -> None:
    one, other = servers()
    content = picture(1_000_000)
    url = one.create(len(content))
    for number, start in enumerate(range(0, len(content), 90_000)):
        door = (one, other)[number % 2]
        assert door.offset(door.url + "/" + url.rpartition("/")[2]) == start
        there = door.url + "/" + url.rpartition("/")[2]
        expect(door.append(there, start, content[start : start + 90_000]), 204)

    assert hashlib.sha256(stored(other, url)).digest() == hashlib.sha256(content).digest()


def test_two_patches_at_once_on_two_instances_never_interleave(servers: Doors) -> None:
    doors = servers()
    for _ in range(5):
        content = picture(400_000)
        last = doors[0].create(len(content)).rpartition("/")[2]
        with ThreadPoolExecutor(2) as both:
            answers = list(
                both.map(lambda d: d.append(f"{d.url}/{last}", 0, content[:300_000]), doors)  # noqa: B023
            )
        assert {each.status_code for each in answers} <= {204, 409, 423}
        at = doors[0].offset(f"{doors[0].url}/{last}")
        assert at in (0, 300_000)
        expect(doors[1].append(f"{doors[1].url}/{last}", at, content[at:]), 204)
        assert stored(doors[0], last) == content


def test_a_reconnect_takes_over_within_a_second_and_the_late_write_changes_nothing(servers: Doors) -> None:
    one, other = servers()
    content, lies = picture(800_000), bytes(800_000)
    last = one.create(len(content)).rpartition("/")[2]
    with hanging(one, f"{one.url}/{last}", lies, 700_000):
        began = time.monotonic()
        at = other.offset(f"{other.url}/{last}")
        answer = other.append(f"{other.url}/{last}", at, content[at:])
        assert time.monotonic() - began < 2
        expect(answer, 204)
    time.sleep(0.5)  # the hanging request has ended, and tries to keep what it had

    assert at == 0
    assert other.offset(f"{other.url}/{last}") == len(content)
    assert stored(other, last) == content


def test_a_reconnect_to_the_same_instance_finds_what_came_before(servers: Doors) -> None:
    one, _ = servers()
    content = picture(800_000)
    url = one.create(len(content))
    with hanging(one, url, content, 500_000):
        began = time.monotonic()
        at = one.offset(url)
        expect(one.append(url, at, content[at:]), 204)
        assert time.monotonic() - began < 2

    assert at == 500_000
    assert stored(one, url) == content


def test_delete_while_a_patch_is_running_ends_in_one_state(servers: Doors) -> None:
    one, other = servers()
    content = picture(800_000)
    last = one.create(len(content)).rpartition("/")[2]
    with hanging(one, f"{one.url}/{last}", content, 500_000):
        expect(other.send("DELETE", f"{other.url}/{last}"), 204)
    time.sleep(0.5)

    for door in (one, other):
        assert door.send("HEAD", f"{door.url}/{last}").status_code == 410
        assert door.append(f"{door.url}/{last}", 0, content).status_code == 410


def one_step(service: Service, last: str, content: bytes, turn: random.Random) -> bool:
    """Ask where an upload stands and send what comes next; tell whether it is finished."""
    version = {"Tus-Resumable": "1.0.0"}
    with httpx.Client(base_url=service.base, timeout=20) as client:
        found = client.head(f"/v1/tus/{last}", headers=version)
        assert found.status_code in (200, 423), found.status_code
        at = int(found.headers.get("Upload-Offset", -1))
        if 0 <= at < len(content):
            head = version | {"Content-Type": BYTES, "Upload-Offset": str(at)}
            chunk = content[at : at + turn.choice([65_536, 300_000, len(content)])]
            answer = client.patch(f"/v1/tus/{last}", content=chunk, headers=head)
            assert answer.status_code in (204, 409, 423, 503), answer.text
        return at == len(content)


def test_uploads_survive_instances_that_are_killed_and_started_again(
    two: tuple[Service, Service], servers: Doors
) -> None:
    """The short form: many uploads, chunks to whichever instance answers, each of which dies meanwhile."""
    chance = random.Random(4)
    contents = {
        servers()[0].create(size).rpartition("/")[2]: picture(size, seed)
        for seed, size in enumerate(chance.randrange(100_000, 1_500_000) for _ in range(16))
    }

    def upload(last: str) -> None:
        turn, done = random.Random(last), False
        while not done:
            try:
                done = one_step(two[turn.randrange(2)], last, contents[last], turn)
            except httpx.TransportError:
                time.sleep(0.05)

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(upload, last) for last in contents]
        for victim in (0, 1):
            time.sleep(0.4)
            two[victim].kill()
            two[victim].start()
        for each in running:
            each.result(timeout=90)

    one, _ = servers()
    for last, content in contents.items():
        assert stored(one, last) == content
    base = one.url.removesuffix("/v1/tus")
    images = httpx.get(f"{base}/v1/images?limit=200").json()["data"]
    for content in contents.values():
        assert [each["sha256"] for each in images].count(hashlib.sha256(content).hexdigest()) == 1


def test_nothing_is_left_in_the_store_of_uploads_that_are_finished(fleet: Fleet, servers: Doors) -> None:
    one, _ = servers()
    content = picture(500_000)
    url = one.create(len(content))
    expect(one.append(url, 0, content[:300_000]), 204)
    assert [each for each in fleet.left() if each.startswith(url.rpartition("/")[2])]
    expect(one.append(url, 300_000, content[300_000:]), 204)

    deadline = time.monotonic() + 5
    while (fleet.objects / "incoming" / url.rpartition("/")[2]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
