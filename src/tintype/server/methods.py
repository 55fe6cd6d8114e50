"""Methods: which a path has, over all of its routes; and GET answers HEAD where nothing else does."""

import re
from functools import cached_property

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path


class Methods:
    """The methods of every path, read from the routes when first asked."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def of(self, path: str) -> set[str]:
        """Return the methods of all routes that fit a path.

        The framework's own `Allow` names those of the first route that fits, where RFC 9110,
        section 10.2.1 asks for those of the resource.
        """
        found: set[str] = set()
        for pattern, methods in self._table:
            if pattern.match(path):
                found |= methods
        return found

    def allowed(self, path: str) -> str:
        """Return the `Allow` of a path."""
        found = self.of(path)
        return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))

    def head_is_get(self, path: str) -> bool:
        """Tell whether HEAD is to be answered as GET, as RFC 9110, section 9.3.2 wants it by default."""
        found = self.of(path)
        return "GET" in found and "HEAD" not in found

    @cached_property
    def _table(self) -> list[tuple[re.Pattern[str], set[str]]]:
        routes = ((each.path, each.methods) for each in iter_route_contexts(self._app.routes))
        return [(compile_path(path)[0], set(methods)) for path, methods in routes if path and methods]
