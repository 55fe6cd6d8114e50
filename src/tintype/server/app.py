"""Tintype's application: all of its routes, and what serves them."""

from starlette.types import ASGIApp

from tintype.server import (
    api_keys,
    capabilities,
    companion,
    consistency,
    deliveries,
    direct,
    dropzone,
    events,
    explanations,
    explorer,
    filepond,
    form_page,
    health,
    images,
    local_direct,
    mailbox,
    subscription_pages,
    subscriptions,
    tus,
    upload_states,
    upload_tokens,
    uploads,
)
from tintype.server.access import guarded
from tintype.server.application import Application, assemble
from tintype.server.context import Context
from tintype.server.express import Express
from tintype.server.middleware import Envelope, ParsedBody
from tintype.server.origins import protect
from tintype.server.overrides import Overrides

_ROUTERS = (
    uploads.router,
    tus.router,
    upload_states.router,
    direct.router,
    local_direct.router,
    companion.router,
    filepond.router,
    dropzone.router,
    form_page.router,
    images.router,
    api_keys.router,
    upload_tokens.router,
    events.router,
    deliveries.router,
    mailbox.router,
    subscription_pages.router,  # before the others: its paths are names, where those have ids
    subscriptions.router,
    consistency.router,
    capabilities.router,
    health.router,
    explanations.router,
    explorer.router,
)


def create_app(context: Context) -> ASGIApp:
    """Return the application that serves a context, in its envelope."""
    app = describe()
    app.state.context = context
    parsed = ParsedBody(context.settings.limits.max_text_bytes)
    protected = protect(Express(app, "upload_images"), context.settings)
    return Envelope(Overrides(protected), app.state.methods, context.metrics, parsed)


def describe() -> Application:
    """Return the application without anything to serve: enough for its OpenAPI document."""
    app = assemble(_ROUTERS)
    app.router.routes[:] = guarded(app.router.routes)
    return app
