"""The express lane: the busiest route is answered without the framework's layers, which cost more."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tintype.server.access import Guard
from tintype.server.application import Application


class Express:
    """Hands the requests of one route to its function, behind its guard, and all others to the application.

    The route's path has no parameters, and its function takes the request alone and returns a response:
    nothing of what FastAPI does on the way is of use to it, and its description stands beside it. What it
    raises ends in the envelope, which tells it as the application's own handlers do.
    """

    def __init__(self, app: Application, name: str) -> None:
        self._app = app
        self._route = _route_of(app, name)
        self._methods = self._route.methods or frozenset[str]()
        self._function = _guarded(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] == self._route.path and scope["method"] in self._methods:
            scope["app"], scope["route"] = self._app, self._route
            await self._function(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _route_of(app: Application, name: str) -> Route:
    return next(route for route in app.routes if isinstance(route, Route) and route.name == name)


def _guarded(route: Route) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    if not isinstance(route.app, Guard):
        raise TypeError(f"{route} has no guard")
    return Guard(answer, route.app.access)
