"""Links that lead to S3 itself: presigned GETs (Signature Version 4)."""

import asyncio
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import SecretStr

from tintype.model.disposition import content_disposition
from tintype.model.errors import StorageUnavailable
from tintype.model.image import Image
from tintype.settings import ObjectsSettings

MAX_SECONDS = 7 * 24 * 3600
"""What Signature Version 4 allows. A link signed with an instance's role ends with the role's
session at the latest, after some six hours (S3 User Guide, "Sharing objects with presigned URLs")."""


class S3Links:
    """`Links` signed by botocore: obstore's `sign` cannot say under which name and type S3 answers."""

    def __init__(self, settings: ObjectsSettings) -> None:
        url = urlsplit(settings.url or "")
        self._bucket = url.netloc
        self._prefix = f"{url.path.strip('/')}/".lstrip("/")
        # botocore's own choice for links is the global host, which redirects young buckets to their region.
        by_host = settings.endpoint is None and "." not in url.netloc
        # A session of its own: boto3's shared one keeps the first credentials that it found.
        self._client = boto3.Session().client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.endpoint,
            aws_access_key_id=_revealed(settings.access_key_id),
            aws_secret_access_key=_revealed(settings.secret_access_key),
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "virtual" if by_host else "path"},
                response_checksum_validation="when_required",
            ),
        )

    async def sign(self, image: Image, key: str, *, expires_in: int, base_url: str, attachment: bool) -> str:
        """Return a link. No connection is made, unless the role's credentials are due for renewal."""
        del base_url
        disposition = content_disposition(image.filename, inline=not attachment)
        return await asyncio.to_thread(
            self._sign, key, min(expires_in, MAX_SECONDS), image.content_type, disposition
        )

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


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
