"""The laptop's own side of direct uploads: routes that a signature opens, and that answer as S3 does."""

from contextlib import aclosing
from uuid import UUID

from fastapi import APIRouter, Request, Response
from multipart import parse_options_header
from starlette.background import BackgroundTask

from tintype.ingest.receive import Receiver, fast_enough
from tintype.model.body import Body
from tintype.model.errors import LinkInvalid, MultipartInvalid, RequestInvalid, TintypeError
from tintype.objects.keys import direct_key
from tintype.objects.local_direct import PATH, Bound, LocalDirect
from tintype.server.arriving import declared_length, paced_body
from tintype.server.context import Context, context_of
from tintype.server.forms import Form, FormReader
from tintype.telemetry import get_logger

router = APIRouter(prefix=PATH, include_in_schema=False)

_LOG = get_logger()


@router.put("/{upload_id}")
async def store_directly(upload_id: UUID, request: Request) -> Response:
    """Store the body, as S3 answers a presigned PUT."""
    context = context_of(request)
    place = _place(context)
    bound = place.verify("PUT", upload_id, request.query_params)
    if bound.parts_id is None and request.headers.get("content-type") != bound.content_type:
        raise RequestInvalid(f"This address takes `Content-Type: {bound.content_type}`.")
    incoming = _receiver(context, bound).begin(declared_length(request))
    try:
        async with (
            fast_enough(context.settings.limits) as pace,
            aclosing(paced_body(request, pace)) as chunks,
        ):
            async for chunk in chunks:
                await incoming.write(chunk)
        return await _store(request, place, bound, await incoming.finish(), status=200)
    finally:
        incoming.close()


@router.post("/{upload_id}")
async def store_form_directly(upload_id: UUID, request: Request) -> Response:
    """Store the file of a form, as S3 answers a POST policy."""
    context = context_of(request)
    place = _place(context)
    bound = place.verify("POST", upload_id, request.query_params)
    declared_type, options = parse_options_header(request.headers.get("content-type", ""))
    if declared_type != "multipart/form-data":
        raise MultipartInvalid("This address takes a form: multipart/form-data.")
    form, receiver = Form(), _receiver(context, bound)
    try:
        async with fast_enough(receiver.limits) as pace, aclosing(paced_body(request, pace)) as chunks:
            await FormReader(receiver, receiver.limits, form).read(options.get("boundary", ""), chunks)
        return await _store(request, place, bound, form.files[0].body, status=204)
    finally:
        form.close()


async def _store(request: Request, place: LocalDirect, bound: Bound, body: Body, *, status: int) -> Response:
    """Store the body, answer, and then do what an event of S3's does."""
    stored = await place.store(bound, body)
    headers = {"etag": f'"{stored.etag}"', "location": str(request.url.replace(query=""))}
    told = None if bound.parts_id is not None else BackgroundTask(_tell, context_of(request), bound.upload_id)
    return Response(status_code=status, headers=headers, background=told)


async def _tell(context: Context, upload_id: UUID) -> None:
    """Finish what has arrived. What fails for now is found by the sweep."""
    try:
        await context.parts.direct.arrived(direct_key(upload_id))
    except TintypeError as error:
        _LOG.warning("upload.not_finished", upload_id=str(upload_id), problem=error.code)


def _place(context: Context) -> LocalDirect:
    place = context.parts.local_direct
    if place is None:
        raise LinkInvalid("Direct uploads of this service go to S3; this is not its address.")
    return place


def _receiver(context: Context, bound: Bound) -> Receiver:
    return context.receiver.narrowed(bound.max_bytes, 1)
