"""Uppy's S3 plugin (v5 and v6), as it talks to a Companion: signed requests for it, and for nobody else.

The token is in the address, since v6 sends neither credentials nor headers of one's own. What the plugin
calls a key is ours to choose; it names the upload from then on.
"""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tintype.model.errors import RequestInvalid, UploadNotFound
from tintype.model.session import Opening, Session, SessionKind
from tintype.objects.direct import MAX_PARTS, FormInstruction, Part
from tintype.objects.keys import direct_key, parse_direct_key
from tintype.server.access import principal_of
from tintype.server.context import context_of
from tintype.server.direct import MAX_NAMED, base_of, image_of, media_type_of, opening_of
from tintype.server.schemas import image_resource

router = APIRouter(prefix="/u/{token}/companion/s3", include_in_schema=False)

Key = Annotated[str, Query(max_length=200)]


class Beginning(BaseModel):
    """What the plugin says of a file that is to go up in parts."""

    model_config = ConfigDict(extra="ignore")

    filename: str = Field(default="", max_length=1024)
    type: str | None = Field(default=None, max_length=255)
    metadata: dict[str, Any] | None = None


class SentPart(BaseModel):
    """A part as the plugin names it: v5 with quotes around the ETag, v6 without."""

    model_config = ConfigDict(extra="ignore")

    PartNumber: int = Field(ge=1, le=MAX_PARTS)
    ETag: str = Field(max_length=100)


class SentParts(BaseModel):
    """All parts of a file."""

    model_config = ConfigDict(extra="ignore")

    parts: list[SentPart] = Field(max_length=MAX_NAMED)


@router.get("/params")
async def companion_parameters(request: Request) -> Response:
    """Say what form to send a file with. How long it is the plugin does not say."""
    query = request.query_params
    begun = await context_of(request).parts.direct.open(
        _opening(
            request,
            SessionKind.POST,
            query.get("filename", ""),
            query.get("type"),
            query.get("metadata[tags]"),
        ),
        base_of(request),
    )
    form = begun.instruction
    if not isinstance(form, FormInstruction):
        raise RequestInvalid("A form was asked for.")
    lifetime = context_of(request).settings.limits.direct_ttl_seconds
    return _json({"method": "POST", "url": form.url, "fields": form.fields, "expires": lifetime})


@router.post("/multipart")
async def companion_begin(request: Request, wanted: Beginning) -> Response:
    """Begin an upload in parts."""
    tags = (wanted.metadata or {}).get("tags")
    opening = _opening(
        request, SessionKind.MULTIPART, wanted.filename, wanted.type, tags if isinstance(tags, str) else None
    )
    begun = await context_of(request).parts.direct.open(opening, base_of(request))
    return _json({"key": direct_key(begun.session.id), "uploadId": begun.session.target["parts_id"]})


@router.get("/multipart/{parts_id}")
async def companion_list(request: Request, parts_id: str, key: Key) -> Response:
    """Return the parts that have arrived, for a client that goes on."""
    session = await _session(request, parts_id, key)
    parts = await context_of(request).parts.direct.list_parts(session)
    return _json([{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.etag}"'} for part in parts])


@router.get("/multipart/{parts_id}/{number}")
async def companion_sign(request: Request, parts_id: str, number: int, key: Key) -> Response:
    """Say what to send a part with."""
    session = await _session(request, parts_id, key)
    told = await context_of(request).parts.direct.sign_part(session, number, base_of(request))
    lifetime = context_of(request).settings.limits.direct_ttl_seconds
    return _json({"url": told.url, "expires": lifetime})


@router.post("/multipart/{parts_id}/complete")
async def companion_complete(request: Request, parts_id: str, key: Key, sent: SentParts) -> Response:
    """Put the parts together, and make an image of them."""
    context, session = context_of(request), await _session(request, parts_id, key)
    named = [Part(each.PartNumber, each.ETag.strip('"')) for each in sent.parts]
    done = await context.parts.direct.complete(session, named)
    image = image_resource(await image_of(context, done), base=base_of(request))
    return _json({"location": image["url"], "key": key, "bucket": "tintype", "id": image["id"]})


@router.delete("/multipart/{parts_id}")
async def companion_abort(request: Request, parts_id: str, key: Key) -> Response:
    """Give an upload up."""
    await context_of(request).parts.direct.abort(await _session(request, parts_id, key))
    return _json({})


async def _session(request: Request, parts_id: str, key: str) -> Session:
    """Return the upload that a key names: `+` and `%20` are the same by now, and our keys have neither."""
    upload_id: UUID | None = parse_direct_key(key)
    if upload_id is not None:
        principal = principal_of(request)
        session = await context_of(request).parts.direct.find(principal.owner, upload_id, principal.grant)
        if session.target.get("parts_id") == parts_id:
            return session
    raise UploadNotFound("There is no such upload. Begin a new one.")


def _opening(
    request: Request, kind: SessionKind, filename: str, declared: str | None, tags: str | None
) -> Opening:
    listed = [] if tags is None or tags in ("null", "undefined") else tags.split(",")
    return opening_of(
        context_of(request),
        principal_of(request),
        kind,
        filename=filename,
        declared_type=media_type_of(declared),
        tags=listed,
    )


def _json(told: object) -> Response:
    return Response(orjson.dumps(told), 200, {"cache-control": "no-store"}, media_type="application/json")
