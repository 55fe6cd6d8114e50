"""Checks and repairs over HTTP, for operators: begun, followed, repaired, taken back, cancelled."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from tintype.catalogue import checks, findings
from tintype.catalogue.database import EVERY_OWNER
from tintype.model.check import MANIFEST, Mode, Order, Run, RunState, run_payload
from tintype.model.errors import (
    DatabaseUnavailable,
    Forbidden,
    RunInProgress,
    RunNotFound,
    StorageUnavailable,
    WrongPair,
)
from tintype.model.finding import Drift, Finding, FindingState
from tintype.server.access import principal_of
from tintype.server.context import Context, context_of
from tintype.server.openapi import may_fail

router = APIRouter(prefix="/v1/consistency/runs", tags=["consistency"])

LONGEST_WAIT_SECONDS = 30
TELL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15
_WAIT = re.compile(r"(?:^|[,\s])wait=(\d{1,4})(?:$|[,;\s])", re.IGNORECASE)
_ID = "01932c07-209c-7f3a-8f51-6b1d0a4be3c2"
_RUN: dict[str, Any] = {
    "id": _ID,
    "mode": "quick",
    "repair": False,
    "dry_run": False,
    "adopting": False,
    "asked_by": "operator",
    "inventory": None,
    "task": "check",
    "state": "complete",
    "reason": None,
    "clean": False,
    "started_at": "2026-05-01T12:30:00.000000+00:00",
    "checked_at": "2026-05-01T12:30:02.000000+00:00",
    "finished_at": "2026-05-01T12:30:02.000000+00:00",
    "progress": {"done": 263, "parts": 263},
    "counts": {"objects": 1200, "rows": 1199, "foreign": 0, "young": 0, "verified": 0, "bytes_read": 0},
    "findings": {"total": 1, "kinds": {"object_without_row": 1}, "states": {"open": 1}},
}
_TOLD: dict[str, Any] = {
    "type": "object",
    "description": "An event: its name, and the run as it stands in JSON.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_FAILURES = (RunNotFound, DatabaseUnavailable)
_STARTING = (RunInProgress, WrongPair, StorageUnavailable, DatabaseUnavailable)

RunId = Annotated[UUID, Path(examples=[_ID])]


class Progress(BaseModel):
    """How many of a run's parts are finished."""

    done: int
    parts: int


class RunCounts(BaseModel):
    """What a run has seen."""

    objects: int
    rows: int
    foreign: int = Field(description="Keys that are not Tintype's: left alone.")
    young: int = Field(
        description="Objects without a row that may still get one, and rows newer than the inventory."
    )
    verified: int = Field(description="Objects whose metadata or bytes were read, and are right.")
    bytes_read: int


class RunFindings(BaseModel):
    """How many differences a run has found."""

    total: int
    kinds: dict[str, int]
    states: dict[str, int]


class RunOut(BaseModel):
    """One run of the check."""

    model_config = ConfigDict(title="Run", json_schema_extra={"example": _RUN})

    id: UUID
    mode: Mode
    repair: bool = Field(description="Whether a repair follows the check.")
    dry_run: bool
    adopting: bool
    asked_by: str
    inventory: str | None = Field(description="The S3 Inventory by which it looks; null: the store lists.")
    task: Literal["check", "repair", "undo"]
    state: RunState = Field(description="`stopped`: the brakes ask a person; `reason` says why.")
    reason: str | None
    clean: bool = Field(description="Everything was looked at, and nothing was found.")
    started_at: datetime
    checked_at: datetime | None = Field(description="When everything had been looked at.")
    finished_at: datetime | None
    progress: Progress
    counts: RunCounts
    findings: RunFindings


class RunList(BaseModel):
    """The latest runs, newest first."""

    data: list[RunOut]


class FindingOut(BaseModel):
    """One difference, and what became of it."""

    model_config = ConfigDict(title="Finding")

    id: UUID
    kind: Drift
    key: str
    image_id: UUID | None
    state: FindingState
    action: str | None = Field(description="What a repair did.")
    note: str | None
    details: dict[str, Any]
    found_at: datetime | None
    settled_at: datetime | None


class FindingPage(BaseModel):
    """A page of findings, in the order in which they were found. `next_cursor` is null on the last one."""

    data: list[FindingOut]
    next_cursor: UUID | None


class FindingParams(BaseModel):
    """Which findings."""

    model_config = ConfigDict(extra="forbid")

    kind: Drift | None = None
    state: FindingState | None = None
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: UUID | None = Field(default=None, description="`next_cursor` of the page before.")


class RunRequest(BaseModel):
    """How closely to look, and what to do about it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"mode": "quick"}})

    mode: Mode = Mode.QUICK
    repair: StrictBool = Field(default=False, description="Repair what is found, within the brakes.")
    dry_run: StrictBool = Field(default=False, description="Say what a repair would do, and do none of it.")
    adopt: StrictBool = Field(
        default=False, description="The database was restored: objects without a row become images again."
    )
    confirm: StrictBool = Field(default=False, description="Release the brakes.")
    inventory: str | None = Field(
        default=None,
        max_length=1200,
        pattern=MANIFEST,
        description="Take the listing from S3 Inventory, `s3://bucket/…/manifest.json`. What is newer waits.",
    )


class RepairRequest(BaseModel):
    """What to repair of what was found."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"dry_run": True}})

    findings: list[UUID] | None = Field(default=None, max_length=1000, description="None: all open ones.")
    dry_run: StrictBool = False
    adopt: StrictBool = False
    confirm: StrictBool = False


@router.post(
    "",
    status_code=202,
    response_model=RunOut,
    responses=may_fail(*_STARTING) | {200: {"model": RunOut, "description": "It ended while you waited."}},
)
async def begin_check(request: Request, wanted: RunRequest) -> Response:
    """Begin a check, and a repair after it if you ask for one.

    With `Prefer: wait=10` (RFC 7240) the answer waits for its end, for so many seconds at most; a run that
    ended is answered with 200. There is one run at a time: 409 has the address of the one that is running.
    """
    context = _operator(request)
    order = Order(
        mode=wanted.mode,
        repair=wanted.repair,
        dry_run=wanted.dry_run,
        adopting=wanted.adopt,
        confirmed=wanted.confirm,
        asked_by=_asker(request),
        inventory=wanted.inventory,
    )
    run = await context.parts.upkeep.runs.begin(order)
    return await _begun(request, context, run)


@router.get("", response_model=RunList, responses=may_fail(DatabaseUnavailable))
async def list_checks(request: Request) -> Response:
    """List the latest runs, newest first."""
    context = _operator(request)
    async with context.database.reading(EVERY_OWNER) as tx:
        latest = await checks.latest(tx)
    return _json({"data": [run_payload(run) for run in latest]})


@router.get("/{run_id}", response_model=RunOut, responses=may_fail(*_FAILURES))
async def read_check(request: Request, run_id: RunId) -> Response:
    """Return a run as it stands."""
    return _json(run_payload(await _operator(request).parts.upkeep.runs.find(run_id)))


@router.get(
    "/{run_id}/stream",
    response_class=StreamingResponse,
    responses=may_fail(*_FAILURES) | {200: {"content": {"text/event-stream": {"schema": _TOLD}}}},
)
async def follow_check(request: Request, run_id: RunId) -> Response:
    """Follow a run as Server-Sent Events: `progress` whenever it has moved, `finished` at its end."""
    context = _operator(request)
    run = await context.parts.upkeep.runs.find(run_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_told(context, run), media_type="text/event-stream", headers=headers)


@router.get("/{run_id}/findings", response_model=FindingPage, responses=may_fail(*_FAILURES))
async def list_findings(
    request: Request, run_id: RunId, params: Annotated[FindingParams, Query()]
) -> Response:
    """List what a run has found."""
    context = _operator(request)
    await context.parts.upkeep.runs.find(run_id)
    async with context.database.reading(EVERY_OWNER) as tx:
        found = await findings.page(
            tx, run_id, params.cursor, params.limit + 1, kind=params.kind, state=params.state
        )
    page = found[: params.limit]
    following = page[-1].id if len(found) > params.limit else None
    return _json({"data": [_finding(each) for each in page], "next_cursor": following})


@router.post(
    "/{run_id}/repair",
    status_code=202,
    response_model=RunOut,
    responses=may_fail(*_FAILURES, *_STARTING)
    | {200: {"model": RunOut, "description": "It ended while you waited."}},
)
async def repair_findings(request: Request, run_id: RunId, wanted: RepairRequest) -> Response:
    """Repair what a run has found. Each finding is looked at again; what is no longer true is skipped."""
    context = _operator(request)
    order = Order(
        dry_run=wanted.dry_run, adopting=wanted.adopt, confirmed=wanted.confirm, asked_by=_asker(request)
    )
    run = await context.parts.upkeep.runs.repair(run_id, order, wanted.findings)
    return await _begun(request, context, run)


@router.post(
    "/{run_id}/undo",
    status_code=202,
    response_model=RunOut,
    responses=may_fail(*_FAILURES, *_STARTING)
    | {200: {"model": RunOut, "description": "It ended while you waited."}},
)
async def undo_repairs(request: Request, run_id: RunId) -> Response:
    """Take back what a run has repaired, as far as nothing else has happened to it since."""
    context = _operator(request)
    run = await context.parts.upkeep.runs.undo(run_id, _asker(request))
    return await _begun(request, context, run)


@router.post("/{run_id}/cancel", response_model=RunOut, responses=may_fail(*_FAILURES))
async def cancel_check(request: Request, run_id: RunId) -> Response:
    """End a run where it is. What it has found and done stays; one that is over stays as it is."""
    return _json(run_payload(await _operator(request).parts.upkeep.runs.cancel(run_id)))


def _operator(request: Request) -> Context:
    """Return the context for an operator's request: a check sees every owner's images."""
    context, principal = context_of(request), principal_of(request)
    if principal.kind != "local" and principal.owner not in context.settings.consistency.operators:
        raise Forbidden(
            "Checks see every owner's images: they are for the owners in TINTYPE_CONSISTENCY__OPERATORS."
        )
    return context


def _asker(request: Request) -> str:
    principal = principal_of(request)
    return principal.key_id or principal.owner


async def _begun(request: Request, context: Context, run: Run) -> Response:
    """Have a run worked on, wait if that is preferred, and answer with what it is by then."""
    upkeep = context.parts.upkeep
    await upkeep.start(run)
    headers = {"location": f"/v1/consistency/runs/{run.id}"}
    asked = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    if asked is not None:
        seconds = min(int(asked[1]), LONGEST_WAIT_SECONDS)
        run = await upkeep.finished(run, seconds)
        headers["preference-applied"] = f"wait={seconds}"
    status = 202 if run.state is RunState.RUNNING else 200
    return Response(orjson.dumps(run_payload(run)), status, headers, media_type="application/json")


async def _told(context: Context, run: Run) -> AsyncGenerator[bytes]:
    """Yield a run whenever it has moved, up to its end or the instance's."""
    told, silent = b"", 0.0
    while True:
        body = orjson.dumps(run_payload(run))
        ended = run.state is not RunState.RUNNING
        if body != told:
            yield format_sse_event(data_str=body.decode(), event="finished" if ended else "progress")
            told, silent = body, 0.0
        elif silent >= HEARTBEAT_SECONDS:
            yield KEEPALIVE_COMMENT
            silent = 0.0
        if ended or context.instance.draining:
            return
        await asyncio.sleep(TELL_SECONDS)
        silent += TELL_SECONDS
        try:
            run = await context.parts.upkeep.runs.find(run.id)
        except DatabaseUnavailable:
            return


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "kind": finding.kind,
        "key": finding.key,
        "image_id": finding.image_id,
        "state": finding.state,
        "action": finding.action,
        "note": finding.note,
        "details": finding.details,
        "found_at": finding.found_at,
        "settled_at": finding.settled_at,
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), media_type="application/json")
