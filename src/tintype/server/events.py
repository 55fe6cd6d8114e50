"""The log of events over HTTP: read page by page, or followed."""

import json
from typing import Annotated, Any, cast
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from tintype.catalogue import events
from tintype.messaging.publisher import body_of
from tintype.model.errors import PolicyInvalid, RequestInvalid, TooManyStreams
from tintype.model.event import Event, Kind
from tintype.model.event_attributes import attributes_of
from tintype.model.filter_policy import check_filter, matches
from tintype.server.access import owner_of
from tintype.server.context import context_of
from tintype.server.openapi import may_fail
from tintype.server.schemas import EXAMPLE
from tintype.server.streams import Stream
from tintype.server.subscriptions import KindName

router = APIRouter(prefix="/v1/events", tags=["notifications"])

MAX_POSITION = 2**63 - 1
MAX_FILTER = 16 * 1024
_EVENT: dict[str, Any] = {
    "type": "image.uploaded",
    "id": "7f1f1f0e-7a3c-5c9e-9a57-0d0f3c1e1b11",
    "position": 42,
    "timestamp": "2026-05-02T08:00:00.123456+00:00",
    "data": {key: value for key, value in EXAMPLE.items() if key not in ("url", "urls", "warnings")},
}


_STREAM = f"event: image.uploaded\ndata: {json.dumps(_EVENT)}\nid: 42\n\n"


class EventOut(BaseModel):
    """Something that happened, as webhooks and queues get it. docs/events.md describes each type's data."""

    model_config = ConfigDict(title="Event", json_schema_extra={"example": _EVENT})

    type: str
    id: UUID = Field(description="The same for ever: whoever sees it twice sees the same event.")
    position: int = Field(description="Its place in the log.")
    timestamp: str
    data: dict[str, Any]
    omitted: list[str] | None = Field(
        default=None, description="Parts of the data that were too long; the API has them."
    )


class EventPage(BaseModel):
    """A stretch of the log."""

    data: list[EventOut]
    position: int = Field(description="Send it as `after` to read on. Nothing is skipped, whenever that is.")
    has_more: bool


class EventParams(BaseModel):
    """Which stretch of the log."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, le=MAX_POSITION, description="The position to read on from.")
    kind: list[KindName] = Field(default=[], max_length=len(Kind), description="None: all.")
    limit: int = Field(default=100, ge=1, le=500)


class StreamParams(BaseModel):
    """What to follow."""

    model_config = ConfigDict(extra="forbid")

    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_POSITION,
        description="The position to begin behind; `Last-Event-ID` goes before it. Unset: now.",
    )
    kind: list[KindName] = Field(default=[], max_length=len(Kind), description="None: all.")
    filter: str = Field(
        default="{}",
        max_length=MAX_FILTER,
        description='A filter policy as subscriptions have it, as JSON: `{"ext": ["png"]}`.',
    )


@router.get("", response_model=EventPage)
async def list_events(request: Request, params: Annotated[EventParams, Query()]) -> Response:
    """Read the log of what happened to your images, oldest first, from a position on."""
    owner = owner_of(request)
    async with context_of(request).database.reading(owner) as tx:
        horizon = await events.horizon(tx, owner)
        found = await events.page(
            tx, owner, params.after, params.limit, kinds=tuple(params.kind), until=horizon
        )
    has_more = len(found) == params.limit
    position = found[-1].position if has_more else max(params.after, horizon)
    data = b",".join(body_of(event).encode() for event in found)
    rest = orjson.dumps({"position": position, "has_more": has_more})[1:]
    return Response(b'{"data":[' + data + b"]," + rest, media_type="application/json")


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses=may_fail(PolicyInvalid, RequestInvalid, TooManyStreams)
    | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}}}},
)
async def stream_events(request: Request, params: Annotated[StreamParams, Query()]) -> Response:
    """Follow what happens to your images, as Server-Sent Events.

    An event's `id` is its position: a client that comes back with `Last-Event-ID` misses nothing. When
    nothing happens, a comment says now and then that the stream lives.
    """
    owner, context = owner_of(request), context_of(request)
    wanted = _filter_of(params.filter)
    kinds: tuple[str, ...] = tuple(params.kind)
    check_filter(wanted, kinds)

    def is_wanted(event: Event) -> bool:
        if kinds and event.kind.value not in kinds:
            return False
        return not wanted or matches(wanted, attributes_of(event.kind.value, owner, event.payload))

    settings = context.settings.events
    stream = Stream(
        context.database,
        context.parts.bell,
        context.instance,
        context.streams,
        owner,
        is_wanted,
        settings.heartbeat_seconds,
    )
    position = _last_event_id(request, params.after)
    context.streams.require(owner, settings.max_streams)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream.follow(position), media_type="text/event-stream", headers=headers)


def _filter_of(text: str) -> dict[str, Any]:
    try:
        wanted = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyInvalid("`filter` is a filter policy in JSON, and this is no JSON.") from error
    if not isinstance(wanted, dict):
        raise PolicyInvalid('`filter` is a JSON object, as {"ext": ["png"]}.')
    return cast("dict[str, Any]", wanted)


def _last_event_id(request: Request, after: int | None) -> int | None:
    """Return where to begin: browsers send the last id they have seen when they come back by themselves."""
    told = request.headers.get("last-event-id", "")
    if not told:
        return after
    if not (told.isascii() and told.isdigit()) or int(told[:20]) > MAX_POSITION:
        raise RequestInvalid("`Last-Event-ID` is the `id` of an event of this stream: a number.")
    return int(told)
