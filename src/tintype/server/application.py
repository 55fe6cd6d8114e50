"""The application as such: FastAPI with our failures and our document, whatever its routes."""

from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI

from tintype.server.failures import HANDLERS
from tintype.server.methods import Methods
from tintype.server.openapi import document_of

_DESCRIPTION = """\
Send an image; Tintype checks it, keeps it, and tells who asked to hear of it.

Every error is a problem document (RFC 9457) with a `code` that never changes its meaning; its `type`
leads to a page about it. Times are RFC 3339 in UTC, sizes are bytes, ids are UUIDs that sort by time.
Clients pass over members that they do not know: more may come.
"""


class Application(FastAPI):
    """FastAPI with our document."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return document_of(self)

    @cached_property
    def document(self) -> bytes:
        """The OpenAPI document as it is sent."""
        return orjson.dumps(self.openapi())


def assemble(routers: Iterable[APIRouter]) -> Application:
    """Return an application with these routes, and with every failure answered as a problem.

    The routes become the application's own. `include_router` would match each request twice, once for
    the router and once for the route, which costs more than all else that the framework does. So a
    router's prefix and tags are given to the router itself.
    """
    app = Application(
        title="Tintype",
        summary="An image upload service that never loses an image it said it has.",
        description=_DESCRIPTION,
        version=version("tintype"),
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.methods = Methods(app)
    for router in routers:
        app.router.routes.extend(router.routes)
    return app
