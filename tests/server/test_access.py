"""What each route asks of whoever calls it: of all routes that there are."""

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from tintype.model.identity import Scope
from tintype.server.access import ACCESS, access_of, guarded
from tintype.server.app import describe

ROUTES = [route for route in describe().routes if isinstance(route, APIRoute)]
SIGNED = {
    *("confirm_page", "confirm_by_link", "unsubscribe_page", "unsubscribe_by_link"),
    *("store_directly", "store_form_directly"),
}
"""For whoever has the link of a message, or the address that an upload goes to; what it says is signed."""
MANUAL = {"start", "docs", "docs_asset", "openapi_document", "explain_problem"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{min(route.methods)} {route.path}")
def test_every_route_has_a_row_in_the_table_and_a_guard(route: APIRoute) -> None:
    assert access_of(route) is ACCESS[route.name]


def test_every_row_in_the_table_is_a_route_s() -> None:
    assert set(ACCESS) == {route.name for route in describe().routes if isinstance(route, APIRoute)}


def test_nothing_but_the_manual_and_the_balancer_s_questions_is_public() -> None:
    public = {name for name, access in ACCESS.items() if access.public}
    assert public == MANUAL | SIGNED | {"healthz", "readyz"}


def test_what_changes_something_needs_more_than_read() -> None:
    changing = [route for route in ROUTES if (route.methods or set()) & {"POST", "PUT", "PATCH", "DELETE"}]
    for route in changing:
        # Links are made for somebody else to read by; a filter is tried by what it reads.
        if route.name not in {"make_link", "preview_filter"} | SIGNED:
            assert ACCESS[route.name].scope in {Scope.WRITE, Scope.ADMIN}, route.name


def test_a_route_without_a_row_cannot_be_served() -> None:
    router = APIRouter()

    @router.get("/new")
    async def brand_new() -> None:
        """Do nothing."""

    with pytest.raises(LookupError, match="has no row in ACCESS"):
        guarded(router.routes)


def test_what_is_no_route_cannot_be_served() -> None:
    with pytest.raises(LookupError):
        guarded([BaseRoute()])


def test_the_document_tells_what_each_operation_needs() -> None:
    document = describe().openapi()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            access = ACCESS[operation["operationId"]]
            assert (operation["security"] == []) == access.public, path
            assert operation.get("x-required-scope") == access.scope
            assert ("credentials_missing" in operation["x-error-codes"]) != access.public
            assert "forbidden" in operation["x-error-codes"] or access.scope is None
