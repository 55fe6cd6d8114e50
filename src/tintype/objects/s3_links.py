"""Links that lead to S3 itself: presigned GETs (Signature Version 4)."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from botocore.exceptions import BotoCoreError

from tintype.model.disposition import content_disposition
from tintype.model.errors import StorageUnavailable
from tintype.model.image import Image
from tintype.objects.s3_client import bucket_and_prefix, s3_client
from tintype.settings import ObjectsSettings

MAX_SECONDS = 7 * 24 * 3600
"""What Signature Version 4 allows. A link signed with an instance's role ends with the role's
session at the latest, after some six hours (S3 User Guide, "Sharing objects with presigned URLs")."""


class S3Links:
    """`Links` signed by botocore: obstore's `sign` cannot say under which name and type S3 answers."""

    def __init__(self, settings: ObjectsSettings) -> None:
        self._bucket, self._prefix = bucket_and_prefix(settings)
        self._client = s3_client(settings)
        # One is enough to sign; while it waits for the role's credentials, no other work does.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="s3-links")

    async def sign(self, image: Image, key: str, *, expires_in: int, base_url: str, attachment: bool) -> str:
        """Return a link. No connection is made, unless the role's credentials are due for renewal."""
        del base_url
        disposition = content_disposition(image.filename, inline=not attachment)
        sign = partial(self._sign, key, min(expires_in, MAX_SECONDS), image.content_type, disposition)
        return await asyncio.get_running_loop().run_in_executor(self._thread, sign)

    def _sign(self, key: str, expires_in: int, content_type: str, disposition: str) -> str:
        parameters = {
            "Bucket": self._bucket,
            "Key": f"{self._prefix}{key}",
            "ResponseContentType": content_type,
            "ResponseContentDisposition": disposition,
        }
        try:
            return self._client.generate_presigned_url("get_object", parameters, ExpiresIn=expires_in)
        except BotoCoreError as error:
            raise StorageUnavailable(f"A link cannot be signed: {error}.", retry_after=30) from error
