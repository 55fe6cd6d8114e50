"""Direct uploads over HTTP: signed instructions out, and a word that the bytes are there."""

import re
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tintype.catalogue import images
from tintype.ingest.direct import Begun
from tintype.model.errors import (
    AttemptTooOld,
    DatabaseUnavailable,
    DecoderFailed,
    DigestMismatch,
    ImageCorrupt,
    ImageTooLarge,
    Overloaded,
    PartsInvalid,
    QuotaExceeded,
    RequestInvalid,
    ShuttingDown,
    StorageUnavailable,
    TooManyUploads,
    UnsupportedType,
    UploadBusy,
    UploadEmpty,
    UploadGone,
    UploadNotFound,
    UploadTooLarge,
    UploadUnfinished,
)
from tintype.model.filename import clean_filename
from tintype.model.identity import Principal
from tintype.model.image import Image
from tintype.model.labels import attributes_of, tags_of
from tintype.model.session import Opening, Session, SessionKind
from tintype.model.upload import Duplicate, Stored
from tintype.objects.direct import MAX_PARTS, FormInstruction, Part
from tintype.server.access import principal_of
from tintype.server.context import Context, context_of
from tintype.server.openapi import may_fail
from tintype.server.schemas import ImageOut
from tintype.server.uploads import answer_outcome
from tintype.server.warnings import declared_type_of

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")
PARTS_AT_ONCE = 100
"""Whose requests are signed in one answer."""
MAX_NAMED = 400
"""Parts of one upload: more would not fit into a JSON body, and 400 of the least size are 2 GB."""

Label = Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


class DirectUploadRequest(BaseModel):
    """A picture that is to go straight into the object store."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "filename": "rome.jpg",
                "content_type": "image/jpeg",
                "bytes": 2483112,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "method": "put",
            }
        },
    )

    filename: str = Field(default="", max_length=1024)
    content_type: str = Field(
        default="",
        max_length=127,
        pattern=r"^([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)?$",
        description="A hint; the bytes decide.",
    )
    bytes: int | None = Field(default=None, ge=1, description="`put` needs it: it is signed.")
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Verified, where it is given."
    )
    tags: list[Label] = Field(default=[], max_length=100)
    attributes: dict[str, JsonValue] = Field(default={}, description="A JSON object of your own.")
    on_duplicate: Literal["existing", "keep"] = "existing"
    method: Literal["put", "post", "multipart"] = Field(
        default="put",
        description="`put`: one request with the bytes; `post`: a form of a browser's; `multipart`: parts "
        "of at least 5 MiB, which go up side by side and one by one again.",
    )


class UploadUrls(BaseModel):
    """Where the upload's resources are."""

    self: str
    complete: str
    parts: str | None = None


class StorageRequest(BaseModel):
    """The request that stores the bytes, to be sent exactly so."""

    method: str
    url: str
    headers: dict[str, str]


class StorageForm(BaseModel):
    """The form that stores the bytes: these fields in this order, then the bytes as `file`."""

    url: str
    fields: dict[str, str]


class DirectUploadOut(BaseModel):
    """A direct upload that has begun, and what to send: `request`, `form`, or parts."""

    model_config = ConfigDict(
        title="DirectUpload",
        json_schema_extra={
            "example": {
                "id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
                "method": "put",
                "expires_at": "2026-05-01T12:45:00Z",
                "request": {
                    "method": "PUT",
                    "url": "https://bucket.s3.amazonaws.com/incoming/…",
                    "headers": {"content-type": "image/jpeg"},
                },
                "form": None,
                "urls": {
                    "self": "/v1/uploads/01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
                    "complete": "/v1/uploads/01932c07-209c-7f3a-8f51-6b1d0a4be3c2/complete",
                    "parts": None,
                },
            }
        },
    )

    id: UUID
    method: Literal["put", "post", "multipart"]
    expires_at: str = Field(description="Until then the upload can be completed.")
    request: StorageRequest | None
    form: StorageForm | None
    urls: UploadUrls


class PartNumbers(BaseModel):
    """Parts that are to be sent."""

    model_config = ConfigDict(extra="forbid")

    numbers: list[Annotated[int, Field(ge=1, le=MAX_PARTS)]] = Field(min_length=1, max_length=PARTS_AT_ONCE)


class SignedPart(StorageRequest):
    """The request that stores one part. Its answer's `ETag` is needed for completion."""

    number: int


class SignedParts(BaseModel):
    """What to send each part with."""

    data: list[SignedPart]


class PartOut(BaseModel):
    """A part that has arrived."""

    model_config = ConfigDict(title="Part")

    number: int
    etag: str
    bytes: int


class PartsOut(BaseModel):
    """The parts that have arrived, by number."""

    model_config = ConfigDict(title="Parts")

    data: list[PartOut]


class NamedPart(BaseModel):
    """A part, as the store answered it."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, le=MAX_PARTS)
    etag: str = Field(max_length=64, pattern="^[!-~]+$")


class Completion(BaseModel):
    """What is to become the image: all parts, in order, of an upload in parts; nothing otherwise."""

    model_config = ConfigDict(extra="forbid")

    parts: list[NamedPart] = Field(default=[], max_length=MAX_NAMED)


ON_THE_WAY = (UploadNotFound, UploadGone, RequestInvalid, DatabaseUnavailable, StorageUnavailable)
FINISHING = (
    *(QuotaExceeded, UploadUnfinished, UploadBusy, PartsInvalid, UploadEmpty, UploadTooLarge, DigestMismatch),
    *(UnsupportedType, ImageCorrupt, ImageTooLarge, DecoderFailed),
    *(Overloaded, AttemptTooOld, ShuttingDown),
)


@router.post(
    "",
    status_code=201,
    response_model=DirectUploadOut,
    responses=may_fail(
        *(RequestInvalid, UploadTooLarge, QuotaExceeded, TooManyUploads),
        *(DatabaseUnavailable, StorageUnavailable),
    ),
)
async def begin_direct_upload(request: Request, wanted: DirectUploadRequest) -> Response:
    """Begin an upload straight into the object store, and say what to send there.

    Send the bytes as told, then `POST …/complete`. Nothing is an image before its bytes were read
    and inspected, by whoever is told first that they are there: by you, or by the store itself.
    """
    context = context_of(request)
    begun = await context.parts.direct.open(
        _opening(context, principal_of(request), wanted), base_of(request)
    )
    return json_answer(_told(begun), 201)


@router.post(
    "/{upload_id}/complete",
    status_code=201,
    response_model=ImageOut,
    responses={200: {"model": ImageOut, "description": "You have these bytes already; this is their image."}}
    | may_fail(*ON_THE_WAY, *FINISHING),
)
async def complete_direct_upload(
    upload_id: UUID, request: Request, completion: Annotated[Completion | None, Body()] = None
) -> Response:
    """Say that the bytes are there, and get the image. Again, it is the same answer.

    An upload in parts names all of them: `{"parts": [{"number": 1, "etag": "…"}]}`.
    """
    context = context_of(request)
    session = await _session(request, upload_id)
    named = () if completion is None else tuple(Part(p.number, p.etag.strip('"')) for p in completion.parts)
    return await answer_session(context, await context.parts.direct.complete(session, named))


@router.delete("/{upload_id}", status_code=204, responses=may_fail(*ON_THE_WAY, UploadBusy))
async def abort_upload(upload_id: UUID, request: Request) -> Response:
    """Give an upload up. What it has stored so far is removed; an image that it became stays."""
    context, principal = context_of(request), principal_of(request)
    session = await context.parts.sessions.find(principal.owner, upload_id, principal.grant)
    await context.parts.direct.abort(session)
    return Response(status_code=204)


@router.post(
    "/{upload_id}/parts",
    response_model=SignedParts,
    responses=may_fail(*ON_THE_WAY, PartsInvalid),
)
async def sign_upload_parts(upload_id: UUID, request: Request, wanted: PartNumbers) -> Response:
    """Say what to send these parts with. They go up in any order, and each as often as it takes."""
    direct = context_of(request).parts.direct
    session = await _session(request, upload_id)
    base = base_of(request)
    signed = [(number, await direct.sign_part(session, number, base)) for number in wanted.numbers]
    parts = [
        {"number": number, "method": told.method, "url": told.url, "headers": told.headers}
        for number, told in signed
    ]
    return json_answer({"data": parts}, 200)


@router.get(
    "/{upload_id}/parts",
    response_model=PartsOut,
    responses=may_fail(*ON_THE_WAY, PartsInvalid),
)
async def list_upload_parts(upload_id: UUID, request: Request) -> Response:
    """Return the parts that have arrived, so that a client goes on where it was."""
    parts = await context_of(request).parts.direct.list_parts(await _session(request, upload_id))
    told = [{"number": part.number, "etag": part.etag, "bytes": part.size} for part in parts]
    return json_answer({"data": told}, 200)


async def answer_session(context: Context, session: Session) -> Response:
    """Return the answer to a session that is done: its image, which may have been there before."""
    image = await image_of(context, session)
    was_there = image.created_at < session.created_at
    return answer_outcome(context, Duplicate(image) if was_there else Stored(image))


async def image_of(context: Context, session: Session) -> Image:
    """Return the image that a session became. Raises `UploadNotFound` when it was deleted since."""
    if session.image_id is not None:
        async with context.database.reading(session.owner) as tx:
            image = await images.find(tx, session.owner, session.image_id)
        if image is not None:
            return image
    raise UploadNotFound("The image of this upload was deleted.")


def base_of(request: Request) -> str:
    """Return how the client reached us."""
    return context_of(request).settings.public_url or str(request.base_url).rstrip("/")


def opening_of(
    context: Context,
    principal: Principal,
    kind: SessionKind,
    *,
    filename: str,
    declared_type: str | None,
    **more: Any,  # noqa: ANN401 # fields of `Opening`
) -> Opening:
    """Return the opening of a session by whoever asks: bound to their owner, and to what a token grants."""
    grant = principal.grant
    limit = context.settings.limits.max_upload_bytes
    tags = tags_of([*(grant.tags if grant else ()), *more.pop("tags", ())])
    return Opening(
        owner=principal.owner,
        kind=kind,
        max_bytes=limit if grant is None else min(limit, grant.max_bytes),
        filename=clean_filename(filename),
        declared_type=declared_type,
        tags=tags,
        # Whoever holds a token learns nothing of what its owner has: not even that these bytes are there.
        keep_duplicate=more.pop("keep_duplicate", False) or grant is not None,
        key_id=principal.key_id,
        grant=grant,
        length=more.pop("length", None),
        **more,
    )


def media_type_of(text: str | None) -> str | None:
    """Return the media type that a client declared, or None for what is none, or says nothing."""
    return declared_type_of(text) if text and _MEDIA_TYPE.fullmatch(text) else None


def _opening(context: Context, principal: Principal, wanted: DirectUploadRequest) -> Opening:
    if wanted.method == "put" and wanted.bytes is None:
        raise RequestInvalid("`bytes` is missing: a PUT is signed for its exact length.")
    return opening_of(
        context,
        principal,
        SessionKind(wanted.method),
        filename=wanted.filename,
        declared_type=media_type_of(wanted.content_type),
        length=wanted.bytes,
        tags=wanted.tags,
        attributes=attributes_of(wanted.attributes),
        keep_duplicate=wanted.on_duplicate == "keep",
        digests={} if wanted.sha256 is None else {"sha-256": bytes.fromhex(wanted.sha256)},
    )


async def _session(request: Request, upload_id: UUID) -> Session:
    principal = principal_of(request)
    return await context_of(request).parts.direct.find(principal.owner, upload_id, principal.grant)


def _told(begun: Begun) -> dict[str, Any]:
    session, told = begun.session, begun.instruction
    path = f"/v1/uploads/{session.id}"
    form = isinstance(told, FormInstruction)
    return {
        "id": session.id,
        "method": str(session.kind),
        "expires_at": session.expires_at,
        "request": None
        if told is None or form
        else {"method": told.method, "url": told.url, "headers": told.headers},
        "form": {"url": told.url, "fields": told.fields} if form else None,
        "urls": {
            "self": path,
            "complete": f"{path}/complete",
            "parts": f"{path}/parts" if session.kind is SessionKind.MULTIPART else None,
        },
    }


def json_answer(told: dict[str, Any], status: int) -> Response:
    """Return an answer that nobody keeps: what it holds opens the store."""
    body = orjson.dumps(told, option=orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS)
    return Response(body, status, {"cache-control": "no-store"}, media_type="application/json")
