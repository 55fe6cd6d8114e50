"""The doors for new images: a form, a raw body, a raw body under a name."""

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request, Response
from multipart import parse_options_header

from tintype.ingest.receive import Pace, Receiver, fast_enough
from tintype.model.body import Body
from tintype.model.errors import (
    AttemptTooOld,
    CodingUnsupported,
    DatabaseUnavailable,
    DecoderFailed,
    DigestMismatch,
    FileMissing,
    IdempotencyKeyReused,
    ImageCorrupt,
    ImageTooLarge,
    MultipartInvalid,
    Overloaded,
    QuotaExceeded,
    RequestInvalid,
    ShuttingDown,
    StorageUnavailable,
    TintypeError,
    UnsupportedType,
    UploadEmpty,
    UploadIncomplete,
    UploadTooLarge,
)
from tintype.model.filename import clean_filename
from tintype.model.identity import Grant, Principal
from tintype.model.labels import attributes_of, tags_of
from tintype.model.upload import Duplicate, Idempotency, Outcome, Replayed, Upload
from tintype.server import resumable
from tintype.server.access import owner_of, principal_of
from tintype.server.announced import digest_field, idempotency_key_of
from tintype.server.arriving import announced_by, body_of, declared_length, field_of
from tintype.server.context import Context, context_of
from tintype.server.forms import KNOWN_TEXTS, FilePart, Form, FormReader
from tintype.server.openapi import RAW_BODY, UPLOAD_BODY, may_fail
from tintype.server.problems import problem_body, status_of
from tintype.server.schemas import ImageOut, UploadResults, image_resource
from tintype.server.warnings import declared_type_of
from tintype.settings import LimitsSettings

router = APIRouter(prefix="/v1/images", tags=["images"])

MAX_LENGTH = 2**63 - 1
PARAMETERS = frozenset({"filename", "tag", "tags", "attributes", "on_duplicate"})
ALREADY: dict[str, Any] = {
    "model": ImageOut,
    "description": "You have these bytes already; this is their image.",
}
ALSO_FINE: dict[int | str, dict[str, Any]] = {
    200: {**ALREADY, "model": ImageOut | UploadResults},
    207: {"model": UploadResults, "description": "Several files, some of them refused."},
}
REFUSALS = (
    RequestInvalid,
    MultipartInvalid,
    FileMissing,
    UploadEmpty,
    UploadIncomplete,
    DigestMismatch,
    UploadTooLarge,
    QuotaExceeded,
    UnsupportedType,
    CodingUnsupported,
    ImageCorrupt,
    ImageTooLarge,
    DecoderFailed,
    IdempotencyKeyReused,
    Overloaded,
    StorageUnavailable,
    DatabaseUnavailable,
    AttemptTooOld,
    ShuttingDown,
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the request asks for beside the bytes: from the query, or from the text parts of a form."""

    principal: Principal
    tags: tuple[str, ...]
    attributes: dict[str, Any]
    keep_duplicate: bool
    idempotency_key: str | None
    room: UUID | None = None
    """Of the owner's quota, where there is one."""


@router.options("", include_in_schema=False)
async def discover_uploads(request: Request) -> Response:
    """Tell that uploads here may be resumable, and how much they may have."""
    headers = {"allow": "GET, HEAD, OPTIONS, POST", "upload-limit": resumable.limit_of(context_of(request))}
    return Response(status_code=204, headers=headers)


@router.post(
    "",
    status_code=201,
    response_model=ImageOut | UploadResults,
    responses=ALSO_FINE | may_fail(*REFUSALS),
    openapi_extra=UPLOAD_BODY,
)
async def upload_images(request: Request) -> Response:
    """Store one image, or several.

    Send a form (`multipart/form-data`, any field name, one file or many) or the bytes themselves as
    the body. The answer comes when the bytes are stored and the row and its event are committed.
    """
    if resumable.speaks(request):
        return await resumable.begin(request)
    declared_type, _ = parse_options_header(request.headers.get("content-type", ""))
    if declared_type == "multipart/form-data":
        async with received_form(request) as received:
            return await received.answer()
    if declared_type.startswith("multipart/"):
        raise MultipartInvalid("Several files are sent as multipart/form-data.")
    return await _upload_raw(request, request.query_params.get("filename", ""))


@router.put(
    "/{filename}",
    status_code=201,
    response_model=ImageOut,
    responses={200: ALREADY} | may_fail(*REFUSALS),
    openapi_extra=RAW_BODY,
)
async def upload_named_image(filename: str, request: Request) -> Response:
    """Store the body as an image of that name.

    So that `curl -T rome.jpg …/v1/images/` works. The body's own type does not matter.
    """
    return await _upload_raw(request, filename)


async def _upload_raw(request: Request, filename: str) -> Response:
    context = context_of(request)
    wishes = _wishes(request, texts={})
    receiver, length, digests = _receiver(context, request), declared_length(request), announced_by(request)
    receiver.check_length(length)
    await _check_token(context, wishes.principal, length, wrapping=0)
    async with _room(request, length) as room:
        incoming = receiver.begin(length, digests, wishes.principal.owner)
        try:
            async with fast_enough(context.settings.limits) as pace:
                async for chunk in body_of(request):
                    pace.add(len(chunk))
                    await incoming.write(chunk)
            declared_type = declared_type_of(request.headers.get("content-type"))
            part = FilePart(filename, declared_type, await incoming.finish())
            outcome = await _finish(context, replace(wishes, room=room), part, protocol="raw")
        finally:
            incoming.close()
    return answer_outcome(context, outcome)


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """A form that has arrived whole, and has room for its files."""

    context: Context
    form: Form
    wishes: Wishes

    async def answer(self) -> Response:
        """Finish every file, and answer with an image, or with a result for each."""
        if len(self.form.files) == 1:
            return answer_outcome(self.context, await self.only())
        return _answer_several(await self.results())

    async def only(self) -> Outcome:
        """Finish the one file of the form. Raises `MultipartInvalid` for several."""
        if len(self.form.files) != 1:
            raise MultipartInvalid("Send one file in each form.")
        return await _finish(self.context, self.wishes, self.form.files[0], protocol="multipart")

    async def results(self) -> list[dict[str, Any]]:
        """Finish one after another, so that the same picture sent twice is found to be the same."""
        return await _finish_several(self.context, self.wishes, self.form.files)


@asynccontextmanager
async def received_form(
    request: Request, known: frozenset[str] = KNOWN_TEXTS
) -> AsyncGenerator[ReceivedForm]:
    """Take the form that the request is, for the block that finishes its files.

    `known` are the names of text parts that mean something.
    """
    declared_type, options = parse_options_header(request.headers.get("content-type", ""))
    if declared_type != "multipart/form-data":
        raise MultipartInvalid("Files are sent as multipart/form-data.")
    context = context_of(request)
    receiver = _receiver(context, request)
    limits = receiver.limits
    _check_form_length(limits, declared_length(request))
    await _check_token(context, principal_of(request), declared_length(request), limits.max_text_bytes)
    digests = announced_by(request)
    form = Form(owner_of(request))
    async with _room(request, _length_of_files(limits, declared_length(request))) as room:
        try:
            async with fast_enough(limits) as pace, aclosing(_chunks(request, pace, digests)) as chunks:
                await FormReader(receiver, limits, form, known).read(options.get("boundary", ""), chunks)
            yield ReceivedForm(context, form, replace(_wishes(request, form.texts), room=room))
        finally:
            form.close()


@asynccontextmanager
async def _room(request: Request, length: int | None) -> AsyncGenerator[UUID | None]:
    """Hold room in the owner's quota for the time of the request; None where there is no quota.

    Raises `QuotaExceeded`, and `Overloaded` where the owner's uploads wait too long already.

    A repeated request gets the answer of the first one, even when that has used the quota up.
    """
    context, owner = context_of(request), owner_of(request)
    context.ingest.pressure.check(owner)
    try:
        room = await context.parts.quotas.admit(owner, length)
    except QuotaExceeded:
        key = idempotency_key_of(field_of(request, "idempotency-key"))
        if key is None or not await context.ingest.commits.answers(owner, key):
            raise
        room = None
    try:
        yield room
    finally:
        await context.parts.quotas.release(owner, room)


def _length_of_files(limits: LimitsSettings, length: int | None) -> int:
    """Return how long a form's files are at least: the rest of it may be boundaries and texts."""
    return max(0, (length or 0) - limits.max_text_bytes)


async def _finish(context: Context, wishes: Wishes, part: FilePart, *, protocol: str) -> Outcome:
    """Hand one file to the one verb. Its id is made now: how long it took to arrive is not its age."""
    upload = Upload(
        owner=wishes.principal.owner,
        filename=clean_filename(part.filename),
        declared_type=part.declared_type,
        protocol=protocol,
        tags=wishes.tags,
        attributes=wishes.attributes,
        keep_duplicate=wishes.keep_duplicate,
        room=wishes.room,
    )
    if (grant := wishes.principal.grant) is not None:
        return await _finish_granted(context, wishes.principal, grant, upload, part.body)
    if wishes.idempotency_key is not None:
        fingerprint = _fingerprint(upload, part.body)
        upload = replace(upload, idempotency=Idempotency(wishes.idempotency_key, fingerprint))
    return await context.ingest.finish(upload, part.body)


async def _finish_granted(
    context: Context, holder: Principal, grant: Grant, upload: Upload, body: Body
) -> Outcome:
    """Finish an upload by token. Token and bytes are its key: sent again, they get the same answer."""
    keyed = replace(upload, idempotency=Idempotency(token_key(grant, body.sha256), body.sha256))
    async with context.parts.tokens.spending(holder, grant, body):
        return await context.ingest.finish(keyed, body)


def token_key(grant: Grant, sha256: bytes) -> str:
    """Return the idempotency key of these bytes, sent with a token. No client's has a space in it."""
    return f"upload token {grant.token_id} {sha256.hex()}"


async def _check_token(context: Context, principal: Principal, length: int | None, wrapping: int) -> None:
    """Refuse an upload token that is spent before the body is read.

    Bytes that it was used for may be sent again, and what a body of their length holds is not known yet.
    `wrapping`: how much of the body may be no image.
    """
    if principal.grant is not None:
        least, most = (0, MAX_LENGTH) if length is None else (max(0, length - wrapping), length)
        await context.parts.tokens.check(principal, principal.grant, least, most)


def _receiver(context: Context, request: Request) -> Receiver:
    """Return what takes the body: for the holder of an upload token, no more than the token allows."""
    grant = principal_of(request).grant
    return context.receiver if grant is None else context.receiver.narrowed(grant.max_bytes, grant.uses)


async def _finish_several(context: Context, wishes: Wishes, files: list[FilePart]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for number, part in enumerate(files):
        result: dict[str, Any] = {"filename": clean_filename(part.filename)}
        try:
            outcome = await _finish(context, _numbered(wishes, number), part, protocol="multipart")
            status, image = _status_and_image(context, outcome)
            result |= {"status": status, "image": image}
        except TintypeError as error:
            result |= {"status": status_of(error), "problem": problem_body(error)}
        results.append(result)
    return results


def answer_outcome(context: Context, outcome: Outcome) -> Response:
    """Return the answer to a finished upload: its image, and whether it is new."""
    status, resource = _status_and_image(context, outcome)
    headers = {
        "location": resource["urls"]["self"],
        "etag": f'"v{resource["version"]}"',
        # Of the image that was stored, as ETag and Location are (RFC 9110, section 8.8): the client's proof.
        "repr-digest": digest_field(bytes.fromhex(resource["sha256"])),
    }
    if isinstance(outcome, Replayed):
        headers["idempotent-replayed"] = "true"
    return Response(orjson.dumps(resource), status, headers, media_type="application/json")


def pause_of(results: list[dict[str, Any]]) -> dict[str, str]:
    """Return the header that says after how many seconds files may be sent again, if some may."""
    problems = [result["problem"] for result in results if "problem" in result]
    pauses = [problem["retry_after"] for problem in problems if "retry_after" in problem]
    return {"retry-after": str(max(pauses))} if pauses else {}


def _answer_several(results: list[dict[str, Any]]) -> Response:
    """Answer 201 or 200 when all are there, 207 when some failed, with a problem when all did."""
    body: dict[str, Any] = {"results": results}
    statuses = {result["status"] for result in results}
    if all("problem" in result for result in results):
        first = results[0]["problem"]
        return Response(
            orjson.dumps(first | body),
            first["status"],
            pause_of(results),
            media_type="application/problem+json",
        )
    status = 207 if any("problem" in result for result in results) else max(statuses)
    return Response(orjson.dumps(body), status, media_type="application/json")


def _status_and_image(context: Context, outcome: Outcome) -> tuple[int, dict[str, Any]]:
    first = outcome.outcome if isinstance(outcome, Replayed) else outcome
    base = context.settings.public_url or ""
    return 200 if isinstance(first, Duplicate) else 201, image_resource(first.image, base=base)


def _wishes(request: Request, texts: dict[str, list[str]]) -> Wishes:
    principal = principal_of(request)
    grant = principal.grant
    query = request.query_params
    unknown = sorted(set(query) - PARAMETERS)
    if unknown:
        raise RequestInvalid(
            f"An upload takes the parameters {', '.join(sorted(PARAMETERS))}; `{unknown[0]}` is not one."
        )

    def given(name: str) -> list[str]:
        return query.getlist(name) + texts.get(name, [])

    on_duplicate = (given("on_duplicate") or ["existing"])[-1]
    if on_duplicate not in ("existing", "keep"):
        raise RequestInvalid("`on_duplicate` is `existing` (the default) or `keep`.")
    listed = [tag for several in given("tags") for tag in several.split(",")]
    return Wishes(
        principal=principal,
        tags=tags_of([*(grant.tags if grant else ()), *given("tag"), *listed]),
        attributes=_attributes(given("attributes")),
        # Whoever holds a token learns nothing of what its owner has: not even that these bytes are there.
        keep_duplicate=on_duplicate == "keep" or grant is not None,
        idempotency_key=idempotency_key_of(field_of(request, "idempotency-key")),
    )


def _attributes(texts: list[str]) -> dict[str, Any]:
    try:
        # Not orjson: it makes a long whole number a float, and so another number.
        return attributes_of(json.loads(texts[-1])) if texts and texts[-1].strip() else {}
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestInvalid(f"`attributes` is not JSON: {error}.") from error


def _numbered(wishes: Wishes, number: int) -> Wishes:
    """Give each file of a form a key of its own: a repeated form replays each answer."""
    if wishes.idempotency_key is None:
        return wishes
    return replace(wishes, idempotency_key=f"{wishes.idempotency_key}#{number}")


def _fingerprint(upload: Upload, body: Body) -> bytes:
    """Sum up what was asked: the bytes, the name, and the wishes."""
    asked = [upload.filename, upload.tags, upload.attributes, upload.keep_duplicate]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS) + body.sha256).digest()


def _check_form_length(limits: LimitsSettings, length: int | None) -> None:
    """Refuse before the body is read what no reading could make right."""
    most = limits.max_upload_bytes * limits.max_files + limits.max_text_bytes
    if length is not None and length > most:
        raise UploadTooLarge(
            f"A form takes up to {limits.max_files} images of {limits.max_upload_bytes} bytes each.",
            details={"limit": most},
        )


async def _chunks(request: Request, pace: Pace, digests: dict[str, bytes]) -> AsyncGenerator[bytes]:
    """Yield the form's bytes as they arrive; at the end, hold them against the announced digests."""
    hashes = {algorithm: hashlib.new(algorithm.replace("-", "")) for algorithm in digests}
    async for chunk in body_of(request):
        pace.add(len(chunk))
        for each in hashes.values():
            each.update(chunk)
        yield chunk
    for algorithm, announced in digests.items():
        if hashes[algorithm].digest() != announced:
            raise DigestMismatch(
                f"The {algorithm} of the form that arrived is not the one announced. Send it again.",
                details={"algorithm": algorithm},
            )
