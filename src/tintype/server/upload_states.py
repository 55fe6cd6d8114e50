"""Uploads under way: which there are, and where each of them stands, whichever way its bytes come."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tintype.catalogue import images, uploads
from tintype.model.errors import CursorInvalid, DatabaseUnavailable, UploadGone, UploadNotFound
from tintype.model.image import Image
from tintype.model.session import Session, SessionKind, SessionState
from tintype.server.access import owner_of, principal_of
from tintype.server.context import Context, context_of
from tintype.server.cursors import cursor_after, place_of
from tintype.server.openapi import may_fail
from tintype.server.problems import problem_body
from tintype.server.schemas import ImageOut, image_resource

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

PIECEWISE = frozenset({SessionKind.TUS, SessionKind.RESUMABLE})
"""Whose bytes come through us, piece by piece."""


class UploadUrls(BaseModel):
    """Where the upload's resources are, relative to the service."""

    self: str
    upload: str | None = Field(description="Where tus and resumable uploads go on; null for direct ones.")


class UploadOut(BaseModel):
    """An upload that takes more than one request."""

    model_config = ConfigDict(
        title="Upload",
        json_schema_extra={
            "example": {
                "id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
                "kind": "tus",
                "state": "open",
                "filename": "rome.jpg",
                "declared_type": "image/jpeg",
                "bytes": 2483112,
                "received": 1048576,
                "created_at": "2026-05-01T12:30:00.000000Z",
                "updated_at": "2026-05-01T12:31:00.000000Z",
                "expires_at": "2026-05-02T12:31:00.000000Z",
                "image": None,
                "problem": None,
                "urls": {
                    "self": "/v1/uploads/01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
                    "upload": "/v1/tus/01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
                },
            }
        },
    )

    id: UUID
    kind: SessionKind
    state: SessionState = Field(description="`open` and `finishing` are under way; the others are final.")
    filename: str
    declared_type: str | None
    bytes: int | None = Field(description="Of the whole; null while that has not been told.")
    received: int = Field(description="Bytes that are durable, of an upload in pieces.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime = Field(description="Moves on with each piece.")
    image: ImageOut | None = Field(description="What it became.")
    problem: dict[str, Any] | None = Field(description="Why it was rejected.")
    urls: UploadUrls


class UploadPage(BaseModel):
    """A page of a list. `next_cursor` is null on the last one."""

    data: list[UploadOut]
    next_cursor: str | None


@router.get("", response_model=UploadPage, responses=may_fail(CursorInvalid, DatabaseUnavailable))
async def list_uploads(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """List your unfinished uploads, the oldest first: another browser can go on with any of them."""
    context = context_of(request)
    owner = owner_of(request)
    after = None if cursor is None else place_of(cursor)
    async with context.database.reading(owner) as tx:
        found = await uploads.unfinished(tx, owner, limit + 1, after)
    page = found[:limit]
    following = cursor_after(page[-1].created_at, page[-1].id) if len(found) > limit else None
    data = [upload_resource(context, each, None) for each in page]
    return _json({"data": data, "next_cursor": following})


@router.get(
    "/{upload_id}",
    response_model=UploadOut,
    responses=may_fail(UploadNotFound, UploadGone, DatabaseUnavailable),
)
async def read_upload(request: Request, upload_id: UUID) -> Response:
    """Return where an upload stands, and what came of it."""
    context, principal = context_of(request), principal_of(request)
    session = await context.parts.sessions.find(principal.owner, upload_id, principal.grant)
    return _json(upload_resource(context, session, await image_of(context, session)))


def piecewise(session: Session) -> Session:
    """Return a session whose bytes come through us; raise `UploadNotFound` for any other."""
    if session.kind not in PIECEWISE:
        raise UploadNotFound("This upload goes straight into the store, and takes no bytes here.")
    return session


async def image_of(context: Context, session: Session) -> Image | None:
    """Return the image that a session became, as it is now."""
    if session.image_id is None:
        return None
    async with context.database.reading(session.owner) as tx:
        return await images.find(tx, session.owner, session.image_id)


def upload_resource(context: Context, session: Session, image: Image | None) -> dict[str, Any]:
    """Return a session as the API shows it."""
    base = context.settings.public_url or ""
    return {
        "id": session.id,
        "kind": session.kind,
        "state": session.state,
        "filename": session.filename,
        "declared_type": session.declared_type,
        "bytes": session.length,
        "received": session.received,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "expires_at": session.expires_at,
        "image": None if image is None else image_resource(image, base=base),
        "problem": problem_body(session.rejection()) if session.problem is not None else None,
        "urls": {
            "self": f"{base}/v1/uploads/{session.id}",
            "upload": upload_url(context, session.id) if session.kind in PIECEWISE else None,
        },
    }


def upload_url(context: Context, upload_id: UUID) -> str:
    """Return where an upload in pieces goes on: without a host, unless the settings name ours.

    What `Host` and `X-Forwarded-Host` say behind a proxy is not always what clients can reach.
    """
    return f"{context.settings.public_url or ''}/v1/tus/{upload_id}"


def _json(body: object) -> Response:
    dumped = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    return Response(dumped, media_type="application/json", headers={"cache-control": "no-store"})
