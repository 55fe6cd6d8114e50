"""/problems/{code}: what an error's `type` leads to, for people and for programs."""

import html

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tintype.model.errors import ImageNotFound, NotFound
from tintype.server.failures import as_html, html_page, preferred
from tintype.server.openapi import may_fail
from tintype.server.problems import BY_CODE, page_of

router = APIRouter(prefix="/problems", tags=["service"])


class Explanation(BaseModel):
    """What a code means, apart from any occurrence."""

    model_config = ConfigDict(json_schema_extra={"example": page_of(ImageNotFound)})

    type: str
    code: str
    title: str
    status: int = Field(description="The HTTP status that it comes with.")
    meaning: str
    advice: str = Field(description="What to do next.")
    retryable: bool = Field(description="Whether the same request may succeed later.")


@router.get(
    "/{code}",
    response_model=Explanation,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}, **may_fail(NotFound)},
)
async def explain_problem(code: str, request: Request) -> Response:
    """Explain an error code: as a page to browsers, as JSON to programs."""
    failure = BY_CODE.get(code)
    if failure is None:
        raise NotFound("Tintype has no error of that code. Take the address from `type` of a problem.")
    page = page_of(failure)
    kept = {"cache-control": "public, max-age=3600", "vary": "accept"}
    if preferred(request.headers.get("accept", "")) != "html":
        return Response(orjson.dumps(page), media_type="application/json", headers=kept)
    again = "may succeed later" if page["retryable"] else "fails again"
    body = (
        f"<p>{as_html(page['meaning'])}</p>\n<p>{as_html(page['advice'])}</p>\n"
        f"<p><code>{html.escape(code)}</code> comes with status {page['status']}; "
        f"the same request {again}.</p>"
    )
    return html_page(page["title"], body, headers=kept)
