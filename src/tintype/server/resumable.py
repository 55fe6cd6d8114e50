"""Resumable uploads as the IETF drafts them (draft-ietf-httpbis-resumable-upload), on tus's resources.

Whoever sends `Upload-Complete` speaks it. Drafts differ; the interop version that a client sends picks a
row of the table below, and nothing else looks at it.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from uuid import UUID

import http_sf
import orjson
from fastapi import Request, Response

from tintype.model.errors import (
    DatabaseUnavailable,
    LengthInconsistent,
    Overloaded,
    PatchTypeUnsupported,
    StorageUnavailable,
    TintypeError,
    UploadEmpty,
    UploadRequestInvalid,
)
from tintype.model.filename import clean_filename
from tintype.model.labels import tags_of
from tintype.model.session import Opening, Session, SessionKind, SessionState
from tintype.server.access import principal_of
from tintype.server.announced import digest_field, digests_of
from tintype.server.arriving import body_length, body_of, counted_in, field_of
from tintype.server.checksums import ContentDigest, content_digests
from tintype.server.connection import INFORMATIONAL
from tintype.server.context import Context, context_of
from tintype.server.middleware import MORE_HEADERS
from tintype.server.schemas import image_resource
from tintype.server.upload_metadata import metadata_of
from tintype.server.upload_states import image_of, piecewise, upload_url
from tintype.server.warnings import declared_type_of

BODY_TYPE = "application/partial-upload"

_NUMBER = re.compile(r"[0-9]{1,15}")  # RFC 9651, section 3.3.1


@dataclass(frozen=True, slots=True)
class Draft:
    """What the drafts of one interop version ask for."""

    append_type: bool
    """Whether an append has a media type of its own."""
    age: str
    """The member of `Upload-Limit` that says for how many more seconds the upload lives."""


DRAFTS = {
    5: Draft(append_type=False, age="expires"),  # -03, -04
    6: Draft(append_type=True, age="expires"),  # -05
    7: Draft(append_type=True, age="max-age"),  # -06 to -08
    8: Draft(append_type=True, age="max-age"),  # -09 to -11
    9: Draft(append_type=True, age="max-age"),  # -12
    10: Draft(append_type=True, age="max-age"),  # -13
}
LATEST = DRAFTS[10]


def speaks(request: Request) -> bool:
    """Tell whether a request with content speaks this protocol, rather than tus."""
    return "tus-resumable" not in request.headers and "upload-complete" in request.headers


def limit_of(context: Context) -> str:
    """Return the `Upload-Limit` of uploads that have not begun."""
    limits = context.settings.limits
    return f"max-size={limits.max_upload_bytes}, min-size=1, max-age={limits.upload_ttl_seconds}"


async def begin(request: Request) -> Response:
    """Begin an upload, with its first bytes or all of them: the same request as an ordinary upload."""
    context = context_of(request)
    is_last = _is_last(request)
    count = body_length(request)
    length = _length(request, offset=0, count=count, is_last=is_last)
    if length == 0:
        raise UploadEmpty("The upload has no bytes. Check the file that you are sending.")
    sessions = context.parts.sessions
    session = await sessions.open(_opening(request, length))
    if count != 0:
        _tell_early(request, context, session)
    headers = {"location": upload_url(context, session.id)}
    try:
        session = await _append(request, session, 0, count, length, is_last=is_last)
    except (DatabaseUnavailable, Overloaded, StorageUnavailable):
        # The upload is there, and its client learns where: it goes on with what has to be sent again.
        session = await sessions.find(session.owner, session.id)
    if session.state is SessionState.DONE:
        return await _image_answer(request, session)
    return Response(status_code=201, headers=headers | _state_headers(request, session))


async def read_offset(request: Request, upload_id: UUID) -> Response:
    """Tell how many bytes are durable. That number never becomes less."""
    sessions, principal = context_of(request).parts.sessions, principal_of(request)
    session = piecewise(await sessions.settle_offset(principal.owner, upload_id, principal.grant))
    return Response(status_code=204, headers=_state_headers(request, session))


async def append(request: Request, upload_id: UUID) -> Response:
    """Append bytes; with `Upload-Complete: ?1` they are the last, and the answer is the image's."""
    sessions, principal = context_of(request).parts.sessions, principal_of(request)
    is_last = _is_last(request)
    session = piecewise(await sessions.find(principal.owner, upload_id, principal.grant))
    _check_type(request)
    offset = counted_in(request, "upload-offset")
    if offset is None:
        raise UploadRequestInvalid("An append says in `Upload-Offset` where its bytes begin.")
    count = body_length(request)
    length = _length(request, offset=offset, count=count, is_last=is_last)
    session = await _append(request, session, offset, count, length, is_last=is_last)
    if session.state is SessionState.DONE:
        return await _image_answer(request, session)
    return Response(status_code=204, headers=_state_headers(request, session))


async def _append(
    request: Request, session: Session, offset: int, count: int | None, length: int | None, *, is_last: bool
) -> Session:
    sessions = context_of(request).parts.sessions
    async with _told(request, session):
        appending = sessions.appending(
            session, offset, count=count, length=length, expected=_expected(request)
        )
        async with appending as transfer:
            await transfer.receive(body_of(request))
            if not is_last:
                return await transfer.keep()
            await sessions.tell_total(transfer)
            return await sessions.end(transfer)


@asynccontextmanager
async def _told(request: Request, session: Session) -> AsyncGenerator[None]:
    """Tell with each failure that it is not the upload's end, and what an upload may be."""
    try:
        yield
    except TintypeError:
        told = request.scope["state"].get(MORE_HEADERS, ())
        context = context_of(request)
        request.scope["state"][MORE_HEADERS] = [
            *told,
            (b"upload-complete", b"?0"),
            (b"upload-limit", _limit(request, context, session).encode()),
        ]
        raise


async def _image_answer(request: Request, session: Session) -> Response:
    """Answer as the upload of a whole body is answered: with the image."""
    context = context_of(request)
    image = await image_of(context, session)
    if image is None:
        return Response(status_code=204, headers={"upload-complete": "?1"})
    resource = image_resource(image, base=context.settings.public_url or "")
    headers = {
        "location": resource["urls"]["self"],
        "content-location": resource["urls"]["self"],
        "etag": f'"v{resource["version"]}"',
        "repr-digest": digest_field(image.sha256),
        "upload-complete": "?1",
        "upload-offset": str(session.received),
    }
    return Response(orjson.dumps(resource), 201, headers, media_type="application/json")


def _opening(request: Request, length: int | None) -> Opening:
    context, principal = context_of(request), principal_of(request)
    grant, query = principal.grant, request.query_params
    # tus-js-client, which also speaks two of the drafts, goes on to tell of the file as in tus.
    told = metadata_of(field_of(request, "upload-metadata"))
    limit = context.settings.limits.max_upload_bytes
    return Opening(
        owner=principal.owner,
        kind=SessionKind.RESUMABLE,
        length=length,
        max_bytes=limit if grant is None else min(limit, grant.max_bytes),
        filename=clean_filename(query.get("filename") or _disposed_name(request)) or told.filename,
        declared_type=told.declared_type or declared_type_of(field_of(request, "content-type")),
        tags=tags_of([*(grant.tags if grant else ()), *query.getlist("tag"), *told.tags]),
        attributes=told.attributes,
        keep_duplicate=query.get("on_duplicate") == "keep" or told.keep_duplicate or grant is not None,
        digests=digests_of([("Repr-Digest", field_of(request, "repr-digest"))]),
        key_id=principal.key_id,
        grant=grant,
    )


def _disposed_name(request: Request) -> str:
    """Return the file name of a Content-Disposition (RFC 6266), or nothing."""
    message = Message()
    message["content-disposition"] = field_of(request, "content-disposition") or "attachment"
    return message.get_filename("")


def _tell_early(request: Request, context: Context, session: Session) -> None:
    """Tell the upload's address before its bytes have come, to a client that can hear it (status 104)."""
    inform = request.scope.get("extensions", {}).get(INFORMATIONAL, {}).get("send")
    version = _version(request)
    if inform is not None and version in DRAFTS:
        inform(
            104,
            "Upload Resumption Supported",
            {
                "upload-draft-interop-version": str(version),
                "location": upload_url(context, session.id),
                "upload-limit": _limit(request, context, session),
            },
        )


def _state_headers(request: Request, session: Session) -> dict[str, str]:
    """Return where the upload stands. That all bytes are there does not yet make it complete."""
    headers = {
        "upload-offset": str(session.received),
        "upload-complete": "?1" if session.state is SessionState.DONE else "?0",
        "upload-limit": _limit(request, context_of(request), session),
        "cache-control": "no-store",
    }
    if session.length is not None:
        headers["upload-length"] = str(session.length)
    if session.image_id is not None:
        headers["content-location"] = f"/v1/images/{session.image_id}"
    return headers


def _limit(request: Request, context: Context, session: Session) -> str:
    left = max(0, round((session.expires_at - session.updated_at).total_seconds()))
    most = min(session.max_bytes, context.settings.limits.max_upload_bytes)
    return f"max-size={most}, min-size=1, {_draft(request).age}={left}"


def _is_last(request: Request) -> bool:
    try:
        parsed = http_sf.parse((field_of(request, "upload-complete") or "").encode("latin-1"), tltype="item")
    except http_sf.StructuredFieldError as error:
        raise UploadRequestInvalid("`Upload-Complete` is `?1` or `?0`.") from error
    value: object = parsed[0]  # type: ignore[index] # an item, as asked
    if not isinstance(value, bool):
        raise UploadRequestInvalid("`Upload-Complete` is `?1` or `?0`.")
    return value


def _length(request: Request, *, offset: int, count: int | None, is_last: bool) -> int | None:
    """Return the length of the whole, as far as the request tells it. Raises `LengthInconsistent`."""
    told = counted_in(request, "upload-length")
    ends = offset + count if is_last and count is not None else None
    if told is not None and ends is not None and told != ends:
        raise LengthInconsistent(
            f"`Upload-Length` says {told}, and the last of these bytes would be number {ends}."
        )
    return told if told is not None else ends


def _expected(request: Request) -> list[ContentDigest]:
    return content_digests(digests_of([("Content-Digest", field_of(request, "content-digest"))]))


def _version(request: Request) -> int | None:
    value = field_of(request, "upload-draft-interop-version")
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None


def _draft(request: Request) -> Draft:
    """Return the draft that a client speaks: the newest, unless it says that it is another one."""
    return DRAFTS.get(_version(request) or 0, LATEST)


def _check_type(request: Request) -> None:
    declared = (field_of(request, "content-type") or "").partition(";")[0].strip().lower()
    if _draft(request).append_type and declared != BODY_TYPE:
        raise PatchTypeUnsupported(f"Bytes of an upload are appended as `Content-Type: {BODY_TYPE}`.")
