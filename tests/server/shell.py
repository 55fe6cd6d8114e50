"""A small service in the server's shell: its routes do nothing but succeed and fail in every way.

`python shell.py` serves on a free port of loopback and prints it; the log goes to standard error.
"""

import asyncio
import socket
from collections.abc import AsyncIterator

import uvicorn
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tintype.model.errors import ImageNotFound, StorageUnavailable
from tintype.server.application import assemble
from tintype.server.connection import Connection
from tintype.server.middleware import Envelope, ParsedBody
from tintype.server.problems import BY_CODE
from tintype.settings import LogSettings
from tintype.telemetry import Metrics, configure_logs

PARSED = ParsedBody(max_bytes=1000, seconds=1)

metrics = Metrics()
router = APIRouter(prefix="/v1/things")


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=10)
    parts: list[int] = []


@router.get("")
async def things(limit: int = 1) -> dict[str, int]:
    return {"limit": limit}


@router.post("", status_code=201)
async def make_thing(thing: Thing) -> Thing:
    return thing


@router.put("/{name}")
async def put_thing(name: str, request: Request) -> dict[str, object]:
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
    return {"name": name, "bytes": length}


@router.get("/failing/{code}")
async def fail(code: str) -> None:
    raise BY_CODE[code]("A sentence.", retry_after=7 if code == "overloaded" else None, details={"limit": 1})


@router.get("/defect")
async def defect() -> None:
    raise ValueError("the password is swordfish")


@router.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "Short and stout.")


@router.get("/nothing", status_code=204)
async def nothing() -> Response:
    return Response(status_code=204)


@router.get("/cached")
async def cached() -> Response:
    return Response(
        "kept", headers={"cache-control": "public, max-age=60", "x-content-type-options": "nosniff"}
    )


@router.get("/cut")
async def cut() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"the first piece"
        raise StorageUnavailable("The second piece is gone.")

    return StreamingResponse(pieces())


@router.get("/endless")
async def endless() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024 * 1024)
            await asyncio.sleep(0)  # so that it is seen when nobody is there any more

    return StreamingResponse(pieces())


@router.get("/markup")
async def markup() -> None:
    raise ImageNotFound("<script>alert(1)</script>")


@router.get("/slow")
async def slow() -> dict[str, str]:
    await asyncio.sleep(0.2)
    return {"answer": "after a while"}


@router.get("/metrics")
async def counts() -> Response:
    return Response(metrics.render())


class Fragile:
    """A middleware with a defect of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/things/in-middleware":
            raise ZeroDivisionError("in a middleware")
        await self.app(scope, receive, send)


def service() -> ASGIApp:
    app = assemble([router])
    app.add_middleware(Fragile)
    return Envelope(app, app.state.methods, metrics, PARSED)


class Impatient(Connection):
    """Tests do not wait as long as clients may."""

    head_seconds = 1.0
    linger_seconds = 1.0
    drain_seconds = 0.5


def main() -> None:
    configure_logs(LogSettings(level="debug", format="json"))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 # whoever started us reads it
    config = uvicorn.Config(
        service(),
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
