"""What every object store promises: a folder, a folder of another system, and whole S3 servers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from bodies import content, in_file, in_memory, new_key
from s3_servers import S3Server
from tintype.model.errors import ObjectMissing, WrongPair
from tintype.model.image import Facts, Format
from tintype.model.upload import Upload
from tintype.objects.folder import Folder
from tintype.objects.metadata import describe, parse
from tintype.objects.store import ObjectInfo, Objects
from tintype.settings import ObjectsSettings

KIB = 1024
STORES = [
    "folder",
    "folder_without_unnamed_files",
    "moto",
    "moto_below_a_prefix",
    pytest.param("radosgw", marks=pytest.mark.real_s3),
]
CONTENTS = {
    "nothing": content(0),
    "a_byte": content(1),
    "small": content(100 * KIB),
    "two_parts_and_a_bit": content(16 * KIB * KIB + 7),
}


@pytest.fixture(params=STORES)
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """An empty store."""
    objects = _open(request.param, request, tmp_path)
    yield objects
    await objects.aclose()


def _open(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if kind == "folder":
        return Objects.open(ObjectsSettings(), tmp_path / "data")
    if kind == "folder_without_unnamed_files":
        return Objects(Folder(tmp_path / "objects", unnamed_files=False))
    server = cast("S3Server", request.getfixturevalue(f"{kind.split('_', maxsplit=1)[0]}_s3"))
    settings = server.new_bucket()
    below = f"{settings.url}/some/prefix" if kind.endswith("prefix") else settings.url
    return Objects.open(settings.model_copy(update={"url": below}), tmp_path)


async def put(objects: Objects, key: str, data: bytes) -> str:
    stored = await objects.put(key, in_memory(data), content_type="image/png", metadata={"id": key[-36:]})
    return stored.etag


async def read(objects: Objects, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in objects.read(key, start, end)])


async def listed(objects: Objects, prefix: str, start_after: str = "") -> list[ObjectInfo]:
    return [info async for page in objects.list(prefix, start_after) for info in page]


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "file"])
async def test_what_was_put_is_there_whole(
    objects: Objects, tmp_path: Path, name: str, *, spooled: bool
) -> None:
    data, key = CONTENTS[name], new_key()

    with in_file(data, tmp_path) if spooled else in_memory(data) as body:
        stored = await objects.put(key, body, content_type="image/png", metadata={"id": "one"})

    info = await objects.head(key)
    assert info is not None
    assert (info.key, info.size, info.etag) == (key, len(data), stored.etag)
    assert info.metadata["id"] == "one"
    assert info.sha256 == hashlib.sha256(data).digest()
    assert stored.size == len(data)
    assert await read(objects, key) == data


async def test_one_etag_is_returned_by_put_head_and_list(objects: Objects) -> None:
    key = new_key()

    etag = await put(objects, key, b"bytes")

    info = await objects.head(key)
    (entry,) = await listed(objects, "originals/")
    assert info is not None
    assert etag == info.etag == entry.etag
    assert (entry.key, entry.size) == (key, 5)
    assert entry.modified.replace(microsecond=0) == info.modified  # HTTP dates have no fractions
    assert '"' not in etag


async def test_a_put_may_be_repeated(objects: Objects) -> None:
    key = new_key()

    assert await put(objects, key, b"bytes") == await put(objects, key, b"bytes")
    assert await read(objects, key) == b"bytes"


async def test_one_body_is_put_under_two_keys_at_once(objects: Objects, tmp_path: Path) -> None:
    data, keys = content(300 * KIB), [new_key(), new_key()]

    with in_file(data, tmp_path) as body:
        await asyncio.gather(*(objects.put(key, body, content_type="image/png", metadata={}) for key in keys))

    assert [await read(objects, key) for key in keys] == [data, data]


async def test_many_puts_at_once_do_not_mix(objects: Objects) -> None:
    contents = {new_key(): content(50 * KIB, seed) for seed in range(16)}

    etags = await asyncio.gather(*(put(objects, key, data) for key, data in contents.items()))

    assert {info.key: info.etag for info in await listed(objects, "originals/")} == dict(
        zip(contents, etags, strict=True)
    )
    for key, data in contents.items():
        assert await read(objects, key) == data


async def test_ranges_are_read_exactly(objects: Objects) -> None:
    data, key = content(600 * KIB), new_key()
    await put(objects, key, data)

    for start, end in [(0, 1), (1, 2), (0, len(data)), (300_000, None), (5, 5), (len(data) - 1, None)]:
        assert await read(objects, key, start, end) == data[start:end]
    assert await read(objects, key, 10, len(data) + 10) == data[10:]


async def test_an_absent_object_is_said_to_be_absent(objects: Objects) -> None:
    key = new_key()

    assert await objects.head(key) is None
    with pytest.raises(ObjectMissing):
        await read(objects, key)
    with pytest.raises(ObjectMissing):
        await read(objects, key, 3, 5)


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(objects: Objects) -> None:
    key = new_key()
    await put(objects, key, b"bytes")

    await objects.delete(key)
    await objects.delete(key)

    assert await objects.head(key) is None
    assert await listed(objects, "originals/") == []


async def test_a_listing_is_in_the_order_of_the_keys(objects: Objects) -> None:
    # By their bytes: a folder's own order would have `0a/x` before `0a-b`, and `0A` anywhere.
    keys = ["originals/0A/x", "originals/0a-b", "originals/0a.c/x", "originals/0a/x", "originals/0a0"]
    await asyncio.gather(*(put(objects, key, b"x") for key in reversed(keys)))

    assert [info.key for info in await listed(objects, "originals/")] == keys
    assert [info.key for info in await listed(objects, "")] == keys


async def test_a_listing_is_below_whole_segments_and_starts_after_a_key(objects: Objects) -> None:
    keys = [f"originals/{shard}/{name}" for shard in ("ab", "abc", "b0") for name in "123"]
    await asyncio.gather(*(put(objects, key, b"x") for key in keys))

    assert [info.key for info in await listed(objects, "originals/ab/")] == keys[:3]
    for index, key in enumerate(keys):
        assert [info.key for info in await listed(objects, "originals/", key)] == keys[index + 1 :]
    assert [info.key for info in await listed(objects, "originals/", "originals/abb")] == keys[3:]
    assert await listed(objects, "originals/ff/") == []


async def test_metadata_describes_the_row_whatever_it_holds(objects: Objects) -> None:
    upload = Upload(
        "owner é", 'a "b" =?utf-8?q?c?=  100 % ?%20 \u202egnp.\n\x00猫.png', "image/x, y", "form", ("ö", " ")
    )
    facts = Facts(Format.PNG, 1, 2, camera={"make": "A  B"})
    metadata = describe(upload, facts, size=1, sha256=hashlib.sha256(b"x").digest())
    key = new_key()

    await objects.put(key, in_memory(b"x"), content_type="image/png", metadata=metadata)

    info = await objects.head(key)
    assert info is not None
    assert dict(info.metadata) == metadata
    description = parse(info.metadata)
    assert description is not None
    assert (description.upload, description.facts) == (upload, facts)


async def test_an_identity_is_given_once(objects: Objects) -> None:
    identity = uuid4()
    assert await objects.read_identity() is None

    await objects.write_identity(identity)
    await objects.write_identity(identity)

    assert await objects.read_identity() == identity
    with pytest.raises(WrongPair):
        await objects.write_identity(uuid4())
    assert await objects.read_identity() == identity


async def test_a_store_answers_whether_it_is_new_or_not(objects: Objects) -> None:
    await objects.probe()
    await objects.write_identity(uuid4())
    await objects.probe()
