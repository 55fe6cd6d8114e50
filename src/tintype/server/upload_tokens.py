"""Upload tokens over HTTP: an application's backend mints one, and gives it to a browser."""

from datetime import datetime
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tintype.model.errors import RequestInvalid
from tintype.model.labels import tags_of
from tintype.server.access import principal_of
from tintype.server.context import context_of
from tintype.server.openapi import may_fail

router = APIRouter(prefix="/v1/upload-tokens", tags=["identity"])

MAX_TAGS = 10
"""They travel in the token, and that in a header."""

TypeName = Literal[
    "image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/tiff", "image/heic"
]


Tag = Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


class UploadTokenRequest(BaseModel):
    """What the holder of the token may upload. Nothing said is nothing asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"types": ["image/jpeg"], "max_bytes": 5_000_000, "uses": 3}},
    )

    types: list[TypeName] = Field(default=[], max_length=10, description="Only these. None: all accepted.")
    max_bytes: int | None = Field(default=None, gt=0, description="Of one image. Unset: the service's limit.")
    uses: int = Field(default=1, ge=1, le=1000, description="Images; the same bytes again are none.")
    tags: list[Tag] = Field(default=[], max_length=MAX_TAGS, description="Given to every image.")
    expires_in: int = Field(default=600, ge=1, le=86_400, description="Seconds from now.")


class UploadTokenOut(BaseModel):
    """An upload token, and what it allows."""

    model_config = ConfigDict(
        title="UploadToken",
        json_schema_extra={
            "example": {
                "token": "tut_…",
                "types": ["image/jpeg"],
                "max_bytes": 5_000_000,
                "uses": 3,
                "tags": [],
                "expires_at": "2026-05-01T12:40:00Z",
            }
        },
    )

    token: str = Field(description="Send it as `Authorization: Bearer …` with `POST /v1/images`.")
    types: list[str]
    max_bytes: int
    uses: int
    tags: list[str]
    expires_at: datetime


@router.post("", status_code=201, response_model=UploadTokenOut, responses=may_fail(RequestInvalid))
async def make_upload_token(request: Request, wanted: UploadTokenRequest) -> Response:
    """Make a token with which somebody else uploads images for you, and does nothing else.

    Made for browsers: your backend asks for one and hands it on. It ends with its time, after its
    uses, and when the key that made it is revoked.
    """
    context = context_of(request)
    limit = context.settings.limits.max_upload_bytes
    minted = await context.parts.tokens.mint(
        principal_of(request),
        types=frozenset(wanted.types),
        max_bytes=min(wanted.max_bytes or limit, limit),
        uses=wanted.uses,
        tags=tags_of(wanted.tags),
        lifetime_seconds=wanted.expires_in,
    )
    grant = minted.grant
    told = {
        "token": minted.token,
        "types": sorted(grant.types),
        "max_bytes": grant.max_bytes,
        "uses": grant.uses,
        "tags": grant.tags,
        "expires_at": minted.expires_at,
    }
    body = orjson.dumps(told, option=orjson.OPT_UTC_Z)
    return Response(body, 201, {"cache-control": "no-store"}, media_type="application/json")
