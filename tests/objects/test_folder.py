"""The folder: what it says is on the disk, what it shows is whole, and a lost disk is no empty store."""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from bodies import content, in_file, in_memory, new_key
from tintype.model.errors import Overloaded, StorageUnavailable
from tintype.objects.folder import PAGE, Folder
from tintype.objects.store import ObjectInfo, Objects
from tintype.settings import ObjectsSettings

DATA = content(100_000)
KEY = "originals/ab/0192f1c4-8a54-7cc1-b2a4-2f1e6d9c00ab"

STORE_ONE = f"""
import asyncio, hashlib, os, resource, signal, sys
from pathlib import Path
from tintype.model.body import Body
from tintype.model.checkpoint import arm
from tintype.model.errors import StorageUnavailable
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

data = Path(sys.argv[2]).read_bytes()

def body() -> Body:
    if sys.argv[3] == "memory":
        return Body(len(data), hashlib.sha256(data).digest(), memory=data)
    file = os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR)
    os.write(file, data)
    return Body(len(data), hashlib.sha256(data).digest(), file=file)

async def store() -> None:
    objects = Objects.open(ObjectsSettings(), Path(sys.argv[1]))
    await objects.put("{KEY}", body(), content_type="image/png", metadata={{"id": "one"}})
    os.write(1, b"stored")
    await objects.aclose()
"""
AND_END = "asyncio.run(store())"
AND_DIE = """
arm(sys.argv[4], lambda: os.kill(os.getpid(), signal.SIGKILL))
asyncio.run(store())
"""
ON_A_FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    asyncio.run(store())
except StorageUnavailable as error:
    print(error)
"""


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(ObjectsSettings(), tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of 100 KB, for other processes to store."""
    path = tmp_path / "picture"
    path.write_bytes(DATA)
    return path


async def put(objects: Objects, key: str, data: bytes = DATA) -> str:
    stored = await objects.put(key, in_memory(data), content_type="image/png", metadata={"id": "one"})
    return stored.etag


async def read(objects: Objects, key: str) -> bytes:
    return b"".join([block async for block in objects.read(key)])


async def listed(objects: Objects, prefix: str = "originals/") -> list[ObjectInfo]:
    return [info async for page in objects.list(prefix) for info in page]


async def etag_of(objects: Objects, key: str) -> str:
    (entry,) = await listed(objects)
    info = await objects.head(key)
    assert info is not None
    assert entry.etag == info.etag
    return info.etag


# Durability


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")
@pytest.mark.parametrize("body", ["memory", "file"])
def test_an_object_is_on_the_disk_before_it_is_seen_and_before_it_is_said(
    tmp_path: Path, picture: Path, body: str
) -> None:
    trace = tmp_path / "trace"
    calls = "trace=fsync,linkat,write,mkdir"
    program = [sys.executable, "-c", STORE_ONE + AND_END, tmp_path, picture, body]
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-e", calls, "-o", trace, *program],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )

    folder = f"{tmp_path}/objects"
    assert story(trace.read_text(), str(tmp_path)) == [
        f"made {folder}",
        "synced folder " + str(tmp_path),
        *made_and_synced(folder, "metadata", "metadata/originals", "metadata/originals/ab"),
        "synced file",
        f"linked {folder}/{KEY}.json".replace("objects/", "objects/metadata/"),
        f"synced folder {folder}/metadata/originals/ab",
        *made_and_synced(folder, "originals", "originals/ab"),
        "synced file",
        f"linked {folder}/{KEY}",
        f"synced folder {folder}/originals/ab",
        "said it",
    ]


def made_and_synced(root: str, *folders: str) -> list[str]:
    return [
        line
        for each in folders
        for line in (f"made {root}/{each}", f"synced folder {Path(root, each).parent}")
    ]


def story(trace: str, root: str) -> list[str]:
    """Tell what system calls did below a folder, in their order."""
    told: list[str] = []
    for line in trace.splitlines():
        if made := re.search(rf'mkdir\("({root}/[^"]+)", \w+\) = 0', line):
            told.append(f"made {made[1]}")
        elif synced := re.search(rf"fsync\(\d+<({root}[^>]*)>", line):
            path = synced[1]
            told.append("synced file" if "deleted" in path or "#" in path else f"synced folder {path}")
        elif linked := re.search(rf'linkat\(.*<({root}[^>]+)>, "([^"]+)", AT_SYMLINK_FOLLOW', line):
            told.append(f"linked {linked[1]}/{linked[2]}")
        elif re.search(r'write\(1.*"stored"', line):
            told.append("said it")
    return told


@pytest.mark.parametrize("body", ["memory", "file"])
@pytest.mark.parametrize("point", ["sidecar-stored", "object-written", "object-placed"])
async def test_a_process_killed_in_between_shows_no_half_object(
    objects: Objects, tmp_path: Path, picture: Path, point: str, body: str
) -> None:
    killed = subprocess.run(  # noqa: ASYNC221 # nothing else is to happen meanwhile
        [sys.executable, "-c", STORE_ONE + AND_DIE, tmp_path, picture, body, point],
        check=False,
        capture_output=True,
        timeout=60,
    )

    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")
    info = await objects.head(KEY)
    if point == "object-placed":
        assert info is not None
        assert (info.size, info.sha256) == (len(DATA), hashlib.sha256(DATA).digest())
        assert await read(objects, KEY) == DATA
    else:
        assert info is None
        assert await listed(objects) == []
    await put(objects, KEY)
    assert await read(objects, KEY) == DATA


def test_a_full_disk_refuses_and_shows_nothing(tmp_path: Path, picture: Path) -> None:
    full = subprocess.run(
        [sys.executable, "-c", STORE_ONE + ON_A_FULL_DISK, tmp_path, picture, "memory"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "cannot be used" in full.stdout
    assert not (tmp_path / "objects" / KEY).exists()


# What is there


async def test_an_etag_outlives_restarts_and_copies_that_keep_times(objects: Objects, tmp_path: Path) -> None:
    etag = await put(objects, KEY)
    shutil.copytree(tmp_path / "objects", tmp_path / "copy" / "objects")

    assert await etag_of(objects, KEY) == etag
    assert await etag_of(Objects.open(ObjectsSettings(), tmp_path), KEY) == etag
    assert await etag_of(Objects.open(ObjectsSettings(), tmp_path / "copy"), KEY) == etag


async def test_an_etag_outlives_a_tar_that_knows_whole_seconds_only(objects: Objects, tmp_path: Path) -> None:
    etag = await put(objects, KEY)
    archive = tmp_path / "backup.tar"
    subprocess.run(["tar", "--format=gnu", "-C", tmp_path, "-cf", archive, "objects"], check=True)  # noqa: ASYNC221
    (tmp_path / "copy").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "copy", "-xf", archive], check=True)  # noqa: ASYNC221

    assert await etag_of(Objects.open(ObjectsSettings(), tmp_path / "copy"), KEY) == etag


async def test_a_listing_shows_that_a_file_was_written_to(objects: Objects, tmp_path: Path) -> None:
    etag = await put(objects, KEY)

    with (tmp_path / "objects" / KEY).open("r+b") as file:
        file.write(b"x")

    assert await etag_of(objects, KEY) != etag


async def test_a_listing_has_objects_only(objects: Objects, tmp_path: Path) -> None:
    await put(objects, KEY)
    (tmp_path / "objects" / "originals" / "ab" / ".left-by-a-crash").write_bytes(b"x")

    assert [info.key for info in await listed(objects)] == [KEY]
    assert [info.key for info in await listed(objects, "")] == [KEY]


async def test_a_long_listing_comes_in_pages(objects: Objects, tmp_path: Path) -> None:
    await put(objects, KEY)
    keys = [f"originals/ab/{number:04}" for number in range(2 * PAGE + 1)]
    for key in keys:
        (tmp_path / "objects" / key).touch()

    pages = [page async for page in objects.list("originals/", "originals/ab/0")]

    assert [len(page) for page in pages] == [PAGE, PAGE, 2]
    assert [info.key for page in pages for info in page] == sorted([*keys, KEY])


async def test_a_spool_file_becomes_the_object_without_a_copy(objects: Objects, tmp_path: Path) -> None:
    with in_file(DATA, tmp_path) as body:
        assert body.file is not None
        await objects.put(KEY, body, content_type="image/png", metadata={})

        assert os.fstat(body.file).st_ino == (tmp_path / "objects" / KEY).stat().st_ino


async def test_two_objects_never_share_a_file(objects: Objects, tmp_path: Path) -> None:
    keys = [new_key() for _ in range(8)]

    with in_file(DATA, tmp_path) as body:
        await asyncio.gather(*(objects.put(key, body, content_type="image/png", metadata={}) for key in keys))

    assert len({(tmp_path / "objects" / key).stat().st_ino for key in keys}) == len(keys)


MEMORY = Path("/dev/shm")  # noqa: S108 # another file system, on Linux


@pytest.mark.skipif(not MEMORY.is_dir(), reason="there is no other file system: /dev/shm")
async def test_a_spool_on_another_disk_is_copied(objects: Objects) -> None:
    with in_file(DATA, MEMORY) as body:
        await objects.put(KEY, body, content_type="image/png", metadata={})

    assert await read(objects, KEY) == DATA


async def test_a_spool_file_that_is_too_short_is_no_object(objects: Objects, tmp_path: Path) -> None:
    with in_file(DATA, tmp_path) as body:
        assert body.file is not None
        os.ftruncate(body.file, 1000)
        with pytest.raises(Overloaded):
            await objects.put(KEY, body, content_type="image/png", metadata={})

    assert await objects.head(KEY) is None


async def test_a_cancelled_put_stores_all_or_nothing(objects: Objects, tmp_path: Path) -> None:
    for number in range(20):
        key, body = new_key(), in_file(content(300_000, number), tmp_path)
        putting = asyncio.create_task(objects.put(key, body, content_type="image/png", metadata={}))
        await asyncio.sleep(number / 10_000)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        body.close()
        in_file(bytes(300_000), tmp_path).close()
    await objects.aclose()

    again = Objects.open(ObjectsSettings(), tmp_path)
    for info in await listed(again):
        found = await again.head(info.key)
        assert found is not None
        assert hashlib.sha256(await read(again, info.key)).digest() == found.sha256


async def test_other_bytes_under_the_key_replace_the_object_whole(objects: Objects) -> None:
    """As S3 does; our keys are never used twice."""
    await put(objects, KEY)
    await put(objects, KEY, b"other")

    info = await objects.head(KEY)
    assert info is not None
    assert info.sha256 == hashlib.sha256(b"other").digest()
    assert await read(objects, KEY) == b"other"


async def test_without_unnamed_files_nothing_is_left_lying_about(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "objects", unnamed_files=False)

    await folder.put(KEY, in_memory(DATA), "image/png", {})
    await folder.put(KEY, in_memory(b"other"), "image/png", {})
    await folder.create("tintype.json", b"{}")
    await folder.create("tintype.json", b"[]")

    await folder.aclose()

    assert files_below(tmp_path / "objects") == {KEY, f"metadata/{KEY}.json", "tintype.json"}
    assert (tmp_path / "objects" / "tintype.json").read_bytes() == b"{}"


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The disk that is not there


@pytest.mark.parametrize("empty_mount_point", [False, True])
async def test_a_lost_disk_is_not_an_empty_store(
    objects: Objects, tmp_path: Path, *, empty_mount_point: bool
) -> None:
    await objects.write_identity(uuid4())
    await put(objects, KEY)
    (tmp_path / "objects").rename(tmp_path / "gone")
    if empty_mount_point:
        (tmp_path / "objects").mkdir()

    for call in (
        objects.head(KEY),
        objects.probe(),
        put(objects, KEY),
        read(objects, KEY),
        listed(objects),
    ):
        with pytest.raises(StorageUnavailable, match="mounted"):
            await call

    assert not (tmp_path / "objects" / "originals").exists()


async def test_a_file_in_the_place_of_the_folder_is_named(objects: Objects, tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"")

    with pytest.raises(StorageUnavailable, match=str(tmp_path)):
        await put(objects, KEY)


async def test_a_damaged_identity_is_not_a_missing_one(objects: Objects, tmp_path: Path) -> None:
    await objects.write_identity(uuid4())
    (tmp_path / "objects" / "tintype.json").write_bytes(b"{")

    with pytest.raises(StorageUnavailable, match="backup"):
        await objects.read_identity()


async def test_a_folder_can_be_named(tmp_path: Path) -> None:
    settings = ObjectsSettings(url=f"file://{tmp_path}/my%20pictures")
    objects = Objects.open(settings, Path())

    await put(objects, KEY)

    assert objects.location == f"{tmp_path}/my pictures"
    assert (tmp_path / "my pictures" / KEY).read_bytes() == DATA
