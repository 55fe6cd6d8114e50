"""What upkeep needs of S3 and obstore cannot say: copies with metadata, old versions, dangling parts."""

import asyncio
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from tintype.model.errors import ObjectMissing, StorageRefused, StorageUnavailable
from tintype.objects.info import Fragment, Version
from tintype.objects.s3_client import bucket_and_prefix, s3_client
from tintype.settings import ObjectsSettings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CopySourceTypeDef

_ABSENT = {"404", "NoSuchKey", "NoSuchUpload", "NoSuchVersion"}
_REFUSED = {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_PERMISSIONS = {
    "CopyObject": "s3:GetObject and s3:PutObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListObjectVersions": "s3:ListBucketVersions",
    "HeadObject": "s3:GetObject and s3:GetObjectVersion",
    "ListObjectsV2": "s3:ListBucket",
}

THREADS = 4
"""Of requests that wait for S3, so that no other work waits with them."""

T = TypeVar("T")


class S3Upkeep:
    """boto3, which blocks, in threads; its client is made at the first use."""

    def __init__(self, settings: ObjectsSettings) -> None:
        self._settings = settings
        self._bucket, self._prefix = bucket_and_prefix(settings)
        self._location = (settings.url or "").rstrip("/")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3-upkeep")

    @cached_property
    def _client(self) -> "S3Client":
        """Made at the first use, which takes a tenth of a second; safe for threads."""
        return s3_client(self._settings)

    async def copy(self, source: str, target: str, version: str | None = None) -> None:
        """Copy an object within the bucket, its metadata too (up to 5 GB, CopyObject's limit)."""
        origin: CopySourceTypeDef = {"Bucket": self._bucket, "Key": self._prefix + source}
        if version is not None:
            origin["VersionId"] = version
        client = self._client
        await self._run(
            lambda: client.copy_object(
                Bucket=self._bucket, Key=self._prefix + target, CopySource=origin, MetadataDirective="COPY"
            )
        )

    async def relabel(self, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        """Give an object other metadata: S3 has a copy onto itself for that."""
        client = self._client
        await self._run(
            lambda: client.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                CopySource={"Bucket": self._bucket, "Key": self._prefix + key},
                MetadataDirective="REPLACE",
                ContentType=content_type,
                Metadata=dict(metadata),
            )
        )

    async def content_type(self, key: str) -> str:
        """Return the media type that an object was stored with."""
        client = self._client
        found = await self._run(lambda: client.head_object(Bucket=self._bucket, Key=self._prefix + key))
        return found.get("ContentType", "application/octet-stream")

    async def fragments(self, prefix: str) -> list[Fragment]:
        """Return the multipart uploads below a prefix that were neither completed nor aborted."""
        client = self._client

        def pages() -> Generator[Fragment]:
            found = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in found:
                for each in page.get("Uploads", ()):
                    key, token, began = each.get("Key"), each.get("UploadId"), each.get("Initiated")
                    if key is not None and token is not None and began is not None:
                        yield Fragment(key.removeprefix(self._prefix), token, began)

        return await self._run(lambda: list(pages()))

    async def discard(self, fragment: Fragment) -> None:
        """Abort a multipart upload; nothing happens where it is gone."""
        client = self._client
        with suppress(ObjectMissing):
            await self._run(
                lambda: client.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + fragment.key, UploadId=fragment.token
                )
            )

    async def versions(self, key: str) -> list[Version]:
        """Return the older versions of an object, the newest first; none in a bucket without versions."""
        client = self._client

        def all_of_them() -> Generator[Version]:
            found = client.list_object_versions(Bucket=self._bucket, Prefix=self._prefix + key)
            for each in found.get("Versions", ()):
                version = each.get("VersionId")
                if each.get("Key") != self._prefix + key or each.get("IsLatest"):
                    continue
                if version is not None and version != "null":
                    info = client.head_object(Bucket=self._bucket, Key=self._prefix + key, VersionId=version)
                    yield Version(version, info["ContentLength"], info["Metadata"].get("sha256", ""))

        return await self._run(lambda: list(all_of_them()))

    async def names(self, prefix: str) -> list[str]:
        """Return what lies directly below a prefix; whole prefixes end with a slash."""
        client = self._client

        def pages() -> Generator[str]:
            found = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, Delimiter="/"
            )
            for page in found:
                yield from (each.get("Prefix", "") for each in page.get("CommonPrefixes", ()))
                yield from (each.get("Key", "") for each in page.get("Contents", ()))

        return [name.removeprefix(self._prefix + prefix) for name in await self._run(lambda: list(pages()))]

    async def _run(self, request: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _ABSENT:
                raise ObjectMissing(f"{self._location} has it no more: {error.operation_name}.") from error
            if code in _REFUSED:
                needed = _PERMISSIONS.get(error.operation_name, "more rights")
                raise StorageRefused(
                    f"{self._location} refuses {error.operation_name}: the credentials need {needed}.",
                    retry_after=30,
                ) from error
            raise StorageUnavailable(
                f"{self._location} answered {code}. Try again.", retry_after=2
            ) from error
        except BotoCoreError as error:
            raise StorageUnavailable(
                f"{self._location} does not answer. Try again.", retry_after=2
            ) from error
