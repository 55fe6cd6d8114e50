"""/docs: Swagger UI, served from this process alone, so that it works without any network."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from tintype.model.errors import NotFound

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI writes styles into its elements and shows answers as `blob:`; all else is our own."""

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}
_START = b"""\
window.ui = SwaggerUIBundle({
  url: document.currentScript.dataset.document,
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset].filter(Boolean),
});
"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tintype: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{style}">
<div id="docs"></div>
<script src="{bundle}"></script>
<script src="{start}" data-document="/openapi.json"></script>
</html>
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that the page needs."""

    content: bytes
    media_type: str

    @property
    def version(self) -> str:
        """A name for these bytes: the address changes with them, so browsers may keep them for ever."""
        return sha256(self.content).hexdigest()[:16]


@cache
def asset(name: str) -> Asset | None:
    """Return a file of the page; Swagger UI's own come with the package `fastapi-offline`."""
    media_type = _TYPES.get(name)
    if media_type is None:
        return None
    if name == "start.js":
        return Asset(_START, media_type)
    return Asset((files("fastapi_offline") / "static" / name).read_bytes(), media_type)


@router.get("/")
async def start() -> Response:
    """Lead whoever opens the address that `tintype serve` prints to what there is."""
    return RedirectResponse("/docs", 303)


@router.get("/docs")
async def docs() -> Response:
    """Return the page."""
    page = _PAGE.format(
        style=_address("swagger-ui.css"), bundle=_address("swagger-ui-bundle.js"), start=_address("start.js")
    )
    return Response(page, media_type="text/html", headers={"content-security-policy": POLICY})


@router.get("/docs/{version}/{name}")
async def docs_asset(version: str, name: str) -> Response:
    """Return a file of the page."""
    found = asset(name)
    if found is None or found.version != version:
        raise NotFound("The page of /docs has no such file. Load it again.")
    kept = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(found.content, media_type=found.media_type, headers=kept)


@router.get("/openapi.json")
async def openapi_document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return Response(request.app.document, media_type="application/json")


def _address(name: str) -> str:
    found = asset(name)
    if found is None:
        raise LookupError(name)
    return f"/docs/{found.version}/{name}"
