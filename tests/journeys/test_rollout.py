"""A rollout: instances behind a balancer are replaced, one after the other, and nobody notices.

HAProxy is set as AWS's balancer behaves: it asks `/readyz`, sends no request twice, and keeps connections.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from pictures import picture
from service import COMMAND, Service
from tintype.catalogue.migrations import Step, known_steps, migrate

pytestmark = [
    pytest.mark.xdist_group("rollout"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

UPLOADERS = int(os.environ.get("ROLLOUT_UPLOADERS", "3"))
SLOW = 2
SLOW_SECONDS = 2.5
ROUNDS = int(os.environ.get("ROLLOUT_ROUNDS", "2"))
NEXT = Step(9999, "9999_next.sql", "ALTER TABLE images ADD COLUMN next text")
"""What the next release would bring: it only adds, so that both releases can work with it."""
BALANCER = """
global
  stats socket {folder}/admin level admin
defaults
  mode http
  option http-keep-alive
  option forwardfor
  retries 0
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
frontend door
  bind 127.0.0.1:{port}
  default_backend instances
backend instances
  balance leastconn
  http-reuse safe
  option httpchk GET /readyz
  default-server check inter 300ms rise 2 fall 2
  server a 127.0.0.1:{a}
  server b 127.0.0.1:{b}
"""
LINGER_SECONDS = 2
"""Of the instances: the balancer has asked twice by then."""


@dataclass
class Load:
    """Clients that upload until they are stopped; what they got is counted by status, or by error."""

    base: str
    seeds: "count[int]" = field(default_factory=lambda: count(80_000))
    seen: Counter[str] = field(default_factory=Counter[str])
    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])
    stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            *(threading.Thread(target=self._upload, args=(0,)) for _ in range(UPLOADERS)),
            *(threading.Thread(target=self._upload, args=(SLOW_SECONDS,)) for _ in range(SLOW)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _upload(self, seconds: float) -> None:
        with httpx.Client(base_url=self.base, timeout=60) as client:
            while not self.stopped.is_set():
                data = picture(seed=next(self.seeds), size=(256, 256))
                headers = {"Content-Type": "image/png", "Content-Length": str(len(data))}
                try:
                    answer = client.post("/v1/images", content=slowly(data, seconds), headers=headers)
                except httpx.HTTPError as error:
                    self.seen[repr(error)] += 1
                    continue
                self.seen[str(answer.status_code)] += 1
                if answer.status_code == 201:
                    self.stored[answer.json()["id"]] = data
                else:
                    self.seen[answer.text] += 1
                time.sleep(0.02)  # clients are not the test


def slowly(data: bytes, seconds: float) -> Iterator[bytes]:
    """Send a body in five pieces."""
    size = len(data) // 5 + 1
    for start in range(0, len(data), size):
        time.sleep(seconds / 5)
        yield data[start : start + size]


@dataclass(frozen=True)
class Fleet:
    """Two instances of one service, and the balancer before them."""

    instances: list[Service]
    base: str
    admin: Path

    def replace(self, instance: Service) -> None:
        """Replace an instance as a deployment does: the next one is begun when the last one serves."""
        assert instance.process is not None
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(30) == 0
        instance.start()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        ends = time.monotonic() + 20
        while self.states() != ["UP", "UP"]:
            assert time.monotonic() < ends, self.states()
            time.sleep(0.1)

    def states(self) -> list[str]:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.admin))
            admin.sendall(b"show stat\n")
            told = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        rows = [line.split(",") for line in told.splitlines() if line.startswith("instances,")]
        return [row[17] for row in rows if row[1] != "BACKEND"]


def free_ports(number: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture
def fleet(database_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    door, *ports = free_ports(3)
    environment = {
        "TINTYPE_DATABASE__URL": database_url,
        "TINTYPE_OBJECTS__URL": f"file://{tmp_path}/shared",
        "TINTYPE_IMAGING__INSPECT": "header",
        "TINTYPE_LINGER_SECONDS": str(LINGER_SECONDS),
        "TINTYPE_LIMITS__MIN_RATE": "0",
    }
    instances = [
        Service(tmp_path / name, environment, command=[*COMMAND[:-1], str(port)])
        for name, port in zip("ab", ports, strict=True)
    ]
    folder = tmp_path_factory.mktemp("ha")  # a socket's path is short
    configuration = folder / "haproxy.cfg"
    configuration.write_text(BALANCER.format(folder=folder, port=door, a=ports[0], b=ports[1]))
    try:
        for instance in instances:
            instance.start()
        balancer = subprocess.Popen(["haproxy", "-db", "-f", configuration], stderr=subprocess.DEVNULL)
        try:
            found = Fleet(instances, f"http://127.0.0.1:{door}", folder / "admin")
            while not found.admin.exists():
                time.sleep(0.05)
            found.wait_until_up()
            yield found
        finally:
            balancer.kill()
            balancer.wait()
    finally:
        for instance in instances:
            instance.stop()


def test_two_rollovers_under_load_and_a_migration_between_them_lose_nothing(
    fleet: Fleet, database_url: str
) -> None:
    load = Load(fleet.base)

    with load.running():
        for number in range(ROUNDS):
            for instance in fleet.instances:
                fleet.replace(instance)
            if number == 0:
                assert asyncio.run(migrate(database_url, [*known_steps(), NEXT])) == [NEXT.name]

    print(f"{load.seen.total()} uploads")  # noqa: T201 # for docs/aws.md
    assert set(load.seen) == {"201"}, load.seen
    with httpx.Client(base_url=fleet.base, timeout=60) as client:
        for image_id, data in list(load.stored.items())[::10]:
            assert client.get(f"/v1/images/{image_id}/content").content == data


def test_while_it_lingers_an_instance_serves_and_says_that_it_will_end(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(tmp_path / "data", TINTYPE_LINGER_SECONDS="60", TINTYPE_IMAGING__INSPECT="header")
    assert service.process is not None

    with service.client() as client:
        service.process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 10
        while "close" not in (ready := client.get("/readyz")).headers.get("Connection", ""):
            assert time.monotonic() < ends
        sent = client.post("/v1/images", content=picture(seed=79_001), headers={"Content-Type": "image/png"})
        fresh = httpx.get(f"{service.base}/healthz")

    assert (ready.status_code, sent.status_code, fresh.status_code) == (503, 201, 200)
    assert "draining" in ready.text
    # Whoever is in a hurry says it again.
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0
