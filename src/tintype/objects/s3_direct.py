"""Direct uploads to S3 itself: presigned requests and POST policies (Signature Version 4)."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from tintype.model.errors import PartsInvalid, StorageUnavailable, UploadGone
from tintype.objects.direct import MAX_PARTS, FormInstruction, Instruction, Part, Terms
from tintype.objects.s3_client import bucket_and_prefix, s3_client
from tintype.settings import ObjectsSettings

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import PartTypeDef

THREADS = 8
"""Of requests that wait for S3, so that no other work waits with them."""
MAX_SECONDS = 7 * 24 * 3600
"""What Signature Version 4 allows."""

_GONE = {"NoSuchUpload", "NoSuchKey", "404"}  # NoSuchKey: radosgw
_NOT_THESE = {
    "InvalidPart": "A part that is named did not arrive, or is another one than its ETag says.",
    "InvalidPartOrder": "Parts are named in the order of their numbers, each once.",
    "EntityTooSmall": "Each part but the last has at least 5 MiB.",
    "MalformedXML": "Name each part by its number and its ETag.",
    "InvalidArgument": "Name each part by its number and its ETag.",
}

T = TypeVar("T")


class S3Direct:
    """`DirectUploads` of a bucket.

    - What is bound to a PUT travels as headers that the signature covers: S3 refuses any other length,
      type or SHA-256. A POST policy is checked by S3 against the form and the length of its file.
    - Signing needs no connection, unless the role's credentials are due for renewal.
    - A signature is checked when a request begins: a slow PUT may end long after it expired.
    """

    def __init__(self, settings: ObjectsSettings) -> None:
        self._bucket, self._prefix = bucket_and_prefix(settings)
        self._client = s3_client(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3-direct")
        self._patience = settings.timeout_seconds + settings.retry_timeout_seconds

    async def sign_put(self, key: str, terms: Terms) -> Instruction:
        """Return a PUT whose length, type and (where it is known) SHA-256 are signed."""
        headers = {"content-type": terms.content_type}
        parameters = self._named(key) | {
            "ContentType": terms.content_type,
            "ContentLength": terms.max_bytes,
        }
        if terms.sha256 is not None:
            checksum = base64.b64encode(terms.sha256).decode()
            headers["x-amz-checksum-sha256"] = checksum
            parameters["ChecksumSHA256"] = checksum
        return await self._signed("put_object", parameters, terms, headers)

    async def sign_post(self, key: str, terms: Terms) -> FormInstruction:
        """Return a form with a policy: this key, this type, a length between the two bounds."""
        conditions = [
            {"Content-Type": terms.content_type},
            ["content-length-range", terms.min_bytes, terms.max_bytes],
        ]
        form = await self._call(
            lambda: self._client.generate_presigned_post(
                self._bucket,
                self._prefix + key,
                Fields={"Content-Type": terms.content_type},
                Conditions=conditions,
                ExpiresIn=min(terms.expires_in, MAX_SECONDS),
            )
        )
        return FormInstruction(form["url"], form["fields"])

    async def begin_parts(self, key: str, content_type: str) -> str:
        """Begin a multipart upload. One that nobody ends falls to the bucket's lifecycle rule."""
        answer = await self._call(
            lambda: self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, ContentType=content_type
            )
        )
        return answer["UploadId"]

    async def sign_part(self, key: str, parts_id: str, number: int, terms: Terms) -> Instruction:
        """Return a PUT for one part. Its length is not bound: browsers cut files as they see fit."""
        parameters = self._named(key) | {"UploadId": parts_id, "PartNumber": number}
        return await self._signed("upload_part", parameters, terms, {})

    async def list_parts(self, key: str, parts_id: str) -> list[Part]:
        """Return the parts that S3 has."""
        return await self._call(lambda: self._parts(key, parts_id))

    async def complete_parts(self, key: str, parts_id: str, parts: Sequence[Part]) -> None:
        """Complete the upload. An upload that S3 does not know any more was completed if its object is there.

        botocore takes S3's 200 with an error in its body for the failure that it is, and tries again.
        """
        named: list[dict[str, Any]] = [
            {"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts
        ]
        if not 0 < len(named) <= MAX_PARTS:
            raise PartsInvalid(f"An upload has 1 to {MAX_PARTS} parts.")
        try:
            await self._call(
                lambda: self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    UploadId=parts_id,
                    MultipartUpload={"Parts": named},  # type: ignore[typeddict-item] # pyright: ignore[reportArgumentType]: ours
                )
            )
        except UploadGone:
            if not await self._call(lambda: self._is_there(key)):
                raise

    async def abort_parts(self, key: str, parts_id: str) -> None:
        """Abort the upload, if there is one."""
        with suppress(UploadGone):
            await self._call(
                lambda: self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + key, UploadId=parts_id
                )
            )

    def _named(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _parts(self, key: str, parts_id: str) -> list[Part]:
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self._prefix + key, UploadId=parts_id
        )
        return [_part(part) for page in pages for part in page.get("Parts", [])]

    def _is_there(self, key: str) -> bool:
        try:
            self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            if _code(error) in {"404", "NoSuchKey", "NotFound"}:
                return False
            raise
        return True

    async def _signed(
        self, operation: str, parameters: dict[str, Any], terms: Terms, headers: dict[str, str]
    ) -> Instruction:
        expires_in = min(terms.expires_in, MAX_SECONDS)
        url = await self._call(
            lambda: self._client.generate_presigned_url(operation, parameters, ExpiresIn=expires_in)
        )
        return Instruction("PUT", url, headers)

    async def _call(self, request: Callable[[], T]) -> T:
        """Run a request of boto3, which blocks, in a thread; and tell its failure in our words."""
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.get_running_loop().run_in_executor(self._threads, request)
        except ClientError as error:
            raise _told(error) from error
        except (BotoCoreError, TimeoutError) as error:
            raise StorageUnavailable(
                f"s3://{self._bucket} does not answer as it should. Try again.", retry_after=2
            ) from error


def _part(part: "PartTypeDef") -> Part:
    return Part(part.get("PartNumber", 0), part.get("ETag", "").strip('"'), part.get("Size", 0))


def _told(error: ClientError) -> Exception:
    code = _code(error)
    if code in _GONE:
        return UploadGone("The upload in parts has ended. Begin a new one.")
    if code in _NOT_THESE:
        return PartsInvalid(_NOT_THESE[code])
    return StorageUnavailable(f"S3 refuses a request of ours: {code}. Try again.", retry_after=5)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
