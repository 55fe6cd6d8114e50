"""Stored images: found, changed, put into the trash and brought back, delivered."""

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from tintype.catalogue import images
from tintype.catalogue.database import EVERY_OWNER
from tintype.delivery import content
from tintype.delivery.content import Conditions, Selection
from tintype.model.disposition import content_disposition
from tintype.model.errors import (
    CursorInvalid,
    DatabaseUnavailable,
    FilterInvalid,
    ImageNotFound,
    LinkInvalid,
    ObjectMissing,
    PreconditionFailed,
    RangeNotSatisfiable,
    StorageUnavailable,
)
from tintype.model.filename import clean_filename
from tintype.model.identity import Scope
from tintype.model.image import Image
from tintype.objects.keys import original_key
from tintype.server.access import owner_of, principal_of
from tintype.server.announced import digest_field
from tintype.server.context import Context, context_of
from tintype.server.openapi import may_fail
from tintype.server.schemas import (
    ContentParams,
    FilterParams,
    ImageOut,
    ImagePage,
    ImagePatch,
    LinkOut,
    LinkRequest,
    ListParams,
    ReadParams,
    image_resource,
)

router = APIRouter(prefix="/v1/images", tags=["images"])

SANDBOX = "default-src 'none'; sandbox"
"""For bytes that strangers sent: whatever a browser makes of them, it runs and loads nothing."""

_VERSION = re.compile(r'"v(\d{1,9})"')

CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "All bytes.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The range asked for."},
    302: {"description": "S3 sends the bytes: follow `Location`."},
    304: {"description": "You have them already."},
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "You have this version already."}}


@router.get(
    "", response_model=ImagePage, responses=may_fail(FilterInvalid, CursorInvalid, DatabaseUnavailable)
)
async def list_images(request: Request, params: Annotated[ListParams, Query()]) -> Response:
    """List images, the newest first.

    `sort` gives another order. Pages are stable while images arrive: a cursor marks a place in the
    order, not a number of rows.
    """
    context, owner = context_of(request), owner_of(request)
    async with context.database.reading(owner) as tx:
        page = await images.page(tx, owner, params.query())
    base = context.settings.public_url or ""
    found = [image_resource(image, base=base) for image in page.images]
    headers: dict[str, str] = {}
    if page.next_cursor is not None:
        following = request.url.include_query_params(cursor=page.next_cursor)
        headers["link"] = f'<{base}{following.path}?{following.query}>; rel="next"'
    return _json({"data": found, "next_cursor": page.next_cursor}, headers=headers)


@router.get(
    "/random",
    response_model=ImageOut,
    responses=may_fail(FilterInvalid, ImageNotFound, DatabaseUnavailable),
)
async def random_image(request: Request, params: Annotated[FilterParams, Query()]) -> Response:
    """Return one image at random: each that the filters let through is as likely as any other."""
    context, owner = context_of(request), owner_of(request)
    async with context.database.transaction(owner) as tx:
        image = await images.random(tx, owner, params.filter())
    if image is None:
        raise ImageNotFound("No image passes these filters.")
    return _json(_resource(context, image), headers={"cache-control": "no-store"})


@router.get(
    "/by-name/{filename}",
    response_model=ImageOut,
    responses=UNCHANGED | may_fail(ImageNotFound, DatabaseUnavailable),
)
async def image_by_name(request: Request, filename: str) -> Response:
    """Return the newest image of that file name."""
    context, owner = context_of(request), owner_of(request)
    async with context.database.reading(owner) as tx:
        image = await images.find_by_name(tx, owner, clean_filename(filename))
    if image is None:
        raise ImageNotFound("There is no image of that name. Names are compared exactly.")
    return _conditional(request, _resource(context, image))


@router.get(
    "/{image_id}",
    response_model=ImageOut,
    responses=UNCHANGED | may_fail(ImageNotFound, DatabaseUnavailable),
)
async def read_image(request: Request, image_id: UUID, params: Annotated[ReadParams, Query()]) -> Response:
    """Return what is known about an image. One in the trash is still found here, as `deleted`."""
    context, owner = context_of(request), owner_of(request)
    if params.include == "location":
        principal_of(request).require(Scope.LOCATION)
    async with context.database.reading(owner) as tx:
        resource = _resource(context, _found(await images.find(tx, owner, image_id, trashed=True)))
        if params.include == "exif":
            resource["exif"] = await images.exif(tx, owner, image_id)
        if params.include == "location":
            found = await images.location(tx, owner, image_id)
            resource["location"] = None if found is None else asdict(found)
    return _conditional(request, resource)


@router.patch(
    "/{image_id}",
    response_model=ImageOut,
    responses=may_fail(ImageNotFound, PreconditionFailed, DatabaseUnavailable),
)
async def change_image(request: Request, image_id: UUID, patch: ImagePatch) -> Response:
    """Change tags, name or attributes. With `If-Match`, only the version that you have read."""
    context, owner = context_of(request), owner_of(request)
    change, expected = patch.change(), _expected_version(request)
    image = await context.database.run(
        lambda tx: images.update(tx, owner, image_id, change, expected_version=expected), owner
    )
    return _json(_resource(context, image))


@router.delete(
    "/{image_id}",
    status_code=204,
    responses=may_fail(ImageNotFound, PreconditionFailed, DatabaseUnavailable),
)
async def trash_image(request: Request, image_id: UUID) -> Response:
    """Put an image into the trash: at once it is not listed, found at random or delivered any more."""
    owner, expected = owner_of(request), _expected_version(request)
    await context_of(request).database.run(
        lambda tx: images.trash(tx, owner, image_id, expected_version=expected), owner
    )
    return Response(status_code=204)


@router.post(
    "/{image_id}/restore",
    response_model=ImageOut,
    responses=may_fail(ImageNotFound, DatabaseUnavailable),
)
async def restore_image(request: Request, image_id: UUID) -> Response:
    """Bring an image back from the trash."""
    context, owner = context_of(request), owner_of(request)
    image = await context.database.run(lambda tx: images.restore(tx, owner, image_id), owner)
    return _json(_resource(context, image))


@router.get(
    "/{image_id}/content",
    response_class=StreamingResponse,
    responses=CONTENT
    | may_fail(
        ImageNotFound,
        RangeNotSatisfiable,
        LinkInvalid,
        StorageUnavailable,
        ObjectMissing,
        DatabaseUnavailable,
    ),
)
@router.head("/{image_id}/content", include_in_schema=False)
async def image_content(
    request: Request, image_id: UUID, params: Annotated[ContentParams, Query()]
) -> Response:
    """Return the bytes exactly as they were sent: whole, or the range asked for.

    With `redirect=true`, on S3, the answer leads to S3, which sends the bytes itself.
    """
    context = context_of(request)
    if params.signature is None:
        owner = owner_of(request)
    else:
        context.parts.own_links.verify(image_id, params.expires, params.signature)
        owner = await _owner_of_linked(context, image_id)
    async with context.database.reading(owner) as tx:
        image = _found(await images.find(tx, owner, image_id))
    content.require_ready(image)
    if params.redirect:
        attachment = params.disposition == "attachment"
        link = await _link(request, image, context.settings.link_ttl_seconds, attachment=attachment)
        return RedirectResponse(link, 302)
    selection = content.select(image, _conditions(request))
    headers = content_headers(image, selection, params.disposition)
    if selection.unchanged:
        return Response(status_code=304, headers=headers)
    status = 206 if selection.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    stream = await content.read(context.objects, image, selection)
    return StreamingResponse(stream, status, headers)


@router.post(
    "/{image_id}/links",
    status_code=201,
    response_model=LinkOut,
    responses=may_fail(ImageNotFound, StorageUnavailable, DatabaseUnavailable),
)
async def make_link(request: Request, image_id: UUID, wanted: LinkRequest) -> Response:
    """Make a link to the bytes that needs no credentials, and expires."""
    context, owner = context_of(request), owner_of(request)
    async with context.database.reading(owner) as tx:
        image = _found(await images.find(tx, owner, image_id))
    lifetime = wanted.expires_in or context.settings.link_ttl_seconds
    expires_at = datetime.now(UTC) + timedelta(seconds=lifetime)
    url = await _link(request, image, lifetime, attachment=wanted.disposition == "attachment")
    return _json({"url": url, "expires_at": expires_at.isoformat(timespec="seconds")}, status=201)


async def _link(request: Request, image: Image, lifetime: int, *, attachment: bool) -> str:
    context = context_of(request)
    base = context.settings.public_url or str(request.base_url).rstrip("/")
    return await context.parts.links.sign(
        image, original_key(image.id), expires_in=lifetime, base_url=base, attachment=attachment
    )


async def _owner_of_linked(context: Context, image_id: UUID) -> str:
    """Return whose image it is that a link of ours, which is credentials enough, leads to."""
    async with context.database.reading(EVERY_OWNER) as tx:
        owner = await images.owner_of(tx, image_id)
    if owner is None:
        raise _not_found()
    return owner


def _found(image: Image | None) -> Image:
    if image is None:
        raise _not_found()
    return image


def _not_found() -> ImageNotFound:
    return ImageNotFound("There is no image of that id. It may have been deleted.")


def _resource(context: Context, image: Image) -> dict[str, Any]:
    return image_resource(image, base=context.settings.public_url or "")


def _json(body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {"cache-control": "private, no-cache"} | (headers or {})
    if "version" in body:
        told["etag"] = _etag(body)
    return Response(orjson.dumps(body), status, told, media_type="application/json")


def _conditional(request: Request, resource: dict[str, Any]) -> Response:
    """Answer 304 to a client that has this version."""
    known = request.headers.get("if-none-match")
    if known is not None and content.matches(known, _etag(resource)):
        return Response(
            status_code=304, headers={"etag": _etag(resource), "cache-control": "private, no-cache"}
        )
    return _json(resource)


def _etag(resource: dict[str, Any]) -> str:
    return f'"v{resource["version"]}"'


def _expected_version(request: Request) -> int | None:
    """Return the version that If-Match names; None where any will do (RFC 9110, section 13.1.1)."""
    header = request.headers.get("if-match", "*").strip()
    if header == "*":
        return None
    match = _VERSION.fullmatch(header)
    if match is None:
        raise PreconditionFailed('The image has no such version; its ETag reads `"v1"`, for example.')
    return int(match[1])


def _conditions(request: Request) -> Conditions:
    headers = request.headers
    return Conditions(
        if_none_match=headers.get("if-none-match"),
        if_modified_since=headers.get("if-modified-since"),
        range=headers.get("range"),
        if_range=headers.get("if-range"),
    )


def content_headers(image: Image, selection: Selection, disposition: str) -> dict[str, str]:
    """Return the head of an answer with an image's bytes: never run, never kept by others."""
    headers = {
        "etag": content.content_etag(image),
        "last-modified": content.http_date(image.created_at),
        "cache-control": "private, no-cache, no-transform",
    }
    if selection.unchanged:
        return headers
    headers |= {
        "content-type": image.content_type,
        "content-length": str(selection.end - selection.start),
        "content-disposition": content_disposition(image.filename, inline=disposition == "inline"),
        "content-security-policy": SANDBOX,
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-site",
        "accept-ranges": "bytes",
        "repr-digest": digest_field(image.sha256),
    }
    if selection.partial:
        headers["content-range"] = f"bytes {selection.start}-{selection.end - 1}/{image.size}"
    return headers
