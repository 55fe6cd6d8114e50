"""Subscriptions over HTTP, for their owner: made, listed, changed, tried out."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tintype.model.errors import (
    AddressAskedOften,
    AddressRefused,
    ChannelUnavailable,
    CodeInvalid,
    MessagingUnavailable,
    PolicyInvalid,
    RequestInvalid,
    SubscriptionExists,
    SubscriptionNotFound,
    SubscriptionState,
    TooManySubscriptions,
)
from tintype.model.event import Kind
from tintype.model.subscription import Channel, Mode, Status, Subscription
from tintype.model.subscription_links import confirmation_ends
from tintype.server.access import owner_of
from tintype.server.context import context_of
from tintype.server.openapi import may_fail
from tintype.server.schemas import Moment
from tintype.subscriptions import Change, Subscriptions, Verdict, Wanted

router = APIRouter(prefix="/v1/subscriptions", tags=["notifications"])

MAX_POSITION = 2**63 - 1
_ID = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"
_FILTER: dict[str, Any] = {"ext": ["png"], "bytes": [{"numeric": [">", 1_000_000]}]}
_SHOWN: dict[str, Any] = {
    "id": _ID,
    "channel": "email",
    "address": "anna@example.org",
    "filter": _FILTER,
    "kinds": ["image.uploaded"],
    "mode": "at_once",
    "status": "pending",
    "reason": None,
    "delivered_by": "tintype",
    "created_at": "2026-05-01T12:30:00Z",
    "updated_at": "2026-05-01T12:30:00Z",
    "confirmed_at": None,
    "confirm_until": "2026-05-03T12:30:00Z",
    "version": 1,
}

ChannelName = Literal["email", "sms", "webhook", "sqs"]
ModeName = Literal["at_once", "hourly", "daily"]
StatusName = Literal["pending", "active", "paused", "unsubscribed", "expired"]
KindName = Literal[
    "image.uploaded",
    "image.updated",
    "image.deleted",
    "image.restored",
    "image.missing",
    "image.corrupt",
    "image.recovered",
    "subscription.confirmed",
    "subscription.paused",
    "consistency.finished",
]
Filter = Annotated[
    dict[str, Any],
    Field(description="A filter policy of Amazon SNS over the attributes of events; empty: everything."),
]
Kinds = Annotated[list[KindName], Field(max_length=len(Kind), description="Of events. None: all.")]


class SubscriptionOut(BaseModel):
    """A subscription. Only an `active` one is told anything."""

    model_config = ConfigDict(title="Subscription", json_schema_extra={"example": _SHOWN})

    id: UUID
    channel: ChannelName
    address: str
    filter: Filter
    kinds: list[str]
    mode: ModeName
    status: StatusName
    reason: str | None = Field(description="Why it is paused, or over.")
    delivered_by: Literal["tintype", "sns"]
    created_at: datetime
    updated_at: datetime
    confirmed_at: datetime | None = Field(description="When the address agreed.")
    confirm_until: datetime | None = Field(description="While it is pending.")
    version: int


class NewSubscriptionOut(SubscriptionOut):
    """A new subscription; a webhook's with its secret, this once."""

    model_config = ConfigDict(title="NewSubscription", json_schema_extra={"example": _SHOWN})

    secret: str | None = Field(
        default=None, description="`whsec_…`: verifies webhooks (Standard Webhooks). It is not shown again."
    )


class SubscriptionPage(BaseModel):
    """Subscriptions, the newest first, those that are over too."""

    data: list[SubscriptionOut]
    next_cursor: UUID | None = Field(description="Send it as `cursor` for the next page. None: the last one.")


class SubscriptionRequest(BaseModel):
    """Who wants to hear of what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "channel": "email",
                "address": "anna@example.org",
                "filter": _FILTER,
                "kinds": ["image.uploaded"],
            }
        },
    )

    channel: ChannelName
    address: str = Field(
        min_length=1,
        max_length=2048,
        description="A mail address, a phone number as +4915112345678, a URL, or a queue's ARN.",
    )
    filter: Filter = {}
    kinds: Kinds = []
    mode: ModeName = Field(default="at_once", description="`hourly` and `daily`: one digest for all events.")


class SubscriptionPatch(BaseModel):
    """What to change. What is not there stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"status": "paused"}})

    filter: Filter | None = None
    kinds: Kinds | None = None
    mode: ModeName | None = None
    status: Literal["active", "paused"] | None = Field(
        default=None,
        description="`paused` tells nothing, and keeps what waited until then; `active` resumes.",
    )


class ConfirmRequest(BaseModel):
    """What was sent to the address."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"code": "123456"}})

    code: str = Field(
        min_length=1,
        max_length=2048,
        description="The code; for a webhook its `challenge`; for a mail of SNS its link.",
    )


class PreviewRequest(BaseModel):
    """A filter to try on the newest images."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"filter": _FILTER, "last": 20}})

    filter: Filter = {}
    kinds: Kinds = []
    last: int = Field(default=50, ge=1, le=200, description="How many images to look at, the newest first.")


class VerdictOut(BaseModel):
    """What the filter says of one image, as it would have when it was uploaded."""

    model_config = ConfigDict(title="Verdict")

    image_id: UUID
    filename: str
    matches: bool
    failed: list[str] = Field(description="The keys that say no; within `$or` as `$or/0/ext`.")
    attributes: dict[str, str | int | list[str]] = Field(description="What the filter looks at.")


class PreviewOut(BaseModel):
    """What a filter lets through."""

    model_config = ConfigDict(
        title="Preview",
        json_schema_extra={
            "example": {
                "examined": 1,
                "matched": 0,
                "data": [
                    {
                        "image_id": _ID,
                        "filename": "rome.jpg",
                        "matches": False,
                        "failed": ["ext"],
                        "attributes": {"kind": "image.uploaded", "ext": "jpg", "bytes": 2483112},
                    }
                ],
            }
        },
    )

    examined: int
    matched: int
    data: list[VerdictOut]


class ReplayRequest(BaseModel):
    """From where on to tell again: `after` a position of the log, or `since` a moment."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"after": 1041}})

    after: int | None = Field(default=None, ge=0, le=MAX_POSITION)
    since: Moment | None = Field(default=None, description="RFC 3339, with its zone.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.after is None) == (self.since is None):
            raise PydanticCustomError("one_of", "Name either `after` or `since`")
        return self


class ReplayOut(BaseModel):
    """What is told again: events behind the first position, up to the second."""

    model_config = ConfigDict(title="Replay", json_schema_extra={"example": {"after": 1041, "until": 2093}})

    after: int
    until: int


class SecretOut(BaseModel):
    """A webhook's new secret, this once."""

    model_config = ConfigDict(title="WebhookSecret", json_schema_extra={"example": {"secret": "whsec_…"}})

    secret: str


class ListParams(BaseModel):
    """A page of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)
    cursor: UUID | None = Field(default=None, description="`next_cursor` of the page before.")


@router.post(
    "",
    status_code=202,
    response_model=NewSubscriptionOut,
    responses=may_fail(
        RequestInvalid,
        PolicyInvalid,
        AddressRefused,
        ChannelUnavailable,
        SubscriptionExists,
        TooManySubscriptions,
        AddressAskedOften,
    ),
)
async def make_subscription(request: Request, wanted: SubscriptionRequest) -> Response:
    """Subscribe an address to your images. It is asked first, and told nothing before it agrees.

    A mail has a link to a page with a button. A phone gets a code, for `confirm`. A webhook is sent a
    signed message of the type `subscription.verification`, and agrees by answering with its `challenge`.
    A queue agrees by the policy that lets the topic send to it.
    """
    made = await _subscriptions(request).create(
        owner_of(request),
        Wanted(
            channel=Channel(wanted.channel),
            address=wanted.address,
            filter=wanted.filter,
            kinds=tuple(dict.fromkeys(wanted.kinds)),
            mode=Mode(wanted.mode),
        ),
    )
    told = _resource(made)
    if made.secrets:
        told["secret"] = _secret(made)
    return _json(told, status=202, headers={"location": f"/v1/subscriptions/{made.id}"})


@router.get("", response_model=SubscriptionPage)
async def list_subscriptions(request: Request, params: Annotated[ListParams, Query()]) -> Response:
    """List your subscriptions, the newest first."""
    found = await _subscriptions(request).page(owner_of(request), params.cursor, params.limit)
    last = str(found[-1].id) if len(found) == params.limit else None
    return _json({"data": [_resource(each) for each in found], "next_cursor": last})


@router.post("/preview", response_model=PreviewOut, responses=may_fail(PolicyInvalid))
async def preview_filter(request: Request, wanted: PreviewRequest) -> Response:
    """Try a filter: which of your newest images it would have told of, and which keys said no to others."""
    verdicts = await _subscriptions(request).preview(
        owner_of(request), wanted.filter, tuple(dict.fromkeys(wanted.kinds)), wanted.last
    )
    matched = sum(not each.failed for each in verdicts)
    return _json(
        {"examined": len(verdicts), "matched": matched, "data": [_verdict(each) for each in verdicts]}
    )


@router.get("/{subscription_id}", response_model=SubscriptionOut, responses=may_fail(SubscriptionNotFound))
async def read_subscription(request: Request, subscription_id: UUID) -> Response:
    """Return a subscription: whether it was confirmed, and why it is paused."""
    return _json(_resource(await _subscriptions(request).find(owner_of(request), subscription_id)))


@router.patch(
    "/{subscription_id}",
    response_model=SubscriptionOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState, PolicyInvalid, ChannelUnavailable),
)
async def change_subscription(request: Request, subscription_id: UUID, wanted: SubscriptionPatch) -> Response:
    """Change what a subscription asks for; pause or resume it. Its address cannot change.

    Where SNS delivers, a new filter acts within 15 minutes.
    """
    change = Change(
        filter=wanted.filter,
        kinds=None if wanted.kinds is None else tuple(dict.fromkeys(wanted.kinds)),
        mode=None if wanted.mode is None else Mode(wanted.mode),
        paused=None if wanted.status is None else wanted.status == "paused",
    )
    return _json(_resource(await _subscriptions(request).change(owner_of(request), subscription_id, change)))


@router.delete("/{subscription_id}", status_code=204, responses=may_fail(SubscriptionNotFound))
async def delete_subscription(request: Request, subscription_id: UUID) -> Response:
    """Forget a subscription. Its address can be subscribed anew, and is then asked anew."""
    await _subscriptions(request).remove(owner_of(request), subscription_id)
    return Response(status_code=204)


@router.post(
    "/{subscription_id}/resend",
    status_code=202,
    response_model=SubscriptionOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState, AddressAskedOften),
)
async def resend_confirmation(request: Request, subscription_id: UUID) -> Response:
    """Ask the address once more. Links and codes that were sent before end."""
    return _json(
        _resource(await _subscriptions(request).ask_again(owner_of(request), subscription_id)), status=202
    )


@router.post(
    "/{subscription_id}/confirm",
    response_model=SubscriptionOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState, CodeInvalid, MessagingUnavailable),
)
async def confirm_subscription(request: Request, subscription_id: UUID, sent: ConfirmRequest) -> Response:
    """Confirm a subscription with the code that was sent to its address. Five codes can be tried."""
    confirmed = await _subscriptions(request).confirm_by_code(owner_of(request), subscription_id, sent.code)
    return _json(_resource(confirmed))


@router.post(
    "/{subscription_id}/rotate-secret",
    response_model=SecretOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState),
)
async def rotate_secret(request: Request, subscription_id: UUID) -> Response:
    """Give a webhook a new secret. For a day messages are signed with the old one too."""
    rotated = await _subscriptions(request).rotate_secret(owner_of(request), subscription_id)
    return _json({"secret": _secret(rotated)})


@router.post(
    "/{subscription_id}/test",
    status_code=202,
    response_model=SubscriptionOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState, ChannelUnavailable),
)
async def test_subscription(request: Request, subscription_id: UUID) -> Response:
    """Send a message that says that it is a test, to an active subscription."""
    return _json(
        _resource(await _subscriptions(request).test(owner_of(request), subscription_id)), status=202
    )


@router.post(
    "/{subscription_id}/replay",
    status_code=202,
    response_model=ReplayOut,
    responses=may_fail(SubscriptionNotFound, SubscriptionState, ChannelUnavailable),
)
async def replay_events(request: Request, subscription_id: UUID, wanted: ReplayRequest) -> Response:
    """Tell an active subscription again of what happened and fits its filter, under the same event ids."""
    after, until = await _subscriptions(request).replay(
        owner_of(request), subscription_id, after=wanted.after, since=wanted.since
    )
    return _json({"after": after, "until": until}, status=202)


def _subscriptions(request: Request) -> Subscriptions:
    return context_of(request).parts.subscriptions


def _resource(subscription: Subscription) -> dict[str, Any]:
    pending = subscription.status is Status.PENDING
    return {
        "id": str(subscription.id),
        "channel": subscription.channel,
        "address": subscription.address,
        "filter": subscription.filter,
        "kinds": subscription.kinds,
        "mode": subscription.mode,
        "status": subscription.status,
        "reason": subscription.reason,
        "delivered_by": subscription.provider,
        "created_at": subscription.created_at,
        "updated_at": subscription.updated_at,
        "confirmed_at": subscription.confirmed_at,
        "confirm_until": confirmation_ends(subscription) if pending else None,
        "version": subscription.version,
    }


def _secret(subscription: Subscription) -> str:
    """Return a secret as Standard Webhooks writes it."""
    return f"whsec_{base64.b64encode(subscription.secrets[0]).decode()}"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "image_id": str(verdict.image.id),
        "filename": verdict.image.filename,
        "matches": not verdict.failed,
        "failed": verdict.failed,
        "attributes": verdict.attributes,
    }


def _json(body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    told = {"cache-control": "no-store"} | (headers or {})
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), status, told, media_type="application/json")
