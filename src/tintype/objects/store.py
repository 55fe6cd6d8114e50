"""The object store: a bucket or a folder, which keep the same promises."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit
from uuid import UUID

import orjson

from tintype.model.body import Body
from tintype.model.errors import ObjectMissing, StorageUnavailable, WrongPair
from tintype.objects.bucket import Bucket
from tintype.objects.folder import Folder
from tintype.objects.info import SHA256, Entry, Fragment, ObjectInfo, Stored, Version
from tintype.objects.keys import IDENTITY, check_key
from tintype.settings import ObjectsSettings

__all__ = ["ObjectInfo", "Objects", "Stored"]


@dataclass(frozen=True, slots=True)
class Objects:
    """Bytes under keys. An object is seen whole or not at all, and its bytes never change.

    Every method raises `StorageUnavailable` for a store that does not answer, or answers in doubt,
    within the time that the settings give it; and `ValueError` for a key that is not one.
    """

    _place: Bucket | Folder

    @classmethod
    def open(cls, settings: ObjectsSettings, data_dir: Path) -> Self:
        """Return the store that the settings name; nothing is contacted or made yet."""
        if settings.url is None:
            return cls(Folder(data_dir / "objects"))
        if settings.url.startswith("file://"):
            return cls(Folder(Path(unquote(urlsplit(settings.url).path))))
        return cls(Bucket(settings))

    @property
    def location(self) -> str:
        """Where the objects are, for people: `s3://bucket`, or the folder."""
        return self._place.location

    async def put(self, key: str, body: Body, *, content_type: str, metadata: Mapping[str, str]) -> Stored:
        """Store the body, verified and durable, under a key of this attempt's own.

        The same again is harmless. The body may be closed as soon as this ends, also by cancellation:
        then it is not known whether the object is there. `metadata` is ASCII (see `describe`), with
        names in lower case; the SHA-256 is added to it. Also raises `Overloaded`.
        """
        described = {**metadata, SHA256: body.sha256.hex()}
        return await self._place.put(check_key(key), body, content_type, described)

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None when the store says for certain that there is none."""
        return await self._place.head(check_key(key))

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """Yield the bytes from `start` up to `end` (exclusive; None: all), or fail: never fewer.

        Raises `ObjectMissing` before the first of them. `start` lies within the object; an `end`
        beyond it means its end.
        """
        return self._place.read(check_key(key), start, end)

    def list(self, prefix: str, start_after: str = "") -> AsyncGenerator[list[ObjectInfo]]:
        """Yield pages of the objects below a prefix (whole path segments), in the order of their keys.

        A listing is no snapshot, and proves no absence: ask `head` for that.
        """
        if prefix and not prefix.endswith("/"):
            raise ValueError(f"a prefix ends with a slash: {prefix!r}")
        return self._place.list(prefix, start_after)

    def entries(self, prefix: str, start_after: str = "") -> AsyncGenerator[Sequence[Entry]]:
        """Yield pages as `list` does, as plain tuples. Raises `StorageRefused` for what may not be listed."""
        return self._place.entries(prefix, start_after)

    async def names(self, prefix: str) -> Sequence[str]:
        """Return what lies directly below a prefix: the last parts of keys, folders with a slash behind."""
        return await self._place.names(prefix)

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        await self._place.delete(check_key(key))

    async def copy(self, source: str, target: str) -> Stored:
        """Copy an object with its metadata to a key that has none; return once it is durable and verified.

        A folder's copy has the ETag of its source, S3's may have another one. Raises `ObjectMissing`.
        """
        return await self._place.copy(check_key(source), check_key(target))

    async def label(self, key: str) -> bytes | None:
        """Return what is written about an object beside its bytes, as it is written; None: nothing is."""
        return await self._place.label(check_key(key))

    async def relabel(self, key: str, label: bytes | None) -> Stored:
        """Write anew what is written about an object (`write_label`). Its bytes stay, its ETag may not."""
        return await self._place.relabel(check_key(key), label)

    async def fragments(self, prefix: str) -> Sequence[Fragment]:
        """Return what is left below a prefix of puts that did not end."""
        return await self._place.fragments(prefix)

    async def discard(self, fragment: Fragment) -> None:
        """Remove what is left of a put that did not end. One that goes on nevertheless then fails."""
        await self._place.discard(fragment)

    async def versions(self, key: str) -> Sequence[Version]:
        """Return older versions of an object, the newest first, where the store keeps any."""
        return await self._place.versions(check_key(key))

    async def recover(self, key: str, version: Version) -> Stored:
        """Make an older version the object again."""
        return await self._place.recover(check_key(key), version)

    async def probe(self) -> None:
        """Raise `StorageUnavailable` unless the store answers. Costs one small request."""
        await self._place.probe()

    async def read_identity(self) -> UUID | None:
        """Return the identity that the store shares with its database; None for a store without one."""
        try:
            data = b"".join([block async for block in self.read(IDENTITY)])
        except ObjectMissing:
            return None
        try:
            return UUID(cast("dict[str, Any]", orjson.loads(data))["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageUnavailable(
                f"{IDENTITY} in {self.location} cannot be read. Restore it from a backup."
            ) from error

    async def write_identity(self, identity: UUID) -> None:
        """Give the store its identity, once. Raises `WrongPair` when it has another one already."""
        document = {"identity": str(identity), "about": "This store belongs to the Tintype of this identity."}
        await self._place.create(IDENTITY, orjson.dumps(document, option=orjson.OPT_INDENT_2))
        found = await self.read_identity()
        if found != identity:
            raise WrongPair(f"{self.location} belongs to Tintype {found} already.")

    async def aclose(self) -> None:
        """Let what is under way end, within the time of one request."""
        await self._place.aclose()
