"""boto3's S3 client as the settings name it: for what obstore cannot do, which is to sign freely."""

from typing import TYPE_CHECKING

from botocore.config import Config
from pydantic import SecretStr

from tintype.aws import aws_session
from tintype.settings import ObjectsSettings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def s3_client(settings: ObjectsSettings) -> "S3Client":
    """Return a client; nothing is contacted yet."""
    # botocore's own choice for links is the global host, which redirects young buckets to their region.
    by_host = settings.endpoint is None and "." not in bucket_and_prefix(settings)[0]
    return aws_session().client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        aws_access_key_id=_revealed(settings.access_key_id),
        aws_secret_access_key=_revealed(settings.secret_access_key),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "virtual" if by_host else "path"},
            connect_timeout=settings.connect_timeout_seconds,
            read_timeout=settings.timeout_seconds,
            retries={"total_max_attempts": settings.max_retries + 1, "mode": "standard"},
            # Else a checksum of nothing, or of our choice, would be signed into what clients send.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def bucket_and_prefix(settings: ObjectsSettings) -> tuple[str, str]:
    """Return the bucket's name, and what stands before each key in it: nothing, or `some/prefix/`."""
    _, _, place = (settings.url or "").partition("://")
    bucket, _, path = place.partition("/")
    return bucket, f"{path.strip('/')}/".lstrip("/")


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
