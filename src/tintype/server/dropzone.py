"""Dropzone's protocol: forms and bodies as everybody sends them, and chunks in any order."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid5

from fastapi import APIRouter, Request, Response

from tintype.ingest.receive import Incoming
from tintype.model.body import Body
from tintype.model.errors import (
    Internal,
    LengthInconsistent,
    ObjectMissing,
    RequestInvalid,
    UploadNotFound,
    UploadTooLarge,
)
from tintype.model.session import Session, SessionKind, SessionState
from tintype.objects.info import ObjectInfo
from tintype.objects.keys import incoming_prefix
from tintype.server.access import owner_of, principal_of
from tintype.server.arriving import whole_number
from tintype.server.context import context_of
from tintype.server.direct import answer_session, json_answer, opening_of
from tintype.server.forms import KNOWN_TEXTS, FilePart
from tintype.server.uploads import received_form, upload_images

router = APIRouter(prefix="/u/{token}/dropzone", include_in_schema=False)

MAX_CHUNKS = 10_000
_TEXTS = frozenset({"dzuuid", "dztotalfilesize", "dztotalchunkcount", "dzchunkbyteoffset"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk says of itself. Which one it is, of how many, its place in the file tells as well."""

    name: str
    total: int
    offset: int


@router.post("")
@router.put("")
async def dropzone_upload(request: Request) -> Response:
    """Store a form's files or a body, or one chunk of a file."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await upload_images(request)
    async with received_form(request, KNOWN_TEXTS | _TEXTS) as received:
        if "dzuuid" not in received.form.texts:
            return await received.answer()
        if len(received.form.files) != 1:
            raise RequestInvalid("A chunk is one part of one file.")
        return await _take_chunk(request, received.form.texts, received.form.files[0])


async def _take_chunk(request: Request, texts: dict[str, list[str]], part: FilePart) -> Response:
    """Keep a chunk; whoever finds that it was the last one makes the image."""
    context = context_of(request)
    chunk = _chunk(texts)
    if part.body.length == 0 or chunk.offset + part.body.length > chunk.total:
        raise LengthInconsistent(f"The chunk does not lie within the file's {chunk.total} bytes.")
    session = await _session(request, chunk, part.filename)
    if session.state is SessionState.DONE:
        return await answer_session(context, session)
    if session.state is SessionState.REJECTED:
        raise session.rejection()
    key = f"{incoming_prefix(session.id)}chunk-{chunk.offset:015d}"
    await context.objects.put(key, part.body, content_type="application/octet-stream", metadata={})
    chunks = [
        info
        async for page in context.objects.list(incoming_prefix(session.id))
        for info in page
        if "/chunk-" in info.key
    ]
    if not _is_whole(chunks, chunk.total):
        arrived = sum(info.size for info in chunks)
        return json_answer({"id": str(session.id), "received": arrived}, 200)
    return await _put_together(request, session, chunks, part.body)


async def _put_together(request: Request, session: Session, chunks: list[ObjectInfo], last: Body) -> Response:
    """Make an image of all chunks. Two that see the last one arrive make the same one."""
    context = context_of(request)
    last.close()
    incoming: Incoming = context.receiver.narrowed(session.max_bytes, 1).begin(
        session.length, None, session.owner
    )
    try:
        with suppress(ObjectMissing):  # somebody else has made it, and its chunks are gone
            async for block in _blocks(request, chunks):
                await incoming.write(block)
            done = await context.parts.sessions.finish(session, await incoming.finish())
            return await answer_session(context, done)
        return await answer_session(context, await context.parts.sessions.settled(session))
    finally:
        incoming.close()


async def _blocks(request: Request, chunks: list[ObjectInfo]) -> AsyncIterator[bytes]:
    objects = context_of(request).objects
    for info in chunks:
        async for block in objects.read(info.key):
            yield block


async def _session(request: Request, chunk: Chunk, filename: str) -> Session:
    """Return the upload that a chunk belongs to, which begins with whichever chunk comes first."""
    context, principal = context_of(request), principal_of(request)
    if principal.grant is None:
        raise RequestInvalid("Chunks are taken with an upload token.")
    # Not Dropzone's own id: two pages may have the same one.
    upload_id = uuid5(principal.grant.token_id, chunk.name)
    sessions = context.parts.sessions
    try:
        session = await sessions.find(owner_of(request), upload_id, principal.grant)
    except UploadNotFound:
        opening = opening_of(
            context,
            principal,
            SessionKind.RESUMABLE,
            filename=filename,
            declared_type=None,
            length=chunk.total,
            id=upload_id,
        )
        try:
            session = await sessions.open(opening)
        except Internal:  # another chunk of the same file came at the same moment, and was faster
            session = await sessions.find(owner_of(request), upload_id, principal.grant)
    if session.length != chunk.total:
        raise LengthInconsistent(f"The file was announced with {session.length} bytes, not {chunk.total}.")
    return session


def _chunk(texts: dict[str, list[str]]) -> Chunk:
    total, offset = _number(texts, "dztotalfilesize"), _number(texts, "dzchunkbyteoffset")
    if not 0 < _number(texts, "dztotalchunkcount") <= MAX_CHUNKS:
        raise UploadTooLarge(f"A file has up to {MAX_CHUNKS} chunks. Send larger ones.")
    return Chunk(texts["dzuuid"][-1][:100], total, offset)


def _number(texts: dict[str, list[str]], name: str) -> int:
    return whole_number(texts.get(name, [""])[-1], name)


def _is_whole(chunks: list[ObjectInfo], total: int) -> bool:
    """Tell whether the chunks, in the order of their keys, are the file without a gap."""
    at = 0
    for info in chunks:
        if int(info.key.rpartition("-")[2]) != at:
            return False
        at += info.size
    return at == total
