"""The bucket against an S3 that does all that S3, networks and clients are known to do (scripted_s3)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest

from bodies import content, in_file, in_memory, new_key
from scripted_s3 import (
    Action,
    Request,
    Response,
    ScriptedS3,
    answers,
    answers_after,
    bucket_settings,
    corrupted,
    crc64nvme,
    cut_after,
    error,
    hang,
    hang_after,
    honestly,
    lose_answer,
    reset,
    slowly,
)
from tintype.model.body import Body
from tintype.model.errors import Overloaded, StorageUnavailable
from tintype.objects.bucket import PART_BYTES
from tintype.objects.repeats import SAVED
from tintype.objects.store import ObjectInfo, Objects, Stored

DATA = content(10_000)
LARGE = content(2 * PART_BYTES + 100_000)
DESCRIBED = {"id": "one", "filename": "Rome.jpg"}


async def put(bucket: Objects, key: str, body: Body) -> Stored:
    return await bucket.put(key, body, content_type="image/png", metadata=DESCRIBED)


async def read(bucket: Objects, key: str) -> bytes:
    return b"".join([block async for block in bucket.read(key)])


async def info(bucket: Objects, key: str) -> ObjectInfo:
    found = await bucket.head(key)
    assert found is not None
    return found


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 # the server has no event for each thing that tests wait for
            await asyncio.sleep(0.01)


def hasty(s3: ScriptedS3, **changes: float) -> Objects:
    """The store with hardly any patience."""
    patience = {"timeout_seconds": 1, "retry_timeout_seconds": 1} | changes
    return Objects.open(bucket_settings(s3, **patience), Path())


def test_the_checksum_of_these_tests_is_the_published_one() -> None:
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888


async def test_a_put_is_a_plain_one_that_s3_verifies(bucket: Objects, s3: ScriptedS3) -> None:
    key = new_key()

    stored = await put(bucket, key, in_memory(DATA))

    (request,) = s3.requests
    assert "if-none-match" not in request.headers
    assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "x-amz-checksum-crc64nvme" in request.headers["authorization"]
    assert request.headers["content-type"] == "image/png"
    assert stored == Stored(s3.objects[key].etag.strip('"'), len(DATA))


LOST: list[Action] = [lose_answer, answers_after(error(500, "InternalError")), reset, hang_after]


@pytest.mark.parametrize("trouble", LOST)
async def test_a_put_is_repeated_after_trouble(bucket: Objects, s3: ScriptedS3, trouble: Action) -> None:
    s3.script("PUT", trouble)
    key = new_key()

    stored = await put(hasty(s3, retry_timeout_seconds=3), key, in_memory(DATA))

    assert s3.objects[key].body == DATA
    assert s3.count("PUT") >= 2
    assert s3.count("HEAD") == 0
    assert stored == Stored((await info(bucket, key)).etag, len(DATA))


DOUBTS: list[Action] = [
    answers_after(error(500, "InternalError")),
    answers_after(error(409, "ConditionalRequestConflict")),
    answers_after(error(412, "PreconditionFailed")),
    answers_after(error(404, "NoSuchUpload")),
    answers_after(error(403, "ExpiredToken")),
    answers_after(Response(200)),  # without an ETag
    lose_answer,
    hang_after,
]


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_an_object_that_is_there_in_spite_of_the_answer_counts(
    bucket: Objects, s3: ScriptedS3, doubt: Action
) -> None:
    s3.always("PUT", doubt)
    key = new_key()

    stored = await put(hasty(s3), key, in_memory(DATA))

    assert stored == Stored((await info(bucket, key)).etag, len(DATA))


REFUSALS: list[Action] = [
    answers(error(500, "InternalError")),
    answers(error(503, "SlowDown")),
    answers(error(409, "ConditionalRequestConflict")),
    answers(error(412, "PreconditionFailed")),
    answers(error(403, "AccessDenied")),
    reset,
    hang,
    corrupted,
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_an_object_that_is_not_there_is_not_claimed(s3: ScriptedS3, refusal: Action) -> None:
    s3.always("PUT", refusal)
    key = new_key()

    with pytest.raises(StorageUnavailable):
        await put(hasty(s3), key, in_memory(DATA))

    assert key not in s3.objects
    assert s3.count("PUT") <= 3


async def test_another_object_under_the_key_is_no_success(bucket: Objects, s3: ScriptedS3) -> None:
    key = new_key()
    await bucket.put(key, in_memory(DATA), content_type="image/png", metadata={"id": "two"})
    s3.always("PUT", answers(error(412, "PreconditionFailed")))

    with pytest.raises(StorageUnavailable, match="something else"):
        await put(bucket, key, in_memory(DATA))


async def test_a_store_that_cannot_be_asked_leaves_it_unknown(bucket: Objects, s3: ScriptedS3) -> None:
    s3.always("PUT", answers_after(error(503, "SlowDown")))
    s3.always("HEAD", answers(error(503, "SlowDown")))

    with pytest.raises(StorageUnavailable, match="not known") as raised:
        await put(bucket, new_key(), in_memory(DATA))

    assert raised.value.retry_after
    assert "503" in str(raised.value.__cause__)


async def test_a_store_that_is_away_is_soon_asked_once_for_each_request_and_repeats_come_back_with_it(
    bucket: Objects, s3: ScriptedS3
) -> None:
    for kind in ("PUT", "HEAD"):
        s3.always(kind, answers(error(503, "SlowDown")))
    for _ in range(40):
        with pytest.raises(StorageUnavailable):
            await put(bucket, new_key(), in_memory(DATA))
    assert 80 <= len(s3.requests) <= 80 + SAVED

    for kind in ("PUT", "HEAD"):
        s3.always(kind, honestly)
    for _ in range(20):
        await put(bucket, new_key(), in_memory(DATA))
    s3.script("PUT", answers(error(503, "SlowDown")))
    s3.requests.clear()
    await put(bucket, new_key(), in_memory(DATA))
    assert [each.kind for each in s3.requests] == ["PUT", "PUT"]


async def test_silence_ends_by_the_settings(s3: ScriptedS3) -> None:
    for kind in ("PUT", "HEAD", "GET", "DELETE", "LIST"):
        s3.always(kind, hang)
    bucket = hasty(s3)

    async with asyncio.timeout(15):
        outcomes = await asyncio.gather(
            put(bucket, new_key(), in_memory(DATA)),
            bucket.head(new_key()),
            bucket.delete(new_key()),
            bucket.probe(),
            read(bucket, new_key()),
            anext(bucket.list("originals/")),
            return_exceptions=True,
        )

    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 6


# Large bodies


async def test_a_large_file_goes_up_in_parts_two_at_once(
    bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    s3.always("PART", slowly)
    data = content(3 * PART_BYTES + 100_000)
    key = new_key()

    with in_file(data, tmp_path) as body:
        stored = await put(bucket, key, body)

    assert s3.objects[key].body == data
    assert s3.objects[key].headers["x-amz-meta-id"] == "one"
    assert s3.requests[0].headers["x-amz-checksum-algorithm"] == "CRC64NVME"
    assert s3.parts_at_once == 2
    assert stored == Stored((await info(bucket, key)).etag, len(data))


async def test_one_body_can_be_put_twice_at_once(bucket: Objects, s3: ScriptedS3, tmp_path: Path) -> None:
    one, two = new_key(), new_key()

    with in_file(LARGE, tmp_path) as body:
        await asyncio.gather(put(bucket, one, body), put(bucket, two, body))

    assert s3.objects[one].body == s3.objects[two].body == LARGE


async def test_uploads_in_work_are_bounded_by_memory(s3: ScriptedS3, tmp_path: Path) -> None:
    s3.always("PART", slowly)
    narrow = Objects.open(bucket_settings(s3, window_bytes=2 * PART_BYTES), Path())
    keys = [new_key() for _ in range(3)]

    with in_file(LARGE, tmp_path) as body:
        await asyncio.gather(*(put(narrow, key, body) for key in keys))

    assert all(s3.objects[key].body == LARGE for key in keys)
    assert s3.parts_at_once == 2


async def test_waiting_for_a_turn_ends_by_the_settings(s3: ScriptedS3, tmp_path: Path) -> None:
    s3.always("PART", hang)
    narrow = hasty(s3, retry_timeout_seconds=4, window_bytes=2 * PART_BYTES)

    with in_file(LARGE, tmp_path) as body:
        first = asyncio.create_task(put(narrow, new_key(), body))
        await until(lambda: s3.count("PART") > 0)
        with pytest.raises(Overloaded):
            await put(narrow, new_key(), body)
        with pytest.raises(StorageUnavailable):
            await first
    await narrow.aclose()


async def test_a_part_that_changed_on_its_way_is_refused(
    bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    async def corrupt_the_last(s3: ScriptedS3, request: Request) -> Response:
        act = corrupted if len(request.body) < PART_BYTES else honestly
        return await act(s3, request)

    s3.always("PART", corrupt_the_last)
    key = new_key()

    with in_file(LARGE, tmp_path) as body, pytest.raises(StorageUnavailable):
        await put(bucket, key, body)

    assert key not in s3.objects
    assert s3.uploads == {}


async def test_an_error_inside_of_a_200_is_an_error(bucket: Objects, s3: ScriptedS3, tmp_path: Path) -> None:
    s3.script("COMPLETE", answers(Response(200, body=error(500, "InternalError").body)))
    key = new_key()

    with in_file(LARGE, tmp_path) as body:
        await put(bucket, key, body)

    assert s3.objects[key].body == LARGE
    assert s3.count("COMPLETE") == 2


async def test_a_completion_whose_answer_was_lost_counts(
    bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    s3.script("COMPLETE", lose_answer)
    key = new_key()

    with in_file(LARGE, tmp_path) as body:
        stored = await put(bucket, key, body)

    assert stored == Stored((await info(bucket, key)).etag, len(LARGE))


async def test_a_cancelled_upload_is_aborted(bucket: Objects, s3: ScriptedS3, tmp_path: Path) -> None:
    s3.always("PART", slowly)
    data = content(5 * PART_BYTES)

    with in_file(data, tmp_path) as body:
        putting = asyncio.create_task(put(bucket, new_key(), body))
        await until(lambda: s3.count("PART") > 0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    await bucket.aclose()

    assert s3.count("ABORT") == 1
    assert (s3.uploads, s3.objects) == ({}, {})


async def test_a_body_closed_by_cancellation_never_sends_another_files_bytes(
    bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    s3.always("PART", slowly)
    body = in_file(LARGE, tmp_path)
    assert body.file is not None
    putting = asyncio.create_task(put(bucket, new_key(), body))
    await until(lambda: s3.count("PART") > 0)

    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    number = body.file
    body.close()
    stranger = in_file(bytes(len(LARGE)), tmp_path)
    assert stranger.file == number
    await bucket.aclose()
    stranger.close()

    sent = [request.body for request in s3.requests if request.kind == "PART"]
    assert all(each in (LARGE[:PART_BYTES], LARGE[PART_BYTES:-100_000], LARGE[-100_000:]) for each in sent)


async def test_a_spool_file_that_is_too_short_is_no_object(
    bucket: Objects, s3: ScriptedS3, tmp_path: Path
) -> None:
    with in_file(LARGE, tmp_path) as body:
        assert body.file is not None
        os.ftruncate(body.file, 1000)
        with pytest.raises(StorageUnavailable):
            await put(bucket, new_key(), body)

    assert s3.count("PART") == 0


# Reading


@pytest.fixture
async def key(bucket: Objects) -> str:
    """An object that is there."""
    key = new_key()
    await bucket.put(key, in_memory(LARGE), content_type="image/png", metadata=DESCRIBED)
    return key


async def test_a_download_that_was_cut_goes_on_where_it_ended(
    bucket: Objects, s3: ScriptedS3, key: str
) -> None:
    s3.script("GET", cut_after(1_000_000))

    assert await read(bucket, key) == LARGE
    assert s3.count("GET") == 2


async def test_a_download_that_cannot_be_finished_is_never_short(
    bucket: Objects, s3: ScriptedS3, key: str
) -> None:
    s3.always("GET", cut_after(1_000_000))

    with pytest.raises(StorageUnavailable):
        await read(bucket, key)


async def test_a_slow_reader_is_not_cut_off(s3: ScriptedS3, key: str) -> None:
    received = bytearray()

    async with aclosing(hasty(s3).read(key)) as blocks:
        async for block in blocks:
            if not received:
                await asyncio.sleep(2)
            received += block

    assert received == LARGE


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_only_a_404_says_that_an_object_is_absent(bucket: Objects, s3: ScriptedS3, status: int) -> None:
    s3.always("HEAD", answers(Response(status)))

    with pytest.raises(StorageUnavailable):
        await bucket.head(new_key())


async def test_a_bucket_that_does_not_exist_says_nothing_of_its_objects(
    bucket: Objects, s3: ScriptedS3
) -> None:
    s3.bucket = None

    for call in (
        bucket.head(new_key()),
        bucket.probe(),
        bucket.read_identity(),
        put(bucket, new_key(), in_memory(DATA)),
        anext(bucket.list("originals/")),
    ):
        with pytest.raises(StorageUnavailable, match="does not exist"):
            await call


async def test_refused_credentials_are_named(bucket: Objects, s3: ScriptedS3) -> None:
    s3.always("HEAD", answers(error(403, "AccessDenied")))

    with pytest.raises(StorageUnavailable, match="credentials"):
        await bucket.head(new_key())


async def test_a_listing_that_breaks_off_is_an_error_and_no_end(bucket: Objects, s3: ScriptedS3) -> None:
    for _ in range(5):
        await put(bucket, new_key(), in_memory(b"x"))

    async def second_page_fails(s3: ScriptedS3, request: Request) -> Response:
        again = "continuation-token" in request.query
        return error(500, "InternalError") if again else await honestly(s3, request)

    assert len([each async for page in bucket.list("originals/") for each in page]) == 5
    s3.always("LIST", second_page_fails)
    with pytest.raises(StorageUnavailable):
        _ = [each async for page in bucket.list("originals/") for each in page]


async def test_an_identity_whose_answer_was_lost_is_written(bucket: Objects, s3: ScriptedS3) -> None:
    identity = uuid4()
    s3.script("PUT", lose_answer)

    await bucket.write_identity(identity)

    assert await bucket.read_identity() == identity


# Credentials


async def test_keys_of_the_settings_are_alone(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of something else")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of something else")

    await put(Objects.open(bucket_settings(s3), Path()), new_key(), in_memory(DATA))

    assert "Credential=key/" in s3.requests[0].headers["authorization"]
    assert "x-amz-security-token" not in s3.requests[0].headers


ROLE = "/latest/meta-data/iam/security-credentials/"
ROLE_KEYS = """{"Code": "Success", "AccessKeyId": "role-key", "SecretAccessKey": "role-secret",
"Token": "role-token", "Expiration": "2099-01-01T00:00:00Z"}"""


@pytest.fixture
async def instance(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """An instance with a role: its metadata service (IMDSv2). Yields what it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head)
        path = head.split(" ")[1]
        body = {"/latest/api/token": "session", ROLE: "uploads", f"{ROLE}uploads": ROLE_KEYS}[path]
        known = path.endswith("token") or "x-aws-ec2-metadata-token: session" in head.lower()
        status = "200 OK" if known else "401 Unauthorized"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
    yield asked
    server.close()


async def test_an_instance_without_keys_signs_as_its_role(s3: ScriptedS3, instance: list[str]) -> None:
    settings = bucket_settings(s3).model_copy(update={"access_key_id": None, "secret_access_key": None})

    await put(Objects.open(settings, Path()), new_key(), in_memory(DATA))

    assert "Credential=role-key/" in s3.requests[0].headers["authorization"]
    assert s3.requests[0].headers["x-amz-security-token"] == "role-token"
    assert instance[0].startswith("PUT /latest/api/token")


async def test_while_an_instance_cannot_ask_for_its_keys_it_uses_those_that_it_has(
    s3: ScriptedS3, instance: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bucket_settings(s3).model_copy(update={"access_key_id": None, "secret_access_key": None})
    asked_before = Objects.open(settings, Path())
    await put(asked_before, new_key(), in_memory(DATA))
    asked = len(instance)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")

    await put(asked_before, new_key(), in_memory(DATA))
    with pytest.raises(StorageUnavailable):
        await put(Objects.open(settings, Path()), new_key(), in_memory(DATA))

    assert len(instance) == asked
    assert s3.count("PUT") == 2


# The end

SHORT_LIFE = """
import asyncio, hashlib, sys
from pathlib import Path
from tintype.model.body import Body
from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

async def live() -> None:
    settings = ObjectsSettings(
        url="s3://images", endpoint=sys.argv[1], access_key_id="key", secret_access_key="secret"
    )
    objects = Objects.open(settings, Path())
    body = Body(1, hashlib.sha256(b"x").digest(), memory=b"x")
    await objects.put("originals/ab/x", body, content_type="image/png", metadata={})
    assert await objects.head("originals/ab/x")
    await objects.aclose()

asyncio.run(live())
"""


async def test_a_process_that_has_closed_its_store_ends_in_peace(s3: ScriptedS3) -> None:
    """Without the pause in `aclose` one in three ends by SIGABRT."""
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SHORT_LIFE, s3.url)
        assert await process.wait() == 0
