"""A disk that is full: uploads are refused, reading and deleting go on, and room comes back by itself."""

import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from faults.table import Row, record
from pictures import picture
from postgres import Postgres
from service import Service
from tintype.ingest.budget import KNOWN_SECONDS

MiB = 1024 * 1024
STEP = 64 * 1024


@contextlib.contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of its own, in memory. To mount one takes a privilege."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def room(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, leaving: int) -> Path:
    """Let something else take the room, and return what to delete for it to come back."""
    ballast = place / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):  # others took the last of it
        for at in itertools.count(0, STEP):
            if room(place) <= leaving:
                break
            os.posix_fallocate(file.fileno(), at, STEP)
    return ballast


def upload(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/v1/images", content=data)


@pytest.mark.faults
def test_a_full_disk_takes_no_upload_and_all_else_goes_on(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", 500 * MiB) as place:
        # As few as it takes: PostgreSQL writes into the rest.
        service = serve(place / "data", TINTYPE_LIMITS__MIN_FREE_BYTES=str(64 * MiB))
        with service.client() as client:
            kept = [upload(client, picture(seed=seed)).json() for seed in range(8200, 8204)]
            ballast = fill(place, leaving=32 * MiB)
            time.sleep(KNOWN_SECONDS)
            refused = [upload(client, picture(seed=seed)) for seed in range(8204, 8212)]
            ready = client.get("/readyz")
            read = [client.get(image["url"]) for image in kept]
            deleted = client.delete(f"/v1/images/{kept[0]['id']}")
            listed = client.get("/v1/images").json()["data"]

            ballast.unlink()
            again = upload(client, picture(seed=8204))

        errors = sum(each.status_code >= 500 for each in refused)
        lost = sum(each.content != picture(seed=seed) for seed, each in enumerate(read, start=8200))
        doubled = len(listed) - len({image["id"] for image in listed})
        record(Row("The disk is full", len(refused), len(kept) + 2, lost, doubled, errors))
        assert {(each.status_code, each.json()["code"]) for each in refused} == {(503, "overloaded")}
        assert all("full" in each.json()["detail"] for each in refused)
        assert all(each.headers["retry-after"] for each in refused)
        assert (ready.status_code, set(ready.json()["reasons"])) == (503, {"spool"})
        assert [each.content for each in read] == [picture(seed=seed) for seed in range(8200, 8204)]
        assert deleted.status_code == 204
        assert {image["id"] for image in listed} == {image["id"] for image in kept[1:]}
        assert again.status_code == 201, "nobody had to tell it that there is room again"
        service.stop()


def test_a_disk_that_fills_while_a_body_is_written_refuses_that_body(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    with disk(tmp_path / "spool", 16 * MiB) as spool:
        service = serve(
            TINTYPE_SPOOL_DIR=str(spool),
            TINTYPE_LIMITS__MIN_FREE_BYTES="0",
            TINTYPE_LIMITS__MEMORY_BYTES="0",
        )
        data = picture("PNG", seed=8220, size=(1800, 1800))
        ballast: list[Path] = []
        whole = room(spool)

        def body() -> Iterator[bytes]:
            yield data[: 2 * MiB]
            while room(spool) == whole:  # until it is being written
                time.sleep(0.01)
            ballast.append(fill(spool, leaving=0))
            for start in range(2 * MiB, len(data), MiB):
                yield data[start : start + MiB]

        with service.client() as client:
            length = {"Content-Length": str(len(data))}
            refused = client.post("/v1/images", content=body(), headers=length)
            ballast[0].unlink()
            again = upload(client, data)

        assert len(data) > 4 * MiB
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"]
        assert again.status_code == 201
        service.stop()


NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON images FOR EACH ROW EXECUTE FUNCTION no_room();
"""


def test_while_postgresql_has_no_room_uploads_are_refused_and_images_are_delivered(
    database_url: str, serve: Callable[..., Service], postgres: Postgres
) -> None:
    """PostgreSQL says so as it does when its disk is full; the real one is everybody's here."""
    service = serve(TINTYPE_DATABASE__URL=database_url)
    with service.client() as client, psycopg.connect(postgres.as_admin(database_url)) as admin:
        kept = upload(client, picture(seed=8230)).json()
        admin.execute(NO_ROOM)
        admin.commit()
        data, key = picture(seed=8231), {"Idempotency-Key": "no-room"}
        refused = [client.post("/v1/images", content=data, headers=key) for _ in range(3)]
        read, listed = client.get(kept["url"]), client.get("/v1/images").json()["data"]
        admin.execute("DROP TRIGGER no_room ON images")
        admin.commit()
        again = client.post("/v1/images", content=data, headers=key)
        stored = client.get("/v1/images").json()["data"]

    lost, doubled = int(again.status_code != 201), len(stored) - 2
    record(Row("PostgreSQL has no room on its disk", len(refused), 2, lost, doubled, len(refused)))
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(503, "database_unavailable")}
    assert all(each.headers["retry-after"] for each in refused)
    assert read.content == picture(seed=8230)
    assert [image["id"] for image in listed] == [kept["id"]]
    assert again.status_code == 201
    assert {image["id"] for image in stored} == {kept["id"], again.json()["id"]}
