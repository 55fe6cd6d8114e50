"""tus 1.0.0 (https://tus.io/protocols/resumable-upload) with its extensions, at /v1/tus.

The same resources speak the IETF's protocol to whoever speaks that: see `resumable.py`.
"""

import re
from dataclasses import replace
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from fastapi import APIRouter, Request, Response

from tintype.model.errors import (
    DatabaseUnavailable,
    Overloaded,
    PartsUnfinished,
    PatchTypeUnsupported,
    StorageUnavailable,
    TusVersionUnsupported,
    UploadEmpty,
    UploadNotFound,
    UploadRequestInvalid,
    UploadTooLarge,
)
from tintype.model.labels import tags_of
from tintype.model.session import PARTIAL, Opening, Session, SessionKind, SessionState
from tintype.server import resumable
from tintype.server.access import principal_of
from tintype.server.announced import digests_of
from tintype.server.arriving import body_length, body_of, counted_in, field_of
from tintype.server.checksums import ALGORITHMS, checksum_of
from tintype.server.context import context_of
from tintype.server.upload_metadata import metadata_of
from tintype.server.upload_states import piecewise, upload_url

# Not in the OpenAPI document: the protocol is its own description, and no generated client would speak it.
router = APIRouter(prefix="/v1/tus", tags=["uploads"], include_in_schema=False)

VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "termination",
    "expiration",
    "checksum",
    "concatenation",
)
BODY_TYPE = "application/offset+octet-stream"
MAX_CONCAT_PARTS = 1000

PASSING = (DatabaseUnavailable, Overloaded, StorageUnavailable)
"""What may go well a moment later."""

_ID_AT_END = re.compile(r"/v1/tus/([0-9a-fA-F-]{36})/?")


@router.options("")
async def discover_tus(request: Request) -> Response:
    """Tell which versions and extensions are spoken, and how much an upload may have."""
    context = context_of(request)
    headers = {
        "tus-version": VERSION,
        "tus-extension": ",".join(EXTENSIONS),
        "tus-max-size": str(context.settings.limits.max_upload_bytes),
        "tus-checksum-algorithm": ",".join(ALGORITHMS),
        "upload-limit": resumable.limit_of(context),
    }
    return Response(status_code=204, headers=headers)


@router.options("/{upload_id}")
async def discover_tus_upload(request: Request, upload_id: str) -> Response:  # noqa: ARG001
    """Tell the same at the address of an upload."""
    return await discover_tus(request)


@router.post("")
async def begin_upload(request: Request) -> Response:
    """Begin an upload, with its first bytes if there are any; or put one together from parts."""
    if resumable.speaks(request):
        return await resumable.begin(request)
    _check_version(request)
    opening = _opening(request)
    if opening.parts:
        return await _concatenate(request, opening)
    context = context_of(request)
    count = body_length(request)
    if opening.length == 0 and opening.concat != PARTIAL:
        raise UploadEmpty("The upload has no bytes. Check the file that you are sending.")
    checks = checksum_of(field_of(request, "upload-checksum"))
    if count != 0:
        _check_body_type(request)
        if opening.length is not None and count is not None and count > opening.length:
            raise UploadTooLarge(
                "The body is longer than `Upload-Length`.", details={"limit": opening.length}
            )
    session = await context.parts.sessions.open(opening)
    headers = {"location": upload_url(context, session.id)}
    if count != 0:
        session = await _take_first(request, session, count, checks)
        headers |= _offset_headers(session)
    return Response(status_code=201, headers=headers | _expiry(session))


@router.head("/{upload_id}")
async def read_upload_offset(request: Request, upload_id: str) -> Response:
    """Tell where an upload stands, and that it stays there until somebody goes on."""
    if "tus-resumable" not in request.headers:
        return await resumable.read_offset(request, id_of(upload_id))
    _check_version(request)
    sessions, principal = context_of(request).parts.sessions, principal_of(request)
    session = piecewise(await sessions.settle_offset(principal.owner, id_of(upload_id), principal.grant))
    headers = _offset_headers(session) | _expiry(session)
    if session.length is not None:
        headers["upload-length"] = str(session.length)
    else:
        headers["upload-defer-length"] = "1"
    if session.metadata is not None:
        headers["upload-metadata"] = session.metadata
    if session.concat is not None:
        headers["upload-concat"] = session.concat
    return Response(status_code=200, headers=headers)


@router.patch("/{upload_id}")
async def append_to_upload(request: Request, upload_id: str) -> Response:
    """Append bytes. When they are the last ones, the answer comes when the image is stored."""
    if resumable.speaks(request):
        return await resumable.append(request, id_of(upload_id))
    _check_version(request)
    context, principal = context_of(request), principal_of(request)
    sessions = context.parts.sessions
    session = piecewise(await sessions.find(principal.owner, id_of(upload_id), principal.grant))
    _check_body_type(request)
    offset = counted_in(request, "upload-offset")
    if offset is None:
        raise UploadRequestInvalid("A PATCH says in `Upload-Offset` where its bytes begin.")
    appending = sessions.appending(
        session,
        offset,
        count=body_length(request),
        length=counted_in(request, "upload-length"),
        expected=checksum_of(field_of(request, "upload-checksum")),
    )
    async with appending as transfer:
        await transfer.receive(body_of(request))
        session = await sessions.end(transfer)
    return Response(status_code=204, headers=_offset_headers(session) | _expiry(session))


@router.delete("/{upload_id}")
async def end_upload(request: Request, upload_id: str) -> Response:
    """Give an upload up. An image that it has become stays: it has an address of its own."""
    if "tus-resumable" in request.headers:
        _check_version(request)
    sessions, principal = context_of(request).parts.sessions, principal_of(request)
    session = piecewise(await sessions.find(principal.owner, id_of(upload_id), principal.grant))
    await sessions.abort(session)
    return Response(status_code=204)


async def _take_first(request: Request, session: Session, count: int | None, checks: list[Any]) -> Session:
    """Take the bytes that came with the creation.

    When something fails that passes, the upload is there all the same, and its client learns how far:
    without its address it could only begin another one.
    """
    sessions = context_of(request).parts.sessions
    try:
        async with sessions.appending(session, 0, count=count, expected=checks) as transfer:
            await transfer.receive(body_of(request))
            return await sessions.end(transfer)
    except PASSING:
        return await sessions.find(session.owner, session.id)


async def _concatenate(request: Request, opening: Opening) -> Response:
    context = context_of(request)
    sessions = context.parts.sessions
    parts = await sessions.parts(opening.owner, opening.parts)
    for each in parts:
        if not each.is_partial or (opening.grant is not None and each.grant is None):
            raise UploadNotFound(f"There is no part {each.id} to put together.")
    unfinished = [upload_url(context, each.id) for each in parts if not each.is_whole]
    if unfinished:
        raise PartsUnfinished(
            f"{len(unfinished)} of the parts are still being uploaded.", details={"parts": unfinished}
        )
    length = sum(each.received for each in parts)
    if length == 0:
        raise UploadEmpty("The parts have no bytes together.")
    session = await sessions.drive(await sessions.open(replace(opening, length=length)))
    headers = {"location": upload_url(context, session.id)} | _offset_headers(session) | _expiry(session)
    return Response(status_code=201, headers=headers)


def id_of(text: str) -> UUID:
    """Return the id in an upload's address. Raises `UploadNotFound` for what is none."""
    try:
        return UUID(text)
    except ValueError as error:
        raise UploadNotFound("There is no such upload. Begin a new one.") from error


def _opening(request: Request) -> Opening:
    """Return what the headers of a creation ask for. Raises `UploadRequestInvalid`."""
    context, principal = context_of(request), principal_of(request)
    grant = principal.grant
    concat, parts = _concat(request)
    raw = field_of(request, "upload-metadata")
    told = metadata_of(raw)
    limit = context.settings.limits.max_upload_bytes
    return Opening(
        owner=principal.owner,
        kind=SessionKind.TUS,
        length=_length(request, is_final=bool(parts)),
        max_bytes=limit if grant is None else min(limit, grant.max_bytes),
        filename=told.filename,
        declared_type=told.declared_type,
        tags=tags_of([*(grant.tags if grant else ()), *told.tags]),
        attributes=told.attributes,
        # Whoever holds a token learns nothing of what its owner has.
        keep_duplicate=told.keep_duplicate or grant is not None,
        digests=digests_of([("Repr-Digest", field_of(request, "repr-digest"))]),
        metadata=raw,
        concat=concat,
        parts=parts,
        key_id=principal.key_id,
        grant=grant,
    )


def _concat(request: Request) -> tuple[str | None, tuple[UUID, ...]]:
    """Return `Upload-Concat` as it is to be sent back, and the parts that it names."""
    value = field_of(request, "upload-concat")
    if value is None or value == PARTIAL:
        return value, ()
    kind, _, addresses = value.partition(";")
    named = addresses.split()
    if kind.strip() != "final" or not 0 < len(named) <= MAX_CONCAT_PARTS:
        raise UploadRequestInvalid(
            "`Upload-Concat` is `partial`, or `final;` and the addresses of the parts, with spaces between."
        )
    return value, tuple(_part_named(each) for each in named)


def _part_named(address: str) -> UUID:
    """Return the part of an address: absolute, or from the root, or behind the path of a proxy."""
    found = _ID_AT_END.search(unquote(urlsplit(address).path))
    if found is None:
        raise UploadRequestInvalid("`Upload-Concat` names an address that is none of an upload here.")
    return id_of(found[1])


def _length(request: Request, *, is_final: bool) -> int | None:
    length = counted_in(request, "upload-length")
    deferred = field_of(request, "upload-defer-length")
    if is_final:
        if length is not None or deferred is not None:
            raise UploadRequestInvalid("The length of what is put together is that of its parts.")
        return None
    if deferred is not None and deferred != "1":
        raise UploadRequestInvalid("`Upload-Defer-Length` is `1`, where it is sent.")
    if (length is None) == (deferred is None):
        raise UploadRequestInvalid("Send either `Upload-Length`, or `Upload-Defer-Length: 1`.")
    return length


def _check_version(request: Request) -> None:
    version = field_of(request, "tus-resumable")
    if version != VERSION:
        said = "none" if version is None else "another one"
        raise TusVersionUnsupported(f"This speaks tus {VERSION}; the request says {said}.")


def _check_body_type(request: Request) -> None:
    if (field_of(request, "content-type") or "").partition(";")[0].strip().lower() != BODY_TYPE:
        raise PatchTypeUnsupported(f"Bytes of an upload are sent as `Content-Type: {BODY_TYPE}`.")


def _offset_headers(session: Session) -> dict[str, str]:
    headers = {"upload-offset": str(session.offset), "cache-control": "no-store"}
    if session.image_id is not None:
        headers["content-location"] = f"/v1/images/{session.image_id}"
    return headers


def _expiry(session: Session) -> dict[str, str]:
    """Return when an upload ends that nobody goes on with."""
    if session.state is SessionState.DONE:
        return {}
    return {"upload-expires": format_datetime(session.expires_at, usegmt=True)}
