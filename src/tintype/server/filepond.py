"""FilePond's protocol: an upload in one form or in chunks, an id as plain text, and the id taken back.

`fetch` is not spoken: it would have us ask addresses that a browser names.
"""

from dataclasses import replace
from urllib.parse import unquote
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from tintype.catalogue import images, uploads
from tintype.delivery import content
from tintype.model.errors import ImageNotFound, NotFound, RequestInvalid, UploadNotFound
from tintype.model.filename import clean_filename
from tintype.model.identity import Grant
from tintype.model.image import Image
from tintype.model.session import Session, SessionKind
from tintype.model.upload import Duplicate, Idempotency, Outcome, Replayed, Upload
from tintype.server.access import owner_of, principal_of
from tintype.server.arriving import body_of, declared_length, whole_number
from tintype.server.context import Context, context_of
from tintype.server.direct import opening_of
from tintype.server.images import content_headers
from tintype.server.uploads import received_form, token_key

router = APIRouter(prefix="/u/{token}/filepond", include_in_schema=False)

MAX_ID_BYTES = 100


@router.post("")
async def filepond_process(request: Request) -> Response:
    """Store the file of a form; or, where only its length is told, begin an upload in chunks."""
    if "upload-length" in request.headers:
        return await _begin_chunks(request)
    context = context_of(request)
    async with received_form(request) as received:
        outcome = await received.only()
    image = await _brought_back(context, outcome)
    return PlainTextResponse(str(image.id), 201)


@router.patch("")
async def filepond_append(request: Request) -> Response:
    """Append a chunk. The last one, which may be empty, makes the image."""
    context = context_of(request)
    session = await _session(request)
    offset, length = (
        whole_number(request.headers.get("upload-offset", ""), "Upload-Offset"),
        whole_number(request.headers.get("upload-length", ""), "Upload-Length"),
    )
    if not session.filename and (name := _name(request)):
        async with context.database.reading(session.owner) as tx:
            await uploads.give_filename(tx, session, name)
        session = replace(session, filename=name)
    sessions = context.parts.sessions
    count = declared_length(request)
    async with sessions.appending(session, offset, count=count, length=length) as transfer:
        await transfer.receive(body_of(request))
        await sessions.end(transfer)
    return Response(status_code=204)


@router.head("")
async def filepond_offset(request: Request) -> Response:
    """Tell where an upload in chunks stands."""
    session = await context_of(request).parts.sessions.settle_offset(
        owner_of(request), _id_in(request.query_params.get("patch", "")), principal_of(request).grant
    )
    return Response(headers={"upload-offset": str(session.offset), "cache-control": "no-store"})


@router.delete("")
async def filepond_revert(request: Request) -> Response:
    """Take back what this token has uploaded; the id is the body."""
    body = b""
    async for chunk in body_of(request):
        body += chunk
        if len(body) > MAX_ID_BYTES:
            raise RequestInvalid("The body is the id of an upload, and nothing else.")
    context, upload_id = context_of(request), _id_in(body.decode(errors="replace"))
    image = await _own_image(request, upload_id)
    if image is None:
        session = await _found(request, upload_id)
        await context.parts.sessions.abort(session)
    else:
        async with context.database.transaction(image.owner) as tx:
            await images.trash(tx, image.owner, image.id)
    return Response(status_code=204)


@router.get("")
async def filepond_read(request: Request) -> Response:
    """Return what this token has uploaded, for a form that is opened again (`load`, `restore`)."""
    query = request.query_params
    named = query.get("load") or query.get("restore")
    if named is None:
        raise NotFound("Nothing is fetched from elsewhere. Send the file itself.")
    image = await _own_image(request, _id_in(named))
    if image is None:
        raise ImageNotFound("This token has uploaded no such image.")
    content.require_ready(image)
    everything = content.select(image, content.Conditions())
    stream = await content.read(context_of(request).objects, image, everything)
    return StreamingResponse(stream, 200, content_headers(image, everything, "inline"))


async def _begin_chunks(request: Request) -> Response:
    """Begin an upload in chunks. Its name comes with the first of them."""
    context, principal = context_of(request), principal_of(request)
    opening = opening_of(
        context,
        principal,
        SessionKind.RESUMABLE,
        filename=_name(request),
        declared_type=None,
        length=whole_number(request.headers.get("upload-length", ""), "Upload-Length"),
    )
    session = await context.parts.sessions.open(opening)
    return PlainTextResponse(str(session.id), 201)


async def _session(request: Request) -> Session:
    return await _found(request, _id_in(request.query_params.get("patch", "")))


async def _found(request: Request, upload_id: UUID) -> Session:
    """Return an upload that this very token began."""
    principal = principal_of(request)
    session = await context_of(request).parts.sessions.find(principal.owner, upload_id, principal.grant)
    if session.kind is not SessionKind.RESUMABLE or not _is_of(session, principal.grant):
        raise UploadNotFound("There is no such upload. Begin a new one.")
    return session


async def _own_image(request: Request, upload_id: UUID) -> Image | None:
    """Return the image that this very token made, by its id or by that of its upload; None: there is none."""
    context, principal = context_of(request), principal_of(request)
    async with context.database.reading(principal.owner) as tx:
        session = await uploads.find(tx, principal.owner, upload_id)
        image_id = upload_id if session is None else session.image_id
        image = None if image_id is None else await images.find(tx, principal.owner, image_id)
    if image is None or principal.grant is None:
        return None
    if session is not None:
        return image if _is_of(session, principal.grant) else None
    return image if await _made_by(context, principal.grant, image) else None


def _is_of(session: Session, grant: Grant | None) -> bool:
    return session.grant is not None and grant is not None and session.grant.token_id == grant.token_id


async def _made_by(context: Context, grant: Grant, image: Image) -> bool:
    """Tell whether a token's upload of these bytes was answered with this image."""
    key = Idempotency(token_key(grant, image.sha256), image.sha256)
    asked = Upload(image.owner, "", None, "multipart", keep_duplicate=True, idempotency=key)
    earlier = await context.ingest.commits.find_earlier(asked, image.sha256)
    return earlier is not None and _image_of(earlier).id == image.id


async def _brought_back(context: Context, outcome: Outcome) -> Image:
    """Return the image; one that was taken back, and is sent again, is there again."""
    image = _image_of(outcome)
    if isinstance(outcome, Replayed | Duplicate):
        async with context.database.transaction(image.owner) as tx:
            image = await images.restore(tx, image.owner, image.id)
    return image


def _image_of(outcome: Outcome) -> Image:
    return outcome.outcome.image if isinstance(outcome, Replayed) else outcome.image


def _id_in(text: str) -> UUID:
    try:
        return UUID(text.strip().strip('"'))
    except ValueError as error:
        raise UploadNotFound("There is no such upload. Begin a new one.") from error


def _name(request: Request) -> str:
    """Return the file's name, which FilePond sends as the bytes that it is in UTF-8."""
    raw = request.headers.get("upload-name", "")
    return clean_filename(unquote(raw).encode("latin-1", "replace").decode(errors="replace"))
