"""Tintype's application: all of its routes, and what serves them."""

from fastapi import FastAPI

from tintype.server import (
    api_keys,
    capabilities,
    explanations,
    explorer,
    health,
    images,
    upload_tokens,
    uploads,
)
from tintype.server.access import guarded
from tintype.server.application import Application, assemble, envelop
from tintype.server.context import Context
from tintype.server.middleware import ParsedBody

_ROUTERS = (
    uploads.router,
    images.router,
    api_keys.router,
    upload_tokens.router,
    capabilities.router,
    health.router,
    explanations.router,
    explorer.router,
)


def create_app(context: Context) -> FastAPI:
    """Return the application that serves a context."""
    app = describe()
    app.state.context = context
    envelop(app, context.metrics, ParsedBody(context.settings.limits.max_text_bytes))
    return app


def describe() -> Application:
    """Return the application without anything to serve: enough for its OpenAPI document."""
    app = assemble(_ROUTERS)
    app.router.routes[:] = guarded(app.router.routes)
    return app
