"""Objects in an S3 bucket, through obstore, all of whose traps are dealt with here."""

import asyncio
import mmap
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from tintype.model.body import Body
from tintype.model.errors import ObjectMissing, StorageRefused, StorageUnavailable
from tintype.objects.info import Entry, Fragment, ObjectInfo, Stored, Version
from tintype.objects.keys import IDENTITY
from tintype.objects.label import read_label, write_label
from tintype.objects.repeats import Repeats
from tintype.objects.s3_upkeep import S3Upkeep
from tintype.objects.turns import Turns
from tintype.settings import ObjectsSettings

if TYPE_CHECKING:  # these exist for the checker only
    from obstore import Attributes, GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3CredentialProvider

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 2
BYTES_PER_SECOND = 5_000_000
"""The least rate at which a body beyond its first part is expected to go up."""
BLOCK = 256 * 1024
PAGE = 1000
"""What S3 lists in one answer, at most."""

_HOUR = timedelta(hours=1)
_LAST_BREATH = 0.05
# What obstore raises (`FileNotFoundError` is its 404), asyncio (`TimeoutError` is an `OSError`), the spool.
_FAILURES = (BaseError, OSError, EOFError)
_NOT_METADATA = {
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Storage-Class",
}

T = TypeVar("T")


class Bucket:
    """A store in a bucket, or below a prefix of one.

    - A put is a plain, repeatable PUT under a key that is used once; never create-if-absent, which after
      a lost answer reports our own object as a stranger's, and which turns multipart off.
    - S3 verifies the bytes of every request by CRC64NVME, at a tenth of what a second SHA-256 would
      cost. obstore takes no digest that is known already.
    - After any failed put a HEAD decides: our id, SHA-256 and length, or not.
    - Requests end by the settings: obstore's own repeats would go on for three minutes. They are repeated
      here and nowhere else, within a budget (`Repeats`).
    - A multipart put that is cancelled goes on to its abort in the background. What a crash leaves falls
      to the bucket's lifecycle rule (AbortIncompleteMultipartUpload after a day).
    """

    def __init__(self, settings: ObjectsSettings) -> None:
        self._settings = settings
        self.location = (settings.url or "").rstrip("/")
        self._repeats = Repeats(settings.max_retries)
        self._writers = _clients(settings, {"timeout": timedelta(seconds=settings.timeout_seconds)})
        # Whoever reads may take their time: only silence of S3's is timed.
        silence = timedelta(seconds=settings.timeout_seconds / 2)
        self._readers = _clients(settings, {"timeout": _HOUR, "read_timeout": silence})
        self._turns = Turns(settings.window_bytes, settings.timeout_seconds)
        self._endings: set[asyncio.Task[str | None]] = set()
        self._upkeep = S3Upkeep(settings)

    async def put(self, key: str, body: Body, content_type: str, metadata: Mapping[str, str]) -> Stored:
        """Store the body; return once S3 has it, by its own answer or by what it says when asked."""
        attributes: Attributes = {"Content-Type": content_type, **metadata}
        doubt: Exception | None = None
        try:
            async with self._accounted(self._patience(body.length)):
                etag = await self._send(key, body, attributes)
            if etag is not None:
                return Stored(etag, body.length)
        except _FAILURES as error:
            doubt = error
        return await self._settle(key, body.length, metadata, doubt)

    async def create(self, key: str, data: bytes) -> None:
        """Store a small object without metadata, unless there is one already."""
        try:
            async with self._accounted(self._patience(len(data))):
                await obstore.put_async(self._writing, key, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return  # Perhaps our own, after a lost answer: the caller reads what is there.
        except _FAILURES as error:
            if await self.head(key) is None:
                raise self._unavailable(error) from error

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None by a definite 404."""
        try:
            result = await self._answer(obstore.get_async(self._reading, key, options={"head": True}))
        except FileNotFoundError:
            await self.probe()  # where there is no bucket, every HEAD is a 404
            return None
        metadata = {name: value for name, value in result.attributes.items() if name not in _NOT_METADATA}
        return replace(_info(result.meta), metadata=metadata)

    async def read(self, key: str, start: int, end: int | None) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to `end` (exclusive); none is missing at the end."""
        if end is not None and end <= start:
            return
        try:
            result = await self._answer(obstore.get_async(self._reading, key, options=_range(start, end)))
        except FileNotFoundError as error:
            if _names_missing_bucket(error):
                raise self._unavailable(error) from error
            raise ObjectMissing(f"There is no {key} in {self.location}.") from error
        at, stop = result.range
        stream = result.stream(BLOCK)
        while block := await self._next(stream):
            at += len(block)
            yield bytes(block)
        if at != stop:
            raise StorageUnavailable(f"{key} ended at byte {at}, before {stop}. Try again.", retry_after=2)

    async def list(self, prefix: str, start_after: str) -> AsyncGenerator[list[ObjectInfo]]:
        """Yield pages of objects in the order of their keys, as S3 lists."""
        pages = obstore.list(  # pyright: ignore[reportUnknownMemberType]: its Arrow types, unused here
            self._reading, prefix or None, offset=start_after or None, chunk_size=PAGE
        )
        while page := await self._next(pages):
            yield [_info(meta) for meta in page]

    async def entries(self, prefix: str, start_after: str) -> AsyncGenerator[Sequence[Entry]]:
        """Yield pages of plain tuples in the order of the keys."""
        pages = obstore.list(  # pyright: ignore[reportUnknownMemberType]: its Arrow types, unused here
            self._reading, prefix or None, offset=start_after or None, chunk_size=PAGE
        )
        try:
            while page := await self._next(pages):
                yield [(meta["path"], meta["size"], _bare(meta["e_tag"]) or "") for meta in page]
        except StorageUnavailable as error:
            if _refuses(error.__cause__):
                raise StorageRefused(
                    f"{self.location} refuses to be listed: the credentials need s3:ListBucket.",
                    retry_after=30,
                ) from error
            raise

    async def names(self, prefix: str) -> Sequence[str]:
        """Return what lies directly below a prefix."""
        return await self._upkeep.names(prefix)

    async def copy(self, source: str, target: str) -> Stored:
        """Have S3 copy an object, and look whether the copy is the same."""
        await self._upkeep.copy(source, target)
        return await self._compared(source, target)

    async def label(self, key: str) -> bytes | None:
        """Return the content type and the metadata of an object."""
        info = await self.head(key)
        if info is None:
            return None
        return write_label(await self._upkeep.content_type(key), info.metadata)

    async def relabel(self, key: str, label: bytes | None) -> Stored:
        """Have S3 copy an object onto itself, with other metadata."""
        await self._upkeep.relabel(key, *read_label(label))
        return await self._found(key)

    async def fragments(self, prefix: str) -> Sequence[Fragment]:
        """Return multipart uploads that nobody has completed or aborted."""
        return await self._upkeep.fragments(prefix)

    async def discard(self, fragment: Fragment) -> None:
        """Abort a multipart upload."""
        await self._upkeep.discard(fragment)

    async def versions(self, key: str) -> Sequence[Version]:
        """Return older versions, in a bucket that keeps them."""
        return await self._upkeep.versions(key)

    async def recover(self, key: str, version: Version) -> Stored:
        """Copy an older version over the object."""
        await self._upkeep.copy(key, key, version.id)
        return await self._found(key)

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            await self._answer(obstore.delete_async(self._reading, key))

    async def probe(self) -> None:
        """Raise `StorageUnavailable` unless the bucket answers, with an identity or without one."""
        try:
            await self._answer(obstore.head_async(self._reading, IDENTITY))
        except FileNotFoundError:
            await self._check_bucket()

    async def aclose(self) -> None:
        """Give cancelled multipart uploads the time of one request to be aborted."""
        if self._endings:
            _, late = await asyncio.wait(self._endings, timeout=self._settings.timeout_seconds)
            for ending in late:
                ending.cancel()
        # obstore's threads let go of an answer after it was received. One that comes late to an
        # interpreter that is ending aborts the process (PyO3/pyo3-async-runtimes, issue 40).
        await asyncio.sleep(_LAST_BREATH)

    async def _found(self, key: str) -> Stored:
        info = await self.head(key)
        if info is None:
            raise ObjectMissing(f"There is no {key} in {self.location}.")
        return Stored(info.etag, info.size)

    async def _compared(self, source: str, target: str) -> Stored:
        original, copied = await self.head(source), await self.head(target)
        if original is None or copied is None or not copied.holds(original.size, original.metadata):
            raise StorageUnavailable(f"The copy of {source} in {self.location} is not the same.")
        return Stored(copied.etag, copied.size)

    async def _check_bucket(self) -> None:
        """Raise after a 404 that was the bucket's fault: a HEAD is given no reason, a GET is."""
        try:
            await self._answer(obstore.get_async(self._reading, IDENTITY))
        except FileNotFoundError as error:
            if _names_missing_bucket(error):
                raise self._unavailable(error) from error

    async def _send(self, key: str, body: Body, attributes: "Attributes") -> str | None:
        """Send the bytes, and return the ETag that S3 answers with."""
        if body.memory is not None and body.length <= PART_BYTES:
            return await self._put_whole(key, body.memory, attributes)
        windows = _Windows.over(body)
        sending = asyncio.create_task(self._send_windows(key, windows, attributes))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            # obstore aborts an upload whose source fails, but not one that is cancelled.
            windows.stopped = True
            self._endings.add(sending)
            sending.add_done_callback(self._ended)
            raise

    async def _send_windows(self, key: str, windows: "_Windows", attributes: "Attributes") -> str | None:
        try:
            async with self._turns.turn(min(windows.length, PARTS_AT_ONCE * PART_BYTES)):
                if windows.length <= PART_BYTES:
                    return await self._put_whole(key, windows.at(0), attributes)
                return await self._put_parts(key, iter(windows), attributes)
        finally:
            windows.close()

    async def _put_whole(self, key: str, data: bytes | memoryview, attributes: "Attributes") -> str | None:
        result = await obstore.put_async(self._writing, key, data, attributes=attributes, use_multipart=False)
        return _bare(result["e_tag"])

    async def _put_parts(
        self, key: str, parts: Generator[memoryview], attributes: "Attributes"
    ) -> str | None:
        result = await obstore.put_async(
            self._writing,
            key,
            parts,
            attributes=attributes,
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
        )
        return _bare(result["e_tag"])

    def _ended(self, sending: asyncio.Task[str | None]) -> None:
        self._endings.discard(sending)
        if not sending.cancelled():
            sending.exception()  # Nobody waits for it any more; unseen, asyncio would complain of it.

    async def _settle(
        self, key: str, size: int, metadata: Mapping[str, str], doubt: Exception | None
    ) -> Stored:
        """Ask whether the object is there after all, and is the one that was sent."""
        try:
            found = await self.head(key)
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"{error} Whether the image was stored is not known.", retry_after=error.retry_after
            ) from (doubt or error)
        if found is None:
            raise self._unavailable(doubt) from doubt
        if not found.holds(size, metadata):
            raise StorageUnavailable(f"{self.location} holds something else under {key}.") from doubt
        return Stored(found.etag, found.size)

    async def _answer(self, request: Awaitable[T]) -> T:
        """Wait for a short request, its repeats included. `FileNotFoundError` is a 404."""
        try:
            async with self._accounted(self._settings.timeout_seconds):
                return await request
        except FileNotFoundError:
            raise
        except _FAILURES as error:
            raise self._unavailable(error) from error

    async def _next(self, stream: AsyncIterator[Sequence[T]]) -> Sequence[T]:
        """Wait for the next piece of a long answer; after the last comes an empty one."""
        limit = self._settings.timeout_seconds + self._settings.retry_timeout_seconds
        try:
            async with self._accounted(limit):
                return await anext(stream)
        except StopAsyncIteration:  # not `anext` with a default: over obstore's futures that ends the process
            return ()
        except _FAILURES as error:
            raise self._unavailable(error) from error

    @property
    def _writing(self) -> S3Store:
        return self._writers[self._repeats.allowed]

    @property
    def _reading(self) -> S3Store:
        return self._readers[self._repeats.allowed]

    @asynccontextmanager
    async def _accounted(self, seconds: float) -> AsyncGenerator[None]:
        """Let one request take so long, and note how it went."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (GenericError, TimeoutError):
            self._repeats.failed()
            raise
        self._repeats.went_well()

    def _patience(self, length: int) -> float:
        """Return how long a put may take: the last repeat may begin late, and a large body takes long."""
        beyond = max(0, length - PART_BYTES) / BYTES_PER_SECOND
        return self._settings.timeout_seconds + self._settings.retry_timeout_seconds + beyond

    def _unavailable(self, error: Exception | None) -> StorageUnavailable:
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return StorageUnavailable(
                f"{self.location} refuses Tintype's credentials. "
                "They need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket.",
                retry_after=30,
            )
        if error is not None and _names_missing_bucket(error):
            return StorageUnavailable(
                f"{self.location} does not exist. Make the bucket, or correct its name.", retry_after=30
            )
        return StorageUnavailable(f"{self.location} does not answer as it should. Try again.", retry_after=2)


@dataclass(slots=True)
class _Windows:
    """A body as parts: views of memory, or maps of its file, each let go with its part.

    A map costs no copy. The file is ours and is never shortened, so that a read of it fails only
    with the disk. The descriptor is a duplicate: whoever opened the body may close it meanwhile.
    """

    length: int
    memory: bytes | None
    file: int | None
    stopped: bool = False
    """Set by the event loop; obstore's thread looks before it takes the next part."""

    @classmethod
    def over(cls, body: Body) -> "_Windows":
        """Return the windows of a body; raise `EOFError` for a file that is shorter than it says."""
        if body.file is None:
            return cls(body.length, body.memory, None)
        if (size := os.fstat(body.file).st_size) < body.length:
            raise EOFError(f"the spool file ends at {size}, {body.length} was promised")
        return cls(body.length, None, os.dup(body.file))

    def __iter__(self) -> Generator[memoryview]:
        for start in range(0, self.length, PART_BYTES):
            if self.stopped:
                raise InterruptedError("the upload was cancelled")
            yield self.at(start)

    def at(self, start: int) -> memoryview:
        """Return the part that begins at `start`."""
        length = min(PART_BYTES, self.length - start)
        if self.file is None or not length:  # an empty map cannot be made
            return memoryview(self.memory or b"")[start : start + length]
        return memoryview(mmap.mmap(self.file, length, access=mmap.ACCESS_READ, offset=start))

    def close(self) -> None:
        """Let the file go."""
        if self.file is not None:
            os.close(self.file)


def _clients(settings: ObjectsSettings, timeouts: "ClientConfig") -> dict[bool, S3Store]:
    """Return a client that repeats what failed, and one that does not."""
    return {True: _open(settings, timeouts, settings.max_retries), False: _open(settings, timeouts, 0)}


def _open(settings: ObjectsSettings, timeouts: "ClientConfig", repeats: int) -> S3Store:
    """Return a client; nothing is contacted yet."""
    url = urlsplit(settings.url or "")
    config: S3Config = {
        "bucket": url.netloc,
        "region": settings.region,
        "unsigned_payload": True,
        "checksum_algorithm": "CRC64NVME",
        "disable_bulk_delete": True,  # a plain DELETE is what every S3 has
        # Names with dots do not match S3's wildcard certificate; other servers have no host per bucket.
        "virtual_hosted_style_request": settings.endpoint is None and "." not in url.netloc,
    }
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=settings.connect_timeout_seconds),
        **timeouts,
    }
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
        client["allow_http"] = settings.endpoint.startswith("http://")
    return S3Store(
        prefix=url.path.strip("/") or None,
        config=config,
        client_options=client,
        retry_config=_retries(settings, repeats),
        credential_provider=_keys(settings),
    )


def _retries(settings: ObjectsSettings, repeats: int) -> "RetryConfig":
    return {
        "max_retries": repeats,
        "retry_timeout": timedelta(seconds=settings.retry_timeout_seconds),
        "backoff": {
            "init_backoff": timedelta(milliseconds=50),
            "max_backoff": timedelta(seconds=1),
            "base": 2,
        },
    }


def _keys(settings: ObjectsSettings) -> "S3CredentialProvider | None":
    """Return the explicit keys; without any, obstore asks the environment and the instance (IMDSv2)."""
    if settings.access_key_id is None or settings.secret_access_key is None:
        return None
    # Given as a provider, since obstore would add a session token that it finds in the environment.
    keys: S3Credential = {
        "access_key_id": settings.access_key_id.get_secret_value(),
        "secret_access_key": settings.secret_access_key.get_secret_value(),
        "token": None,
        "expires_at": None,
    }
    return lambda: keys


def _range(start: int, end: int | None) -> "GetOptions":
    if end is not None:
        return {"range": (start, end)}
    return {"range": {"offset": start}} if start else {}


def _info(meta: "ObjectMeta") -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], _bare(meta["e_tag"]) or "", meta["last_modified"])


def _bare(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _refuses(error: BaseException | None) -> bool:
    """Tell whether S3 said no to our credentials: of a listing obstore says so in its text alone."""
    return isinstance(error, PermissionDeniedError | UnauthenticatedError) or "403 Forbidden" in str(error)


def _names_missing_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)  # obstore has no error of its own for it; S3's code is in the text
