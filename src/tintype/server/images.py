"""Stored images: found, changed, put into the trash and brought back, delivered."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from tintype.catalogue import images
from tintype.delivery import content
from tintype.delivery.content import Conditions, Selection
from tintype.model.disposition import content_disposition
from tintype.model.errors import (
    CursorInvalid,
    FilterInvalid,
    ImageNotFound,
    LinkInvalid,
    PreconditionFailed,
    RangeNotSatisfiable,
    RequestInvalid,
    StorageUnavailable,
)
from tintype.model.image import Image
from tintype.server.context import context_of
from tintype.server.openapi import may_fail
from tintype.server.schemas import (
    FilterParams,
    ImageOut,
    ImagePage,
    ImagePatch,
    LinkOut,
    LinkRequest,
    ListParams,
    image_resource,
)
from tintype.server.uploads import OWNER

router = APIRouter(prefix="/v1/images", tags=["images"])

SANDBOX = "default-src 'none'; sandbox"
"""For bytes that strangers sent: whatever a browser makes of them, it runs and loads nothing."""


@router.get("", response_model=ImagePage, responses=may_fail(FilterInvalid, CursorInvalid))
async def list_images(request: Request, params: Annotated[ListParams, Query()]) -> Response:
    """List images, newest first unless `sort` says otherwise.

    Pages are stable while images arrive: a cursor marks a place in the order, not a number of rows.
    """
    context = context_of(request)
    async with context.database.transaction() as tx:
        page = await images.page(tx, OWNER, params.query())
    base = context.settings.public_url or ""
    body = {
        "data": [image_resource(image, base=base) for image in page.images],
        "next_cursor": page.next_cursor,
    }
    headers = {}
    if page.next_cursor is not None:
        following = request.url.include_query_params(cursor=page.next_cursor)
        headers["link"] = f'<{base}{following.path}?{following.query}>; rel="next"'
    return _json(body, headers=headers)


@router.get("/random", response_model=ImageOut, responses=may_fail(FilterInvalid, ImageNotFound))
async def random_image(request: Request, params: Annotated[FilterParams, Query()]) -> Response:
    """Return one image at random: each that the filters let through is as likely as any other."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        image = await images.random(tx, OWNER, params.filter())
    if image is None:
        raise ImageNotFound("No image passes these filters.")
    return _image(request, image, cacheable=False)


@router.get("/by-name/{filename}", response_model=ImageOut, responses=may_fail(ImageNotFound))
async def image_by_name(request: Request, filename: str) -> Response:
    """Return the newest image of that file name."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        image = await images.find_by_name(tx, OWNER, filename)
    if image is None:
        raise ImageNotFound("There is no image of that name. Names are compared exactly.")
    return _image(request, image)


@router.get("/{id}", response_model=ImageOut, responses=may_fail(ImageNotFound))
async def read_image(request: Request, id: ImageId, include: Include = None) -> Response:
    """Return what is known about an image. In the trash it is still found here, as `deleted`."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        image = await images.find(tx, OWNER, id, trashed=True)
        exif = await images.exif(tx, OWNER, id) if image and include == "exif" else None
    return _image(request, _found(image), **({"exif": exif} if include == "exif" else {}))


@router.patch(
    "/{id}", response_model=ImageOut, responses=may_fail(ImageNotFound, PreconditionFailed, RequestInvalid)
)
async def change_image(request: Request, id: ImageId, patch: ImagePatch) -> Response:
    """Change tags, name or attributes. With `If-Match`, only the version that you have read."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        image = await images.update(tx, OWNER, id, patch.change(), expected_version=_expected(request))
    return _image(request, image, conditional=False)


@router.delete("/{id}", status_code=204, responses=may_fail(ImageNotFound, PreconditionFailed))
async def trash_image(request: Request, id: ImageId) -> Response:
    """Put an image into the trash: at once it is not listed, found at random or delivered any more."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        await images.trash(tx, OWNER, id, expected_version=_expected(request))
    return Response(status_code=204)


@router.post("/{id}/restore", response_model=ImageOut, responses=may_fail(ImageNotFound))
async def restore_image(request: Request, id: ImageId) -> Response:
    """Bring an image back from the trash."""
    context = context_of(request)
    async with context.database.transaction() as tx:
        image = await images.restore(tx, OWNER, id)
    return _image(request, image, conditional=False)


@router.get("/{id}/content", response_class=StreamingResponse, responses=BYTES | may_fail(*DELIVERY_REFUSALS))
@router.head("/{id}/content", include_in_schema=False)
async def image_content(request: Request, id: ImageId, params: Annotated[ContentParams, Query()]) -> Response:
    """Return the bytes exactly as they were sent: whole, or the range asked for.

    With `redirect=true` and S3, the answer is a redirect to S3, which sends the bytes itself.
    """
    context = context_of(request)
    if params.signature is not None:
        context.parts.links.verify(id, params.expires, params.signature)
    async with context.database.transaction() as tx:
        image = _found(await images.find(tx, OWNER, id))
    if params.redirect:
        ...
    selection = content.select(image, _conditions(request))
    headers = _content_headers(image, selection, inline=params.disposition == "inline")
    if selection.unchanged:
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(status_code=206 if selection.partial else 200, headers=headers)
    stream = await content.read(context.objects, image, selection)
    return StreamingResponse(stream, 206 if selection.partial else 200, headers)


@router.post("/{id}/links", status_code=201, response_model=LinkOut, responses=may_fail(ImageNotFound))
async def make_link(request: Request, id: ImageId, wanted: LinkRequest) -> Response:
    """Make a link to the bytes that needs no credentials and expires."""
