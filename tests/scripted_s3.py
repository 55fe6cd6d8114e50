"""A scripted S3: honest unless a test says otherwise, and it remembers what it was asked.

An `Action` answers one request. Tests queue actions for a kind of request (`script`); when the queue is
empty, S3 behaves. Like S3 it verifies the checksum of what arrives.
"""

import asyncio
import base64
import contextlib
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tintype.objects.store import Objects
from tintype.settings import ObjectsSettings

VERIFIED_BYTES = 256 * 1024
"""CRC64NVME is computed in Python here: of longer parts it is only required, not verified."""


@dataclass
class Request:
    kind: str
    """PUT, PART, CREATE, COMPLETE, ABORT, GET, HEAD, DELETE or LIST."""
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None
    """How many bytes of the body leave before the connection is cut."""


@dataclass
class Stored:
    body: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


Action = Callable[["ScriptedS3", Request], Awaitable[Response | None]]
"""Answers a request; None cuts the connection without a word."""


@dataclass
class ScriptedS3:
    url: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    bucket: str | None = "images"
    parts_at_once: int = 0
    """The most parts that were in work at one time."""
    _queues: dict[str, deque[Action]] = field(default_factory=lambda: defaultdict(deque))
    _always: dict[str, Action] = field(default_factory=dict)
    _parts_now: int = 0

    def script(self, kind: str, *actions: Action) -> None:
        """Answer the next requests of a kind so, one after the other."""
        self._queues[kind].extend(actions)

    def always(self, kind: str, action: Action) -> None:
        self._always[kind] = action

    def count(self, kind: str) -> int:
        return sum(request.kind == kind for request in self.requests)

    async def answer(self, request: Request) -> Response | None:
        self.requests.append(request)
        if self._queues[request.kind]:
            return await self._queues[request.kind].popleft()(self, request)
        if request.kind in self._always:
            return await self._always[request.kind](self, request)
        return await honestly(self, request)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed by either side."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while (request := await _read(reader)) is not None:
                working = request.kind == "PART"
                self._parts_now += working
                self.parts_at_once = max(self.parts_at_once, self._parts_now)
                try:
                    response = await self.answer(request)
                finally:
                    self._parts_now -= working
                if response is None or not await _write(writer, request, response):
                    break
        writer.close()


async def honestly(s3: ScriptedS3, request: Request) -> Response:
    """Do as S3 does."""
    if s3.bucket is None:
        return error(404, "NoSuchBucket")
    return {
        "PUT": _put,
        "CREATE": _create,
        "PART": _part,
        "COMPLETE": _complete,
        "ABORT": _abort,
        "GET": _get,
        "HEAD": _get,
        "DELETE": _delete,
        "LIST": _list,
    }[request.kind](s3, request)


async def lose_answer(s3: ScriptedS3, request: Request) -> None:
    """Do it, and cut the connection instead of answering."""
    await honestly(s3, request)


async def reset(_s3: ScriptedS3, _request: Request) -> None:
    """Cut the connection, nothing done."""


async def hang(_s3: ScriptedS3, _request: Request) -> None:
    """Never answer, nothing done."""
    await asyncio.sleep(3600)


async def hang_after(s3: ScriptedS3, request: Request) -> None:
    """Do it, and never answer."""
    await honestly(s3, request)
    await asyncio.sleep(3600)


def answers(response: Response) -> Action:
    """Answer so, nothing done."""

    async def action(_s3: ScriptedS3, _request: Request) -> Response:
        return response

    return action


def answers_after(response: Response) -> Action:
    """Do it, and answer so all the same."""

    async def action(s3: ScriptedS3, request: Request) -> Response:
        await honestly(s3, request)
        return response

    return action


def corrupted(s3: ScriptedS3, request: Request) -> Awaitable[Response]:
    """Let one bit of the body flip on its way."""
    body = bytearray(request.body)
    body[len(body) // 2] ^= 1
    request.body = bytes(body)
    return honestly(s3, request)


async def slowly(s3: ScriptedS3, request: Request) -> Response:
    await asyncio.sleep(0.2)
    return await honestly(s3, request)


def cut_after(sent: int) -> Action:
    """Announce the whole body, and send only its first bytes."""

    async def action(s3: ScriptedS3, request: Request) -> Response:
        return replace(await honestly(s3, request), sent=sent)

    return action


def error(status: int, code: str) -> Response:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as scripted</Message></Error>"
    return Response(status, {"Content-Type": "application/xml"}, text.encode())


def _put(s3: ScriptedS3, request: Request) -> Response:
    if request.headers.get("if-none-match") == "*" and request.key in s3.objects:
        return error(412, "PreconditionFailed")
    if (refusal := _verify(request)) is not None:
        return refusal
    s3.objects[request.key] = Stored(request.body, _kept(request))
    return Response(200, {"ETag": s3.objects[request.key].etag})


def _create(s3: ScriptedS3, request: Request) -> Response:
    upload = f"{request.key}+{len(s3.requests)}"
    s3.uploads[upload] = {}
    s3.objects[upload] = Stored(b"", _kept(request))  # the headers, until it is complete
    return Response(
        body=f"<InitiateMultipartUploadResult><Bucket>images</Bucket><Key>{request.key}</Key>"
        f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode()
    )


def _part(s3: ScriptedS3, request: Request) -> Response:
    parts = s3.uploads.get(request.query["uploadId"])
    if parts is None:
        return error(404, "NoSuchUpload")
    if (refusal := _verify(request)) is not None:
        return refusal
    parts[int(request.query["partNumber"])] = request.body
    checksum = request.headers["x-amz-checksum-crc64nvme"]
    return Response(200, {"ETag": f'"{len(request.body)}"', "x-amz-checksum-crc64nvme": checksum})


def _complete(s3: ScriptedS3, request: Request) -> Response:
    upload = request.query["uploadId"]
    if upload not in s3.uploads:
        return error(404, "NoSuchUpload")
    parts = s3.uploads.pop(upload)
    named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)]
    whole = b"".join(parts[number] for number in named)
    s3.objects[request.key] = Stored(whole, s3.objects.pop(upload).headers)
    return Response(
        body=f"<CompleteMultipartUploadResult><Location>l</Location><Bucket>images</Bucket>"
        f"<Key>{request.key}</Key><ETag>{s3.objects[request.key].etag}</ETag>"
        "</CompleteMultipartUploadResult>".encode()
    )


def _abort(s3: ScriptedS3, request: Request) -> Response:
    upload = request.query["uploadId"]
    s3.objects.pop(upload, None)
    return error(404, "NoSuchUpload") if s3.uploads.pop(upload, None) is None else Response(204)


def _get(s3: ScriptedS3, request: Request) -> Response:
    found = s3.objects.get(request.key)
    if found is None:
        return error(404, "NoSuchKey")
    headers = found.headers | {"ETag": found.etag, "Last-Modified": formatdate(usegmt=True)}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Response(200, headers, found.body)
    start, last = int(asked[1]), min(int(asked[2] or 10**12), len(found.body) - 1)
    headers["Content-Range"] = f"bytes {start}-{last}/{len(found.body)}"
    return Response(206, headers, found.body[start : last + 1])


def _delete(s3: ScriptedS3, request: Request) -> Response:
    s3.objects.pop(request.key, None)
    return Response(204)


def _list(s3: ScriptedS3, request: Request) -> Response:
    """Two keys a page, so that a few objects make several."""
    after = request.query.get("continuation-token") or request.query.get("start-after", "")
    prefix = request.query.get("prefix", "")
    keys = sorted(key for key in s3.objects if key.startswith(prefix) and key > after)
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(s3.objects[key].body)}</Size>"
        f"<LastModified>2026-11-22T10:00:00.000Z</LastModified><ETag>{s3.objects[key].etag}</ETag></Contents>"
        for key in keys[:2]
    )
    token = f"<NextContinuationToken>{keys[1]}</NextContinuationToken>" if len(keys) > 2 else ""
    return Response(body=f"<ListBucketResult>{entries}{token}</ListBucketResult>".encode())


def _kept(request: Request) -> dict[str, str]:
    return {
        name: value
        for name, value in request.headers.items()
        if name == "content-type" or name.startswith("x-amz-meta-")
    }


def _verify(request: Request) -> Response | None:
    announced = request.headers.get("x-amz-checksum-crc64nvme")
    if announced is None:
        return error(400, "InvalidRequest")
    if len(request.body) <= VERIFIED_BYTES:
        found = base64.b64encode(crc64nvme(request.body).to_bytes(8, "big")).decode()
        return None if found == announced else error(400, "BadDigest")
    return None


def crc64nvme(data: bytes) -> int:
    """CRC-64/NVME: NVM Express, Command Set Specification, section 5.2.1.3.4."""
    crc = 0xFFFF_FFFF_FFFF_FFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFF_FFFF_FFFF_FFFF


def _table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x9A6C_9329_AC4B_C9B5 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.strip().split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, value in (each.split(":", 1) for each in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
    _, _bucket, *key = unquote(url.path).split("/", 2)
    kind = _kind(method, query, has_key=bool(key and key[0]))
    return Request(kind, key[0] if key else "", query, headers, body)


def _kind(method: str, query: dict[str, str], *, has_key: bool) -> str:
    if "uploadId" in query:
        return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}[method]
    if "uploads" in query:
        return "CREATE"
    return method if has_key else "LIST"


async def _write(writer: asyncio.StreamWriter, request: Request, response: Response) -> bool:
    """Send a response; tell whether the connection goes on."""
    headers = {"Content-Length": str(len(response.body))} | response.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {response.status} Scripted\r\n{lines}\r\n".encode())
    if request.kind != "HEAD":
        writer.write(response.body[: response.sent])
    await writer.drain()
    return response.sent is None


@asynccontextmanager
async def scripted_s3() -> AsyncIterator[ScriptedS3]:
    """Serve a scripted S3 in this event loop: obstore speaks to it from threads of its own."""
    script = ScriptedS3()
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await script.serve(reader, writer)
        connections.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**16)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield script
    server.close()
    for connection in list(connections):
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


@pytest.fixture
async def s3() -> AsyncIterator[ScriptedS3]:
    async with scripted_s3() as script:
        yield script


def bucket_settings(s3: ScriptedS3, **changes: float) -> ObjectsSettings:
    keys = {"access_key_id": "key", "secret_access_key": "secret"}
    return ObjectsSettings.model_validate({"url": "s3://images", "endpoint": s3.url} | keys | changes)


@pytest.fixture
async def bucket(s3: ScriptedS3) -> AsyncIterator[Objects]:
    """The store over the scripted S3."""
    objects = Objects.open(bucket_settings(s3), Path())
    yield objects
    await objects.aclose()
