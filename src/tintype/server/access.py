"""Access: what each route asks of whoever calls it, in one table, and the guard that asks it.

A route that is not in the table cannot be served: the application refuses to be made.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tintype.identity.doorkeeper import Doorkeeper
from tintype.model import identity
from tintype.model.errors import CredentialsMissing, Forbidden, Unauthenticated
from tintype.model.identity import LOCAL, Principal
from tintype.server.context import Context
from tintype.server.rates import Rates
from tintype.telemetry import get_logger

_LOG = get_logger()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a route: whoever has credentials with `scope`; None: with any credentials."""

    scope: identity.Scope | None = None
    public: bool = False
    """Anybody, without credentials."""
    by_token: bool = False
    """An upload token too, within what it grants; it opens nothing else."""
    token_in_path: bool = False
    """An upload token is part of the address, for clients that send no headers; nothing else counts."""
    by_link: bool = False
    """A link that we signed stands for credentials; the handler verifies it."""


PUBLIC = Access(public=True)
KNOWN = Access()
KNOWN_BY_TOKEN = Access(by_token=True)
READ = Access(identity.Scope.READ)
WRITE = Access(identity.Scope.WRITE)
ADMIN = Access(identity.Scope.ADMIN)

ACCESS: dict[str, Access] = {
    "upload_images": Access(identity.Scope.WRITE, by_token=True),
    "upload_named_image": Access(identity.Scope.WRITE, by_token=True),
    "begin_direct_upload": Access(identity.Scope.WRITE, by_token=True),
    "complete_direct_upload": Access(identity.Scope.WRITE, by_token=True),
    "abort_upload": Access(identity.Scope.WRITE, by_token=True),
    "sign_upload_parts": Access(identity.Scope.WRITE, by_token=True),
    "list_upload_parts": Access(identity.Scope.WRITE, by_token=True),
    # Browser clients that are given nothing but an address.
    **dict.fromkeys(
        (
            *("companion_parameters", "companion_begin", "companion_list", "companion_sign"),
            *("companion_complete", "companion_abort"),
            *("filepond_process", "filepond_append", "filepond_offset", "filepond_revert", "filepond_read"),
            *("dropzone_upload", "upload_form", "upload_by_form"),
        ),
        Access(identity.Scope.WRITE, by_token=True, token_in_path=True),
    ),
    # Addresses that we signed, as S3's are: their handlers verify the signature.
    "store_directly": PUBLIC,
    "store_form_directly": PUBLIC,
    "discover_uploads": KNOWN_BY_TOKEN,
    "discover_tus": KNOWN_BY_TOKEN,
    "discover_tus_upload": KNOWN_BY_TOKEN,
    "begin_upload": Access(identity.Scope.WRITE, by_token=True),
    "read_upload_offset": Access(identity.Scope.WRITE, by_token=True),
    "append_to_upload": Access(identity.Scope.WRITE, by_token=True),
    "end_upload": Access(identity.Scope.WRITE, by_token=True),
    "list_uploads": READ,
    "read_upload": Access(identity.Scope.READ, by_token=True),
    "list_images": READ,
    "random_image": READ,
    "image_by_name": READ,
    "read_image": READ,
    "change_image": WRITE,
    "trash_image": WRITE,
    "restore_image": WRITE,
    "image_content": Access(identity.Scope.READ, by_link=True),
    "make_link": READ,
    "list_events": READ,
    "stream_events": READ,
    "list_deliveries": READ,
    # On a laptop only, where nobody is asked who they are.
    "mailbox": ADMIN,
    "mail": ADMIN,
    "make_api_key": ADMIN,
    "list_api_keys": ADMIN,
    "revoke_api_key": ADMIN,
    "make_upload_token": WRITE,
    "make_subscription": WRITE,
    "list_subscriptions": READ,
    "preview_filter": READ,
    "read_subscription": READ,
    "change_subscription": WRITE,
    "delete_subscription": WRITE,
    "resend_confirmation": WRITE,
    "confirm_subscription": WRITE,
    "rotate_secret": WRITE,
    "test_subscription": WRITE,
    "replay_events": WRITE,
    # For receivers of messages, who have no credentials but a signed link.
    "confirm_page": PUBLIC,
    "confirm_by_link": PUBLIC,
    "unsubscribe_page": PUBLIC,
    "unsubscribe_by_link": PUBLIC,
    # For operators: whom the settings name, see server/consistency.py.
    "begin_check": ADMIN,
    "list_checks": ADMIN,
    "read_check": ADMIN,
    "follow_check": ADMIN,
    "list_findings": ADMIN,
    "repair_findings": ADMIN,
    "undo_repairs": ADMIN,
    "cancel_check": ADMIN,
    "read_me": KNOWN,
    "read_instance": KNOWN,
    "read_capabilities": KNOWN,
    # What it counts is everybody's: for machines of the operator's, which can send a key.
    "metrics": ADMIN,
    # Asked by balancers; they tell nothing of any owner.
    "healthz": PUBLIC,
    "readyz": PUBLIC,
    # The manual.
    "explain_problem": PUBLIC,
    "start": PUBLIC,
    "docs": PUBLIC,
    "docs_asset": PUBLIC,
    "openapi_document": PUBLIC,
}
"""By the name of the route's function, which is its `operationId` too."""


class Guard:
    """Asks who calls before anything of a route runs: before its body is read, or a place in it taken."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.access = access
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a caller who may.

        Raises `Unauthenticated`, `Forbidden` and `RateExceeded`, whatever the path names.
        """
        if self.access.public:
            await self._app(scope, receive, send)
            return
        context: Context = scope["app"].state.context
        doorkeeper = context.parts.doorkeeper
        if self.access.token_in_path:
            await self._serve_by_path(context, scope, receive, send)
        elif doorkeeper is None:
            scope["state"]["principal"] = LOCAL
            await self._app(scope, receive, send)
        elif self.access.by_link and b"signature=" in scope["query_string"]:
            await self._app(scope, receive, send)
        else:
            principal = await _identified(doorkeeper, context.rates, scope)
            with context.rates.spending(principal, scope):
                _judge(principal, self.access)
                await self._app(scope, receive, send)

    async def _serve_by_path(self, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve whoever has the address. Without identity too: it says what may be uploaded."""
        context.rates.check_address(scope)
        try:
            principal = context.parts.tokens.principal(scope["path_params"]["token"])
        except Unauthenticated:
            context.rates.count_failure(scope)
            raise
        scope["state"]["principal"] = principal
        with context.rates.spending(principal, scope):
            await self._app(scope, receive, send)


async def _identified(doorkeeper: Doorkeeper, rates: Rates, scope: Scope) -> Principal:
    """Return who asks, and note it.

    Where too many credentials were wrong, only such are looked at that were right a moment ago: whoever
    shares the address of a stranger who guesses goes on.
    """
    fields = [value for name, value in scope["headers"] if name == b"authorization"]
    principal = doorkeeper.remembered(fields)
    if principal is None:
        rates.check_address(scope)
        try:
            principal = await doorkeeper.identify(fields)
        except Unauthenticated as error:
            if not isinstance(error, CredentialsMissing):
                rates.count_failure(scope)
            raise
    scope["state"]["principal"] = principal
    return principal


def guarded(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Return the routes, each behind its guard. Raises `LookupError` for one that the table does not have."""
    return [_guarded(route) for route in routes]


def access_of(route: BaseRoute) -> Access | None:
    """Return what a guarded route asks for."""
    guard = getattr(route, "app", None)
    return guard.access if isinstance(guard, Guard) else None


def principal_of(request: Request) -> Principal:
    """Return who asks. Raises `CredentialsMissing` where a link was announced and none was sent."""
    principal: Principal | None = request.scope["state"].get("principal")
    if principal is None:
        raise CredentialsMissing("This needs credentials: send `Authorization: Bearer` and your key.")
    return principal


def owner_of(request: Request) -> str:
    """Return whose things the request is about."""
    return principal_of(request).owner


def _guarded(route: BaseRoute) -> BaseRoute:
    if not isinstance(route, Route) or route.name not in ACCESS:
        raise LookupError(f"{route} has no row in ACCESS: say there who may call it")
    # A copy: the router that the route comes from belongs to every application that is made of it.
    behind = copy.copy(route)
    behind.app = Guard(route.app, ACCESS[route.name])
    return behind


def _judge(principal: Principal, access: Access) -> None:
    """Raise `Forbidden`, and tell the log, unless the principal may call a route of this access."""
    try:
        _require(principal, access)
    except Forbidden:
        _LOG.warning("auth.forbidden", owner=principal.owner, key_id=principal.key_id, needed=access.scope)
        raise


def _require(principal: Principal, access: Access) -> None:
    if principal.grant is not None:
        if not access.by_token:
            raise Forbidden("An upload token is good for uploads, and for nothing else.")
    elif access.scope is not None:
        principal.require(access.scope)
