"""What every place for direct uploads promises: a folder by routes of ours, and whole S3 servers.

moto takes any signature, whatever its time, and holds nothing against what was signed: there it is
shown what is signed, and that it is taken. radosgw verifies all of it but the checksums of 2022.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, parse_qsl, urlsplit
from uuid import UUID

import httpx
import pytest

from bodies import content, in_memory
from s3_servers import S3Server
from tintype.model.errors import PartsInvalid, StorageUnavailable, TintypeError, UploadGone
from tintype.model.ids import new_id
from tintype.objects.direct import DirectUploads, FormInstruction, Instruction, Part, Terms
from tintype.objects.keys import direct_key
from tintype.objects.local_direct import LocalDirect
from tintype.objects.s3_direct import S3Direct
from tintype.objects.store import Objects
from tintype.server.problems import status_of
from tintype.settings import ObjectsSettings

MIB = 1024 * 1024
DATA = content(1000)
TERMS = Terms(
    content_type="image/png",
    min_bytes=1,
    max_bytes=len(DATA),
    sha256=None,
    expires_in=60,
    base_url="http://images.example",
)
KINDS = ["folder", "moto", pytest.param("radosgw", marks=pytest.mark.real_s3)]
STRICT = ["folder", pytest.param("radosgw", marks=pytest.mark.real_s3)]


@dataclass(frozen=True)
class Place:
    """A place for direct uploads, with the store behind it, and a client of both."""

    direct: DirectUploads
    objects: Objects
    http: httpx.AsyncClient

    async def send(self, told: Instruction, data: bytes, **headers: str) -> tuple[int, str]:
        """Send what was instructed; return the status and the ETag."""
        if isinstance(self.direct, LocalDirect):
            return await self._store(told.method, told.url, data, dict(told.headers) | headers)
        answer = await self.http.put(told.url, content=data, headers=dict(told.headers) | headers)
        return answer.status_code, answer.headers.get("etag", "").strip('"')

    async def post(self, told: FormInstruction, data: bytes, **fields: str) -> int:
        if isinstance(self.direct, LocalDirect):
            return (await self._store("POST", told.url, data, {}))[0]
        answer = await self.http.post(told.url, data=dict(told.fields) | fields, files={"file": data})
        return answer.status_code

    async def _store(self, method: str, url: str, data: bytes, headers: dict[str, str]) -> tuple[int, str]:
        """Do what the route does, which journeys test as a whole."""
        local = cast("LocalDirect", self.direct)
        split = urlsplit(url)
        try:
            upload_id = UUID(split.path.rpartition("/")[2])
            bound = local.verify(method, upload_id, dict(parse_qsl(split.query, keep_blank_values=True)))
            if headers.get("content-type", bound.content_type) != bound.content_type:
                return 403, ""
            stored = await local.store(bound, in_memory(data))
        except TintypeError as error:
            return status_of(error), ""
        return 200, stored.etag

    async def bytes_of(self, key: str) -> bytes:
        return b"".join([block async for block in self.objects.read(key)])


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty place."""
    settings = ObjectsSettings()
    if request.param != "folder":
        server = cast("S3Server", request.getfixturevalue(f"{request.param}_s3"))
        settings = server.new_bucket()
        settings = settings.model_copy(update={"url": f"{settings.url}/some/prefix"})
    objects = Objects.open(settings, tmp_path / "data")
    direct: DirectUploads = (
        LocalDirect(objects, tmp_path, b"secret", max_part_bytes=64 * MIB)
        if request.param == "folder"
        else S3Direct(settings)
    )
    async with httpx.AsyncClient() as http:
        yield Place(direct, objects, http)
    await objects.aclose()


def new_key() -> str:
    return direct_key(new_id())


async def send_part(place: Place, key: str, parts_id: str, number: int, data: bytes) -> Part:
    told = await place.direct.sign_part(key, parts_id, number, TERMS)
    status, etag = await place.send(told, data)
    assert status == 200
    return Part(number, etag)


async def test_what_is_put_as_told_is_stored(place: Place) -> None:
    key = new_key()

    told = await place.direct.sign_put(key, replace(TERMS, sha256=hashlib.sha256(DATA).digest()))
    status, etag = await place.send(told, DATA)

    info = await place.objects.head(key)
    assert (told.method, status) == ("PUT", 200)
    assert info is not None
    assert (info.size, info.etag) == (len(DATA), etag)
    assert await place.bytes_of(key) == DATA


async def test_a_form_as_told_is_stored(place: Place) -> None:
    key = new_key()

    told = await place.direct.sign_post(key, TERMS)

    assert told.fields["key"].endswith(key)
    assert await place.post(told, DATA) in {200, 204}
    assert await place.bytes_of(key) == DATA


async def test_what_is_bound_is_signed(place: Place) -> None:
    key, sha256 = new_key(), hashlib.sha256(DATA).digest()
    checksum = base64.b64encode(sha256).decode()

    told = await place.direct.sign_put(key, replace(TERMS, sha256=sha256))
    form = await place.direct.sign_post(key, replace(TERMS, min_bytes=10, max_bytes=20))

    assert told.headers == {"content-type": "image/png", "x-amz-checksum-sha256": checksum}
    if isinstance(place.direct, LocalDirect):
        return  # refusals show it below
    query = parse_qs(urlsplit(told.url).query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host;x-amz-checksum-sha256"]
    assert query["X-Amz-Expires"] == ["60"]
    conditions = json.loads(base64.b64decode(form.fields["policy"]))["conditions"]
    assert ["content-length-range", 10, 20] in conditions
    assert {"Content-Type": "image/png"} in conditions
    assert {"key": form.fields["key"]} in conditions


@pytest.mark.parametrize("place", STRICT, indirect=True)
async def test_another_length_type_or_address_is_refused(place: Place) -> None:
    key, other = new_key(), new_key()
    told = await place.direct.sign_put(key, TERMS)
    elsewhere = replace(told, url=told.url.replace(key.split("/")[1], other.split("/")[1]))

    refused = [
        await place.send(told, DATA + b"x"),
        await place.send(told, DATA[:-1]),
        await place.send(told, DATA, **{"content-type": "text/html"}),
        await place.send(elsewhere, DATA),
        await place.send(replace(told, url=told.url.replace("ignature=", "ignature=0")), DATA),
    ]

    assert {status for status, _ in refused} <= {400, 403, 413, 422}
    assert await place.objects.head(key) is None
    assert await place.objects.head(other) is None


@pytest.mark.parametrize("place", STRICT, indirect=True)
async def test_a_form_with_too_much_or_too_little_is_refused(place: Place) -> None:
    key = new_key()
    told = await place.direct.sign_post(key, replace(TERMS, min_bytes=10, max_bytes=20))

    statuses = {await place.post(told, b"x" * 21), await place.post(told, b"x" * 9)}

    assert statuses <= {400, 413, 422}
    assert await place.objects.head(key) is None


@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_other_bytes_than_the_checksum_s_are_refused(place: Place) -> None:
    key = new_key()
    told = await place.direct.sign_put(key, replace(TERMS, sha256=hashlib.sha256(DATA).digest()))

    assert (await place.send(told, bytes(len(DATA))))[0] == 400
    assert await place.objects.head(key) is None


@pytest.mark.parametrize("place", STRICT, indirect=True)
async def test_what_has_expired_is_refused(place: Place) -> None:
    key = new_key()
    past = replace(TERMS, expires_in=-1 if isinstance(place.direct, LocalDirect) else 1)
    put, form = await place.direct.sign_put(key, past), await place.direct.sign_post(key, past)
    await asyncio.sleep(0 if past.expires_in < 0 else 2)

    assert (await place.send(put, DATA))[0] == 403
    assert await place.post(form, DATA) == 403
    assert await place.objects.head(key) is None


async def test_parts_become_one_object(place: Place) -> None:
    key, data = new_key(), content(11 * MIB)
    parts_id = await place.direct.begin_parts(key, "image/png")
    cut = [data[: 5 * MIB], data[5 * MIB : 10 * MIB], data[10 * MIB :]]

    # In any order, one of them twice.
    sent = [await send_part(place, key, parts_id, number, cut[number - 1]) for number in (3, 1, 2, 1)]
    sent = [sent[3], sent[2], sent[0]]
    listed = await place.direct.list_parts(key, parts_id)
    assert await place.objects.head(key) is None, "nothing shows before it is whole"
    await place.direct.complete_parts(key, parts_id, sent)
    await place.direct.complete_parts(key, parts_id, sent)

    assert [(part.number, part.etag, part.size) for part in listed] == [
        (part.number, part.etag, len(piece)) for part, piece in zip(sent, cut, strict=True)
    ]
    assert await place.bytes_of(key) == data
    left = [info.key async for page in place.objects.list(f"{key.rpartition('/')[0]}/") for info in page]
    assert left == [key]


async def test_parts_that_do_not_fit_are_refused(place: Place) -> None:
    key = new_key()
    parts_id = await place.direct.begin_parts(key, "image/png")
    small = [await send_part(place, key, parts_id, number, DATA) for number in (1, 2)]

    for wrong in ([], small, [Part(3, "x")], [replace(small[0], etag="0" * 32)]):
        with pytest.raises(PartsInvalid):
            await place.direct.complete_parts(key, parts_id, wrong)

    assert await place.objects.head(key) is None


async def test_parts_that_are_aborted_are_gone(place: Place) -> None:
    key = new_key()
    parts_id = await place.direct.begin_parts(key, "image/png")
    part = await send_part(place, key, parts_id, 1, DATA)

    await place.direct.abort_parts(key, parts_id)
    await place.direct.abort_parts(key, parts_id)

    with pytest.raises(UploadGone):
        await place.direct.list_parts(key, parts_id)
    with pytest.raises((UploadGone, StorageUnavailable)):  # moto fails at an upload that it does not know
        await place.direct.complete_parts(key, parts_id, [part])
    late = await place.direct.sign_part(key, parts_id, 1, TERMS)
    assert (await place.send(late, DATA))[0] in {404, 410, 500}  # 500: moto
    assert await place.objects.head(key) is None
