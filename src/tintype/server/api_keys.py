"""API keys over HTTP, for their owner's administrators; and who the caller is."""

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tintype.model.api_key import ApiKey
from tintype.model.errors import Forbidden, KeyNotFound
from tintype.model.identity import scopes_of
from tintype.server.access import owner_of, principal_of
from tintype.server.context import context_of
from tintype.server.openapi import may_fail

router = APIRouter(prefix="/v1", tags=["identity"])

DAY = 86_400
_ID = "0f3k9q2m7x1z"
_SHOWN: dict[str, Any] = {
    "id": _ID,
    "name": "the shop's backend",
    "owner": "shop",
    "scopes": ["read", "write"],
    "created_by": "operator",
    "created_at": "2026-05-01T12:30:00Z",
    "expires_at": "2027-05-01T12:30:00Z",
    "revoked_at": None,
    "last_used_at": "2026-05-02T08:00:00Z",
}

ScopeName = Literal["read", "write", "admin", "location"]
KeyId = Annotated[str, Path(max_length=64, examples=[_ID])]


class ApiKeyOut(BaseModel):
    """An API key. Its secret is not here: nobody can see it again."""

    model_config = ConfigDict(title="ApiKey", json_schema_extra={"example": _SHOWN})

    id: str = Field(description="Part of the key, and what logs name.")
    name: str
    owner: str
    scopes: list[ScopeName]
    created_by: str = Field(description="The id of the key that made it, or `operator`.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the hour.")


class NewApiKeyOut(ApiKeyOut):
    """A new API key, with its secret, this once."""

    model_config = ConfigDict(
        title="NewApiKey", json_schema_extra={"example": {**_SHOWN, "key": f"tt_{_ID}_…"}}
    )

    key: str = Field(description="Send it as `Authorization: Bearer …`. It is not shown again.")


class ApiKeyList(BaseModel):
    """All keys of the owner, newest first, revoked and expired ones too."""

    data: list[ApiKeyOut]


class ApiKeyRequest(BaseModel):
    """What a new key may do, and for how long."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "backup", "scopes": ["read"]}}
    )

    scopes: list[ScopeName] = Field(min_length=1, max_length=4)
    name: str = Field(default="", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people.")
    expires_in: int = Field(default=365 * DAY, ge=60, le=3650 * DAY, description="Seconds from now.")


class QuotaOut(BaseModel):
    """What the owner may have stored, and what they have. Null: no limit of that kind."""

    model_config = ConfigDict(title="Quota")

    max_bytes: int | None
    max_images: int | None
    bytes: int = Field(description="Stored, in the trash too, or on their way.")
    images: int = Field(description="The same.")


class MeOut(BaseModel):
    """Who the caller is."""

    model_config = ConfigDict(
        title="Me",
        json_schema_extra={
            "example": {
                "owner": "shop",
                "scopes": ["read", "write"],
                "kind": "key",
                "key_id": _ID,
                "expires_at": None,
                "quota": {
                    "max_bytes": 20000000000,
                    "max_images": None,
                    "bytes": 1483112,
                    "images": 12,
                },
            }
        },
    )

    owner: str = Field(description="Whose images the caller sees.")
    scopes: list[ScopeName]
    kind: Literal["local", "key", "jwt"] = Field(
        description="`local`: this service asks nobody who they are."
    )
    key_id: str | None = Field(description="The API key's id, or a token's `sub`.")
    expires_at: datetime | None
    quota: QuotaOut | None = Field(description="Null where nothing limits what the owner stores.")


@router.get("/me", response_model=MeOut)
async def read_me(request: Request) -> dict[str, Any]:
    """Return who you are here: your owner, what your credentials are good for, and your owner's quota."""
    principal = principal_of(request)
    return {
        "owner": principal.owner,
        "scopes": sorted(principal.scopes),
        "kind": principal.kind,
        "key_id": principal.key_id,
        "expires_at": principal.expires_at,
        "quota": await _quota(request, principal.owner),
    }


async def _quota(request: Request, owner: str) -> dict[str, Any] | None:
    quotas = context_of(request).parts.quotas
    quota, usage = await quotas.quota_of(owner), await quotas.usage_of(owner)
    if quota is None or usage is None:
        return None
    return {
        "max_bytes": quota.max_bytes,
        "max_images": quota.max_images,
        "bytes": usage.bytes + usage.reserved_bytes,
        "images": usage.images + usage.reserved_images,
    }


@router.post("/api-keys", status_code=201, response_model=NewApiKeyOut, responses=may_fail(Forbidden))
async def make_api_key(request: Request, wanted: ApiKeyRequest) -> Response:
    """Make an API key for your owner. The answer is the only place where its secret stands.

    It can have no scope that your own credentials lack. For a rotation make the new key first: both
    work until you revoke the old one.
    """
    principal = principal_of(request)
    text, key = await context_of(request).parts.keyring.create(
        owner=principal.owner,
        scopes=scopes_of([*wanted.scopes]),
        name=wanted.name,
        lifetime_seconds=wanted.expires_in,
        creator=principal,
    )
    headers = {"location": f"/v1/api-keys/{key.id}", "cache-control": "no-store"}
    shown = orjson.dumps({**_resource(key), "key": text}, option=orjson.OPT_UTC_Z)
    return Response(shown, 201, headers, media_type="application/json")


@router.get("/api-keys", response_model=ApiKeyList)
async def list_api_keys(request: Request) -> dict[str, Any]:
    """List the API keys of your owner, without their secrets."""
    keys = await context_of(request).parts.keyring.list_of(owner_of(request))
    return {"data": [_resource(key) for key in keys]}


@router.delete("/api-keys/{key_id}", status_code=204, responses=may_fail(KeyNotFound))
async def revoke_api_key(request: Request, key_id: KeyId) -> Response:
    """Revoke an API key: it is refused within 30 seconds on every instance, and for ever."""
    await context_of(request).parts.keyring.revoke(owner_of(request), key_id)
    return Response(status_code=204)


def _resource(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "created_by": key.created_by,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }
