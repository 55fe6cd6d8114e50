"""The floor: what an upload costs whatever is written around it.

The bytes are copied over loopback, hashed with SHA-256, put into the object store, and a row and
an event are committed; uploads that wait together share one commit, as in Tintype. There is no HTTP
framework, nothing is inspected, and nothing is published.
"""

import asyncio
import hashlib
import os
import signal
import sys
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import cast

import psycopg
import uvloop
from obstore.store import S3Store

SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    id uuid PRIMARY KEY, bytes bigint NOT NULL, sha256 bytea NOT NULL, etag text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS events (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, image_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
"""

COMMIT = """
WITH stored AS (
    INSERT INTO images (id, bytes, sha256, etag)
    SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::bytea[], %s::text[])
    RETURNING id)
INSERT INTO events (image_id) SELECT id FROM stored
"""


@dataclass(frozen=True, slots=True)
class Row:
    """An upload that waits for its commit."""

    id: uuid.UUID
    length: int
    sha256: bytes
    etag: str
    done: asyncio.Future[None]


class Writer:
    """Commits whatever waits in one statement; what arrives meanwhile is the next batch."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection
        self._waiting: list[Row] = []
        self._busy: asyncio.Task[None] | None = None

    async def commit(self, id_: uuid.UUID, length: int, sha256: bytes, etag: str) -> None:
        """Return when the row and its event are durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Row(id_, length, sha256, etag, done))
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        await done

    async def _drain(self) -> None:
        while rows := self._waiting:
            self._waiting = []
            columns = [[row.id for row in rows], [row.length for row in rows]]
            values = [[row.sha256 for row in rows], [row.etag for row in rows]]
            await self._connection.execute(COMMIT, [*columns, *values], binary=True)
            for row in rows:
                row.done.set_result(None)
        self._busy = None


@dataclass(frozen=True, slots=True)
class Floor:
    """The two things that an upload needs."""

    store: S3Store
    writer: Writer

    async def keep(self, pieces: list[bytes], length: int, sha256: bytes) -> uuid.UUID:
        """Put the bytes, then commit."""
        id_ = uuid.uuid4()
        put = await self.store.put_async(f"originals/{id_.hex[-2:]}/{id_}", pieces, use_multipart=False)
        await self.writer.commit(id_, length, sha256, put["e_tag"] or "")
        return id_


class Connection(asyncio.Protocol):
    """Reads nothing of a request but where its head ends and how long its body is."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._pieces: list[bytes] = []
        self._length = self._awaited = 0
        self._hash = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hash and keep what arrives; start to store it when it is whole."""
        if not self._awaited:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0]
            self._head, self._length, self._awaited = b"", int(length), int(length)
        if data:
            self._hash.update(data)
            self._pieces.append(data)
            self._awaited -= len(data)
        if not self._awaited:
            self._task = asyncio.create_task(
                self._answer(self._floor.keep(self._pieces, self._length, self._hash.digest()))
            )
            self._reset()

    async def _answer(self, kept: Coroutine[None, None, uuid.UUID]) -> None:
        body = str(await kept).encode()
        if self._transport is not None:
            head = f"HTTP/1.1 201 Created\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            self._transport.write(head + body)


def open_store() -> S3Store:
    """Return the object store that the environment names."""
    return S3Store(
        "bench",
        endpoint=os.environ["S3_ENDPOINT"],
        region="us-east-1",
        access_key_id="bench",
        secret_access_key="bench-secret",  # noqa: S106 - the stand-in checks no signature
        virtual_hosted_style_request=False,
        unsigned_payload=True,
        client_options={"allow_http": True},
    )


async def serve(port: int) -> None:
    """Answer on loopback until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    url = os.environ["DATABASE_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(SCHEMA)
        floor = Floor(open_store(), Writer(connection))
        async with await loop.create_server(lambda: Connection(floor), "127.0.0.1", port):
            await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
