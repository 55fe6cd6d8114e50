"""What a subscription was told, and what became of each attempt."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tintype.catalogue import deliveries
from tintype.model.delivery import LedgerEntry, State
from tintype.model.errors import CursorInvalid, SubscriptionNotFound
from tintype.server.access import owner_of
from tintype.server.context import context_of
from tintype.server.cursors import cursor_after, place_of
from tintype.server.openapi import may_fail

router = APIRouter(prefix="/v1/subscriptions", tags=["notifications"])

_SHOWN: dict[str, Any] = {
    "id": "7f1f1f0e-7a3c-5c9e-9a57-0d0f3c1e1b11",
    "kind": "image.uploaded",
    "position": 42,
    "image_id": "01932c07-209c-7f3a-8f51-6b1d0a4be3c2",
    "state": "delivered",
    "attempts": 1,
    "created_at": "2026-05-02T08:00:00Z",
    "next_attempt_at": None,
    "settled_at": "2026-05-02T08:00:00Z",
    "last_status": 200,
    "last_error": None,
    "log": [
        {"number": 1, "at": "2026-05-02T08:00:00Z", "milliseconds": 84, "status": 200, "error": None},
    ],
}

StateName = Literal["pending", "delivered", "dead", "cancelled"]


class AttemptOut(BaseModel):
    """One attempt at a delivery."""

    model_config = ConfigDict(title="DeliveryAttempt")

    number: int
    at: datetime
    milliseconds: int
    status: int | None = Field(description="Of the answer, by HTTP or SMTP.")
    error: str | None = Field(description="Why it failed; none: it was delivered.")


class DeliveryOut(BaseModel):
    """One event for one subscription."""

    model_config = ConfigDict(title="Delivery", json_schema_extra={"example": _SHOWN})

    id: UUID = Field(description="The event's id; webhooks carry it as `webhook-id`.")
    kind: str = Field(description="Of the event; or `confirmation`, `test`.")
    position: int | None = Field(description="Of the event, in the log.")
    image_id: UUID | None
    state: StateName = Field(description="`dead`: given up after a day of attempts; a replay brings it back.")
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="While it is pending.")
    settled_at: datetime | None
    last_status: int | None = Field(description="Of the last attempt, by HTTP or SMTP.")
    last_error: str | None = Field(description="Why the last attempt failed.")
    log: list[AttemptOut] = Field(description="The attempts, oldest first; of many the last.")


class DeliveryPage(BaseModel):
    """Deliveries, the newest first. Those that are settled are kept for 30 days."""

    data: list[DeliveryOut]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page. None: the last one.")


class LedgerParams(BaseModel):
    """A page of the ledger."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=200, description="`next_cursor` of the page before.")
    state: StateName | None = Field(default=None, description="`dead`: what was given up. None: all.")


@router.get(
    "/{subscription_id}/deliveries",
    response_model=DeliveryPage,
    responses=may_fail(SubscriptionNotFound, CursorInvalid),
)
async def list_deliveries(
    request: Request, subscription_id: UUID, params: Annotated[LedgerParams, Query()]
) -> Response:
    """List what a subscription was told by this service, and what is still to be. SNS keeps its own books."""
    context, owner = context_of(request), owner_of(request)
    await context.parts.subscriptions.find(owner, subscription_id)
    before = None if params.cursor is None else place_of(params.cursor)
    async with context.database.reading(owner) as tx:
        state = None if params.state is None else State(params.state)
        found = await deliveries.page(tx, owner, subscription_id, before, params.limit, state=state)
    following = cursor_after(found[-1].created_at, found[-1].id) if len(found) == params.limit else None
    body = {"data": [_resource(entry) for entry in found], "next_cursor": following}
    return Response(orjson.dumps(body), media_type="application/json")


def _resource(entry: LedgerEntry) -> dict[str, Any]:
    told = {name: getattr(entry, name) for name in _SHOWN}
    if entry.settled_at is not None:
        told["next_attempt_at"] = None
    return told
