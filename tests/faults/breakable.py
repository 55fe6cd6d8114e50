"""The application in a process that may be killed: its disk fails as it is told, and it does nothing unasked.

Beside its own routes it has a few for those who break it: `/-/arm` says what is to fail, `/-/seen` tells what
was done since, `/-/idle` waits until nothing goes on behind an answer, and `/-/duty/…` does what a process at
work does by itself.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import uvicorn
import uvloop
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from faults.points import Kind, Point, Station
from faults.system_calls import Disk
from tintype.model.check import Mode, Order
from tintype.model.errors import TintypeError
from tintype.server.app import create_app
from tintype.server.connection import Connection
from tintype.server.context import Context
from tintype.settings import Settings
from tintype.telemetry import configure_logs
from tintype.wiring import Parts, open_parts

TIDYING = "tidy-upload"


def serve(listener: socket.socket, told: dict[str, Any], environment: dict[str, str], log: Path) -> None:
    """Serve until the process is killed, by settings as they are told."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
    settings = Settings.model_validate(told)
    configure_logs(settings.log)
    uvloop.run(_serve(listener, settings))


async def _serve(listener: socket.socket, settings: Settings) -> None:
    disk = Disk(settings.data_dir.resolve(), Station("disk"))
    async with open_parts(settings) as parts:
        app = Breakable(create_app(Context.of(parts)), parts, disk.station)
        disk.attach()
        config = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False
        )
        listener.listen(config.backlog)
        await uvicorn.Server(config).serve(sockets=[listener])


@dataclass
class Breakable:
    """The application, with those routes."""

    app: ASGIApp
    parts: Parts
    disk: Station
    _working: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/-/"):
            response = await self._told(Request(scope, receive))
            await response(scope, receive, send)
            return
        self._working += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._working -= 1
            self._ended.set()

    async def _told(self, request: Request) -> Response:
        name = request.path_params.get("path") or request.scope["path"].removeprefix("/-/")
        told: dict[str, Any] = json.loads(await request.body() or b"{}")
        if name == "arm":
            point = Point(**told["point"]) if told else None
            self.disk.arm(point, Kind(told["kind"]) if told else None)
            return Response(status_code=204)
        if name == "seen":
            return JSONResponse({"seen": [asdict(point) for point in self.disk.seen], "hit": self.disk.hit})
        if name == "idle":
            await self._idle()
            return Response(status_code=204)
        try:
            return JSONResponse(await self._duties()[name.removeprefix("duty/")](told))
        except TintypeError as error:
            return JSONResponse({"problem": error.code, "detail": str(error)}, 503, {"retry-after": "1"})

    async def _idle(self) -> None:
        while self._working:
            self._ended.clear()
            await self._ended.wait()
        tidying = [task for task in asyncio.all_tasks() if task.get_name() == TIDYING]
        if tidying:
            await asyncio.wait(tidying)

    def _duties(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        return {
            "relay": lambda _: self.parts.relay.drain(),
            "purge": lambda _: self.parts.purge.round(),
            "sweep": lambda _: self.parts.sessions.sweep(),
            "check": self._check,
            "repair": self._repair,
        }

    async def _check(self, told: dict[str, Any]) -> str:
        runs = self.parts.upkeep.runs
        await runs.clear()
        run = await runs.begin(Order(Mode(told["mode"])))
        await runs.work(run.id)
        return str(run.id)

    async def _repair(self, told: dict[str, Any]) -> str:
        """Repair some of a run's findings; whoever was at it before is dead."""
        runs = self.parts.upkeep.runs
        await runs.clear()
        run = await runs.repair(
            UUID(told["run"]), Order(confirmed=True), [UUID(each) for each in told["selected"]]
        )
        await runs.work(run.id)
        return (await runs.find(run.id)).state.value
