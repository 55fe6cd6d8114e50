"""Every operation of the API, asked for at once, with things that are there and bodies that fit."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from journeys.test_isolation import BODIES, ROUTES
from pictures import picture

STREAMS = {"stream_events", "follow_check"}
"""They are answered at once, and then last."""
MAIL = {"channel": "email", "address": "somebody@a.example"}
SEEDS = itertools.count(8100)


def fresh() -> bytes:
    """Return bytes that nobody has stored yet."""
    return picture(seed=next(SEEDS))


def more() -> dict[str, dict[str, Any]]:
    """Return what routes that name nothing are sent."""
    return {
        "upload_images": {"files": [("file", ("a.png", fresh())), ("file", ("b.png", fresh()))]},
        "upload_named_image": {"content": fresh()},
        "begin_upload": {"headers": {"Tus-Resumable": "1.0.0", "Upload-Length": "10"}},
        "begin_direct_upload": {"json": {"method": "multipart"}},
        "make_api_key": {"json": {"scopes": ["read"]}},
        "make_upload_token": {"json": {"uses": 1}},
        "make_subscription": {"json": MAIL},
        "preview_filter": {"json": {"filter": {"ext": ["png"]}}},
        "begin_check": {"json": {"mode": "quick"}},
        "upload_by_form": {"files": [("file", ("a.png", fresh())), ("file", ("b.png", fresh()))]},
        "dropzone_upload": {"files": {"file": ("a.png", fresh())}},
        "filepond_process": {"headers": {"Upload-Length": "10"}},
        "companion_begin": {"json": {"filename": "a.png", "type": "image/png"}},
    }


@dataclass(frozen=True)
class Answer:
    name: str
    status: int
    problem: str
    retry_after: str
    seconds: float


async def belongings(client: httpx.AsyncClient) -> dict[str, str]:
    """Make one of everything that a path can name."""

    async def made(path: str, field: str, body: dict[str, Any]) -> str:
        answer = await client.post(path, json=body)
        assert answer.is_success, answer.text
        return str(answer.json()[field])

    filename = f"{uuid4()}.png"
    image = await client.post("/v1/images", params={"filename": filename}, content=fresh())
    assert image.is_success, image.text
    run = (await client.post("/v1/consistency/runs", json={"mode": "quick"})).json()  # 409 names another one
    upload = await made("/v1/uploads", "id", {"method": "multipart"})
    return {
        "image_id": image.json()["id"],
        "filename": filename,
        "upload_id": upload,
        "parts_id": upload,
        "number": "1",
        "key_id": await made("/v1/api-keys", "id", {"scopes": ["read"]}),
        "subscription_id": await made("/v1/subscriptions", "id", MAIL | {"address": f"{uuid4()}@a.example"}),
        "run_id": run.get("id") or run["run"].rpartition("/")[2],
        "token": await made("/v1/upload-tokens", "token", {"uses": 100}),
        "name": "none.eml",
    }


async def ask_everything(client: httpx.AsyncClient, names: dict[str, str]) -> list[Answer]:
    """Ask for every operation, all at once."""

    unnamed = more()

    async def ask(method: str, name: str, path: str) -> Answer:
        request = BODIES.get(name) or unnamed.get(name, {})
        headers = {"Accept": "application/problem+json"} | request.get("headers", {})
        began = time.monotonic()
        answer = await client.request(method, path.format(**names), **request | {"headers": headers})
        seconds = time.monotonic() - began
        is_problem = answer.headers.get("content-type") == "application/problem+json" and answer.content
        problem = answer.json()["code"] if is_problem else ""
        return Answer(name, answer.status_code, problem, answer.headers.get("retry-after", ""), seconds)

    routes = [(method, route) for method, route in ROUTES if route.name not in STREAMS]
    return await asyncio.gather(*(ask(method, route.name, route.path) for method, route in routes))
