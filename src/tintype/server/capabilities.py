"""What this service is: the instance that answers, and what the service takes."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from tintype.server.connection import MAX_HEAD_BYTES
from tintype.server.context import context_of
from tintype.settings import Settings

router = APIRouter(prefix="/v1", tags=["service"])


class InstanceOut(BaseModel):
    """The instance that answered. On a laptop the first four are `local`."""

    model_config = ConfigDict(
        title="Instance",
        json_schema_extra={
            "example": {
                "instance_id": "i-0f8a1c2b3d4e5f607",
                "availability_zone": "eu-central-1a",
                "region": "eu-central-1",
                "platform": "ec2",
                "version": "0.1.0",
                "started_at": "2026-05-01T12:30:00.000000Z",
                "draining": False,
            }
        },
    )

    instance_id: str
    availability_zone: str
    region: str
    platform: str = Field(description="`ec2` or `local`.")
    version: str = Field(description="Of Tintype.")
    started_at: datetime
    draining: bool = Field(description="Whether the instance is on its way out.")


class TypeOut(BaseModel):
    """A kind of image that is accepted."""

    model_config = ConfigDict(title="AcceptedType")

    content_type: str
    extension: str = Field(description="The usual one. It is never asked for: the bytes decide.")


class LimitsOut(BaseModel):
    """What one image, and one request, may take. An image over a limit is refused, and nothing is stored."""

    model_config = ConfigDict(title="Limits")

    max_upload_bytes: int = Field(description="Of one image.")
    max_files: int = Field(description="Files in one form.")
    max_side: int = Field(description="Pixels along one side.")
    max_pixels: int = Field(description="Width x height x frames.")
    max_pixels_avif: int = Field(description="The same for AVIF and HEIC, 8 bit a channel.")
    max_pixels_avif_deep: int = Field(description="The same for AVIF and HEIC, above 8 bit a channel.")
    max_frames: int = Field(description="Frames of an animation, pages of a TIFF.")
    max_scans: int = Field(description="Scans of a progressive JPEG.")
    max_metadata_bytes: int = Field(description="Compressed metadata of a PNG, unpacked.")
    max_parts: int = Field(description="Parts of one form, text included.")
    max_text_bytes: int = Field(description="Of all texts of a form, or of a JSON body.")
    max_head_bytes: int = Field(description="Of the request's target and its header fields.")
    min_bytes_per_second: int = Field(
        description="A body that is sent more slowly is cut, and an answer that is taken so. 0: never."
    )
    requests_per_second: float = Field(
        description="Of one key, on each instance; answers tell in `RateLimit` how it stands. 0: no limit."
    )
    bytes_per_second: int = Field(description="Of one key's bodies, in both directions. 0: no limit.")
    open_requests: int = Field(description="Of one owner at once, on each instance. 0: no limit.")


class CapabilitiesOut(BaseModel):
    """What the service takes and does, as it is configured. Lists grow: pass over names you do not know."""

    model_config = ConfigDict(
        title="Capabilities",
        json_schema_extra={
            "example": {
                "version": "0.1.0",
                "types": [{"content_type": "image/jpeg", "extension": "jpg"}],
                "limits": {
                    "max_upload_bytes": 52428800,
                    "max_files": 100,
                    "max_side": 65535,
                    "max_pixels": 100000000,
                    "max_pixels_avif": 50000000,
                    "max_pixels_avif_deep": 25000000,
                    "max_frames": 1000,
                    "max_scans": 100,
                    "max_metadata_bytes": 8388608,
                    "max_parts": 200,
                    "max_text_bytes": 65536,
                    "max_head_bytes": 32768,
                    "min_bytes_per_second": 1024,
                    "requests_per_second": 1000,
                    "bytes_per_second": 0,
                    "open_requests": 512,
                },
                "protocols": ["multipart", "raw", "tus", "resumable", "direct"],
                "channels": ["outbox"],
                "subscriptions": {"email": "tintype", "sms": "tintype", "webhook": "tintype"},
                "features": ["digests", "full-inspection", "idempotency-key", "links", "ranges", "trash"],
            }
        },
    )

    version: str
    types: list[TypeOut]
    limits: LimitsOut
    protocols: list[str] = Field(description="How images are sent: see docs/uploads.md.")
    channels: list[str] = Field(description="Where events go: `sns`, or the laptop's `outbox`.")
    subscriptions: dict[str, str] = Field(
        description="The channels that an address can be subscribed by, and who delivers: `tintype` or `sns`."
    )
    features: list[str]


@router.get("/instance", response_model=InstanceOut)
async def read_instance(request: Request) -> dict[str, Any]:
    """Return which instance answers: its id, its availability zone, its version, since when it runs."""
    instance = context_of(request).instance
    place = await instance.place()
    return {
        "instance_id": place.instance_id,
        "availability_zone": place.availability_zone,
        "region": place.region,
        "platform": place.platform,
        "version": instance.version,
        "started_at": instance.started_at,
        "draining": instance.draining,
    }


@router.get("/capabilities", response_model=CapabilitiesOut)
async def read_capabilities(request: Request) -> dict[str, Any]:
    """Return what is accepted, within which limits, and what the service can do."""
    context = context_of(request)
    settings = context.settings
    accepted = context.parts.inspector.accepted_formats()
    return {
        "version": context.instance.version,
        "types": [{"content_type": each.value, "extension": each.extension} for each in accepted],
        "limits": {
            **settings.limits.model_dump(),
            **settings.imaging.model_dump(),
            "max_head_bytes": MAX_HEAD_BYTES,
        },
        "protocols": ["multipart", "raw", "tus", "resumable", "direct"],
        "channels": ["outbox" if settings.events.topic_arn is None else "sns"],
        "subscriptions": {
            channel.value: provider.value
            for channel, provider in context.parts.subscriptions.channels.items()
        },
        "features": _features(settings),
    }


def _features(settings: Settings) -> list[str]:
    inspection = "full-inspection" if settings.imaging.inspect == "full" else "header-inspection"
    return sorted(["digests", "idempotency-key", "links", "ranges", "trash", inspection])
